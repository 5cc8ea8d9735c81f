package automaton

import (
	"slices"
	"strings"
)

// Run follows one session through a Machine. It simulates all ways through
// the machine at once, so that a step costs at most the number of states
// and never backtracks. It is for one goroutine.
type Run struct {
	m       *Machine
	part    *nfa // nil after an abort without an on-abort part
	aborted bool

	at int32 // the state of a deterministic machine, which needs nothing below but matcher

	threads []thread
	sets    []values // what threads hold; sets[0] is empty

	// What the current step builds.
	next     []thread
	nextSets []values
	crowded  bool

	stamp   uint32              // of the current step
	width   int32               // of the larger part
	visited []uint32            // by set and state: stamp when it was reached
	seen    map[thread]struct{} // of sets from denseSets on
	checked []check             // by pattern
	matcher matcher
}

// thread is one way through the machine: where it stands and what it captured.
type thread struct {
	state int32
	set   int32 // index into sets
}

// values holds captured values by slot.
type values []kept

// kept is a captured value: a string (kind 's'), a number in one form ('n') or
// other JSON ('j'). The zero value is unbound.
type kept struct {
	kind byte
	text string
}

type check struct {
	stamp uint32
	ok    bool
}

// Start begins a run. All memory that an automaton without captures needs is
// allocated here.
func (m *Machine) Start() *Run {
	r := &Run{m: m, part: m.body}
	if m.det != nil {
		return r
	}
	size := len(m.body.states)
	if m.abort != nil {
		size = max(size, len(m.abort.states))
	}
	r.sets, r.nextSets, r.checked = []values{nil}, []values{nil}, make([]check, len(m.letters.preds))
	r.visited, r.width = make([]uint32, size), int32(size)
	r.threads, r.next = make([]thread, 0, size), make([]thread, 0, size)
	if m.slots > 0 {
		r.seen = map[thread]struct{}{}
		r.matcher.bound = make(values, m.slots)
		r.visited = make([]uint32, size*denseSets)
		r.sets, r.nextSets = emptySets(m.slots), emptySets(m.slots)
	}
	r.begin()
	r.reach(0, 0)
	r.commit()
	return r
}

// denseSets is for how many sets of captured values a run has memory from the
// start, so that a step allocates nothing. A session rarely has more than two.
const denseSets = 4

// emptySets returns the empty set, with room for others behind it.
func emptySets(slots int) []values {
	sets := make([]values, denseSets)
	room := make(values, slots*(denseSets-1))
	for i := 1; i < denseSets; i++ {
		sets[i] = room[(i-1)*slots : i*slots : i*slots]
	}
	return sets[:1]
}

// begin starts building the next set of threads.
func (r *Run) begin() {
	r.stamp++
	if r.stamp == 0 { // after 2^32 steps old stamps would look new
		clear(r.visited)
		clear(r.checked)
		r.stamp = 1
	}
	clear(r.seen)
	r.next = r.next[:0]
	r.nextSets = r.nextSets[:1]
	r.crowded = false
	r.matcher.work = maxStepWork
}

func (r *Run) commit() {
	r.threads, r.next = r.next, r.threads
	r.sets, r.nextSets = r.nextSets, r.sets
}

// reach adds a thread and all that its state leads to without a hypercall.
// r.next is its own queue.
func (r *Run) reach(at, set int32) {
	todo := len(r.next)
	r.visit(at, set)
	for ; todo < len(r.next); todo++ {
		t := r.next[todo]
		for _, to := range r.part.states[t.state].edges {
			r.visit(to, t.set)
		}
	}
}

func (r *Run) visit(at, set int32) {
	if r.part.states[at].fresh {
		set = 0
	}
	t := thread{at, set}
	if set < denseSets {
		if place := &r.visited[set*r.width+at]; *place == r.stamp {
			return
		} else {
			*place = r.stamp
		}
	} else {
		if _, old := r.seen[t]; old {
			return
		}
		r.seen[t] = struct{}{}
	}
	if len(r.next) == maxThreads {
		r.crowded = true
		return
	}
	r.next = append(r.next, t)
}

// intern finds or adds a set of captured values; -1 when there are too many.
func (r *Run) intern(v values) int32 {
	empty := true
	for _, s := range v {
		empty = empty && s.kind == 0
	}
	if empty {
		return 0
	}
	for i, old := range r.nextSets[1:] {
		if slices.Equal(old, v) {
			return int32(i + 1)
		}
	}
	if len(r.nextSets) > maxBindings {
		r.crowded = true
		return -1
	}
	n := len(r.nextSets)
	if n < cap(r.nextSets) && len(r.nextSets[:n+1][n]) == len(v) { // memory of an earlier step
		r.nextSets = r.nextSets[:n+1]
		copy(r.nextSets[n], v)
	} else {
		r.nextSets = append(r.nextSets, slices.Clone(v))
	}
	return int32(n)
}

