package automaton

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The oracle is the slow and obvious matcher: it knows what may follow by
// taking the expression apart (partial derivatives) and shares no code with
// nfa.go, run.go and match.go. Captured values are an ordinary map.

type binding map[string]string

type rest struct {
	node  *node
	bound binding
}

func nullable(n *node) bool {
	switch n.kind {
	case nodeCommand:
		return false
	case nodeRepeat:
		return n.min == 0 || nullable(n.subs[0])
	case nodeAlt:
		return slices.ContainsFunc(n.subs, nullable)
	default:
		return !slices.ContainsFunc(n.subs, func(s *node) bool { return !nullable(s) })
	}
}

var nothing = &node{kind: nodeEmpty}

// without returns subs with the one at i replaced.
func without(n *node, i int, by *node) *node {
	subs := slices.Clone(n.subs)
	subs[i] = by
	return &node{kind: n.kind, subs: subs}
}

// derive returns what may follow after one hypercall.
func derive(n *node, b binding, name string, args any) (out []rest) {
	switch n.kind {
	case nodeCommand:
		if n.command.name == name {
			for _, after := range judge(n.command.args, args, b, n.command.captures) {
				out = append(out, rest{nothing, after})
			}
		}
	case nodeAlt, nodePart:
		for _, sub := range n.subs {
			out = append(out, derive(sub, b, name, args)...)
		}
	case nodeShuffle:
		for i, sub := range n.subs {
			for _, r := range derive(sub, b, name, args) {
				out = append(out, rest{without(n, i, r.node), r.bound})
			}
		}
	case nodeSeq:
		for i, sub := range n.subs {
			for _, r := range derive(sub, b, name, args) {
				after := append([]*node{r.node}, n.subs[i+1:]...)
				out = append(out, rest{&node{kind: nodeSeq, subs: after}, r.bound})
			}
			if !nullable(sub) {
				break
			}
		}
	case nodeRepeat:
		if n.max == 0 {
			return nil
		}
		again := &node{kind: nodeRepeat, subs: n.subs, min: max(0, n.min-1), max: n.max}
		if n.max != unbounded {
			again.max--
		}
		for _, r := range derive(n.subs[0], b, name, args) {
			out = append(out, rest{&node{kind: nodeSeq, subs: []*node{r.node, again}}, r.bound})
		}
	}
	return out
}

// judge returns the bindings under which got fits v.
func judge(v *value, got any, b binding, d *captures) []binding {
	yes := func(ok bool) []binding {
		if ok {
			return []binding{b}
		}
		return nil
	}
	bind := func(b binding, slot int, got any) []binding {
		data, _ := json.Marshal(got)
		name := d.names[slot]
		if old, ok := b[name]; ok {
			if old == string(data) {
				return []binding{b}
			}
			return nil
		}
		c := maps.Clone(b)
		c[name] = string(data)
		return []binding{c}
	}
	switch v.kind {
	case valueAny:
		return yes(true)
	case valueObject:
		object, ok := got.(map[string]any)
		if !ok {
			return nil
		}
		known := map[string]bool{}
		states := []binding{b}
		for _, m := range v.members {
			known[m.key] = true
			x, present := object[m.key]
			if !present {
				if !m.optional {
					return nil
				}
				continue
			}
			var next []binding
			for _, s := range states {
				next = append(next, judge(m.value, x, s, d)...)
			}
			states = next
		}
		for key := range object {
			if !known[key] && !v.open {
				return nil
			}
		}
		return states
	case valueList:
		list, ok := got.([]any)
		if !ok || len(list) < len(v.items)+v.tailMin || v.tail == nil && len(list) != len(v.items) {
			return nil
		}
		states := []binding{b}
		for i, x := range list {
			want := v.tail
			if i < len(v.items) {
				want = v.items[i]
			}
			var next []binding
			for _, s := range states {
				next = append(next, judge(want, x, s, d)...)
			}
			states = next
		}
		return states
	case valueOneOf:
		for _, item := range v.items {
			if out := judge(item, got, b, d); out != nil {
				return out
			}
		}
		return nil
	case valueAs:
		var out []binding
		for _, s := range judge(v.items[0], got, b, d) {
			out = append(out, bind(s, v.capture, got)...)
		}
		return out
	case valueCapture:
		if v.text == "" && v.suffix == "" {
			return bind(b, v.capture, got)
		}
		s, ok := got.(string)
		m := regexp.MustCompile("(?s)^" + regexp.QuoteMeta(v.text) + "(.*)" + regexp.QuoteMeta(v.suffix) + "$").FindStringSubmatch(s)
		if !ok || m == nil {
			return nil
		}
		return bind(b, v.capture, m[1])
	case valueText:
		return yes(got == any(v.text))
	case valueRange:
		n, ok := got.(json.Number)
		i, err := n.Int64()
		if v.low != nil && v.low.negative || v.high != nil && v.high.negative {
			panic("the oracle does not know negative bounds")
		}
		return yes(ok && err == nil && (v.low == nil || int64(v.low.magnitude) <= i) && (v.high == nil || i <= int64(v.high.magnitude)))
	case valueGlob:
		s, ok := got.(string)
		pattern := strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(regexp.QuoteMeta(v.text))
		return yes(ok && regexp.MustCompile("(?s)^"+pattern+"$").MatchString(s))
	case valueRegexp:
		s, ok := got.(string)
		return yes(ok && regexp.MustCompile("^(?:"+v.text+")$").MatchString(s))
	case valueType:
		_, isText := got.(string)
		_, isNumber := got.(json.Number)
		return yes(v.text == "string" && isText || v.text == "integer" && isNumber)
	}
	panic(fmt.Sprintf("the oracle does not know value kind %d", v.kind))
}

