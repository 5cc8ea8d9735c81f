package automaton

import (
	"fmt"
	"slices"
)

// Check returns what is likely wrong with a text although it parses, one
// finding a line: parts that nothing uses, automata that do not compile,
// hypercalls that known refuses (nil: none), arguments that nothing can
// satisfy, and points from which no end can be reached.
func (f *File) Check(known func(command string) error) []string {
	var found []string
	used := reachable(f.automata...)
	for _, part := range f.parts {
		if !used[part] {
			found = append(found, fmt.Sprintf("part %s is not used", tick("@"+part.name)))
		}
	}
	for _, d := range f.automata {
		m, err := f.Compile(d.name)
		if err != nil {
			found = append(found, err.Error())
			continue
		}
		for _, finding := range m.check(known) {
			found = append(found, fmt.Sprintf("automaton %s: %s", tick(d.name), finding))
		}
	}
	return found
}

func (m *Machine) check(known func(string) error) []string {
	var found []string
	for _, name := range m.commands {
		if known == nil {
			break
		}
		if err := known(name); err != nil {
			found = append(found, fmt.Sprintf("hypercall %s: %v", tick(name), err))
		}
	}
	// What the looser machine cannot do, one with captures cannot either.
	m, err := m.loose()
	if err != nil {
		return found
	}
	if m.det == nil {
		return append(found, "it is too large for a deterministic machine, so it cannot be compared with others")
	}
	l := m.letters
	for p := range l.preds {
		if !slices.ContainsFunc(l.classes[l.nameOf[p]], func(c class) bool { return c.mask.has(int(l.place[p])) }) {
			found = append(found, fmt.Sprintf("no arguments satisfy %s", short(m.pattern(int32(p)), 80)))
		}
	}
	if m.det.body.stuck() {
		found = append(found, "sequences are let through that can never be completed")
	}
	if m.det.abort.stuck() {
		found = append(found, "after an abort, sequences are let through that can never be completed")
	}
	return found
}

// stuck tells whether some state leads to no end.
func (d *dfa) stuck() bool {
	before := make([][]int32, len(d.states))
	var todo []int32
	ends := make([]bool, len(d.states))
	for i := range d.states {
		for _, e := range d.states[i].edges {
			before[e.to] = append(before[e.to], int32(i))
		}
		if d.states[i].accept {
			ends[i] = true
			todo = append(todo, int32(i))
		}
	}
	for ; len(todo) > 0; todo = todo[1:] {
		for _, from := range before[todo[0]] {
			if !ends[from] {
				ends[from] = true
				todo = append(todo, from)
			}
		}
	}
	return slices.Contains(ends, false)
}

// Shared returns an example of every command that both machines accept at some
// point with the same arguments, on-abort parts left out. Where a is a ticket's
// automaton and b the policy, these are the hypercalls that a session may send
// by either right. Machines with captures are looked at as if every value fitted
// them, so that some examples may not hold; none is missing. Errors wrap
// ErrUndecided.
func Shared(a, b *Machine) ([]Call, error) {
	var err error
	if a, err = a.loose(); err != nil {
		return nil, err
	}
	if b, err = b.loose(); err != nil {
		return nil, err
	}
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
	left, right := p.accepted(&p.left), p.accepted(&p.right)
	if err := p.tooLarge(newPairs()); err != nil {
		return nil, err
	}
	var calls []Call
	last := int32(-1)
	for letter := range p.letters.letters {
		if name := p.letters.letter[letter]; left[letter] && right[letter] && name != last {
			calls = append(calls, p.call(letter))
			last = name
		}
	}
	return calls, nil
}

// accepted tells which letters some state of a side's body accepts.
func (p *product) accepted(s *side) []bool {
	out := make([]bool, p.letters.letters)
	for state := range s.m.det.body.states {
		if p.steps > maxPairSteps {
			break
		}
		for letter := range out {
			if !out[letter] && p.next(s, s.m.det.body, int32(state), int32(letter)) != dead {
				out[letter] = true
			}
		}
	}
	return out
}
