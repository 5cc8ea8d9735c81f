package learn

import (
	"fmt"
	"strings"
)

type exprKind uint8

const (
	exprStep    exprKind = iota
	exprSeq              // subs one after the other
	exprAlt              // one of subs
	exprShuffle          // subs interleaved
	exprRepeat           // subs[0] min to max times
)

const unbounded = -1

// expr is an expression over hypercalls.
type expr struct {
	kind     exprKind
	slot     *slot
	subs     []*expr
	min, max int
}

// slot is one hypercall of the automaton, with what was seen of it.
type slot struct {
	number  int // from 1, in the order of the text
	name    string
	seen    map[int][]*step // by session
	segment int             // 0: in every session of its kind; else optional together with others of the segment
	binds   bool            // may be the first use of a capture
	args    *pattern
}

// shapes makes an expression of sessions: a choice, if they are of several kinds.
func (l *learner) shapes(steps func(*session) []*step, sessions []*session) (*expr, error) {
	groups, err := l.align(sessions, steps)
	if err != nil {
		return nil, err
	}
	alt := &expr{kind: exprAlt}
	for i, g := range groups {
		if len(groups) > 1 {
			var names []string
			for _, s := range g.sessions {
				names = append(names, s.name)
			}
			l.note(nil, "", fmt.Sprintf("kind %d of %d", i+1, len(groups)), "less in common with the others than half of what changes something: "+few(names))
		}
		alt.subs = append(alt.subs, l.group(g))
	}
	if len(alt.subs) == 1 {
		return alt.subs[0], nil
	}
	return alt, nil
}

func (l *learner) group(g *alignment) *expr {
	plans := l.plan(g)
	from, to, blocks := l.floating(g, plans)
	if len(blocks) == 0 {
		return l.sequence(g, plans)
	}
	out := &expr{kind: exprSeq}
	out.subs = append(out.subs, l.sequence(g, plans[:from]))
	shuffle := &expr{kind: exprShuffle, subs: []*expr{l.sequence(g, plans[from:to])}}
	choice := &expr{kind: exprAlt}
	for _, b := range blocks {
		seq := &expr{kind: exprSeq}
		for _, st := range b {
			s := l.newSlot(st.name, false, 0)
			s.seen[0] = []*step{st}
			seq.subs = append(seq.subs, &expr{kind: exprStep, slot: s})
		}
		choice.subs = append(choice.subs, seq)
		l.note(l.slots[len(l.slots)-1], "", "any number of times, between the others", l.whyFloats(b))
	}
	shuffle.subs = append(shuffle.subs, &expr{kind: exprRepeat, subs: []*expr{choice}, max: unbounded})
	out.subs = append(out.subs, shuffle, l.sequence(g, plans[to:]))
	return out
}

func (l *learner) whyFloats(block []*step) string {
	if len(l.refresh) > 0 && block[0] == l.refresh[0] {
		return "asked after every " + refreshEvent + " event, whatever else goes on"
	}
	return "asked at different places in different sessions"
}

// sequence makes an expression of columns: options of what some sessions lack,
// choices where one or the other is there.
func (l *learner) sequence(g *alignment, plans []*columnPlan) *expr {
	out := &expr{kind: exprSeq}
	var run [][]*columnPlan // optional ones, grouped by who has them
	flush := func() {
		if len(run) > 0 {
			out.subs = append(out.subs, l.options(g, run)...)
		}
		run = nil
	}
	for _, p := range plans {
		switch {
		case p.float:
		case p.loop || len(p.lack) == 0:
			flush()
			out.subs = append(out.subs, l.column(p, 0))
		case len(run) > 0 && sameSet(run[len(run)-1][0].have, p.have):
			run[len(run)-1] = append(run[len(run)-1], p)
		default:
			run = append(run, []*columnPlan{p})
		}
	}
	flush()
	return out
}

