package automaton

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestIncludes(t *testing.T) {
	for _, c := range []struct{ whole, part, want string }{
		{"query-status* stop query-status*", "stop", ""},
		{"(a|b)*", "a b* a", ""},
		{"a & b", "a b | b a", ""},
		{"a{1,3}", "a{1,4}", "refuses the last of: a a a a"},
		{"query-status* stop", "query-status* stop query-status*", "refuses the last of: stop query-status"},
		{"a b", "a b?", "may not end after: a"},
		{"a", "()", "may not end after: (no hypercall)"},
		{"balloon{ value: 256MiB..2GiB }", "balloon{ value: 1GiB..2GiB }", ""},
		{"balloon{ value: 1GiB..2GiB }", "balloon{ value: 256MiB..2GiB }", `refuses the last of: balloon {"value":268435456}`},
		{"a{ x: 1..3 } | a{ x: 4..9 }", "a{ x: 1..9 }", ""},
		{"a{ x: integer } | a{ x: string }", "a{ x: 1 | \"p\" }", ""},
		{`a{ x: glob "disk-*" }`, `a{ x: regexp "disk-[0-9]+" }`, ""},
		{`a{ x: glob "disk-?" }`, `a{ x: regexp "disk-[0-9]+" }`, `refuses the last of: a {"x":"disk-00"}`},
		{`a{ x: regexp "[Aa]" }`, `a{ x: regexp "[a-z]" }`, `refuses the last of: a {"x":"b"}`},
		{`a{ x: regexp "[Aa]|[Bb]" }`, `a{ x: regexp "[A-B]|a|b" }`, ""},
		{`a{ x: regexp "(?:ab)*" }`, `a{ x: regexp "(?:abab)*" }`, ""},
		{"a{ x: 1 }", "a{ x: 1, ... }", `refuses the last of: a {"other":true,"x":1}`},
		{"a{ x: 1, y?: any }", "a{ x: 1 }", ""},
		{"a{ x: [integer*] }", "a{ x: [1, 2, integer+] }", ""},
		{"a{ x: [integer, integer] }", "a{ x: [integer*] }", `refuses the last of: a {"x":[]}`},
		{"a{ x: { y: 1 | 2 } }", "a{ x: { y: 1..3 } }", `refuses the last of: a {"x":{"y":3}}`},
		{"a on abort b*", "a on abort b b", ""},
		{"a on abort b", "a on abort c | b", "after an abort refuses the last of: c"},
		{"a", "a on abort ()", ""},
		{"a", "a on abort b?", "after an abort refuses the last of: b"},
	} {
		d, err := Includes(compile(t, c.whole), compile(t, c.part))
		if err != nil {
			t.Errorf("%s, %s: %v", c.whole, c.part, err)
			continue
		}
		got := ""
		if d != nil {
			got = strings.NewReplacer("`t` accepts and `t` ", "", "\n   ", "", "abort, ", "abort ").Replace(d.String())
		}
		if got != c.want {
			t.Errorf("%s includes %s: %q, want %q", c.whole, c.part, got, c.want)
		}
	}
}

