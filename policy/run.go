package policy

import (
	"errors"
	"slices"

	"github.com/uvbond/uvbond/automaton"
)

// maxWays bounds in how many ways a session is followed at once. Beyond it the
// newest ways are dropped, so that a hypercall may be refused that one of them
// would have let through.
const maxWays = 256

// Run follows one session. It is for one goroutine.
type Run struct {
	p       *Policy
	changes func(command string) bool
	ways    []way
}

// way is one automaton that the session may be following.
type way struct {
	item    int
	run     *automaton.Run
	counted bool // its use is on the books
}

// Grant is what let a hypercall through.
type Grant struct {
	Name string // of the automaton
	Rule *Rule  // nil: none
	// Began: a use of the automaton began with this hypercall, and was counted
	// where it has limits.
	Began bool
}

// ErrNotAllowed says that no automaton of the policy accepts a hypercall at this
// point.
var ErrNotAllowed = errors.New("the policy does not allow it")

// Start begins a run. changes tells which hypercalls change the VM: they begin a
// use of an automaton. An automaton without such is used from its first
// hypercall on.
func (p *Policy) Start(changes func(command string) bool) *Run {
	return &Run{p: p, changes: changes}
}

// Step takes one hypercall at now (Unix seconds). count is called before a use of
// an automaton with limits begins, at most once for each automaton until it
// returns nil; it keeps the books, and its error refuses that automaton. Errors of Step
// are ErrNotAllowed, an *OutsideError, or what count returned. After an error the run
// is of no further use.
func (r *Run) Step(command string, args map[string]any, now int64, count func(name string, rule *Rule) error) (Grant, error) {
	next := r.follow(command, args)
	if len(next) == 0 {
		return Grant{}, ErrNotAllowed
	}
	changes := r.changes(command)
	var free, due []way
	var refusal error
	for _, w := range next {
		it := &r.p.items[w.item]
		begins := !w.counted && (changes || !r.everChanges(it.machine))
		if begins || changes {
			if err := it.open(now); err != nil {
				refusal = first(refusal, err)
				continue
			}
		}
		if begins && it.rule != nil && len(it.rule.Limits) > 0 {
			due = append(due, w)
			continue
		}
		free = append(free, w)
	}
	// What costs nothing is taken, so that no use is counted needlessly.
	if len(free) > 0 {
		began := false
		for i := range free {
			if !free[i].counted && (changes || !r.everChanges(r.p.items[free[i].item].machine)) {
				free[i].counted, began = true, i == 0
			}
		}
		r.ways = free
		return r.grant(free[0], began), nil
	}
	return r.pay(due, refusal, count)
}

// pay begins a use of the first automaton that has one left.
func (r *Run) pay(due []way, refusal error, count func(string, *Rule) error) (Grant, error) {
	tried := map[int]bool{}
	for _, w := range due {
		if tried[w.item] {
			continue
		}
		tried[w.item] = true
		it := &r.p.items[w.item]
		if err := count(it.name, it.rule); err != nil {
			refusal = first(refusal, err)
			continue
		}
		r.ways = r.ways[:0]
		for _, o := range due {
			if o.item == w.item {
				o.counted = true
				r.ways = append(r.ways, o)
			}
		}
		return r.grant(w, true), nil
	}
	return Grant{}, refusal
}

func first(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

func (it *item) open(now int64) error {
	if it.rule == nil {
		return nil
	}
	return it.rule.Open(now)
}

func (r *Run) grant(w way, began bool) Grant {
	it := &r.p.items[w.item]
	return Grant{Name: it.name, Rule: it.rule, Began: began}
}

func (r *Run) everChanges(m *automaton.Machine) bool {
	return slices.ContainsFunc(m.Commands(), r.changes)
}

// follow returns the ways that accept the hypercall: those begun, in the order
// of the text, and new ones where a way has come to an end.
func (r *Run) follow(command string, args map[string]any) []way {
	fresh := len(r.ways) == 0
	for _, w := range r.ways {
		fresh = fresh || w.run.Done()
	}
	var next []way
	add := func(w way) {
		if len(next) >= maxWays || w.run.Step(command, args) != nil {
			return
		}
		same := func(o way) bool { return o.item == w.item && o.counted == w.counted && o.run.Same(w.run) }
		if !slices.ContainsFunc(next, same) {
			next = append(next, w)
		}
	}
	for _, w := range r.ways {
		add(w)
	}
	if fresh {
		for n := range r.p.items {
			add(way{item: n, run: r.p.items[n].machine.Start()})
		}
	}
	return next
}
