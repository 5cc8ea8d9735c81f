package automaton

import (
	"cmp"
	"slices"
)

// The layout is that of layered drawings (Sugiyama, Tagawa, Toda 1981): loops
// are cut, states get layers by their longest way from the start, lines that
// pass a layer get a place in it, the places of each layer are ordered to cross
// little, and moved towards their neighbours. A line's label is a place of its
// own between two layers, so that nothing is drawn over anything else.

// place is something that takes room in a layer.
type place struct {
	layer       int
	width       float64
	height      float64
	x, y        float64 // of its centre
	above, next []int   // places it is joined to, in the layer before and behind
}

// drawnEdge is the way of an edge through places, from its upper end to its
// lower one; a reversed edge's arrow is at the upper end.
type drawnEdge struct {
	edge     int
	way      []int
	label    int // the place in way with the label
	reversed bool
}

type layout struct {
	places        []place // those of the states first
	layers        [][]int
	edges         []drawnEdge
	width, height float64
}

const (
	gapAcross = 26.0
	gapDown   = 22.0
)

// arrange places the states of g, whose sizes are given, and the labels of its
// edges; edges to the same state are left out.
func arrange(g *graph, states, labels [][2]float64) *layout {
	l := &layout{}
	for _, size := range states {
		l.places = append(l.places, place{width: size[0], height: size[1]})
	}
	reversed := cutLoops(g)
	l.rank(g, reversed)
	for i, e := range g.edges {
		if e.from != e.to {
			l.route(i, e, reversed[i], labels[i])
		}
	}
	for i := range l.places {
		for len(l.layers) <= l.places[i].layer {
			l.layers = append(l.layers, nil)
		}
		l.layers[l.places[i].layer] = append(l.layers[l.places[i].layer], i)
	}
	l.order()
	l.position()
	return l
}

// cutLoops returns the edges that lead back on a walk from the entries.
func cutLoops(g *graph) []bool {
	out := make([][]int, len(g.nodes))
	for i, e := range g.edges {
		out[e.from] = append(out[e.from], i)
	}
	reversed := make([]bool, len(g.edges))
	const fresh, open, done = 0, 1, 2
	state := make([]int, len(g.nodes))
	next := make([]int, len(g.nodes))
	for root := range g.nodes {
		if state[root] != fresh {
			continue
		}
		stack := []int{root}
		state[root] = open
		for len(stack) > 0 {
			at := stack[len(stack)-1]
			if next[at] == len(out[at]) {
				state[at] = done
				stack = stack[:len(stack)-1]
				continue
			}
			i := out[at][next[at]]
			next[at]++
			switch to := g.edges[i].to; state[to] {
			case open:
				reversed[i] = true
			case fresh:
				state[to] = open
				stack = append(stack, to)
			}
		}
	}
	return reversed
}

// rank gives states even layers: the longest way from an entry.
func (l *layout) rank(g *graph, reversed []bool) {
	incoming := make([]int, len(g.nodes))
	out := make([][]int, len(g.nodes))
	for i, e := range g.edges {
		if e.from == e.to {
			continue
		}
		from, to := e.from, e.to
		if reversed[i] {
			from, to = to, from
		}
		out[from] = append(out[from], to)
		incoming[to]++
	}
	var todo []int
	for i := range g.nodes {
		if incoming[i] == 0 {
			todo = append(todo, i)
		}
	}
	for len(todo) > 0 {
		at := todo[0]
		todo = todo[1:]
		for _, to := range out[at] {
			l.places[to].layer = max(l.places[to].layer, l.places[at].layer+2)
			if incoming[to]--; incoming[to] == 0 {
				todo = append(todo, to)
			}
		}
	}
}

