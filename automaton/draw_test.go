package automaton

import (
	"encoding/xml"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDOT(t *testing.T) {
	m := compile(t, `query-status* stop{ x: "a\\b\n" } on abort quit?`)
	got := m.DOT(m.Trace([]Call{{Command: "query-status"}, {Command: "cont"}}).Highlight())
	want := `digraph "t" {
	node [shape=circle fontname="sans-serif"];
	edge [fontname="monospace" fontsize=10];
	s0 [label="0" style=filled fillcolor="#fff3bf" penwidth=2];
	e0 [shape=plaintext label="start"];
	e0 -> s0;
	r0 [shape=plaintext fontcolor="#c92a2a" label="refused: cont"];
	s0 -> r0 [style=dashed color="#c92a2a"];
	s1 [label="1" shape=doublecircle];
	s2 [label="2" shape=doublecircle];
	e2 [shape=plaintext label="on abort"];
	e2 -> s2;
	s3 [label="3" shape=doublecircle];
	s0 -> s0 [label="query-status" color="#1864ab" penwidth=2];
	s0 -> s1 [label="stop{ x: \"a\\\\b\\n\" }"];
	s2 -> s3 [label="quit"];
}
`
	if got != want {
		t.Errorf("got\n%s", got)
	}
}

// checkSVG holds that a drawing is well-formed XML without anything active.
func checkSVG(t *testing.T, svg string) {
	t.Helper()
	dec := xml.NewDecoder(strings.NewReader(svg))
	for {
		token, err := dec.Token()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, svg)
		}
		if e, ok := token.(xml.StartElement); ok {
			if n := e.Name.Local; n == "script" || n == "a" || n == "image" || n == "foreignObject" {
				t.Fatalf("the drawing has an element %s", n)
			}
		}
	}
}

func TestSVG(t *testing.T) {
	for _, body := range []string{"a", "()", "a* on abort b", `a{ x: "<script>&\u202e\u001b" } b`, save,
		"(a | b c)* (d{ x: 1..5 } e | f & g)* h on abort (x y)*", "(" + strings.Repeat("a b c ", 40) + ")*"} {
		m := compile(t, body)
		calls := []Call{{Command: "a", Arguments: map[string]any{"<": "</svg>"}}}
		for _, h := range []*Highlight{nil, m.Trace(calls).Highlight()} {
			svg, err := m.SVG(h)
			if err != nil {
				t.Fatal(err)
			}
			checkSVG(t, svg)
			if strings.Contains(svg, "<script") || strings.ContainsAny(svg, "\u202e\x1b") {
				t.Errorf("%s: text is not escaped", body)
			}
			if h != nil && len(h.Refused) > 0 && !strings.Contains(svg, "✗ a") {
				t.Errorf("%s: the refusal is not shown", body)
			}
		}
	}
	if _, err := compile(t, strings.Repeat("a ", MaxDrawn+1)).SVG(nil); err == nil || !strings.Contains(err.Error(), "use DOT") {
		t.Error(err)
	}
}

// shippedFile parses a shipped text, with its imports from the same folder.
func shippedFile(t *testing.T, name string) *File {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	f, err := ParseImports(name, text, func(other string) ([]byte, error) {
		return os.ReadFile(filepath.Join(filepath.Dir(name), other+".uva"))
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// Nothing that takes room lies on anything else, and ways lead downwards.
func TestLayout(t *testing.T) {
	names, err := filepath.Glob(filepath.Join("..", "automata", "*", "*.uva"))
	if err != nil || len(names) == 0 {
		t.Fatal("no automata", err)
	}
	machines := []*Machine{compile(t, save), compile(t, "(a | b c)* (d{ x: 1..5 } e | f & g)* h on abort (x y)*")}
	for _, name := range names {
		m, err := shippedFile(t, name).Compile(strings.TrimSuffix(filepath.Base(name), ".uva"))
		if err != nil {
			t.Fatal(err)
		}
		if m.States() > MaxDrawn {
			continue
		}
		machines = append(machines, m)
	}
	for _, m := range machines {
		d := &drawing{m: m, g: m.graph()}
		d.loops = make([]int, len(d.g.nodes))
		d.measure()
		l := arrange(d.g, d.states, d.labels)
		for i, a := range l.places {
			if a.x-a.left < -0.01 || a.x+a.right > l.width+0.01 || a.y-a.height/2 < -0.01 || a.y+a.height/2 > l.height+0.01 {
				t.Errorf("%s: place %d lies outside", m.Name(), i)
			}
			for j, b := range l.places[:i] {
				if a.layer == b.layer && a.x-a.left < b.x+b.right && b.x-b.left < a.x+a.right {
					t.Errorf("%s: places %d and %d overlap", m.Name(), i, j)
				}
				if a.layer > b.layer && a.y-a.height/2 < b.y+b.height/2 {
					t.Errorf("%s: place %d does not lie below %d", m.Name(), i, j)
				}
			}
		}
		right := math.Inf(-1)
		for _, part := range l.parts() {
			end := right
			for _, p := range part {
				if a := l.places[p]; a.x-a.left < right {
					t.Errorf("%s: place %d stands in another part", m.Name(), p)
				} else {
					end = max(end, a.x+a.right)
				}
			}
			right = end
		}
		for _, e := range l.edges {
			for i := 1; i < len(e.way); i++ {
				if l.places[e.way[i]].layer != l.places[e.way[i-1]].layer+1 {
					t.Errorf("%s: an edge jumps", m.Name())
				}
			}
		}
	}
}
