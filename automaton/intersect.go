package automaton

import (
	"fmt"
	"time"
)

// Intersect returns a machine that accepts what both accept. Its deadline is
// the shorter one. Errors wrap ErrUndecided; they do for machines with captures,
// see Common.
func Intersect(a, b *Machine) (*Machine, error) {
	var names []string
	for _, name := range a.commands {
		if _, both := b.names[name]; both {
			names = append(names, name)
		}
	}
	p, err := newProduct(a, b, names)
	if err != nil {
		return nil, err
	}
	m := &Machine{name: a.name + " and " + b.name, deadline: shorterDeadline(a.deadline, b.deadline), commands: names,
		names: map[string]int32{}, letters: p.letters, det: &deterministic{}, aborts: a.aborts || b.aborts}
	for i, name := range names {
		m.names[name] = int32(i)
	}
	if m.det.body, err = p.intersect(a.det.body, b.det.body); err != nil {
		return nil, err
	}
	m.det.abort, err = p.intersect(a.det.abort, b.det.abort)
	return m, err
}

// shorterDeadline takes 0 as none.
func shorterDeadline(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

func (p *product) intersect(left, right *dfa) (*dfa, error) {
	tooLarge := fmt.Errorf("the intersection of automata %s and %s is too large: it %w", tick(p.left.m.name), tick(p.right.m.name), ErrUndecided)
	walk, out, edges := newPairs(), &rawDFA{}, 0
	for i := int32(0); i < int32(len(walk.list)); i++ {
		at := walk.list[i]
		s := rawState{accept: left.states[at[0]].accept && right.states[at[1]].accept}
		s.offers = append(p.left.translate(left.states[at[0]].offers), p.right.translate(right.states[at[1]].offers)...)
		for letter := range p.letters.letters {
			to := [2]int32{p.next(&p.left, left, at[0], letter)}
			if to[0] == dead {
				continue
			}
			if to[1] = p.next(&p.right, right, at[1], letter); to[1] != dead {
				s.edges = append(s.edges, edge{letter, walk.visit(to, i, letter)})
			}
		}
		out.states = append(out.states, s)
		if err := p.tooLarge(walk); err != nil {
			return nil, err
		}
		if edges += len(s.edges) + len(s.offers); len(walk.list) > MaxStates || edges > maxEdges {
			return nil, tooLarge
		}
	}
	d := out.minimize().freeze(p.letters)
	if d == nil {
		return nil, tooLarge
	}
	return d, nil
}

// translate gives patterns of a side their common numbers.
func (s *side) translate(offers []int32) []int32 {
	var out []int32
	for _, pattern := range offers {
		if s.place[pattern] >= 0 {
			out = append(out, s.place[pattern])
		}
	}
	return out
}

// Example returns a shortest sequence that the machine accepts to its end, and
// false when there is none. Errors wrap ErrUndecided.
func (m *Machine) Example() ([]Call, bool, error) {
	if m.det == nil {
		return nil, false, fmt.Errorf("what automaton %s accepts %w: it has captures or is too large", tick(m.name), ErrUndecided)
	}
	d := m.det.body
	walk := newPairs()
	for i := int32(0); i < int32(len(walk.list)); i++ {
		at := walk.list[i][0]
		if d.states[at].accept {
			calls := []Call{}
			for _, letter := range walk.trace(i) {
				calls = append(calls, m.letters.call(letter))
			}
			return calls, true, nil
		}
		for _, e := range d.states[at].edges {
			walk.visit([2]int32{e.to, 0}, i, e.letter)
		}
	}
	return nil, false, nil
}
