package automaton

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Machine is a compiled automaton. It does not change, so that many Runs may
// use it at once.
type Machine struct {
	name     string
	deadline time.Duration
	body     *nfa
	abort    *nfa             // nil: nothing may follow an abort
	commands []string         // sorted
	names    map[string]int32 // index into commands
	letters  *alphabet        // of the patterns; classes only where det is set
	det      *deterministic   // nil: body and abort are followed in all ways at once
	aborts   bool             // has an on-abort part
	slots    int              // values a run may hold
	captures []string         // their names
}

// deterministic is a machine without captures: minimal, one state at a time.
type deterministic struct {
	body, abort *dfa
}

// Name returns the automaton's name; that of a policy is "policy".
func (m *Machine) Name() string { return m.name }

// Deadline returns how long a session may last, or 0 when the text does not say.
func (m *Machine) Deadline() time.Duration { return m.deadline }

// Deterministic tells whether the machine is a minimal deterministic one. It is
// where the automaton has no captures, unless that machine or the classes of
// its predicates were larger than the limits allow.
func (m *Machine) Deterministic() bool { return m.det != nil }

// States returns how many states the machine has, its on-abort part included.
func (m *Machine) States() int {
	if m.det != nil {
		n := len(m.det.body.states)
		if m.aborts {
			n += len(m.det.abort.states)
		}
		return n
	}
	n := len(m.body.states)
	if m.abort != nil {
		n += len(m.abort.states)
	}
	return n
}

// Commands returns the names of all hypercalls in the automaton, sorted.
func (m *Machine) Commands() []string { return slices.Clone(m.commands) }

// Compile makes the machine of one automaton of the file.
func (f *File) Compile(name string) (*Machine, error) {
	d := f.find(name)
	if d == nil {
		known := "the text holds none"
		if names := f.Names(); len(names) > 0 {
			known = "the text holds " + strings.Join(names, ", ")
		}
		return nil, fmt.Errorf("no automaton %s: %s", tick(name), known)
	}
	m := &Machine{name: d.name, deadline: d.deadline}
	if err := m.compile(d.body, d.abort, false); err != nil {
		return nil, err
	}
	return m, nil
}

// CompilePolicy makes the machine that follows any automaton of the file, one
// after the other, as often as wanted. Captured values are forgotten between
// them. After an abort any one of their on-abort parts may follow. Its deadline
// is the longest of theirs, or 0 when one has none. A file without automata
// accepts nothing.
func (f *File) CompilePolicy() (*Machine, error) {
	m := &Machine{name: "policy"}
	body, abort := &node{kind: nodeAlt}, &node{kind: nodeAlt}
	endless := false
	for _, d := range f.automata {
		body.subs = append(body.subs, d.body)
		if d.abort != nil {
			abort.subs = append(abort.subs, d.abort)
		}
		m.deadline = max(m.deadline, d.deadline)
		endless = endless || d.deadline == 0
	}
	if endless {
		m.deadline = 0
	}
	if len(abort.subs) == 0 {
		abort = nil
	}
	if len(body.subs) == 0 {
		return m, m.compile(&node{kind: nodeEmpty}, nil, false)
	}
	loop := &node{kind: nodeRepeat, max: unbounded, subs: []*node{body}}
	if err := m.compile(loop, abort, true); err != nil {
		return nil, err
	}
	return m, nil
}

// compile makes the machine. Where fresh is set the body is a loop, and forgets
// captured values each time around.
func (m *Machine) compile(body, abort *node, fresh bool) error {
	need := measure(body) + 1
	if abort != nil {
		need += measure(abort) + 1
	}
	if need > MaxStates {
		return fmt.Errorf("automaton %s needs about %d states, at most %d are allowed: use smaller counts, or * instead",
			tick(m.name), need, MaxStates)
	}
	m.body = build(body)
	// A loop's own state is both its beginning and its end.
	m.body.states[m.body.accept].fresh = fresh
	parts := []*nfa{m.body}
	if abort != nil {
		m.abort, m.aborts = build(abort), true
		parts = append(parts, m.abort)
	}
	m.number(parts)
	if m.slots == 0 {
		m.determine()
		return nil
	}
	m.body = m.body.reduce()
	if m.abort != nil {
		m.abort = m.abort.reduce()
	}
	return nil
}

// determine makes the machine deterministic if that is within the limits.
func (m *Machine) determine() {
	l := m.letters
	letters := newAlphabet(l.names, l.preds, l.nameOf, maxSplitWork)
	if letters == nil {
		return
	}
	abort := m.abort
	if abort == nil {
		abort = build(&node{kind: nodeEmpty})
	}
	det := &deterministic{}
	for _, part := range []struct {
		in  *nfa
		out **dfa
	}{{m.body, &det.body}, {abort, &det.abort}} {
		raw := determinize(part.in, letters)
		if raw == nil {
			return
		}
		if *part.out = raw.minimize().freeze(letters); *part.out == nil {
			return
		}
	}
	m.letters, m.det = letters, det
}

// number gives commands and predicates the small numbers that a Run uses.
// Hypercalls that are written alike are one pattern.
func (m *Machine) number(parts []*nfa) {
	m.names = map[string]int32{}
	known := map[*command]int32{}
	alike := map[string]int32{}
	l := &alphabet{}
	each := func(f func(*move)) {
		for _, part := range parts {
			for i := range part.states {
				for j := range part.states[i].moves {
					f(&part.states[i].moves[j])
				}
			}
		}
	}
	each(func(v *move) { m.names[v.command.name] = 0 })
	for name := range m.names {
		m.commands = append(m.commands, name)
	}
	slices.Sort(m.commands)
	for i, name := range m.commands {
		m.names[name] = int32(i)
	}
	each(func(v *move) {
		c := v.command
		n, old := known[c]
		if !old {
			text := c.name + formatValue(c.args, c.captures.names)
			if n, old = alike[text]; !old {
				n = int32(len(l.preds))
				alike[text] = n
				l.preds, l.nameOf = append(l.preds, c.args), append(l.nameOf, m.names[c.name])
			}
			known[c] = n
			if c.binds {
				m.slots, m.captures = len(c.captures.names), c.captures.names
			}
		}
		v.name, v.pattern = m.names[c.name], n
	})
	l.names = m.commands
	m.letters = l
}

// Transitions returns how many arrows a drawing of the machine has: ways from one
// state to another, or back to itself, by one hypercall as the text writes it.
func (m *Machine) Transitions() int { return len(m.graph().edges) }

// Predicates returns how many different hypercalls with arguments the automaton
// writes: each is one predicate on a hypercall's arguments.
func (m *Machine) Predicates() int {
	n := 0
	for _, p := range m.letters.preds {
		if len(p.members) > 0 || p.open {
			n++
		}
	}
	return n
}
