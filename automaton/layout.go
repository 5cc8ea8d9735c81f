package automaton

import (
	"cmp"
	"math"
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
	left, right float64 // room from its centre
	height      float64
	band        float64 // height of its layer
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
	edges         []drawnEdge
	width, height float64
}

const (
	gapAcross = 26.0
	gapDown   = 22.0
	gapParts  = 44.0
)

// room is what a state takes: to the left and the right of its centre, and in height.
type room struct{ left, right, height float64 }

// arrange places the states of g, whose rooms are given, and the labels of its
// edges, whose widths and heights are; edges to the same state are left out.
func arrange(g *graph, states []room, labels [][2]float64) *layout {
	l := &layout{}
	for _, r := range states {
		l.places = append(l.places, place{left: r.left, right: r.right, height: r.height})
	}
	reversed := cutLoops(g)
	l.rank(g, reversed)
	for i, e := range g.edges {
		if e.from != e.to {
			l.route(i, e, reversed[i], labels[i])
		}
	}
	for _, part := range l.parts() {
		layers := l.layersOf(part)
		l.order(layers)
		l.across(layers)
		l.putBeside(part)
	}
	l.down()
	return l
}

// parts returns the places by what hangs together: the ways from the start, and those
// after an abort. Each is arranged for itself and stands beside the others.
func (l *layout) parts() [][]int {
	var parts [][]int
	seen := make([]bool, len(l.places))
	for i := range l.places {
		if seen[i] {
			continue
		}
		seen[i] = true
		part := []int{i}
		for n := 0; n < len(part); n++ {
			for _, to := range slices.Concat(l.places[part[n]].above, l.places[part[n]].next) {
				if !seen[to] {
					seen[to] = true
					part = append(part, to)
				}
			}
		}
		slices.Sort(part)
		parts = append(parts, part)
	}
	return parts
}

// layersOf sorts places into layers.
func (l *layout) layersOf(places []int) [][]int {
	var layers [][]int
	for _, p := range places {
		for len(layers) <= l.places[p].layer {
			layers = append(layers, nil)
		}
		layers[l.places[p].layer] = append(layers[l.places[p].layer], p)
	}
	return layers
}

// putBeside moves a part to the right of those before it.
func (l *layout) putBeside(part []int) {
	left := math.Inf(1)
	for _, p := range part {
		left = min(left, l.places[p].x-l.places[p].left)
	}
	if l.width > 0 {
		left -= l.width + gapParts
	}
	for _, p := range part {
		at := &l.places[p]
		at.x -= left
		l.width = max(l.width, at.x+at.right)
	}
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
		p := place{layer: layer, left: 2, right: 2}
		if layer == labelLayer {
			p.left, p.right, p.height, d.label = label[0]/2, label[0]/2, label[1], len(l.places)
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
func (l *layout) order(layers [][]int) {
	rank := make([]float64, len(l.places))
	number := func(layer []int) {
		for i, p := range layer {
			rank[p] = float64(i)
		}
	}
	for _, layer := range layers {
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
		for i := 1; i < len(layers); i++ {
			sort(layers[i], func(p int) []int { return l.places[p].above })
		}
		for i := len(layers) - 2; i >= 0; i-- {
			sort(layers[i], func(p int) []int { return l.places[p].next })
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

// across gives the places of layers their x.
func (l *layout) across(layers [][]int) {
	x := make([]float64, len(l.places))
	for _, layer := range layers {
		wish := make([]float64, len(layer))
		l.spread(layer, wish, x)
	}
	for round := range 12 {
		for i := range layers {
			layer := layers[i]
			joined := func(p int) []int { return l.places[p].above }
			if round%2 == 1 {
				layer = layers[len(layers)-1-i]
				joined = func(p int) []int { return l.places[p].next }
			}
			wish := make([]float64, len(layer))
			for j, p := range layer {
				wish[j] = mean(joined(p), x, x[p])
			}
			l.spread(layer, wish, x)
		}
	}
	for _, layer := range layers {
		for _, p := range layer {
			l.places[p].x = x[p]
		}
	}
}

// down gives all places their y: layers are as high as their highest place.
func (l *layout) down() {
	all := make([]int, len(l.places))
	for i := range all {
		all[i] = i
	}
	down := 0.0
	for _, layer := range l.layersOf(all) {
		height := 0.0
		for _, p := range layer {
			height = max(height, l.places[p].height)
		}
		for _, p := range layer {
			l.places[p].y, l.places[p].band = down+height/2, height
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
			offset[i] = offset[i-1] + l.places[layer[i-1]].right + l.places[p].left + gapAcross
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
