package ui

import (
	"bytes"
	"encoding/json"
	"slices"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/automaton"
	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant/client"
)

// maxFollowed is how many hypercalls of one command are drawn. Each one follows
// the whole sequence again, and the sequence is the server's word.
const maxFollowed = 256

// follower shows where a command stands in the automaton of its ticket.
type follower struct {
	machine *automaton.Machine
	calls   []automaton.Call
}

// follow returns a follower, or nil for a command without an automaton to draw.
func follow(command string) *follower {
	f, err := automata.Load(automata.SetNative, command)
	if err != nil {
		return nil
	}
	m, err := f.Compile(command)
	if err != nil || m.States() > automaton.MaxDrawn {
		return nil
	}
	return &follower{machine: m}
}

// step adds a hypercall and tells whether the ticket's automaton accepts it there.
func (f *follower) step(command string, arguments json.RawMessage, failed bool) (accepted bool, why string) {
	c := automaton.Call{Command: command, Failed: failed}
	if len(arguments) > 0 && !bytes.Equal(arguments, []byte("null")) {
		dec := json.NewDecoder(bytes.NewReader(arguments))
		dec.UseNumber()
		if err := dec.Decode(&c.Arguments); err != nil {
			return false, "its arguments do not parse"
		}
	}
	f.calls = append(f.calls, c)
	steps := f.machine.Trace(f.calls).Steps
	if r := steps[len(steps)-1].Refusal; r != nil {
		return false, r.Error()
	}
	return true, ""
}

// full tells that no more is followed.
func (f *follower) full() bool { return len(f.calls) >= maxFollowed }

// drawing is the automaton as SVG, with the ways taken and the state reached.
func (f *follower) drawing() string {
	h := f.machine.Trace(f.calls).Highlight()
	slices.SortFunc(h.Passed, func(a, b [2]int) int { return slices.Compare(a[:], b[:]) })
	h.Passed = slices.Compact(h.Passed) // a loop is passed often
	svg, err := f.machine.SVG(h)
	if err != nil {
		return ""
	}
	return svg
}

// hypercall is a step for the page.
type hypercall struct {
	Command   string `json:"command"`
	Arguments string `json:"arguments,omitempty"`
	Answered  bool   `json:"answered"`
	Class     string `json:"class,omitempty"`
	Accepted  bool   `json:"accepted"` // by the automaton of the ticket
	Why       string `json:"why,omitempty"`
	Drawing   string `json:"drawing,omitempty"`
}

// maxArguments cuts arguments for showing, bytes.
const maxArguments = 400

// told follows what the server says. The automaton moves when a hypercall is sent;
// its answer only adds a failure, after which the abort steps hold.
func (f *follower) told(h client.Hypercall) hypercall {
	out := hypercall{Command: h.Command, Answered: h.Answered, Class: h.Class, Accepted: true}
	if len(h.Arguments) > 0 {
		out.Arguments = client.Printable(clip(string(h.Arguments), maxArguments))
	}
	switch {
	case f == nil:
	case !h.Answered && !f.full():
		out.Accepted, out.Why = f.step(h.Command, h.Arguments, false)
		out.Drawing = f.drawing()
	case h.Answered && h.Class != "" && len(f.calls) > 0:
		f.calls[len(f.calls)-1].Failed = true
		out.Drawing = f.drawing()
	}
	return out
}

// drawn is the drawing of what a receipt says was executed.
func drawn(r *bond.Receipt) string {
	f := follow(r.Command)
	if f == nil {
		return ""
	}
	for _, c := range r.Calls {
		if f.full() {
			break
		}
		if !json.Valid([]byte(c.Arguments)) && c.Arguments != "" {
			break // only their hash: nothing can be held against it
		}
		arguments := json.RawMessage(c.Arguments)
		f.step(c.Command, arguments, c.Verdict == bond.CallError)
	}
	return f.drawing()
}

func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return string(bytes.ToValidUTF8([]byte(s[:most]), nil)) + "…"
}
