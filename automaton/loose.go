package automaton

import (
	"fmt"
	"slices"
	"strings"
)

// A machine with captures is compared by way of a looser one without them, in
// which `value as $x` is value and $x any value. What the looser one refuses, the
// other refuses too; so "yes" of a looser part and "no example" of looser machines
// hold. What the looser one accepts may not be accepted with the values kept:
// examples are tried on the machines themselves before they are shown.

// loose returns a deterministic machine that accepts at least what m accepts.
func (m *Machine) loose() (*Machine, error) {
	if m.det != nil || m.slots == 0 {
		return m, nil
	}
	out := &Machine{name: m.name, deadline: m.deadline}
	known := map[*command]*command{}
	out.body = looseNFA(m.body, known)
	parts := []*nfa{out.body}
	if m.abort != nil {
		out.abort, out.aborts = looseNFA(m.abort, known), true
		parts = append(parts, out.abort)
	}
	out.number(parts)
	out.determine()
	if out.det == nil {
		return nil, fmt.Errorf("automaton %s is too large, also without its captures: this %w", tick(m.name), ErrUndecided)
	}
	return out, nil
}

func looseNFA(a *nfa, known map[*command]*command) *nfa {
	out := &nfa{accept: a.accept, states: make([]state, len(a.states))}
	for i, s := range a.states {
		out.states[i].edges = s.edges
		for _, v := range s.moves {
			c := known[v.command]
			if c == nil {
				c = v.command
				if c.binds {
					copied := *c
					copied.args, copied.binds = looseValue(c.args), false
					c = &copied
				}
				known[v.command] = c
			}
			out.states[i].moves = append(out.states[i].moves, move{command: c, to: v.to})
		}
	}
	return out
}

// looseValue copies a predicate without its captures.
func looseValue(v *value) *value {
	switch v.kind {
	case valueAs:
		return looseValue(v.items[0])
	case valueCapture:
		if v.text == "" && v.suffix == "" {
			return &value{kind: valueAny}
		}
		escape := strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`)
		return &value{kind: valueGlob, text: escape.Replace(v.text) + "*" + escape.Replace(v.suffix)}
	}
	out := *v
	out.items, out.members = nil, nil
	for _, item := range v.items {
		out.items = append(out.items, looseValue(item))
	}
	for _, m := range v.members {
		m.value = looseValue(m.value)
		out.members = append(out.members, m)
	}
	if v.tail != nil {
		out.tail = looseValue(v.tail)
	}
	return &out
}

// includesLoosely is Includes where one of the machines has captures.
func includesLoosely(whole, part *Machine) (*Difference, error) {
	if sameMachine(whole, part) {
		return nil, nil
	}
	w, err := whole.loose()
	if err != nil {
		return nil, err
	}
	p, err := part.loose()
	if err != nil {
		return nil, err
	}
	pair, err := newProduct(p, w, p.commands)
	if err != nil {
		return nil, err
	}
	d, err := pair.includes()
	switch {
	case err != nil:
		return nil, err
	case d == nil && whole.slots == 0:
		return nil, nil
	case d != nil && d.holds(part, whole):
		return d, nil
	}
	if found := pair.search(whole, part); found != nil {
		return found, nil
	}
	if d == nil {
		return nil, fmt.Errorf("automaton %s includes %s without its captures, and no session was found that its captures refuse: this %w",
			tick(whole.name), tick(part.name), ErrUndecided)
	}
	return nil, fmt.Errorf("automata %s and %s differ without their captures, and no session was found that shows it with them: this %w",
		tick(whole.name), tick(part.name), ErrUndecided)
}

// sameMachine tells that two machines are the same, state by state.
func sameMachine(a, b *Machine) bool {
	same := func(x, y *nfa) bool {
		if x == nil || y == nil {
			return x == y
		}
		return x.accept == y.accept && slices.EqualFunc(x.states, y.states, func(s, t state) bool {
			return s.fresh == t.fresh && slices.Equal(s.edges, t.edges) && slices.EqualFunc(s.moves, t.moves, func(v, w move) bool {
				return v.to == w.to && v.command.String() == w.command.String()
			})
		})
	}
	return slices.Equal(a.captures, b.captures) && same(a.body, b.body) && same(a.abort, b.abort)
}

// Common returns a session that both machines accept to its end, a shortest one
// where there are no captures, and false when there is none. Errors wrap
// ErrUndecided.
func Common(a, b *Machine) ([]Call, bool, error) {
	la, err := a.loose()
	if err != nil {
		return nil, false, err
	}
	lb, err := b.loose()
	if err != nil {
		return nil, false, err
	}
	both, err := Intersect(la, lb)
	if err != nil {
		return nil, false, err
	}
	calls, found, err := both.Example()
	if err != nil || !found || (a.slots == 0 && b.slots == 0) {
		return calls, found, err
	}
	if calls, found = together(a, b, calls, true); found {
		return calls, true, nil
	}
	return nil, false, fmt.Errorf("without their captures automata %s and %s both accept some session, and none was found that they accept with them: this %w",
		tick(a.name), tick(b.name), ErrUndecided)
}

// Begins returns a session of at least one hypercall that a accepts to its end
// and b lets through, whether it may end there or not: whoever follows it may be
// doing either. It is false when there is none. Errors wrap ErrUndecided.
func Begins(a, b *Machine) ([]Call, bool, error) {
	la, err := a.loose()
	if err != nil {
		return nil, false, err
	}
	lb, err := b.loose()
	if err != nil {
		return nil, false, err
	}
	names := slices.DeleteFunc(slices.Clone(la.commands), func(name string) bool { _, both := lb.names[name]; return !both })
	p, err := newProduct(la, lb, names)
	if err != nil {
		return nil, false, err
	}
	walk := newPairs()
	for i := int32(0); i < int32(len(walk.list)); i++ {
		at := walk.list[i]
		if i > 0 && la.det.body.states[at[0]].accept {
			var way []Call
			for _, letter := range walk.trace(i) {
				way = append(way, p.call(letter))
			}
			if calls, ok := together(a, b, way, false); ok {
				return calls, true, nil
			}
			return nil, false, fmt.Errorf("without its captures automaton %s lets through what %s accepts, and no such session was found with them: this %w",
				tick(b.name), tick(a.name), ErrUndecided)
		}
		for letter := range p.letters.letters {
			to := [2]int32{p.next(&p.left, la.det.body, at[0], letter)}
			if to[0] == dead {
				continue
			}
			if to[1] = p.next(&p.right, lb.det.body, at[1], letter); to[1] != dead {
				walk.visit(to, i, letter)
			}
		}
		if err := p.tooLarge(walk); err != nil {
			return nil, false, err
		}
	}
	return nil, false, nil
}
