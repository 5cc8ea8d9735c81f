package automaton

import (
	"fmt"
	"html"
	"strings"
)

const (
	stateRadius = 17.0
	charWidth   = 7.0 // of the monospaced labels
	lineHeight  = 14.0
	margin      = 24.0
	entryRoom   = 30.0 // half the width of "on abort" above a state
)

// SVG draws the machine from its start downwards: states as circles, those in
// which the session may end with a second ring, hypercalls on the ways. The
// text is complete, refers to nothing outside and holds no script. It is
// refused for machines of more than MaxDrawn states.
func (m *Machine) SVG(h *Highlight) (string, error) {
	g := m.graph()
	if len(g.nodes) > MaxDrawn {
		return "", fmt.Errorf("automaton %s has %d states, at most %d are drawn: draw its parts, or use DOT", tick(m.name), len(g.nodes), MaxDrawn)
	}
	d := &drawing{m: m, g: g, h: h, loops: make([]int, len(g.nodes))}
	d.measure()
	d.l = arrange(g, d.states, d.labels)
	return d.svg(), nil
}

type drawing struct {
	strings.Builder
	m      *Machine
	g      *graph
	h      *Highlight
	l      *layout
	loops  []int // by state: its edge to itself plus one, or 0
	states []room
	labels [][2]float64 // widths and heights
}

// textSize is that of lines one below the other.
func textSize(lines []string) [2]float64 {
	longest := 0
	for _, line := range lines {
		longest = max(longest, len([]rune(line)))
	}
	return [2]float64{float64(longest)*charWidth + 8, float64(len(lines))*lineHeight + 4}
}

// beside returns what stands to the right of a state: the label of its loop,
// and what was refused there.
func (d *drawing) beside(n int) (loop []string, refused string) {
	if d.loops[n] > 0 {
		loop = shortLabels(d.g.edges[d.loops[n]-1].labels)
	}
	if text := d.h.refusedAt(n); text != "" {
		refused = "✗ " + short(text, 56)
	}
	return loop, refused
}

// measure tells the room that states and labels take.
func (d *drawing) measure() {
	for i, e := range d.g.edges {
		d.labels = append(d.labels, textSize(shortLabels(e.labels)))
		if e.from == e.to {
			d.loops[e.from] = i + 1
		}
	}
	for i, n := range d.g.nodes {
		r := room{stateRadius, stateRadius, 2 * stateRadius}
		loop, refused := d.beside(i)
		if len(loop) > 0 {
			t := textSize(loop)
			r.right, r.height = stateRadius+22+t[0], max(r.height, t[1])
		}
		if refused != "" {
			t := textSize([]string{refused})
			r.right, r.height = max(r.right, stateRadius+22+t[0]), r.height+2*lineHeight
		}
		if n.entry != "" {
			r.left, r.right = max(r.left, entryRoom), max(r.right, entryRoom)
			r.height += 2 * 20
		}
		d.states = append(d.states, r)
	}
}

func (d *drawing) svg() string {
	fmt.Fprintf(d, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" width="%.0f" height="%.0f" role="img">`+"\n",
		d.l.width+2*margin, d.l.height+2*margin, d.l.width+2*margin, d.l.height+2*margin)
	fmt.Fprintf(d, "<title>%s</title>\n", html.EscapeString("automaton "+d.m.name))
	d.WriteString(`<style>
text { font: 12px sans-serif; fill: #212529; }
.label { font: 11.5px ui-monospace, monospace; }
.way { fill: none; stroke: #868e96; stroke-width: 1.3; }
.passed { stroke: #1864ab; stroke-width: 2.4; }
.state { fill: #ffffff; stroke: #343a40; stroke-width: 1.4; }
.current { fill: #fff3bf; stroke-width: 2.6; }
.refused { fill: #c92a2a; }
.dashed { stroke: #c92a2a; stroke-dasharray: 4 3; }
</style>
<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0 8 4 0 8z" fill="#495057"/></marker></defs>
<rect width="100%" height="100%" fill="#ffffff"/>
`)
	fmt.Fprintf(d, `<g transform="translate(%.0f %.0f)">`+"\n", margin, margin)
	for _, e := range d.l.edges {
		d.way(e)
	}
	for i := range d.g.nodes {
		d.state(i)
	}
	for _, e := range d.l.edges { // above all lines
		p := d.l.places[e.label]
		d.text(p.x, p.y, "middle", d.g.edges[e.edge].labels)
	}
	d.WriteString("</g>\n</svg>\n")
	return d.String()
}

