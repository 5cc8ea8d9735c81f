package learn

import (
	"regexp"
	"strings"
	"unicode"

	"github.com/uvbond/uvbond/automaton"
)

// strings finds the narrowest predicate for strings that differ: text with gaps
// of digits, then of letters and digits, then of the characters seen, then a
// glob. digits says that nothing but digits differs from session to session.
func (l *learner) strings(values []string, digits bool) string {
	for _, build := range []func([]string) string{numbered, encoded, worded, spread} {
		if len(values) == 1 && !digits {
			break
		}
		expression := build(values)
		if expression == "" || !l.room(expression) {
			continue
		}
		re, err := regexp.Compile("^(?:" + expression + ")$")
		if err != nil {
			continue
		}
		all := true
		for _, v := range values {
			all = all && len(v) <= automaton.MaxSubject && re.MatchString(v)
		}
		if all && allowed(expression) {
			return "regexp " + quote(expression)
		}
	}
	if before, after := ends(values); len(before)+len(after) >= 3 {
		glob := globText(before) + "*" + globText(after)
		if l.room(glob) {
			return "glob " + quote(glob)
		}
	}
	return "string"
}

// allowed tells that the language takes an expression: it bounds their cost.
func allowed(expression string) bool {
	_, err := automaton.Parse("", []byte("automaton x = x{ x: regexp "+quote(expression)+" } ;"))
	return err == nil
}

// room keeps a text's patterns below the language's limits.
func (l *learner) room(text string) bool {
	if len(text) > automaton.MaxPattern {
		return false
	}
	if !l.patterns[text] && len(l.patterns) == automaton.MaxPatterns {
		return false
	}
	l.patterns[text] = true
	return true
}

