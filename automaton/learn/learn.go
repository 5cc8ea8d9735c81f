// Package learn infers an automaton from recorded sessions of one management
// command, for a person to review: what was the same in all sessions stays as
// it was, what differed becomes the narrowest predicate that fits. Every such
// step is a Note that says what was generalised and why.
//
// The way of the recordings is
//
//	sessions (session.go: cut at failures, refreshes after events taken out)
//	  -> items (fold.go: repetitions) -> columns (align.go: what corresponds to what)
//	  -> expressions (plan.go: loops, what floats; tree.go: options, choices)
//	  -> predicates (infer.go, strings.go, capture.go) -> text (print.go)
//
// and the text is parsed and compiled by package automaton, so that what is
// returned is within its limits. What is known of QMP beyond the recordings,
// such as which commands only ask, stands in qmp.go.
//
// The package is pure and deterministic: the order of the sessions does not
// matter. Recordings may come from anywhere: sizes and work are bounded, and
// what passes a bound is refused.
package learn

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/uvbond/uvbond/automaton"
)

// Limits on what is learned from.
const (
	MaxSessions = 128     // sessions of one command
	maxItems    = 4096    // steps of one session, repetitions counted once
	maxCells    = 1 << 25 // pairs of steps that are compared, all in all
	maxShapes   = 16      // kinds of sessions that have little in common
)

// Session is one recorded session and what it is called, such as its file.
type Session struct {
	Name      string
	Recording *automaton.Recording
}

// Note is one thing that was generalised.
type Note struct {
	Step string `json:"step"` // number and hypercall, such as "3 getfd"; "" for the whole
	At   string `json:"at,omitempty"`
	What string `json:"what"` // as the text has it
	Why  string `json:"why"`

	number int // of the step, 0 for the whole
}

func (n Note) String() string {
	at := n.Step
	if n.At != "" {
		at += "." + n.At
	}
	if at != "" {
		at += ": "
	}
	return at + n.What + ": " + n.Why
}

// Learned is what was inferred.
type Learned struct {
	Text    string // in the layout of automaton.Format
	File    *automaton.File
	Machine *automaton.Machine
	Notes   []Note
	cells   int // pairs of steps that were compared
}

// Learn infers the automaton called name.
func Learn(name string, sessions []Session) (*Learned, error) {
	switch {
	case len(sessions) == 0:
		return nil, fmt.Errorf("no session to learn from")
	case len(sessions) > MaxSessions:
		return nil, fmt.Errorf("%d sessions, at most %d can be learned from at once", len(sessions), MaxSessions)
	}
	l := &learner{name: name}
	for _, s := range sessions {
		prepared, err := prepare(s)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.Name, err)
		}
		l.sessions = append(l.sessions, prepared)
	}
	slices.SortStableFunc(l.sessions, func(a, b *session) int {
		return cmp.Or(strings.Compare(a.order, b.order), strings.Compare(a.name, b.name))
	})
	for i, s := range l.sessions {
		s.index = i
	}
	return l.learn()
}

// learner holds what is known while one automaton is inferred.
type learner struct {
	name     string
	sessions []*session
	cells    int     // compared so far
	refresh  []*step // what was found to follow RESET events
	segments int
	slots    []*slot
	sources  []*source
	captures []string
	patterns map[string]bool
	notes    []Note
}

func (l *learner) learn() (*Learned, error) {
	if !slices.ContainsFunc(l.sessions, func(s *session) bool { return !s.idle }) {
		return nil, fmt.Errorf("no session has a hypercall: this command sends none")
	}
	l.patterns = map[string]bool{}
	l.refreshes()
	body, err := l.shapes(func(s *session) []*step { return s.steps }, l.sessions)
	if err != nil {
		return nil, err
	}
	var failed []*session
	for _, s := range l.sessions {
		if s.cut {
			failed = append(failed, s)
		}
	}
	var abort *expr
	if len(failed) > 0 {
		if abort, err = l.shapes(func(s *session) []*step { return s.after }, failed); err != nil {
			return nil, err
		}
	}
	for _, s := range l.slots {
		l.infer(s)
	}
	out, err := l.compile(body, abort)
	if err != nil {
		return nil, err
	}
	if v := l.refused(out); v != nil {
		return nil, fmt.Errorf("what was learned refuses %s, which it was learned from: %s", v.Session, v.Reason)
	}
	if !l.someIdle() && out.Machine.Start().Done() && demand(body) {
		// No session was empty, so none that is empty should be accepted.
		if better, err := l.compile(body, abort); err == nil && l.refused(better) == nil {
			return better, nil
		}
	}
	return out, nil
}

// refused returns the verdict on a session that is not accepted by what was
// learned from it, which is an error in this package, or nil.
func (l *learner) refused(out *Learned) *Verdict {
	for _, s := range l.sessions {
		if v := Hold(out.Machine, s.from); !v.Accepted {
			return &v
		}
	}
	return nil
}

func (l *learner) someIdle() bool {
	return slices.ContainsFunc(l.sessions, func(s *session) bool { return s.idle })
}

func (l *learner) compile(body, abort *expr) (*Learned, error) {
	slices.SortStableFunc(l.notes, func(a, b Note) int { return a.number - b.number })
	text := l.print(body, abort)
	out := &Learned{Notes: l.notes, cells: l.cells}
	var err error
	if out.Text, err = automaton.Format(l.name, []byte(text)); err != nil {
		return nil, fmt.Errorf("what was learned is no automaton that can be held to: %w", err)
	}
	if out.File, err = automaton.Parse(l.name, []byte(out.Text)); err != nil {
		return nil, fmt.Errorf("what was learned is no automaton that can be held to: %w", err)
	}
	if out.Machine, err = out.File.Compile(l.name); err != nil {
		return nil, fmt.Errorf("what was learned is no automaton that can be held to: %w", err)
	}
	return out, nil
}

// note remembers what was generalised.
func (l *learner) note(s *slot, at, what, why string) {
	n := Note{At: at, What: what, Why: why}
	if s != nil {
		n.number = s.number
		n.Step = fmt.Sprintf("%d %s", s.number, s.name)
	}
	l.notes = append(l.notes, n)
}

// deadline returns a time that the sessions should have ended in: ten times the
// longest, in steps that people use. It is 0 where no session has a time.
func (l *learner) deadline() time.Duration {
	longest := 0.0
	for _, s := range l.sessions {
		longest = max(longest, s.seconds)
	}
	if longest == 0 {
		return 0
	}
	for _, d := range []time.Duration{30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour} {
		if d.Seconds() >= 10*longest {
			return d
		}
	}
	return 24 * time.Hour
}