func TestEqualAndIntersect(t *testing.T) {
	for _, c := range []struct{ a, b, both string }{
		{"a a*", "a+", "a{1,}"},
		{"a* b", "a b* | b", "(a? b)"},
		{"a{ x: 1..5 }", "a{ x: 3..9 }", "a{ x: 3..5 }"},
		{"a{ x: 1, ... }", "a{ y: 2, ... }", "a{ x: 1, y: 2, ... }"},
		{`a{ x: glob "p*" }`, `a{ x: glob "*q" }`, `a{ x: regexp "p[\\s\\S]*q" }`},
		{"a b", "c d", `a{ x: regexp "a\\bb" }`}, // nothing
		{"(a | b)* on abort x y?", "(a | c)* on abort x* z?", "a* on abort x"},
	} {
		a, b, want := compile(t, c.a), compile(t, c.b), compile(t, c.both)
		m, err := Intersect(a, b)
		if err != nil {
			t.Fatal(err)
		}
		// A dead end is let through step by step, so compare what ends.
		_, some, err := m.Example()
		if _, wanted, _ := want.Example(); err != nil || some != wanted {
			t.Errorf("%s and %s: %v, %v", c.a, c.b, some, err)
		}
		if d, err := Includes(a, m); d != nil || err != nil {
			t.Errorf("%s and %s: %v %v", c.a, c.b, d, err)
		}
		if d, err := Includes(b, m); d != nil || err != nil {
			t.Errorf("%s and %s: %v %v", c.a, c.b, d, err)
		}
		if some {
			if d, err := Includes(m, want); d != nil || err != nil {
				t.Errorf("%s and %s: %v %v", c.a, c.b, d, err)
			}
		}
	}
	m, err := Intersect(compile(t, "a deadline 5s"), compile(t, "a* deadline 2s"))
	if err != nil || m.Deadline() != 2*time.Second || m.Name() != "t and t" || m.States() != 2 || !slices.Equal(m.Commands(), []string{"a"}) {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestUndecided(t *testing.T) {
	plain := compile(t, "a{ x: any }")
	for body, want := range map[string]string{
		"(a|b)* a (a|b){20}": "too large for a deterministic machine",
	} {
		m := compile(t, body)
		_, err1 := Includes(plain, m)
		_, err2 := Equal(m, plain)
		_, err3 := Intersect(plain, m)
		for _, err := range []error{err1, err2, err3} {
			if !errors.Is(err, ErrUndecided) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v", body, err)
			}
		}
		if _, _, err := m.Example(); !errors.Is(err, ErrUndecided) {
			t.Errorf("%s: %v", body, err)
		}
	}
}

// With captures there is an answer where it does not depend on them, or where a
// session shows it; and none else.
func TestCompareCaptures(t *testing.T) {
	const yes, no, open = "yes", "no", "open"
	for _, c := range []struct{ whole, part, want string }{
		{"a{ x: any } b{ x: any }", "a{ x: $v } b{ x: $v }", yes},
		{"a{ x: $v } b{ x: $v }", "a{ x: $v } b{ x: $v }", yes},
		{"a{ x: $v } b{ x: $v }", "a{ x: any } b{ x: any }", no},
		{"a{ x: $v } b{ x: $v }", `a{ x: "k" } b{ x: "k" }`, open},
		{"a{ x: $v } b{ x: $v }", `a{ x: "k" } b{ x: "l" }`, no},
		{"a{ x: $v } b{ x: $w }", "a{ x: $v } b{ x: $v }", open},
		{"a{ x: $v } b{ x: $v }", "a{ x: $v } b{ x: $w }", no},
		{`getfd{ n: string } migrate{ uri: glob "fd:*" }`, `getfd{ n: regexp "[a-z]+" as $n } migrate{ uri: "fd:" $n }`, yes},
		{`getfd{ n: string } migrate{ uri: glob "tcp:*" }`, `getfd{ n: regexp "[a-z]+" as $n } migrate{ uri: "fd:" $n }`, no},
		{"a{ x: 1..5 as $v } b{ x: $v }", "a{ x: 1..9 as $v } b{ x: $v }", no},
		{"a{ x: 1..9 as $v } b{ x: 1..9 }", "a{ x: 1..5 as $v } b{ x: $v }", open},
		{"a{ x: 1..9 } b{ x: 1..9 }", "a{ x: 1..5 as $v } b{ x: $v }", open},
		{"a{ x: $v } (b{ x: $v } | c)*", "a{ x: $v } c* b{ x: any }", no},
		{"a on abort b", "a{ x: $v } on abort b", no},
		{"a{ x: any } on abort b", "a{ x: $v } on abort c{ x: $v }", no},
		{"stop", "stop cont{ x: $v }", no},
	} {
		whole, part := compile(t, c.whole), compile(t, c.part)
		d, err := Includes(whole, part)
		have := yes
		switch {
		case errors.Is(err, ErrUndecided):
			have = open
		case err != nil:
			t.Fatal(err)
		case d != nil:
			have = no
			if !d.holds(part, whole) {
				t.Errorf("%s in %s: %s does not hold", c.part, c.whole, d)
			}
		}
		if have != c.want {
			t.Errorf("is %s in %s? have %s (%v, %v), want %s", c.part, c.whole, have, d, err, c.want)
		}
	}
	for _, c := range []struct {
		a, b, want string
	}{
		{"a{ x: $v } b{ x: $v }", "a{ x: 1..5 } b{ x: 1..5 }", "a {\"x\":1} b {\"x\":1}"},
		{"a{ x: $v } b{ x: $v }", "a{ x: 1 } b{ x: 2 }", open},
		{"a{ x: $v } b{ x: $v }", "a{ x: 1 } c", no},
		{`a{ n: string as $n } b{ uri: "fd:" $n }`, `a{ n: regexp "m[0-9]" } b{ uri: glob "fd:m?" }`, "a {\"n\":\"m0\"} b {\"uri\":\"fd:m0\"}"},
	} {
		calls, found, err := Common(compile(t, c.a), compile(t, c.b))
		have := no
		if errors.Is(err, ErrUndecided) {
			have = open
		} else if found {
			var words []string
			for _, call := range calls {
				words = append(words, call.String())
			}
			have = strings.Join(words, " ")
		}
		if have != c.want {
			t.Errorf("%s and %s: %s (%v), want %s", c.a, c.b, have, err, c.want)
		}
	}
}

// TestLooseAcceptsMore: what a machine with captures accepts, the looser one does.
func TestLooseAcceptsMore(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 9))
	tried := 0
	for range 2000 {
		f, err := Parse("t", []byte("automaton t = "+randomExpression(r, 3, true)+";"))
		if err != nil {
			continue
		}
		m, err := f.Compile("t")
		if err != nil || m.slots == 0 {
			continue
		}
		l, err := m.loose()
		if err != nil {
			continue
		}
		tried++
		run, loose := m.Start(), l.Start()
		for range 8 {
			name, args := randomCall(r)
			taken := run.Step(name, args) == nil
			if taken && loose.Step(name, args) != nil {
				t.Fatalf("%s\naccepts %s %v, and not without captures", f, name, args)
			}
		}
	}
	if tried < 100 {
		t.Fatal(tried)
	}
}

