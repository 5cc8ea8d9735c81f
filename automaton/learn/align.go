package learn

import (
	"fmt"
	"strings"
)

// column is what corresponds to each other in several sessions.
type column struct {
	items map[int]*item // by session
	any   *item         // one of them, to compare with
}

// alignment is a group of sessions that have enough in common, column by column.
type alignment struct {
	sessions []*session
	columns  []*column
	skeleton []string // the first session's
}

// skeleton is what a session changes, or what it asks where it changes nothing.
func skeleton(items []*item) []string {
	var out, all []string
	for _, it := range items {
		name := strings.SplitN(it.shape(), " ", 2)[0]
		all = append(all, name)
		if !it.reads() {
			out = append(out, name)
		}
	}
	if len(out) == 0 {
		return all
	}
	return out
}

// enough is the part of their skeletons that sessions of one group share.
const enough = 0.5

// align groups the sessions, and lays those of each group beside each other.
func (l *learner) align(sessions []*session, steps func(*session) []*step) ([]*alignment, error) {
	all, err := l.items(sessions, steps)
	if err != nil {
		return nil, err
	}
	var groups []*alignment
	for i, s := range sessions {
		bones := skeleton(all[i])
		var best *alignment
		most := enough
		for _, g := range groups {
			if l.cells += len(bones) * len(g.skeleton); l.cells > maxCells {
				return nil, errTooMuch
			}
			if c := common(bones, g.skeleton); c >= most && (best == nil || c > most) {
				best, most = g, c
			}
		}
		if best == nil {
			if len(groups) == maxShapes {
				return nil, fmt.Errorf("%s: these sessions have too little in common to be one command", s.name)
			}
			best = &alignment{skeleton: bones}
			groups = append(groups, best)
		}
		if err := l.add(best, s, all[i]); err != nil {
			return nil, err
		}
	}
	return groups, nil
}

var errTooMuch = fmt.Errorf("the sessions are too long or too many to be compared: give fewer, or cut them")

// common is how much of two sequences is a common subsequence, from 0 to 1.
func common(a, b []string) float64 {
	if len(a)+len(b) == 0 {
		return 1
	}
	row := make([]int, len(b)+1)
	for _, x := range a {
		diagonal := 0
		for j, y := range b {
			up := row[j+1]
			if x == y {
				row[j+1] = diagonal + 1
			} else {
				row[j+1] = max(up, row[j])
			}
			diagonal = up
		}
	}
	return 2 * float64(row[len(b)]) / float64(len(a)+len(b))
}

// add lays a session beside those of the group: Needleman and Wunsch's alignment
// of its items with the columns, where only the same hypercalls correspond.
func (l *learner) add(g *alignment, s *session, items []*item) error {
	g.sessions = append(g.sessions, s)
	n, m := len(g.columns), len(items)
	if l.cells += (n + 1) * (m + 1); l.cells > maxCells {
		return errTooMuch
	}
	const match, skipColumn, skipItem = 1, 2, 3
	way := make([]uint8, (n+1)*(m+1))
	before, row := make([]int, m+1), make([]int, m+1)
	for j := 1; j <= m; j++ {
		way[j] = skipItem
	}
	for i := 1; i <= n; i++ {
		row[0], way[i*(m+1)] = 0, skipColumn
		for j := 1; j <= m; j++ {
			best, how := before[j], uint8(skipColumn)
			if row[j-1] > best {
				best, how = row[j-1], skipItem
			}
			if score := l.likeness(g.columns[i-1].any, items[j-1]); score > 0 && before[j-1]+score >= best {
				best, how = before[j-1]+score, match
			}
			row[j], way[i*(m+1)+j] = best, how
		}
		if l.cells > maxCells {
			return errTooMuch
		}
		before, row = row, before
	}
	var reversed []*column
	for i, j := n, m; i > 0 || j > 0; {
		switch way[i*(m+1)+j] {
		case match:
			i, j = i-1, j-1
			c := g.columns[i]
			c.items[s.index] = items[j]
			reversed = append(reversed, c)
		case skipColumn:
			i--
			reversed = append(reversed, g.columns[i])
		default:
			j--
			reversed = append(reversed, &column{map[int]*item{s.index: items[j]}, items[j]})
		}
	}
	g.columns = g.columns[:0]
	for i := len(reversed) - 1; i >= 0; i-- {
		g.columns = append(g.columns, reversed[i])
	}
	return nil
}

// likeness is 0 where two items cannot correspond, and the greater the more of
// their arguments agree.
func (l *learner) likeness(a, b *item) int {
	if a.period() != b.period() {
		return 0
	}
	sum := 0
	for i, x := range a.rounds[0] {
		y := b.rounds[0][i]
		if x.name != y.name {
			return 0
		}
		l.cells += (len(x.leaves) + len(y.leaves)) / 16
		points := 100 + 2*agreement(x.leaves, y.leaves)
		if !x.reads() {
			points *= 8 // what changes something is what sessions are told apart by
		}
		sum += points
	}
	return sum
}

// agreement compares sorted leaves: 100 where all are equal, 0 where no path is.
func agreement(a, b []leaf) int {
	paths, points := 0, 0
	for i, j := 0, 0; i < len(a) || j < len(b); paths++ {
		switch {
		case j == len(b) || i < len(a) && a[i].path < b[j].path:
			i++
		case i == len(a) || a[i].path > b[j].path:
			j++
		default:
			points += 40
			if a[i].value == b[j].value {
				points += 60
			}
			i, j = i+1, j+1
		}
	}
	if paths == 0 {
		return 100
	}
	return points / paths
}
