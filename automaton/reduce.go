package automaton

import (
	"cmp"
	"slices"
)

// The reduction of a machine with captures may take so many elementary
// operations, and find so many moves; beyond that the machine stays as it was
// built.
const (
	maxReduceWork  = 1 << 19
	maxReduceMoves = 1 << 15
)

// reduce makes a machine smaller that is followed in all ways at once: states
// that only lead on without a hypercall go, and states from which the same
// hypercalls lead to the same places become one (they are bisimilar, so that they
// agree whatever values are kept). The moves must have their patterns. Machines
// that forget values on the way, which policies do, stay as they are.
func (a *nfa) reduce() *nfa {
	r := &reducer{in: a, work: maxReduceWork}
	if slices.ContainsFunc(a.states, func(s state) bool { return s.fresh }) || !r.close() || !r.refine() {
		return a
	}
	return r.build()
}

type reducer struct {
	in     *nfa
	work   int
	places []int32         // states of in that are the start or behind a hypercall
	index  map[int32]int32 // of places
	moves  [][]move        // by place: to is a place
	ends   []bool          // by place
	block  []int32         // by place
	total  int             // of moves
}

// close finds what each place leads to by way of states without a hypercall.
func (r *reducer) close() bool {
	r.index = map[int32]int32{}
	place := func(s int32) int32 {
		n, old := r.index[s]
		if !old {
			n = int32(len(r.places))
			r.index[s] = n
			r.places = append(r.places, s)
		}
		return n
	}
	place(0)
	stamp := make([]int32, len(r.in.states))
	for n := int32(0); n < int32(len(r.places)); n++ {
		todo := []int32{r.places[n]}
		stamp[r.places[n]] = n + 1
		var moves []move
		ends := false
		for len(todo) > 0 {
			s := todo[len(todo)-1]
			todo = todo[:len(todo)-1]
			ends = ends || s == r.in.accept
			if r.work -= 1 + len(r.in.states[s].moves) + len(r.in.states[s].edges); r.work < 0 {
				return false
			}
			for _, v := range r.in.states[s].moves {
				v.to = place(v.to)
				moves = append(moves, v)
			}
			for _, to := range r.in.states[s].edges {
				if stamp[to] != n+1 {
					stamp[to] = n + 1
					todo = append(todo, to)
				}
			}
		}
		if r.total += len(moves); r.total > maxReduceMoves {
			return false
		}
		r.moves, r.ends = append(r.moves, moves), append(r.ends, ends)
	}
	return true
}

// refine splits blocks of places until all of a block go to the same blocks by
// the same hypercalls.
func (r *reducer) refine() bool {
	r.block = make([]int32, len(r.places))
	for blocks := 0; ; {
		known := map[string]int32{}
		next := make([]int32, len(r.places))
		for p := range r.places {
			if r.work -= 8 + 4*len(r.moves[p]); r.work < 0 {
				return false
			}
			key := r.key(p)
			n, old := known[key]
			if !old {
				n = int32(len(known))
				known[key] = n
			}
			next[p] = n
		}
		r.block = next
		if len(known) == blocks {
			return true
		}
		blocks = len(known)
	}
}

// key tells apart what a place does: whether it ends, and where it leads.
func (r *reducer) key(p int) string {
	out := []byte{0}
	if r.ends[p] {
		out[0] = 1
	}
	for _, v := range r.targets(p) {
		for _, n := range []int32{v.pattern, v.to} {
			out = append(out, byte(n), byte(n>>8), byte(n>>16))
		}
	}
	return string(out)
}

// targets returns the moves of a place to blocks, each once, in order.
func (r *reducer) targets(p int) []move {
	moves := slices.Clone(r.moves[p])
	for i := range moves {
		moves[i].to = r.block[moves[i].to]
	}
	slices.SortFunc(moves, func(v, w move) int { return cmp.Or(cmp.Compare(v.pattern, w.pattern), cmp.Compare(v.to, w.to)) })
	return slices.CompactFunc(moves, func(v, w move) bool { return v.pattern == w.pattern && v.to == w.to })
}

// build makes the machine of the blocks. Those that may end lead to one last
// state without a hypercall, as everywhere in an nfa.
func (r *reducer) build() *nfa {
	out := &nfa{}
	number := map[int32]int32{}
	var first []int // by state: a place of its block
	state := func(p int) int32 {
		n, old := number[r.block[p]]
		if !old {
			n = out.add()
			number[r.block[p]] = n
			first = append(first, p)
		}
		return n
	}
	of := make([]int, len(r.places)) // by block: a place
	for p := range r.places {
		of[r.block[p]] = p
	}
	state(0)
	for n := 0; n < len(first); n++ {
		for _, v := range r.targets(first[n]) {
			v.to = state(of[v.to])
			out.states[n].moves = append(out.states[n].moves, v)
		}
	}
	out.accept = out.add()
	for n, p := range first {
		if r.ends[p] {
			out.edge(int32(n), out.accept)
		}
	}
	return out
}
