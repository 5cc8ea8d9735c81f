package automaton

import (
	"fmt"
	"slices"
	"strings"
)

// Trace tells what a machine made of a sequence of hypercalls.
type Trace struct {
	Automaton string
	Start     []int // states before the first hypercall
	Steps     []TraceStep
	Done      bool     // the session may end after the last
	Expected  []string // what may come after the last
}

// TraceStep is one hypercall of a trace. States have the numbers that Draw
// shows; there is more than one where captures leave several ways open.
type TraceStep struct {
	Call    Call
	From    []int
	To      []int             // as From when refused
	Aborted bool              // held against the on-abort part
	Kept    map[string]string // values of captures afterwards, where all ways agree
	Refusal *Refusal          // nil: accepted
	Failed  bool              // accepted, and answered with an error, which ends the sequence
}

// Refused returns the first refused step, or nil.
func (t *Trace) Refused() *TraceStep {
	for i := range t.Steps {
		if t.Steps[i].Refusal != nil {
			return &t.Steps[i]
		}
	}
	return nil
}

// Trace follows hypercalls as the gate does: the first refusal aborts the
// session, and so does the first hypercall that failed. What follows is held
// against the on-abort part. Elided calls are passed over: what a recording
// left out cannot be held against anything.
func (m *Machine) Trace(calls []Call) *Trace {
	r := m.Start()
	numbers := m.graph().numbers
	at := func() []int { return r.states(numbers) }
	t := &Trace{Automaton: m.name, Start: at()}
	for _, c := range calls {
		if c.Elided > 0 {
			continue
		}
		s := TraceStep{Call: c, From: at(), Aborted: r.aborted}
		if err := r.Step(c.Command, c.Arguments); err != nil {
			s.Refusal = err.(*Refusal)
			s.To = s.From
			r.Abort()
		} else {
			s.To, s.Kept, s.Failed = at(), r.kept(), c.Failed
			if c.Failed {
				r.Abort()
			}
		}
		t.Steps = append(t.Steps, s)
	}
	t.Done, t.Expected = r.Done(), r.Expected()
	return t
}

// states returns where the run is, in the numbers of the drawing.
func (r *Run) states(numbers *stateNumbers) []int {
	if r.m.det != nil {
		if r.aborted {
			return []int{numbers.abort + int(r.at)}
		}
		return []int{int(r.at)}
	}
	var out []int
	of := numbers.body
	if r.aborted {
		of = numbers.aborted
	}
	for _, t := range r.threads {
		if n := of[t.state]; n >= 0 && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

// kept returns the values of captures that are the same on all ways.
func (r *Run) kept() map[string]string {
	if r.m.slots == 0 || len(r.threads) == 0 {
		return nil
	}
	out := map[string]string{}
	for slot, name := range r.m.captures {
		var value kept
		for i, t := range r.threads {
			var here kept
			if set := r.sets[t.set]; slot < len(set) {
				here = set[slot]
			}
			if i == 0 {
				value = here
			} else if value != here {
				value = kept{}
			}
		}
		switch value.kind {
		case 0:
		case 's':
			out[name] = quote(value.text)
		default:
			out[name] = value.text
		}
	}
	return out
}

// String shows one hypercall a line, with the states before and after it, or
// why it was refused.
func (t *Trace) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: starts in %s\n", t.Automaton, stateList(t.Start))
	aborted := false
	for i, s := range t.Steps {
		if s.Aborted && !aborted {
			b.WriteString("      (aborted: only what may follow an abort is accepted)\n")
			aborted = true
		}
		verdict := "ok      "
		switch {
		case s.Refusal != nil:
			verdict = "REFUSED "
		case s.Failed:
			verdict = "FAILED  "
		}
		fmt.Fprintf(&b, "%4d  %s%s", i+1, verdict, s.Call)
		switch {
		case s.Refusal != nil:
			b.WriteString("\n      " + s.Refusal.Error())
		case !slices.Equal(s.From, s.To):
			fmt.Fprintf(&b, "  %s -> %s", stateList(s.From), stateList(s.To))
		}
		b.WriteByte('\n')
	}
	expected := make([]string, len(t.Expected))
	for i, name := range t.Expected {
		expected[i] = tick(name)
	}
	switch {
	case t.Done && len(expected) == 0:
		b.WriteString("may end here, nothing more may follow\n")
	case t.Done:
		b.WriteString("may end here, or go on with " + orList(expected) + "\n")
	default:
		b.WriteString("may not end here, expected " + orList(expected) + "\n")
	}
	return b.String()
}

func stateList(states []int) string {
	parts := make([]string, len(states))
	for i, n := range states {
		parts[i] = fmt.Sprint(n)
	}
	return strings.Join(parts, ",")
}