// options makes choices of neighbours of which each session has at most one, and
// an option of what is left.
func (l *learner) options(g *alignment, run [][]*columnPlan) []*expr {
	var out []*expr
	for i := 0; i < len(run); {
		have := map[int]bool{}
		j := i
		for ; j < len(run) && disjoint(have, run[j][0].have); j++ {
			for s := range run[j][0].have {
				have[s] = true
			}
		}
		choice := &expr{kind: exprAlt}
		var said []string
		for _, part := range run[i:j] {
			seq := &expr{kind: exprSeq}
			l.segments++
			segment := l.segments
			for _, p := range part {
				seq.subs = append(seq.subs, l.column(p, segment))
				said = append(said, p.any.rounds[0][0].name)
			}
			choice.subs = append(choice.subs, seq)
		}
		e := choice
		if len(choice.subs) == 1 {
			e = choice.subs[0]
		}
		all := true
		for _, p := range run[i:j] {
			for s := range p[0].lack {
				all = all && have[s]
			}
		}
		what := "one of them"
		if !all {
			e = &expr{kind: exprRepeat, subs: []*expr{e}, max: 1}
			what = "optional"
		}
		l.note(l.slots[len(l.slots)-1], "", what, fmt.Sprintf("%s: in %d of %d sessions", few(said), len(have), len(g.sessions)))
		out = append(out, e)
		i = j
	}
	return out
}

func (l *learner) newSlot(name string, binds bool, segment int) *slot {
	s := &slot{number: len(l.slots) + 1, name: name, seen: map[int][]*step{}, segment: segment, binds: binds}
	l.slots = append(l.slots, s)
	return s
}

// column makes an expression of one column.
func (l *learner) column(p *columnPlan, segment int) *expr {
	out := &expr{kind: exprSeq}
	rounds := len(p.any.rounds)
	if p.loop {
		rounds = 1
	}
	for n := range rounds {
		for k, st := range p.any.rounds[0] {
			s := l.newSlot(st.name, !p.loop || p.min > 0, segment)
			for _, c := range append([]*columnPlan{p}, p.again...) {
				for session, it := range c.items {
					if !p.loop {
						s.seen[session] = append(s.seen[session], it.rounds[n][k])
						continue
					}
					for _, round := range it.rounds {
						s.seen[session] = append(s.seen[session], round[k])
					}
				}
			}
			out.subs = append(out.subs, &expr{kind: exprStep, slot: s})
		}
	}
	if !p.loop {
		return out
	}
	sign := "*"
	if p.min > 0 {
		sign = "+"
	}
	l.note(l.slots[len(l.slots)-1], "", "repeated ("+sign+")", p.why)
	return &expr{kind: exprRepeat, subs: []*expr{out}, min: p.min, max: unbounded}
}

// demand makes an expression that accepts the empty sequence accept it no more,
// by asking for the first thing in it, and tells whether it could.
func demand(e *expr) bool {
	switch e.kind {
	case exprRepeat:
		demand(e.subs[0])
		e.min = max(e.min, 1)
		return true
	case exprSeq, exprShuffle:
		for _, loops := range []bool{true, false} {
			for _, sub := range e.subs {
				if !empty(sub) && (!loops || sub.kind != exprRepeat || sub.max == unbounded) {
					return demand(sub)
				}
			}
		}
	case exprAlt:
		for _, sub := range e.subs {
			demand(sub)
		}
		return true
	}
	return false
}

// empty tells that an expression has no hypercall.
func empty(e *expr) bool {
	if e.kind == exprStep {
		return false
	}
	for _, sub := range e.subs {
		if !empty(sub) {
			return false
		}
	}
	return true
}

func sameSet(a, b map[int]bool) bool {
	if len(a) != len(b) {
		return false
	}
	for k := range a {
		if !b[k] {
			return false
		}
	}
	return true
}

func disjoint(a, b map[int]bool) bool {
	for k := range b {
		if a[k] {
			return false
		}
	}
	return true
}

// few lists the first of many.
func few(list []string) string {
	const most = 6
	var out []string
	seen := map[string]bool{}
	for _, s := range list {
		if seen[s] {
			continue
		}
		seen[s] = true
		if len(out) == most {
			out = append(out, "...")
			break
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ")
}
