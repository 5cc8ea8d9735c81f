package automaton

// An nfa is the machine of one expression after Thompson: states with moves
// that take a hypercall and edges that take nothing. State 0 is the start.
type nfa struct {
	states []state
	accept int32
}

type state struct {
	moves []move
	edges []int32 // states reached without a hypercall
	// fresh forgets all captured values on the way through this state.
	fresh bool
}

type move struct {
	command *command
	to      int32
	name    int32 // of the command, index into Machine.commands; set by Machine.number
	pattern int32 // of the command, below Machine.patterns; set by Machine.number
}

func (a *nfa) add() int32 {
	a.states = append(a.states, state{})
	return int32(len(a.states) - 1)
}

func (a *nfa) edge(from, to int32) {
	a.states[from].edges = append(a.states[from].edges, to)
}

// measure is an upper bound of the states that n takes beside its start. It
// is known before anything is built, so that nested counters cost nothing.
func measure(n *node) int {
	const huge = 1 << 30 // product of two stays within 64 bits
	total := 1
	switch n.kind {
	case nodeSeq, nodeAlt:
		for _, sub := range n.subs {
			total += measure(sub)
			if n.kind == nodeAlt {
				total++
			}
		}
	case nodeShuffle:
		for _, sub := range n.subs {
			total = min(total*(measure(sub)+1), huge)
		}
		total++
	case nodePart:
		total += n.part.size
	case nodeRepeat:
		copies := n.max
		if copies == unbounded {
			copies = n.min + 1
		}
		total += (measure(n.subs[0]) + 1) * copies
	}
	return min(total, huge)
}

// build makes the machine of n, which the caller has measured.
func build(n *node) *nfa {
	a := &nfa{}
	a.accept = a.expression(n, a.add())
	return a
}

// expression adds n behind the state from and returns its last state. Loops
// start at a state of their own, so from may already lead elsewhere.
func (a *nfa) expression(n *node, from int32) int32 {
	switch n.kind {
	case nodeCommand:
		to := a.add()
		a.states[from].moves = append(a.states[from].moves, move{command: n.command, to: to})
		return to
	case nodeSeq:
		for _, sub := range n.subs {
			from = a.expression(sub, from)
		}
		return from
	case nodeAlt:
		end := a.add()
		for _, sub := range n.subs {
			start := a.add()
			a.edge(from, start)
			a.edge(a.expression(sub, start), end)
		}
		return end
	case nodeShuffle:
		return a.shuffle(n.subs, from)
	case nodeRepeat:
		return a.repeat(n, from)
	case nodePart:
		return a.expression(n.part.body, from)
	default:
		return from
	}
}

func (a *nfa) repeat(n *node, from int32) int32 {
	for range n.min {
		from = a.expression(n.subs[0], from)
	}
	if n.max == unbounded {
		loop := a.add()
		a.edge(from, loop)
		a.edge(a.expression(n.subs[0], loop), loop)
		return loop
	}
	if n.max == n.min {
		return from
	}
	end := a.add()
	for range n.max - n.min {
		a.edge(from, end)
		start := a.add()
		a.edge(from, start)
		from = a.expression(n.subs[0], start)
	}
	a.edge(from, end)
	return end
}

// shuffle adds the product of the operands' machines: in each of its states
// one operand moves and the others stay.
func (a *nfa) shuffle(subs []*node, from int32) int32 {
	product := build(subs[0])
	for _, sub := range subs[1:] {
		product = interleave(product, build(sub))
	}
	offset := int32(len(a.states))
	for _, s := range product.states {
		t := state{}
		for _, m := range s.moves {
			t.moves = append(t.moves, move{command: m.command, to: m.to + offset})
		}
		for _, e := range s.edges {
			t.edges = append(t.edges, e+offset)
		}
		a.states = append(a.states, t)
	}
	a.edge(from, offset)
	return product.accept + offset
}

// interleave numbers the pair of states (p, q) as p*len(right)+q.
func interleave(left, right *nfa) *nfa {
	width := int32(len(right.states))
	pair := func(p, q int32) int32 { return p*width + q }
	out := &nfa{states: make([]state, len(left.states)*len(right.states)), accept: pair(left.accept, right.accept)}
	for p := range int32(len(left.states)) {
		for q := range width {
			s := &out.states[pair(p, q)]
			for _, m := range left.states[p].moves {
				s.moves = append(s.moves, move{command: m.command, to: pair(m.to, q)})
			}
			for _, m := range right.states[q].moves {
				s.moves = append(s.moves, move{command: m.command, to: pair(p, m.to)})
			}
			for _, e := range left.states[p].edges {
				s.edges = append(s.edges, pair(e, q))
			}
			for _, e := range right.states[q].edges {
				s.edges = append(s.edges, pair(p, e))
			}
		}
	}
	return out
}