// Comparing takes bounded time, however the automata are made.
func TestComparingIsBounded(t *testing.T) {
	many := compile(t, "("+distinct(400, "a{x:#} b{x:\"#\"} | ")+"z)*")
	long := compile(t, "("+distinct(300, "a{...} b{ x: any } ")+")*")
	loops := [2]*Machine{compile(t, "(a{701} | b)*"), compile(t, "(a{709} | b | c)*")}
	for i, pair := range [][2]*Machine{{many, long}, {long, many}, {many, many}, loops} {
		start := cpuTime(t)
		_, err1 := Includes(pair[0], pair[1])
		_, err2 := Intersect(pair[0], pair[1])
		_, err3 := Shared(pair[0], pair[1])
		if took := cpuTime(t) - start; took > 20*nastyTime {
			t.Errorf("pair %d: %v (%v, %v, %v)", i, took, err1, err2, err3)
		} else {
			t.Log(took, err1, err2, err3)
		}
	}
}

// Laws that hold for all expressions.
func TestLaws(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for range 60 {
		x, y := "("+randomExpression(r, 2, false)+")", "("+randomExpression(r, 2, false)+")"
		for _, law := range [][2]string{
			{x + "|" + y, y + "|" + x}, {x + "&" + y, y + "&" + x}, {x + "+", x + x + "*"}, {"(" + x + "*)*", x + "*"},
			{x + "{1,3}", x + x + "?" + x + "?"}, {"(" + x + y + ")*" + x, x + "(" + y + x + ")*"}, {"(" + x + "|" + y + ")*", "(" + x + "*" + y + "*)*"},
		} {
			a, b := compile(t, law[0]), compile(t, law[1])
			if !a.Deterministic() || !b.Deterministic() {
				continue
			}
			if d, err := Equal(a, b); d != nil || err != nil {
				t.Fatalf("%s = %s: %v %v", law[0], law[1], d, err)
			}
			if a.States() != b.States() {
				t.Fatalf("%s = %s: %d and %d states", law[0], law[1], a.States(), b.States())
			}
		}
	}
}