// oracle follows a run.
type oracle struct {
	d    *definition
	now  []rest
	done bool
}

func newOracle(d *definition) *oracle {
	return &oracle{d: d, now: []rest{{d.body, binding{}}}}
}

func (o *oracle) step(name string, args any) bool {
	var next []rest
	seen := map[string]bool{}
	for _, r := range o.now {
		for _, s := range derive(r.node, r.bound, name, args) {
			key := formatNode(s.node, nodeAlt) + fmt.Sprint(s.bound)
			if !seen[key] {
				seen[key] = true
				next = append(next, s)
			}
		}
	}
	if len(next) > 0 {
		o.now = next
	}
	return len(next) > 0
}

func (o *oracle) abort() {
	body := o.d.abort
	if body == nil {
		o.now, o.done = nil, true
		return
	}
	for i := range o.now {
		o.now[i].node = body
	}
}

func (o *oracle) isDone() bool {
	return o.done || slices.ContainsFunc(o.now, func(r rest) bool { return nullable(r.node) })
}

// expected lists the commands that some arguments would be accepted for.
func (o *oracle) expected() []string {
	names := map[string]bool{}
	for _, r := range o.now {
		first(r.node, names)
	}
	return slices.Sorted(maps.Keys(names))
}

func first(n *node, names map[string]bool) {
	if n.kind == nodeCommand {
		names[n.command.name] = true
	}
	if n.kind == nodeRepeat && n.max == 0 {
		return
	}
	for _, sub := range n.subs {
		first(sub, names)
		if n.kind == nodeSeq && !nullable(sub) {
			return
		}
	}
}

// randomExpression writes an expression over the hypercalls a, b and c.
func randomExpression(r *rand.Rand, depth int, captures bool) string {
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	if depth == 0 || r.IntN(5) == 0 {
		args := pick("", "", "", "{}", "{...}", "{ x: 1 }", "{ x: 0..1, ... }", `{ x: "p" | "q" }`, "{ x: $v }", `{ x: "p" $w }`,
			"{ x: any as $v, y?: integer }", `{ y: glob "p*q", ... }`, "{ x: [$v, integer*] }", "{ x: { y: $w } }", "{ x?: $v, y?: $v }",
			`{ x: [1 | "p"+] }`, `{ y: string as $w, ... }`)
		if !captures && strings.Contains(args, "$") {
			args = pick(`{ x: glob "*q" | 0.. }`, `{ x?: regexp "p*q?", y?: any }`, `{ y: { y: any }, ... }`, `{ x: [], y?: ..0 }`)
		}
		if r.IntN(10) == 0 {
			return "()"
		}
		return pick("a", "b", "c") + args
	}
	sub := func() string { return "(" + randomExpression(r, depth-1, captures) + ")" }
	switch r.IntN(6) {
	case 0, 1:
		return sub() + " " + sub()
	case 2:
		return sub() + "|" + sub()
	case 3:
		return sub() + "&" + sub()
	default:
		return sub() + pick("*", "+", "?", "{2}", "{1,2}", "{0,2}", "{2,}")
	}
}

func randomCall(r *rand.Rand) (string, map[string]any) {
	pick := func(list ...any) any { return list[r.IntN(len(list))] }
	simple := func() any { return pick(json.Number("0"), json.Number("1"), "p", "pq", "q") }
	args := map[string]any{}
	for _, key := range []string{"x", "y"} {
		if r.IntN(3) == 0 {
			args[key] = pick(simple(), simple(), simple(), []any{simple()}, []any{simple(), simple()}, map[string]any{"y": simple()})
		}
	}
	return pick("a", "b", "c").(string), args
}

func TestAgainstOracle(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	accepted, refused := 0, 0
	deterministic := 0
	for round := range 5000 {
		captures := round%2 == 0
		text := "automaton t = " + randomExpression(r, 1+r.IntN(4), captures)
		if r.IntN(2) == 0 {
			text += " on abort " + randomExpression(r, 1, captures)
		}
		f, err := Parse("random", []byte(text+";"))
		if err != nil {
			t.Fatal(err)
		}
		m, err := f.Compile("t")
		if err != nil {
			continue // interleaving what is long already
		}
		if m.Deterministic() {
			deterministic++
		}
		run, slow := m.Start(), newOracle(f.automata[0])
		trace := []string{}
		for range 12 {
			if r.IntN(20) == 0 && !run.Aborted() {
				trace = append(trace, "ABORT")
				run.Abort()
				slow.abort()
			}
			name, args := randomCall(r)
			if expected := run.Expected(); len(expected) > 0 && r.IntN(4) > 0 {
				name = expected[r.IntN(len(expected))]
			}
			trace = append(trace, fmt.Sprint(name, args))
			err := run.Step(name, args)
			want := slow.step(name, args)
			if len(slow.now) > 100 {
				break
			}
			if (err == nil) != want || run.Done() != slow.isDone() || !slices.Equal(run.Expected(), slow.expected()) {
				t.Fatalf("round %d: %s\n%s\n%v, oracle %v; done %v, oracle %v; expects %v, oracle %v", round, f, strings.Join(trace, "\n"),
					err, want, run.Done(), slow.isDone(), run.Expected(), slow.expected())
			}
			if want {
				accepted++
			} else {
				refused++
			}
		}
	}
	if accepted < 4000 || refused < 4000 || deterministic < 2400 {
		t.Fatalf("%d accepted and %d refused steps, %d deterministic machines do not test much", accepted, refused, deterministic)
	}
}