// Step takes one hypercall. args are as decoded by a json.Decoder with
// UseNumber; nil is no arguments. It returns nil, or a *Refusal and the run
// stays where it was.
func (r *Run) Step(name string, args map[string]any) error {
	id, known := r.m.names[name]
	if known && r.m.det != nil {
		if to := r.follow(id, args); to != dead && r.matcher.work >= 0 {
			r.at = to
			return nil
		}
		if r.matcher.work < 0 {
			return r.tooMuch(name)
		}
	} else if known && r.part != nil {
		r.begin()
		r.advance(id, args)
		if r.crowded || r.matcher.work < 0 {
			return r.tooMuch(name)
		}
		if len(r.next) > 0 {
			r.commit()
			return nil
		}
	}
	return &Refusal{Command: name, Expected: r.Expected(), Reason: r.explain(name, args)}
}

func (r *Run) tooMuch(name string) *Refusal {
	return &Refusal{Command: name, Expected: r.Expected(), Reason: "the arguments of " + tick(name) +
		" take too much work to check: use fewer captures and patterns"}
}

func (r *Run) advance(id int32, args map[string]any) {
	for _, t := range r.threads {
		moves := r.part.states[t.state].moves
		for i := range moves {
			if moves[i].name != id {
				continue
			}
			if set, ok := r.try(&moves[i], t.set, args); ok {
				r.reach(moves[i].to, set)
			}
			if r.crowded || r.matcher.work < 0 {
				return
			}
		}
	}
}

// try holds args against a move. The answer for a predicate without captures
// is the same for every thread and is kept for the step.
func (r *Run) try(v *move, set int32, args map[string]any) (int32, bool) {
	c := &r.checked[v.pattern]
	if r.m.slots == 0 || !v.command.binds {
		if c.stamp != r.stamp {
			*c = check{r.stamp, r.matcher.object(v.command.args, args, nil)}
		}
		if !c.ok || r.m.slots == 0 {
			return 0, c.ok
		}
		r.matcher.load(r.sets[set])
	} else {
		r.matcher.load(r.sets[set])
		if !r.matcher.object(v.command.args, args, nil) {
			return 0, false
		}
	}
	set = r.intern(r.matcher.bound)
	return set, set >= 0
}

// Same tells whether two runs of one machine will accept the same from here on.
// Where the machine is not deterministic it may say no of such too.
func (r *Run) Same(o *Run) bool {
	return r.m == o.m && r.m.det != nil && r.at == o.at && r.aborted == o.aborted
}

// Done reports whether the session may end here.
func (r *Run) Done() bool {
	if r.m.det != nil {
		return r.dfa().states[r.at].accept
	}
	if r.part == nil {
		return true
	}
	return slices.ContainsFunc(r.threads, func(t thread) bool { return t.state == r.part.accept })
}

// Abort leaves the automaton's body: from now on only its on-abort part is
// accepted, with the values captured so far. A second call does nothing.
func (r *Run) Abort() {
	if r.aborted {
		return
	}
	r.aborted = true
	r.part, r.at = r.m.abort, 0
	if r.m.det != nil {
		return
	}
	r.begin()
	if r.part == nil {
		r.threads = r.threads[:0]
		return
	}
	for _, t := range r.threads {
		if r.m.slots == 0 {
			r.reach(0, 0)
			break
		}
		r.matcher.load(r.sets[t.set])
		r.reach(0, r.intern(r.matcher.bound))
	}
	r.commit()
}

// Aborted reports whether Abort was called.
func (r *Run) Aborted() bool { return r.aborted }

// Expected returns the commands that may come next, sorted, whatever their
// arguments must be.
func (r *Run) Expected() []string {
	ids := make([]bool, len(r.m.commands))
	if r.m.det != nil {
		for _, row := range r.dfa().states[r.at].rows {
			ids[row.name] = true
		}
	}
	for _, t := range r.threads {
		for _, v := range r.part.states[t.state].moves {
			ids[v.name] = true
		}
	}
	names := []string{}
	for i, expected := range ids {
		if expected {
			names = append(names, r.m.commands[i])
		}
	}
	return names
}

// maxReasons is how many different reasons a refusal gives.
const maxReasons = 3

// explain tells why args do not fit a command that could come next, or ""
// when it could not.
func (r *Run) explain(name string, args map[string]any) string {
	id, known := r.m.names[name]
	if !known {
		return ""
	}
	var reasons []string
	work := maxStepWork
	ask := func(want *value, bound values, captures []string) {
		if len(reasons) == maxReasons || work < 0 {
			return
		}
		e := matcher{bound: make(values, r.m.slots), work: work, captures: captures, explaining: true}
		e.load(bound)
		e.object(want, args, &path{key: name})
		work = e.work
		if e.reason != "" && !slices.Contains(reasons, e.reason) {
			reasons = append(reasons, e.reason)
		}
	}
	if r.m.det != nil {
		for _, p := range r.dfa().states[r.at].offers {
			if r.m.letters.nameOf[p] == id {
				ask(r.m.letters.preds[p], nil, nil)
			}
		}
	}
	for _, t := range r.threads {
		for _, v := range r.part.states[t.state].moves {
			if v.name == id {
				ask(v.command.args, r.sets[t.set], v.command.captures.names)
			}
		}
	}
	return strings.Join(reasons, "; or ")
}
