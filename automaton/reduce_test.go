package automaton

import (
	"math/rand/v2"
	"testing"
)

// TestReduce: a smaller machine does the same as the one that it was made from.
func TestReduce(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 5))
	tried, smaller := 0, 0
	for range 3000 {
		f, err := Parse("t", []byte("automaton t = "+randomExpression(r, 1+r.IntN(3), true)+" on abort "+randomExpression(r, 1, true)+";"))
		if err != nil {
			t.Fatal(err)
		}
		m, err := f.Compile("t")
		if err != nil || m.slots == 0 {
			continue
		}
		tried++
		whole := *m
		whole.body, whole.abort = build(f.automata[0].body), build(f.automata[0].abort)
		whole.number([]*nfa{whole.body, whole.abort})
		if len(m.body.states) < len(whole.body.states) {
			smaller++
		}
		one, two := m.Start(), whole.Start()
		for range 12 {
			if r.IntN(15) == 0 {
				one.Abort()
				two.Abort()
			}
			name, args := randomCall(r)
			err1, err2 := one.Step(name, args), two.Step(name, args)
			if (err1 == nil) != (err2 == nil) || one.Done() != two.Done() {
				t.Fatalf("%s\n%s %v: reduced %v (done %v), whole %v (done %v)", f, name, args, err1, one.Done(), err2, two.Done())
			}
		}
	}
	if tried < 500 || smaller < tried/2 {
		t.Fatalf("%d tried, %d smaller", tried, smaller)
	}
	// Texts that say the same in other words become the same machine.
	for _, pair := range [][2]string{
		{"a{ x: $v } (b | b) c", "a{ x: $v } b c"},
		{"(a{ x: $v } b | a{ x: $v } c) d", "a{ x: $v } b d | a{ x: $v } c d"},
		{"a{ x: $v } (b*)*", "a{ x: $v } b*"},
	} {
		if d, err := Equal(compile(t, pair[0]), compile(t, pair[1])); d != nil || err != nil {
			t.Errorf("%s and %s: %v, %v", pair[0], pair[1], d, err)
		}
	}
}
