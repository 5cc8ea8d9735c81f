// Package nearest finds the name that somebody meant who wrote another: for error
// messages that ask "did you mean". It is pure, and bounded for names of any source.
package nearest

import "strings"

// Name returns the known name that was most likely meant by name, or "". The first of
// equally near ones is taken, but rather one of the same length.
func Name(name string, known []string) string {
	const longest = 128 // of names worth comparing
	if len(name) > longest {
		return ""
	}
	best, distance := "", 1+min(3, max(1, len(name)/3))
	same := func(k string) bool { return len(k) == len(name) }
	for _, k := range known {
		if len(k) > longest || k == name {
			continue
		}
		d := edits(fold(name), fold(k), distance+1)
		if d < distance || best != "" && d == distance && same(k) && !same(best) {
			best, distance = k, d
		}
	}
	return best
}

// fold takes away what people confuse: case, and the two dashes of QMP.
func fold(s string) string { return strings.ReplaceAll(strings.ToLower(s), "_", "-") }

// edits counts the letters to insert, remove, replace or swap with their neighbour
// to get from a to b; limit is returned for any larger number.
func edits(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	var before []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next := make([]int, len(b)+1)
		next[0] = i
		for j := 1; j <= len(b); j++ {
			next[j] = row[j-1]
			if a[i-1] != b[j-1] {
				next[j] = 1 + min(row[j-1], row[j], next[j-1])
			}
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, row = row, next
	}
	return min(row[len(b)], limit)
}
