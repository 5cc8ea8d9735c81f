package automaton

import "slices"

// rawDFA is a deterministic machine before it is minimal. State 0 is the start.
type rawDFA struct {
	states []rawState
}

type rawState struct {
	accept bool
	offers []int32 // patterns that may take the next hypercall, sorted
	edges  []edge
}

type edge struct{ letter, to int32 }

const (
	maxSubsetWork = 1 << 20 // elementary operations of one subset construction
	maxEdges      = 1 << 17 // of one deterministic machine
)

// subsets makes an nfa deterministic by the subset construction.
type subsets struct {
	in      *nfa
	letters *alphabet
	work    int
	edges   int
	out     *rawDFA
	sets    [][]int32 // by state of out
	known   map[string]int32
	stamp   []int32
	now     int32
	targets map[int32][]int32 // by pattern, of the state at hand
}

// determinize returns nil when that takes more than the budget.
func determinize(in *nfa, letters *alphabet) *rawDFA {
	s := &subsets{in: in, letters: letters, work: maxSubsetWork, out: &rawDFA{}, known: map[string]int32{},
		stamp: make([]int32, len(in.states)), targets: map[int32][]int32{}}
	s.state([]int32{0})
	for i := 0; i < len(s.out.states); i++ {
		s.leave(int32(i))
		if s.work < 0 || len(s.out.states) > MaxStates || s.edges > maxEdges {
			return nil
		}
	}
	return s.out
}

// state returns the number of the state that stands for from and all that is
// reached from there without a hypercall.
func (s *subsets) state(from []int32) int32 {
	s.now++
	set := make([]int32, 0, 2*len(from))
	todo := slices.Clone(from)
	accept := false
	for len(todo) > 0 {
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if s.stamp[at] == s.now {
			continue
		}
		s.stamp[at] = s.now
		s.work -= 1 + len(s.in.states[at].edges)
		accept = accept || at == s.in.accept
		if len(s.in.states[at].moves) > 0 {
			set = append(set, at)
		}
		todo = append(todo, s.in.states[at].edges...)
	}
	slices.Sort(set)
	key := setKey(set, accept)
	if n, old := s.known[key]; old {
		return n
	}
	n := int32(len(s.out.states))
	s.known[key] = n
	s.out.states = append(s.out.states, rawState{accept: accept})
	s.sets = append(s.sets, set)
	return n
}

func setKey(set []int32, accept bool) string {
	key := make([]byte, 0, 4*len(set)+1)
	if accept {
		key = append(key, 1)
	}
	for _, at := range set {
		key = append(key, byte(at), byte(at>>8), byte(at>>16), byte(at>>24))
	}
	return string(key)
}

// leave adds what leads out of state n.
func (s *subsets) leave(n int32) {
	clear(s.targets)
	byName := map[int32][]int32{}
	var names []int32
	for _, at := range s.sets[n] {
		for i := range s.in.states[at].moves {
			v := &s.in.states[at].moves[i]
			if s.targets[v.pattern] == nil {
				if byName[v.name] == nil {
					names = append(names, v.name)
				}
				byName[v.name] = append(byName[v.name], v.pattern)
			}
			s.targets[v.pattern] = append(s.targets[v.pattern], v.to)
			s.work -= 2
		}
	}
	slices.Sort(names)
	var offers []int32
	var edges []edge
	for _, name := range names {
		offers = append(offers, byName[name]...)
		edges = s.read(edges, name, byName[name])
		if s.work < 0 {
			return
		}
	}
	slices.Sort(offers)
	s.out.states[n].offers, s.out.states[n].edges = offers, edges
	s.edges += len(edges) + len(offers)
}

// read adds an edge for every class that one of the live patterns takes.
// Classes that differ only in other patterns lead to the same state.
func (s *subsets) read(edges []edge, name int32, live []int32) []edge {
	reached := map[string]int32{}
	for i := range s.letters.classes[name] {
		mask := s.letters.classes[name][i].mask
		projection := newBits(len(live))
		var to []int32
		for j, p := range live {
			if mask.has(int(s.letters.place[p])) {
				projection.set(j)
				to = append(to, s.targets[p]...)
			}
		}
		s.work -= len(live) + len(to) + 1
		if s.work < 0 {
			return edges
		}
		if len(to) == 0 {
			continue
		}
		key := projection.key()
		state, known := reached[key]
		if !known {
			state = s.state(to)
			reached[key] = state
		}
		edges = append(edges, edge{s.letters.first[name] + int32(i), state})
	}
	return edges
}