// way draws an edge as a smooth line through the centres of its places.
func (d *drawing) way(e drawnEdge) {
	type point struct{ x, y float64 }
	var points []point
	for i, n := range e.way {
		p := d.l.places[n]
		// Straight through the layer, so that nothing beside it is touched.
		above, below := point{p.x, p.y - p.band/2}, point{p.x, p.y + p.band/2}
		switch {
		case i == 0:
			points = append(points, point{p.x, p.y + stateRadius}, below)
		case i == len(e.way)-1:
			points = append(points, above, point{p.x, p.y - stateRadius})
		default:
			points = append(points, above, below)
		}
	}
	if e.reversed {
		for i, j := 0, len(points)-1; i < j; i, j = i+1, j-1 {
			points[i], points[j] = points[j], points[i]
		}
	}
	class := "way"
	edge := d.g.edges[e.edge]
	if d.h.passed(edge.from, edge.to) {
		class += " passed"
	}
	fmt.Fprintf(d, `<path class="%s" marker-end="url(#arrow)" d="M%.1f %.1f`, class, points[0].x, points[0].y)
	for i := 1; i < len(points); i++ {
		a, b := points[i-1], points[i]
		middle := (a.y + b.y) / 2
		fmt.Fprintf(d, " C%.1f %.1f %.1f %.1f %.1f %.1f", a.x, middle, b.x, middle, b.x, b.y)
	}
	d.WriteString(`"/>` + "\n")
}

func (d *drawing) state(n int) {
	p, node := d.l.places[n], d.g.nodes[n]
	loop, refused := d.beside(n)
	if len(loop) > 0 {
		class := "way"
		if d.h.passed(n, n) {
			class += " passed"
		}
		fmt.Fprintf(d, `<path class="%s" marker-end="url(#arrow)" d="M%.1f %.1f c26 -16 26 26 0 16"/>`+"\n", class, p.x+stateRadius*0.88, p.y-8)
		d.text(p.x+stateRadius+22, p.y, "start", d.g.edges[d.loops[n]-1].labels)
	}
	if refused != "" {
		down := p.y + stateRadius + 6
		fmt.Fprintf(d, `<path class="way dashed" d="M%.1f %.1f L%.1f %.1f"/>`+"\n", p.x+12, p.y+12, p.x+stateRadius+18, down)
		fmt.Fprintf(d, `<text class="label refused" x="%.1f" y="%.1f">%s</text>`+"\n", p.x+stateRadius+22, down+4, html.EscapeString(refused))
	}
	if node.entry != "" {
		top := p.y - stateRadius
		fmt.Fprintf(d, `<text x="%.1f" y="%.1f" text-anchor="middle">%s</text>`+"\n", p.x, top-14, node.entry)
		fmt.Fprintf(d, `<path class="way" marker-end="url(#arrow)" d="M%.1f %.1f V%.1f"/>`+"\n", p.x, top-10, top)
	}
	class := "state"
	if d.h.current(n) {
		class += " current"
	}
	fmt.Fprintf(d, `<circle class="%s" cx="%.1f" cy="%.1f" r="%.1f"/>`+"\n", class, p.x, p.y, stateRadius)
	if node.accept {
		fmt.Fprintf(d, `<circle class="state" fill-opacity="0" cx="%.1f" cy="%.1f" r="%.1f"/>`+"\n", p.x, p.y, stateRadius-3.5)
	}
	fmt.Fprintf(d, `<text x="%.1f" y="%.1f" text-anchor="middle">%d</text>`+"\n", p.x, p.y+4, n)
}

// text writes labels around y, with the full text to hover over.
func (d *drawing) text(x, y float64, anchor string, labels []string) {
	lines := shortLabels(labels)
	size := textSize(lines)
	left := x - 2
	if anchor == "middle" {
		left = x - size[0]/2
	}
	fmt.Fprintf(d, `<g><title>%s</title><rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="#ffffff" fill-opacity="0.85"/>`,
		html.EscapeString(short(strings.Join(labels, " | "), 1000)), left, y-size[1]/2, size[0], size[1])
	for i, line := range lines {
		fmt.Fprintf(d, `<text class="label" x="%.1f" y="%.1f" text-anchor="%s">%s</text>`,
			x, y-size[1]/2+float64(i+1)*lineHeight-1, anchor, html.EscapeString(line))
	}
	d.WriteString("</g>\n")
}
