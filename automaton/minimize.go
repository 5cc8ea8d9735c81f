package automaton

import "slices"

// partition divides the numbers below its size into blocks and refines them.
// It and minimize follow A. Valmari, "Fast brief practical DFA minimization",
// Information Processing Letters 112 (2012): O(m log m) for m edges, also
// where edges are missing.
type partition struct {
	element, location, block []int32 // block is by number
	first, past              []int32 // of a block, in element
	marked                   []int32 // by block
	touched                  []int32
}

func newPartition(n int) *partition {
	p := &partition{element: make([]int32, n), location: make([]int32, n), block: make([]int32, n)}
	for i := range int32(n) {
		p.element[i], p.location[i] = i, i
	}
	p.first, p.past, p.marked = []int32{0}, []int32{int32(n)}, []int32{0}
	return p
}

func (p *partition) mark(e int32) {
	b := p.block[e]
	i, j := p.location[e], p.first[b]+p.marked[b]
	if i < j {
		return // is marked
	}
	p.element[i] = p.element[j]
	p.location[p.element[i]] = i
	p.element[j] = e
	p.location[e] = j
	if p.marked[b] == 0 {
		p.touched = append(p.touched, b)
	}
	p.marked[b]++
}

// split parts every block into its marked and other numbers; the smaller half
// becomes the new block.
func (p *partition) split() {
	for _, b := range p.touched {
		middle := p.first[b] + p.marked[b]
		if middle == p.past[b] {
			p.marked[b] = 0
			continue
		}
		fresh := int32(len(p.first))
		if p.marked[b] <= p.past[b]-middle {
			p.first, p.past = append(p.first, p.first[b]), append(p.past, middle)
			p.first[b] = middle
		} else {
			p.first, p.past = append(p.first, middle), append(p.past, p.past[b])
			p.past[b] = middle
		}
		for i := p.first[fresh]; i < p.past[fresh]; i++ {
			p.block[p.element[i]] = fresh
		}
		p.marked[b] = 0
		p.marked = append(p.marked, 0)
	}
	p.touched = p.touched[:0]
}

// minimize returns the machine with the fewest states that lets the same
// hypercalls through and may end at the same points. States are numbered in
// the order of a walk from the start, so that equal languages over the same
// alphabet have the same machine.
func (d *rawDFA) minimize() *rawDFA {
	blocks := d.blocks()
	number := make([]int32, len(blocks.first)) // 0: not yet
	out := &rawDFA{}
	var from []int32 // by new state: one of its old ones
	visit := func(old int32) int32 {
		b := blocks.block[old]
		if number[b] == 0 {
			// The first old state stands for all: its offers explain refusals.
			first := slices.Min(blocks.element[blocks.first[b]:blocks.past[b]])
			from = append(from, first)
			number[b] = int32(len(from))
		}
		return number[b] - 1
	}
	visit(0)
	for i := 0; i < len(from); i++ {
		old := &d.states[from[i]]
		s := rawState{accept: old.accept, offers: old.offers}
		for _, e := range old.edges {
			s.edges = append(s.edges, edge{e.letter, visit(e.to)})
		}
		out.states = append(out.states, s)
	}
	return out
}

// blocks finds which states cannot be told apart.
func (d *rawDFA) blocks() *partition {
	var tail, head, letter []int32
	for i := range d.states {
		for _, e := range d.states[i].edges {
			tail, head, letter = append(tail, int32(i)), append(head, e.to), append(letter, e.letter)
		}
	}
	states := newPartition(len(d.states))
	for i := range d.states {
		if d.states[i].accept {
			states.mark(int32(i))
		}
	}
	states.split()
	cords := newPartition(len(tail))
	if len(tail) == 0 {
		return states
	}
	slices.SortStableFunc(cords.element, func(a, b int32) int { return int(letter[a] - letter[b]) })
	cords.first, cords.past, cords.marked = nil, nil, nil
	for i, e := range cords.element {
		if i == 0 || letter[e] != letter[cords.element[i-1]] {
			cords.first, cords.past, cords.marked = append(cords.first, int32(i)), append(cords.past, 0), append(cords.marked, 0)
		}
		b := len(cords.first) - 1
		cords.location[e], cords.block[e], cords.past[b] = int32(i), int32(b), int32(i+1)
	}
	incoming := make([][]int32, len(d.states))
	for e, to := range head {
		incoming[to] = append(incoming[to], int32(e))
	}
	b := 1
	for c := 0; c < len(cords.first); c++ {
		for i := cords.first[c]; i < cords.past[c]; i++ {
			states.mark(tail[cords.element[i]])
		}
		states.split()
		for ; b < len(states.first); b++ {
			for i := states.first[b]; i < states.past[b]; i++ {
				for _, e := range incoming[states.element[i]] {
					cords.mark(e)
				}
			}
			cords.split()
		}
	}
	return states
}
