package automaton

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// predicate parses one value.
func predicate(t testing.TB, text string) *value {
	t.Helper()
	f := parse(t, "automaton t = a{ x: "+text+" };")
	return f.automata[0].body.command.args.members[0].value
}

var somePredicates = []string{`any`, `null`, `true | 5`, `"a"`, `"b" | "ab"`, `""`, `5`, `0..5`, `3..`, `-2..4`, `..-1`, `18446744073709551615`, `string`,
	`integer`, `number`, `boolean`, `object`, `list`, `{}`, `{ a: 1 }`, `{ a?: 1..3, ... }`, `{ a: any, b?: "x" }`, `{ b: string, ... }`, `{...}`,
	`[]`, `[1]`, `[1, ...]`, `[integer*]`, `["a" | 1+]`, `[any, any]`, `[[...], any*]`, `glob "a*"`, `glob "?"`, `glob "*b"`, `glob "a?\\*"`,
	`regexp "[a-m]+"`, `regexp "a|bc"`, `regexp "(?:ab)*"`, `regexp "^a$"`, `regexp "a\\b.*"`, `regexp "[^a]"`, `regexp "[Aa]b?"`, `regexp "[kK]"`, `regexp "(?:x|X)*"`, `regexp "."`, `regexp "a$|^b"`, `regexp "\\w\\b\\W*"`, `{ a: { a: 1 | 2 } }`, `1 | { a: 2 } | [2]`}

func randomValue(r *rand.Rand, depth int) any {
	texts := []string{"", "a", "b", "ab", "abb", "bc", "a b", "a*", "ab*", "é", "\n", "x", "m", "aa", "zz", "A", "Ab", "k", "K", "\u212a", "xX", "X", "a\n", "a!", strings.Repeat("a", 1025)}
	numbers := []string{"0", "1", "2", "3", "4", "5", "6", "-1", "-3", "0.5", "1e2", "18446744073709551615", "18446744073709551616", "-9223372036854775808"}
	switch n := r.IntN(8); {
	case n < 3:
		return texts[r.IntN(len(texts))]
	case n < 5:
		return json.Number(numbers[r.IntN(len(numbers))])
	case n == 5 || depth == 0:
		return []any{nil, true, false}[r.IntN(3)]
	case n == 6:
		list := []any{}
		for range r.IntN(4) {
			list = append(list, randomValue(r, depth-1))
		}
		return list
	default:
		object := map[string]any{}
		for _, key := range []string{"a", "b", "other"} {
			if r.IntN(3) == 0 {
				object[key] = randomValue(r, depth-1)
			}
		}
		return object
	}
}

// Classes are exact: every example is in its class, and every value is in one
// of the classes.
func TestClassesAreExact(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	judge := func(preds []*value, v any) bits {
		mask := newBits(len(preds))
		for i, p := range preds {
			m := matcher{work: 1 << 30}
			if m.value(p, v, nil) {
				mask.set(i)
			}
		}
		return mask
	}
	for range 600 {
		var preds []*value
		var texts []string
		for range 1 + r.IntN(5) {
			texts = append(texts, somePredicates[r.IntN(len(somePredicates))])
			preds = append(preds, predicate(t, texts[len(texts)-1]))
		}
		s := &splitter{work: maxSplitWork}
		classes := s.split(preds)
		if s.failed {
			t.Fatalf("%q are too much", texts)
		}
		known := map[string]bool{}
		for _, c := range classes {
			if got := judge(preds, c.example); got.key() != c.mask.key() {
				t.Fatalf("%q: %#v is %b, its class is %b", texts, c.example, got, c.mask)
			}
			known[c.mask.key()] = true
		}
		for range 100 {
			if v := randomValue(r, 2); !known[judge(preds, v).key()] {
				t.Fatalf("%q: no class holds %#v", texts, v)
			}
		}
	}
}

