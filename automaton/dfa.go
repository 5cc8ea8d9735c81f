package automaton

import "slices"

// dfa is a minimal deterministic machine, ready to be stepped: in each state
// every hypercall's name has a small decision tree over the predicates that
// matter there.
type dfa struct {
	states []detState
	tests  []test
}

type detState struct {
	accept bool
	rows   []row   // sorted by name
	offers []int32 // patterns, sorted
	edges  []edge
}

type row struct{ name, root int32 }

// test asks whether a pattern holds. yes and no are another test when they are
// not negative, else dead or leaf(state).
type test struct{ pattern, yes, no int32 }

const dead int32 = -1

func leaf(state int32) int32   { return -2 - state }
func leafOf(node int32) int32  { return -2 - node }
func isLeaf(node int32) bool   { return node < dead }
func isBranch(node int32) bool { return node >= 0 }

// freeze makes the decision trees of a minimal machine; nil when they grow
// beyond the budget.
func (d *rawDFA) freeze(letters *alphabet) *dfa {
	out := &dfa{}
	f := &freezer{out: out, letters: letters, work: maxSubsetWork}
	for i := range d.states {
		s := &d.states[i]
		frozen := detState{accept: s.accept, offers: s.offers, edges: s.edges}
		for from := 0; from < len(s.edges); {
			name := letters.letter[s.edges[from].letter]
			past := from
			for past < len(s.edges) && letters.letter[s.edges[past].letter] == name {
				past++
			}
			root := f.row(name, s.edges[from:past], s.offers)
			if f.work < 0 {
				return nil
			}
			frozen.rows = append(frozen.rows, row{name, root})
			from = past
		}
		out.states = append(out.states, frozen)
	}
	return out
}

type freezer struct {
	out     *dfa
	letters *alphabet
	work    int
	goals   []goal // of one row, used again for the next
}

// goal is where a class leads.
type goal struct {
	mask bits
	node int32 // dead or a leaf
}

func (f *freezer) row(name int32, edges []edge, offers []int32) int32 {
	var live []int32
	for _, p := range offers {
		if f.letters.nameOf[p] == name {
			live = append(live, p)
		}
	}
	if len(live) == 1 { // its classes all lead to the same state
		f.work--
		f.out.tests = append(f.out.tests, test{live[0], leaf(edges[0].to), dead})
		return int32(len(f.out.tests) - 1)
	}
	goals := f.goals[:0]
	next := 0
	for i := range f.letters.classes[name] {
		g := goal{f.letters.classes[name][i].mask, dead}
		if next < len(edges) && edges[next].letter == f.letters.first[name]+int32(i) {
			g.node = leaf(edges[next].to)
			next++
		}
		goals = append(goals, g)
	}
	f.goals = goals
	return f.tree(goals, live, false)
}

// tree decides between goals by the live patterns, in their order. Where all
// goals agree nothing is asked any more, but that at least one pattern must
// hold for a hypercall to be accepted.
func (f *freezer) tree(goals []goal, live []int32, held bool) int32 {
	f.work -= len(goals) + 1
	if f.work < 0 || len(goals) == 0 {
		return dead
	}
	same := !slices.ContainsFunc(goals, func(g goal) bool { return g.node != goals[0].node })
	if same && (held || goals[0].node == dead) {
		return goals[0].node
	}
	for i, p := range live {
		yes, no := part(goals, int(f.letters.place[p]))
		f.work -= len(goals)
		if len(yes) == 0 || len(no) == 0 && held {
			continue // it tells nothing
		}
		n := int32(len(f.out.tests))
		f.out.tests = append(f.out.tests, test{pattern: p})
		ifYes, ifNo := f.tree(yes, live[i+1:], true), f.tree(no, live[i+1:], held)
		f.out.tests[n].yes, f.out.tests[n].no = ifYes, ifNo
		return n
	}
	return goals[0].node
}

// part moves the goals of classes for which a pattern holds to the front, and
// returns both halves. Their order means nothing.
func part(goals []goal, place int) (yes, no []goal) {
	n := 0
	for i := range goals {
		if goals[i].mask.has(place) {
			goals[n], goals[i] = goals[i], goals[n]
			n++
		}
	}
	return goals[:n], goals[n:]
}

// root returns the decision tree of a name in a state, or dead.
func (d *dfa) root(state, name int32) int32 {
	rows := d.states[state].rows
	low, high := 0, len(rows)
	for low < high {
		middle := (low + high) / 2
		if rows[middle].name < name {
			low = middle + 1
		} else {
			high = middle
		}
	}
	if low < len(rows) && rows[low].name == name {
		return rows[low].root
	}
	return dead
}

// next returns the state after a hypercall for which holds tells the patterns,
// or dead.
func (d *dfa) next(state, name int32, holds func(pattern int32) bool) int32 {
	node := d.root(state, name)
	for isBranch(node) {
		t := &d.tests[node]
		node = t.no
		if holds(t.pattern) {
			node = t.yes
		}
	}
	if isLeaf(node) {
		return leafOf(node)
	}
	return dead
}
