package automaton

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// A search for a counter-example tries so many sessions, of so many hypercalls.
const (
	maxSearch      = 1 << 10
	maxSearchDepth = 32
	maxSearchTries = 1 << 13
)

// search looks for a session that part accepts and whole does not, nearest first,
// with a few values for each hypercall: those kept, and examples that the
// predicates of both tell apart.
func (p *product) search(whole, part *Machine) *Difference {
	tries := 0
	for _, aborted := range []bool{false, true} {
		todo := [][]Call{nil}
		for n := 0; n < len(todo); n++ {
			run, _ := part.after(aborted, todo[n])
			d := &Difference{Accepts: part.name, Refuses: whole.name, Calls: todo[n], Aborted: aborted, Ends: true}
			if d.holds(part, whole) {
				return d
			}
			if len(todo[n]) == maxSearchDepth {
				continue
			}
			other, _ := whole.after(aborted, todo[n])
			for _, c := range p.offers(run, other, len(todo[n])) {
				if tries++; tries > maxSearchTries {
					return nil
				}
				next := append(slices.Clone(todo[n]), c)
				if _, accepted := part.after(aborted, next); !accepted {
					continue
				}
				if _, accepted := whole.after(aborted, next); !accepted {
					return &Difference{Accepts: part.name, Refuses: whole.name, Calls: next, Aborted: aborted}
				}
				if len(todo) < maxSearch {
					todo = append(todo, next)
				}
			}
		}
	}
	return nil
}

// after returns a run after calls, and whether it accepted them.
func (m *Machine) after(aborted bool, calls []Call) (*Run, bool) {
	run := m.Start()
	if aborted {
		run.Abort()
	}
	for _, c := range calls {
		if run.Step(c.Command, c.Arguments) != nil {
			return run, false
		}
	}
	return run, true
}

// maxOffers is how many examples are tried of one hypercall.
const maxOffers = 4

// offers returns hypercalls that a run may accept next, also with other values
// than those that the other run has kept.
func (p *product) offers(r, other *Run, depth int) []Call {
	var out []Call
	known := map[string]bool{}
	add := func(name string, args map[string]any) {
		c := Call{Command: name, Arguments: args}
		data, err := json.Marshal(c)
		if err == nil && !known[string(data)] {
			known[string(data)] = true
			out = append(out, c)
		}
	}
	if r.m.det != nil {
		for _, row := range r.dfa().states[r.at].rows {
			for n := range p.letters.classes[row.name] {
				c := p.call(p.letters.first[row.name] + int32(n))
				add(c.Command, c.Arguments)
			}
		}
	}
	for i, run := range []*Run{r, other} {
		for _, t := range run.threads {
			for _, v := range run.part.states[t.state].moves {
				at := slices.Index(p.letters.names, v.command.name)
				if at < 0 {
					continue
				}
				for n := 0; n < len(p.letters.classes[at]) && n < maxOffers; n++ {
					example := p.call(p.letters.first[at] + int32(n)).Arguments
					for _, held := range []values{run.sets[t.set], nil}[i:] {
						filled, _ := insert(v.command.args, example, held, depth).(map[string]any)
						add(v.command.name, filled)
					}
				}
			}
		}
	}
	return out
}

// insert puts kept values into an example of arguments, and values of their own
// where nothing is kept yet.
func insert(v *value, example any, held values, depth int) any {
	value := func() (any, bool) {
		if v.capture >= len(held) || held[v.capture].kind == 0 {
			return nil, false
		}
		if old := held[v.capture]; old.kind == 's' {
			return old.text, true
		}
		var out any
		d := json.NewDecoder(strings.NewReader(held[v.capture].text))
		d.UseNumber()
		return out, d.Decode(&out) == nil
	}
	switch v.kind {
	case valueAs:
		if have, ok := value(); ok {
			return have
		}
		return insert(v.items[0], example, held, depth)
	case valueCapture:
		have, ok := value()
		text, isText := have.(string)
		switch {
		case v.text == "" && v.suffix == "" && ok:
			return have
		case isText:
			return v.text + text + v.suffix
		}
		return v.text + fmt.Sprintf("v%d", depth*MaxCaptures+v.capture) + v.suffix
	case valueObject:
		in, ok := example.(map[string]any)
		if !ok {
			return example
		}
		out := map[string]any{}
		for k, e := range in {
			out[k] = e
		}
		for _, m := range v.members {
			if e, ok := in[m.key]; ok {
				out[m.key] = insert(m.value, e, held, depth)
			}
		}
		return out
	case valueList:
		in, ok := example.([]any)
		if !ok {
			return example
		}
		var out []any
		for i, e := range in {
			if i < len(v.items) {
				e = insert(v.items[i], e, held, depth)
			} else if v.tail != nil {
				e = insert(v.tail, e, held, depth)
			}
			out = append(out, e)
		}
		return out
	}
	return example
}

// together looks for a session on the way of an example whose values fit both,
// and where a may end, and b too if both must.
func together(a, b *Machine, way []Call, both bool) ([]Call, bool) {
	for _, lead := range []*Machine{a, b} {
		one, two := a.Start(), b.Start()
		var calls []Call
		ok := true
		for i, c := range way {
			run := one
			if lead == b {
				run = two
			}
			if run.m.det == nil {
				c = run.fitted(c, i)
			}
			if ok = one.Step(c.Command, c.Arguments) == nil && two.Step(c.Command, c.Arguments) == nil; !ok {
				break
			}
			calls = append(calls, c)
		}
		if ok && one.Done() && (two.Done() || !both) {
			return calls, true
		}
	}
	return nil, false
}

// fitted puts the values that a run keeps into a hypercall.
func (r *Run) fitted(c Call, depth int) Call {
	for _, t := range r.threads {
		for _, v := range r.part.states[t.state].moves {
			if v.command.name != c.Command {
				continue
			}
			filled, _ := insert(v.command.args, c.Arguments, r.sets[t.set], depth).(map[string]any)
			e := matcher{bound: make(values, r.m.slots), work: maxStepWork}
			e.load(r.sets[t.set])
			if e.object(v.command.args, filled, nil) {
				return Call{Command: c.Command, Arguments: filled}
			}
		}
	}
	return c
}