func isDigit(r rune) bool  { return r >= '0' && r <= '9' }
func isLetter(r rune) bool { return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' }

// split cuts a string where the class of its characters changes; characters of
// class 0 stand alone.
func split(s string, class func(rune) int) []string {
	var out []string
	before := 0
	for _, r := range s {
		c := class(r)
		if c != 0 && c == before {
			out[len(out)-1] += string(r)
		} else {
			out = append(out, string(r))
		}
		before = c
	}
	return out
}

// aligned splits all strings alike, or returns nil.
func aligned(values []string, class func(rune) int) [][]string {
	var out [][]string
	for _, v := range values {
		tokens := split(v, class)
		if len(out) > 0 && len(out[0]) != len(tokens) || len(tokens) > automaton.MaxPattern {
			return nil
		}
		out = append(out, tokens)
	}
	return out
}

// numbered is an expression for strings in which only numbers differ. A single
// string may have others in each of its numbers.
func numbered(values []string) string {
	tokens := aligned(values, func(r rune) int {
		switch {
		case isDigit(r):
			return 1
		case isLetter(r):
			return 2
		}
		return 0
	})
	if tokens == nil {
		return ""
	}
	out := ""
	for i, first := range tokens[0] {
		same, numbers := true, true
		for _, t := range tokens {
			same = same && t[i] == first
			numbers = numbers && isDigit(rune(t[i][0]))
		}
		switch {
		case numbers && (!same || len(values) == 1):
			out += "[0-9]+"
		case same:
			out += regexp.QuoteMeta(first)
		default:
			return ""
		}
	}
	return out
}

// base64 is what secrets look like.
var base64 = regexp.MustCompile(`^[0-9A-Za-z+/]+={0,2}$`)

// encoded is an expression for base64 of one length.
func encoded(values []string) string {
	mixed := false
	padding := strings.TrimLeft(values[0], "+/0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
	for _, v := range values {
		if len(v) != len(values[0]) || len(v) < 16 || len(v)%4 != 0 || !base64.MatchString(v) || !strings.HasSuffix(v, padding) {
			return ""
		}
		mixed = mixed || strings.ContainsAny(v, "+/=")
	}
	if !mixed {
		return ""
	}
	return "[0-9A-Za-z+/]+" + padding
}

// worded is an expression for strings of words, some of which differ.
func worded(values []string) string {
	tokens := aligned(values, func(r rune) int {
		if isDigit(r) || isLetter(r) {
			return 1
		}
		return 0
	})
	if tokens == nil {
		return ""
	}
	out := ""
	for i, first := range tokens[0] {
		var column []string
		same := true
		for _, t := range tokens {
			same = same && t[i] == first
			column = append(column, t[i])
		}
		if same {
			out += regexp.QuoteMeta(first)
			continue
		}
		class := wordClass(column)
		if class == "" {
			return ""
		}
		out += class
	}
	return out
}

// wordClass is an expression for words, or "" if one is something else.
func wordClass(words []string) string {
	lower, upper, digit, hex, length := false, false, false, true, len(words[0])
	for _, w := range words {
		if len(w) != length {
			length = 0
		}
		for _, r := range w {
			switch {
			case r >= 'a' && r <= 'z':
				lower = true
			case r >= 'A' && r <= 'Z':
				upper = true
			case isDigit(r):
				digit = true
			default:
				return ""
			}
			hex = hex && (isDigit(r) || r >= 'a' && r <= 'f')
		}
	}
	class := ""
	switch {
	case digit && !lower && !upper:
		return "[0-9]+"
	case digit && hex && length >= 8:
		class = "[0-9a-f]"
	case digit:
		class = "[0-9A-Za-z]"
	case lower && upper:
		class = "[A-Za-z]"
	case lower:
		class = "[a-z]"
	default:
		class = "[A-Z]"
	}
	if digit && length >= 4 && length <= 12 {
		return class + "{" + itoa(length) + "}"
	}
	return class + "+"
}

func itoa(n int) string { return scalarText(n) }

// spread is an expression for what is between common ends, by its characters.
func spread(values []string) string {
	before, after := ends(values)
	empty := false
	seen := map[rune]bool{}
	for _, v := range values {
		middle := v[len(before) : len(v)-len(after)]
		empty = empty || middle == ""
		for _, r := range middle {
			if r > unicode.MaxASCII || r < ' ' {
				return ""
			}
			seen[r] = true
		}
	}
	class := ""
	for _, span := range [][2]rune{{'0', '9'}, {'A', 'Z'}, {'a', 'z'}} {
		for r := span[0]; r <= span[1]; r++ {
			if seen[r] {
				class += string(span[0]) + "-" + string(span[1])
				break
			}
		}
	}
	for r := ' '; r < unicode.MaxASCII; r++ {
		if !seen[r] || isDigit(r) || isLetter(r) {
			continue
		}
		if strings.ContainsRune(`\]^-[&~`, r) {
			class += `\`
		}
		class += string(r)
	}
	if class == "" {
		return ""
	}
	sign := "+"
	if empty {
		sign = "*"
	}
	return regexp.QuoteMeta(before) + "[" + class + "]" + sign + regexp.QuoteMeta(after)
}

// ends returns what all strings begin and end with, cut back so that no word is
// cut in two.
func ends(values []string) (before, after string) {
	before, after = values[0], values[0]
	for _, v := range values[1:] {
		for !strings.HasPrefix(v, before) {
			before = before[:len(before)-1]
		}
		for !strings.HasSuffix(v, after) {
			after = after[1:]
		}
	}
	word := func(b byte) bool { return isDigit(rune(b)) || isLetter(rune(b)) || b >= 0x80 }
	for before != "" && word(before[len(before)-1]) {
		before = before[:len(before)-1]
	}
	for after != "" && word(after[0]) {
		after = after[1:]
	}
	for _, v := range values {
		if len(before)+len(after) > len(v) {
			after = ""
		}
	}
	return before, after
}

// globText writes literal text inside of a glob.
func globText(s string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`).Replace(s)
}