// Answers are held against the oracle: a counter-example must be one and no
// shorter one may exist, and where there is none no random trace may be one.
func TestCompareAgainstOracle(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	included, differ := 0, 0
	for range 600 {
		x := randomExpression(r, 1+r.IntN(3), false)
		y := randomExpression(r, 1+r.IntN(3), false)
		if r.IntN(3) == 0 {
			y = "(" + x + ") | (" + y + ")"
		}
		fx, fy := parse(t, "automaton x = "+x+";"), parse(t, "automaton y = "+y+";")
		mx, errX := fx.Compile("x")
		my, errY := fy.Compile("y")
		if errX != nil || errY != nil || !mx.Deterministic() || !my.Deterministic() {
			continue
		}
		d, err := Includes(my, mx)
		if err != nil {
			t.Fatal(err)
		}
		both, err := Intersect(mx, my)
		if err != nil {
			t.Fatal(err)
		}
		if d == nil {
			included++
		} else {
			differ++
			if short := shortest(mx, fx, fy, len(d.Calls)); short < len(d.Calls) {
				t.Fatalf("%s\n%s\n%v\nbut there is one of %d steps", x, y, d, short)
			}
		}
		sx, sy, run := newOracle(fx.automata[0]), newOracle(fy.automata[0]), both.Start()
		for range 8 {
			name, args := randomCall(r)
			inX, inY := sx.step(name, args), sy.step(name, args)
			if d == nil && (inX && !inY || inX && inY && sx.isDone() && !sy.isDone()) {
				t.Fatalf("%s\nis not included in\n%s: %s %v", x, y, name, args)
			}
			if (run.Step(name, args) == nil) != (inX && inY) {
				t.Fatalf("intersection of\n%s\n%s: %s %v", x, y, name, args)
			}
			if !inX || !inY || len(sx.now) > 50 || len(sy.now) > 50 {
				break
			}
			if run.Done() != (sx.isDone() && sy.isDone()) {
				t.Fatalf("end of the intersection of\n%s\n%s", x, y)
			}
		}
	}
	if included < 100 || differ < 100 {
		t.Fatalf("%d included, %d differ: that does not test much", included, differ)
	}
}

// shortest searches differences below limit and 3 hypercalls with the oracle,
// over the examples of x's classes.
func shortest(x *Machine, fx, fy *File, limit int) int {
	type state struct{ a, b *oracle }
	level := []state{{newOracle(fx.automata[0]), newOracle(fy.automata[0])}}
	for length := 0; length < min(limit, 3); length++ {
		var next []state
		seen := map[string]bool{}
		for _, s := range level {
			if s.a.isDone() && !s.b.isDone() {
				return length
			}
			for letter := range x.letters.letters {
				c := x.letters.call(letter)
				a, b := &oracle{d: s.a.d, now: s.a.now}, &oracle{d: s.b.d, now: s.b.now}
				if !a.step(c.Command, map[string]any(c.Arguments)) {
					continue
				}
				if !b.step(c.Command, map[string]any(c.Arguments)) {
					return length + 1
				}
				key := fmt.Sprint(len(a.now), len(b.now), c)
				if !seen[key] && len(next) < 30 {
					seen[key] = true
					next = append(next, state{a, b})
				}
			}
		}
		level = next
	}
	return limit
}