// route gives an edge its places in the layers between its ends.
func (l *layout) route(i int, e graphEdge, reversed bool, label [2]float64) {
	from, to := e.from, e.to
	if reversed {
		from, to = to, from
	}
	d := drawnEdge{edge: i, way: []int{from}, reversed: reversed}
	at := from
	first, last := l.places[from].layer, l.places[to].layer
	labelLayer := first + 1
	if reversed {
		labelLayer = (first + last) / 2
	}
	for layer := first + 1; layer < last; layer++ {
		p := place{layer: layer, width: 4}
		if layer == labelLayer {
			p.width, p.height, d.label = label[0], label[1], len(l.places)
		}
		l.places = append(l.places, p)
		l.join(at, len(l.places)-1)
		at = len(l.places) - 1
		d.way = append(d.way, at)
	}
	l.join(at, to)
	d.way = append(d.way, to)
	l.edges = append(l.edges, d)
}

func (l *layout) join(upper, lower int) {
	l.places[upper].next = append(l.places[upper].next, lower)
	l.places[lower].above = append(l.places[lower].above, upper)
}

// order sorts the layers by the mean order of what they are joined to, down
// and up again.
func (l *layout) order() {
	rank := make([]float64, len(l.places))
	number := func(layer []int) {
		for i, p := range layer {
			rank[p] = float64(i)
		}
	}
	for _, layer := range l.layers {
		number(layer)
	}
	sort := func(layer []int, joined func(int) []int) {
		weight := map[int]float64{}
		for _, p := range layer {
			weight[p] = mean(joined(p), rank, rank[p])
		}
		slices.SortStableFunc(layer, func(a, b int) int { return cmp.Compare(weight[a], weight[b]) })
		number(layer)
	}
	for range 8 {
		for i := 1; i < len(l.layers); i++ {
			sort(l.layers[i], func(p int) []int { return l.places[p].above })
		}
		for i := len(l.layers) - 2; i >= 0; i-- {
			sort(l.layers[i], func(p int) []int { return l.places[p].next })
		}
	}
}

func mean(of []int, values []float64, otherwise float64) float64 {
	if len(of) == 0 {
		return otherwise
	}
	sum := 0.0
	for _, p := range of {
		sum += values[p]
	}
	return sum / float64(len(of))
}

// position gives coordinates.
func (l *layout) position() {
	x := make([]float64, len(l.places))
	for _, layer := range l.layers {
		wish := make([]float64, len(layer))
		l.spread(layer, wish, x)
	}
	for round := range 12 {
		for i := range l.layers {
			layer := l.layers[i]
			joined := func(p int) []int { return l.places[p].above }
			if round%2 == 1 {
				layer = l.layers[len(l.layers)-1-i]
				joined = func(p int) []int { return l.places[p].next }
			}
			wish := make([]float64, len(layer))
			for j, p := range layer {
				wish[j] = mean(joined(p), x, x[p])
			}
			l.spread(layer, wish, x)
		}
	}
	left := 0.0
	for i := range l.places {
		left = min(left, x[i]-l.places[i].width/2)
	}
	down := 0.0
	for _, layer := range l.layers {
		height := 0.0
		for _, p := range layer {
			height = max(height, l.places[p].height)
		}
		for _, p := range layer {
			at := &l.places[p]
			at.x, at.y = x[p]-left, down+height/2
			l.width = max(l.width, at.x+at.width/2)
		}
		down += height + gapDown
	}
	l.height = down - gapDown
}

// spread puts the places of a layer as near to their wishes as their order and
// widths allow (least squares, by pooling neighbours that would overlap).
func (l *layout) spread(layer []int, wish []float64, x []float64) {
	type block struct {
		sum   float64
		count int
	}
	offset := make([]float64, len(layer))
	var blocks []block
	for i, p := range layer {
		if i > 0 {
			offset[i] = offset[i-1] + (l.places[layer[i-1]].width+l.places[p].width)/2 + gapAcross
		}
		blocks = append(blocks, block{wish[i] - offset[i], 1})
		for n := len(blocks); n > 1 && blocks[n-2].sum/float64(blocks[n-2].count) > blocks[n-1].sum/float64(blocks[n-1].count); n-- {
			blocks[n-2].sum += blocks[n-1].sum
			blocks[n-2].count += blocks[n-1].count
			blocks = blocks[:n-1]
		}
	}
	i := 0
	for _, b := range blocks {
		for range b.count {
			x[layer[i]] = b.sum/float64(b.count) + offset[i]
			i++
		}
	}
}
