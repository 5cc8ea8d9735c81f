package automaton

import "slices"

// graph is what is drawn of a machine. A machine that is not deterministic is
// drawn without the states that only lead on without a hypercall.
type graph struct {
	nodes   []graphNode
	edges   []graphEdge
	numbers *stateNumbers
}

type graphNode struct {
	accept bool
	entry  string // "start", "on abort" or ""
}

// graphEdge is all hypercalls that lead from one state to another.
type graphEdge struct {
	from, to int
	labels   []string
}

// stateNumbers tells how the states of a run are numbered in a drawing.
type stateNumbers struct {
	body, aborted []int // by state of the nfa: its node, or -1
	abort         int   // of a deterministic machine: the node of the abort part's start
}

func (m *Machine) graph() *graph {
	g := &graph{numbers: &stateNumbers{}}
	if m.det != nil {
		g.addDFA(m, m.det.body, "start")
		g.numbers.abort = len(g.nodes)
		if m.aborts {
			g.addDFA(m, m.det.abort, "on abort")
		} else {
			g.nodes = append(g.nodes, graphNode{accept: true, entry: "on abort"})
		}
		return g
	}
	g.numbers.body = g.addNFA(m, m.body, "start")
	if m.abort != nil {
		g.numbers.aborted = g.addNFA(m, m.abort, "on abort")
	}
	return g
}

func (g *graph) link(from, to int, label string) {
	for i := range g.edges {
		if e := &g.edges[i]; e.from == from && e.to == to {
			if !slices.Contains(e.labels, label) {
				e.labels = append(e.labels, label)
			}
			return
		}
	}
	g.edges = append(g.edges, graphEdge{from, to, []string{label}})
}

// pattern writes a hypercall with its predicate.
func (m *Machine) pattern(p int32) string {
	c := command{name: m.commands[m.letters.nameOf[p]], args: m.letters.preds[p], captures: &captures{m.captures}}
	return c.String()
}

func (g *graph) addDFA(m *Machine, d *dfa, entry string) {
	offset := len(g.nodes)
	for i := range d.states {
		g.nodes = append(g.nodes, graphNode{accept: d.states[i].accept})
	}
	g.nodes[offset].entry = entry
	for i := range d.states {
		part := &graph{}
		for _, row := range d.states[i].rows {
			part.addTree(m, d, i, row.root, "")
		}
		for _, e := range part.edges { // edges of one state at a time are few
			g.edges = append(g.edges, graphEdge{e.from + offset, e.to + offset, e.labels})
		}
	}
}

// addTree labels a way through a decision tree with the patterns that hold.
func (g *graph) addTree(m *Machine, d *dfa, from int, node int32, held string) {
	if isLeaf(node) {
		g.link(from, int(leafOf(node)), held)
	}
	if !isBranch(node) {
		return
	}
	t := d.tests[node]
	yes := m.pattern(t.pattern)
	if held != "" {
		yes = held + " and " + yes
	}
	g.addTree(m, d, from, t.yes, yes)
	g.addTree(m, d, from, t.no, held)
}

// addNFA keeps the start and all states behind a hypercall.
func (g *graph) addNFA(m *Machine, a *nfa, entry string) []int {
	numbers := make([]int, len(a.states))
	for i := range numbers {
		numbers[i] = -1
	}
	var kept []int32
	keep := func(at int32) {
		if numbers[at] < 0 {
			numbers[at] = len(g.nodes)
			g.nodes = append(g.nodes, graphNode{})
			kept = append(kept, at)
		}
	}
	keep(0)
	g.nodes[numbers[0]].entry = entry
	for i := 0; i < len(kept); i++ {
		part := &graph{}
		seen := map[int32]bool{}
		todo := []int32{kept[i]}
		for len(todo) > 0 {
			at := todo[len(todo)-1]
			todo = todo[:len(todo)-1]
			if seen[at] {
				continue
			}
			seen[at] = true
			if at == a.accept {
				g.nodes[numbers[kept[i]]].accept = true
			}
			for _, v := range a.states[at].moves {
				keep(v.to)
				part.link(numbers[kept[i]], numbers[v.to], m.pattern(v.pattern))
			}
			todo = append(todo, a.states[at].edges...)
		}
		g.edges = append(g.edges, part.edges...)
	}
	return numbers
}