// The minimal machine is minimal: any two of its states are told apart by the
// textbook's table.
func TestMinimal(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	states := 0
	for range 300 {
		text := randomExpression(r, 1+r.IntN(3), false)
		m := compile(t, text)
		if !m.Deterministic() {
			continue
		}
		d := m.det.body
		n := len(d.states)
		states += n
		if n > 40 {
			continue
		}
		to := make([]map[int32]int32, n)
		for i, s := range d.states {
			to[i] = map[int32]int32{}
			for _, e := range s.edges {
				to[i][e.letter] = e.to
			}
		}
		apart := map[[2]int32]bool{}
		for changed := true; changed; {
			changed = false
			for p := range int32(n) {
				for q := range int32(n) {
					if apart[[2]int32{p, q}] || p == q {
						continue
					}
					differ := d.states[p].accept != d.states[q].accept || len(to[p]) != len(to[q])
					for letter, a := range to[p] {
						b, ok := to[q][letter]
						differ = differ || !ok || apart[[2]int32{a, b}]
					}
					if differ {
						apart[[2]int32{p, q}], changed = true, true
					}
				}
			}
		}
		if len(apart) != n*(n-1) {
			t.Fatalf("%s: %d states, %d of %d pairs are told apart", text, n, len(apart), n*(n-1))
		}
	}
	if states < 500 {
		t.Fatalf("%d states do not test much", states)
	}
}

func TestDeterministicStates(t *testing.T) {
	for body, want := range map[string]int{
		"query-status* stop query-status*":             2,
		"(a b | a c)":                                  3,
		"(a|b)* a (a|b){3}":                            16,
		`a{ x: integer } | a{ x: 1 | 2.. | ..0 }`:      2,
		`a{ x: 1..5 } b | a{ x: 4..9 } c`:              5,
		`(a{ x: 1..5 } b | a{ x: 6..9 } b)*`:           2,
		`a{ x: glob "p*" } b | a{ x: regexp "p.*" } c`: 4,
		"a & b & c": 8,
		"a* & a*":   1,
	} {
		m := compile(t, body)
		if !m.Deterministic() || m.States() != want {
			t.Errorf("%s: %d states, want %d (deterministic: %v)", body, m.States(), want, m.Deterministic())
		}
	}
	if m := compile(t, "(a|b)* a (a|b){20}"); m.Deterministic() {
		t.Errorf("2^21 states were made: %d", m.States())
	}
	for i, text := range []string{`a{ x: $f }`, fmt.Sprintf("a{ x: [%s1] }", strings.Repeat("1,", 3000))} {
		if compile(t, text).Deterministic() {
			t.Errorf("%d became deterministic", i)
		}
	}
}

// randomPattern writes a regular expression over a few letters.
func randomPattern(r *rand.Rand, depth int) string {
	atoms := []string{"a", "b", "A", "[Aa]", "[a-b]", "[^a]", ".", `\\w`, `\\W`, `\\s`, `\\b`, `\\B`, "^", "$", `\\n`, "é", "[Kk]", `\\d`, "[[:upper:]]"}
	if depth == 0 {
		return atoms[r.IntN(len(atoms))]
	}
	sub := func() string { return "(?:" + randomPattern(r, depth-1) + ")" }
	switch r.IntN(4) {
	case 0:
		return sub() + "|" + sub()
	case 1:
		return sub() + []string{"*", "+", "?", "{2}", "*?"}[r.IntN(5)]
	default:
		return sub() + sub()
	}
}

func TestTextClassesAreExact(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 14))
	letters := []rune("abAkK\u212a\né 0B_")
	split := 0
	for range 400 {
		var preds []*value
		var texts []string
		for range 1 + r.IntN(3) {
			text := `regexp "` + randomPattern(r, r.IntN(4)) + `"`
			switch r.IntN(5) {
			case 0:
				text = []string{`"a"`, `"ab"`, `"K"`, `"a\n"`, `""`}[r.IntN(5)]
			case 1:
				text = []string{`glob "a*"`, `glob "*b?"`, `glob "\\*a"`, `glob "?*K"`}[r.IntN(4)]
			}
			texts = append(texts, text)
			preds = append(preds, predicate(t, text))
		}
		s := &splitter{work: maxSplitWork}
		classes := s.split(preds)
		if s.failed {
			continue
		}
		split++
		known := map[string]bool{}
		for _, c := range classes {
			known[c.mask.key()] = true
		}
		for range 300 {
			text := make([]rune, r.IntN(6))
			for i := range text {
				text[i] = letters[r.IntN(len(letters))]
			}
			mask := newBits(len(preds))
			for i, p := range preds {
				if (&matcher{work: 1 << 30}).value(p, string(text), nil) {
					mask.set(i)
				}
			}
			if !known[mask.key()] {
				t.Fatalf("%q: no class holds %q", texts, string(text))
			}
		}
	}
	if split < 300 {
		t.Fatalf("only %d were split", split)
	}
}
