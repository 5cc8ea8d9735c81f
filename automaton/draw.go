package automaton

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// MaxDrawn is how many states SVG draws; a picture of more serves nobody.
const MaxDrawn = 400

// Highlight marks parts of a drawing; nil marks nothing. States have the
// numbers that Trace uses.
type Highlight struct {
	Current []int    // where the session stands
	Passed  [][2]int // ways taken, from and to
	Refused []Call   // refused where the session stood, shown beside it
	At      []int    // where Refused happened
}

// Highlight marks the ways that the trace took, its end and its first refusal.
func (t *Trace) Highlight() *Highlight {
	h := &Highlight{Current: t.Start}
	for _, s := range t.Steps {
		if s.Refusal != nil {
			if h.Refused == nil {
				h.At = s.From
				h.Refused = append(h.Refused, s.Call)
			}
			continue
		}
		h.Current = s.To
		for _, from := range s.From {
			for _, to := range s.To {
				h.Passed = append(h.Passed, [2]int{from, to})
			}
		}
	}
	return h
}

func (h *Highlight) current(n int) bool { return h != nil && slices.Contains(h.Current, n) }
func (h *Highlight) passed(from, to int) bool {
	return h != nil && slices.Contains(h.Passed, [2]int{from, to})
}

// refusedAt returns what is written beside state n, or "".
func (h *Highlight) refusedAt(n int) string {
	if h == nil || !slices.Contains(h.At, n) {
		return ""
	}
	var out []string
	for _, c := range h.Refused {
		out = append(out, c.String())
	}
	return strings.Join(out, ", ")
}

// short clips a label for a drawing and drops what could hide text.
func short(s string, most int) string {
	var b strings.Builder
	n := 0
	for _, r := range s {
		if n++; n > most {
			return b.String() + "…"
		}
		if !unicode.IsPrint(r) {
			r = '?'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// shortLabels keeps a few labels of an edge.
func shortLabels(labels []string) []string {
	const lines, width = 5, 56
	var out []string
	for i, l := range labels {
		if i == lines-1 && len(labels) > lines {
			return append(out, fmt.Sprintf("and %d more", len(labels)-i))
		}
		out = append(out, short(l, width))
	}
	return out
}

// DOT returns the machine as a graph for Graphviz.
func (m *Machine) DOT(h *Highlight) string {
	var b strings.Builder
	g := m.graph()
	fmt.Fprintf(&b, "digraph %s {\n\tnode [shape=circle fontname=\"sans-serif\"];\n\tedge [fontname=\"monospace\" fontsize=10];\n", dotQuote(m.name))
	for i, n := range g.nodes {
		attributes := ""
		if n.accept {
			attributes += " shape=doublecircle"
		}
		if h.current(i) {
			attributes += ` style=filled fillcolor="#fff3bf" penwidth=2`
		}
		fmt.Fprintf(&b, "\ts%d [label=%q%s];\n", i, fmt.Sprint(i), attributes)
		if n.entry != "" {
			fmt.Fprintf(&b, "\te%d [shape=plaintext label=%q];\n\te%d -> s%d;\n", i, n.entry, i, i)
		}
		if text := h.refusedAt(i); text != "" {
			fmt.Fprintf(&b, "\tr%d [shape=plaintext fontcolor=\"#c92a2a\" label=%s];\n\ts%d -> r%d [style=dashed color=\"#c92a2a\"];\n",
				i, dotQuote("refused: "+text), i, i)
		}
	}
	for _, e := range g.edges {
		attributes := ""
		if h.passed(e.from, e.to) {
			attributes = ` color="#1864ab" penwidth=2`
		}
		fmt.Fprintf(&b, "\ts%d -> s%d [label=%s%s];\n", e.from, e.to, dotQuote(strings.Join(shortLabels(e.labels), "\n")), attributes)
	}
	b.WriteString("}\n")
	return b.String()
}

// dotQuote writes a DOT string whose lines are set one below the other.
func dotQuote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}
