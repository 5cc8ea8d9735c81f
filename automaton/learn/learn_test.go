package learn

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/uvbond/uvbond/automaton"
)

// recorded makes a session of lines: `name {arguments}`, `!EVENT`, `->error`, and
// `name {arguments} *N` for what a recording left out.
func recorded(t testing.TB, name, lines string) Session {
	t.Helper()
	var b strings.Builder
	answer := ""
	for line := range strings.SplitSeq(lines, ";") {
		line = strings.TrimSpace(line)
		line, count, elided := strings.Cut(line, " *")
		word, args, _ := strings.Cut(line, " ")
		if args == "" {
			args = "{}"
		}
		if word != "->error" {
			b.WriteString(answer)
			answer = ""
		}
		switch {
		case word == "":
		case word == "->error":
			answer = ""
			b.WriteString(`{"dir":"in","msg":{"error":{"class":"GenericError","desc":"no"}}}`)
		case word[0] == '!':
			fmt.Fprintf(&b, `{"dir":"event","msg":{"event":%q}}`, word[1:])
		case elided:
			fmt.Fprintf(&b, `{"dir":"out","elided":true,"count":%s,"msg":{"execute":%q,"arguments":%s}}`, count, word, args)
		default:
			fmt.Fprintf(&b, `{"dir":"out","msg":{"execute":%q,"arguments":%s}}`, word, args)
			answer = `{"dir":"in","msg":{"return":{}}}`
		}
	}
	rec, err := automaton.ReadRecording(strings.NewReader(b.String()))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return Session{name, rec}
}

func sessions(t testing.TB, all ...string) []Session {
	var out []Session
	for i, s := range all {
		out = append(out, recorded(t, fmt.Sprintf("s-%d", i+1), s))
	}
	return out
}

// body returns the learned sequence on one line.
func body(text string) string {
	_, text, _ = strings.Cut(text, "automaton s =")
	return strings.TrimSuffix(strings.Join(strings.Fields(text), " "), " ;")
}

// TestLearn: what is learned from small sessions, and what is not.
func TestLearn(t *testing.T) {
	for _, c := range []struct {
		what   string
		from   []string
		want   string
		takes  []string
		denies []string
	}{
		{"what is always the same stays", []string{"stop", "stop"}, "stop", nil, []string{"", "stop; stop", "cont", `stop {"x":1}`}},
		{"polling", []string{"stop; query-status", "stop; query-status; query-status; query-status"}, "stop query-status*",
			[]string{"stop", "stop; query-status; query-status"}, []string{"query-status; stop"}},
		{"a count that differs", []string{"a; send {\"k\":1}; send {\"k\":1}", `a; send {"k":1}; send {"k":1}; send {"k":1}`}, "a send{ k: 1 }+", nil, []string{"a"}},
		{"a long run of questions", []string{`qom-get {"p":"a"}; qom-get {"p":"b"}; qom-get {"p":"c-d"}; qom-get {"p":"e1"}; qom-get {"p":"f"}; qom-get {"p":"g"}; qom-get {"p":"h"}; qom-get {"p":"i"}; qom-get {"p":"j"}; stop`},
			`qom-get{ p: regexp "[0-9a-z\\-]+" }+ stop`, nil, []string{`qom-get {"p":"/etc"}; stop`, "stop"}},
		{"what a recording left out", []string{`qom-get {"p":"a"}; qom-get {"p":"<8 more>"} *8; stop`}, "qom-get{ p: string }+ stop", nil, nil},
		{"an option", []string{"stop; cont", "stop; reset; cont"}, "stop reset? cont", nil, []string{"stop; reset; reset; cont"}},
		{"a choice", []string{"stop; a; b; cont", "stop; c; cont"}, "stop (c | a b) cont", nil, []string{"stop; cont", "stop; a; cont"}},
		{"kinds", []string{"a; b; c", "d; e; f"}, "a b c | d e f", nil, []string{"a; e; c"}},
		{"optional argument", []string{`a {"x":1}`, `a {"x":1,"y":true}`}, "a{ x: 1, y?: true }", nil, []string{`a {"y":true}`}},
		{"one of", []string{`a {"x":"on"}`, `a {"x":"off"}`, `a {"x":"on"}`}, `a{ x: "off" | "on" }`, nil, []string{`a {"x":"of"}`}},
		{"range, seen more than once", []string{`a {"x":5}`, `a {"x":9}`, `a {"x":5}`}, `a{ x: 5 | 9 }`, nil, []string{`a {"x":7}`}},
		{"range, each once", []string{`a {"x":10}`, `a {"x":20}`, `a {"x":40}`}, `a{ x: 0..55 }`, nil, []string{`a {"x":56}`, `a {"x":-1}`}},
		{"capture", []string{`getfd {"fdname":"mig7"}; migrate {"uri":"fd:mig7"}; query-migrate`, `getfd {"fdname":"mig12"}; migrate {"uri":"fd:mig12"}; query-migrate`},
			`getfd{ fdname: regexp "mig[0-9]+" as $fdname } migrate{ uri: "fd:" $fdname } query-migrate*`,
			[]string{`getfd {"fdname":"mig3"}; migrate {"uri":"fd:mig3"}`}, []string{`getfd {"fdname":"mig3"}; migrate {"uri":"fd:mig4"}`}},
		{"capture in one session", []string{`add {"node":"libvirt-3-storage"}; use {"node":"libvirt-3-storage"}`},
			`add{ node: regexp "libvirt-[0-9]+-storage" as $node } use{ node: $node }`, nil, []string{`add {"node":"libvirt-4-storage"}; use {"node":"libvirt-3-storage"}`}},
		{"names that share a number", []string{`unplug {"id":"disk1"}; del {"node":"libvirt-3-format"}; del {"node":"libvirt-3-storage"}`},
			`unplug{ id: "disk1" } del{ node: regexp "libvirt-[0-9]+-format" } del{ node: regexp "libvirt-[0-9]+-storage" }`, nil, []string{`unplug {"id":"disk2"}; del {"node":"libvirt-3-format"}; del {"node":"libvirt-3-storage"}`}},
		{"changes with other values are steps", []string{`del {"n":"a"}; del {"n":"b"}; c`, `del {"n":"a"}; query-x; del {"n":"b"}; c`, `del {"n":"a"}; del {"n":"b"}; query-x; c`},
			`del{ n: "a" } del{ n: "b" } c & query-x*`, nil, []string{`del {"n":"b"}; del {"n":"a"}; c`}},
		{"no capture from an option", []string{`a; b {"n":"x12"}; c {"n":"x12"}`, `a; c {"n":"x13"}`}, `a b{ n: "x12" }? c{ n: regexp "x[0-9]+" }`, nil, nil},
		{"refreshes", []string{"reset; !RESET; l; query-b; cont", "reset; !RESET; cont; query-a; !RESET; query-b; query-a; query-b"},
			"", nil, nil},
		{"refreshes between anything", []string{"reset; !RESET; query-a; query-b; add; cont", "reset; !RESET; add; query-a; !RESET; query-b; cont; query-a; query-b"},
			"reset (add cont & (query-a query-b)*)", []string{"reset; add; cont"}, []string{"query-a; query-b; reset; add; cont", "reset; cont; add"}},
		{"questions anywhere", []string{"a; query-x; b; c; d", "a; b; c; query-x; d"}, "a b c d & query-x*", []string{"a; b; query-x; c; query-x; d", "query-x; a; b; c; d"}, []string{"a; c; b; d"}},
		{"blocks of questions anywhere", []string{"a; query-x; query-y; query-x; query-y; b; c", "a; b; query-x; query-y; c", "a; b; c"}, "a b c & (query-x | query-y)*", []string{"a; query-x; b; query-y; c"}, []string{"query-x; b; c"}},
		{"what follows a failure", []string{`add {"n":1}; plug; ->error; del {"n":1}`, `add {"n":1}; plug; show`}, "add{ n: 1 } plug show on abort del{ n: 1 }", nil, nil},
		{"lists", []string{`k {"keys":[{"type":"number","data":30}]}`, `k {"keys":[{"type":"number","data":31},{"type":"number","data":32}]}`},
			`k{ keys: [{ data: 29..33, type: "number" }+] }`, nil, nil},
		{"variants", []string{`k {"b":{"type":"file","path":"/x"}}`, `k {"b":{"type":"null"}}`}, `k{ b: { path: "/x", type: "file" } | { type: "null" } }`, nil, []string{`k {"b":{"type":"null","path":"/x"}}`}},
		{"types", []string{`k {"v":1}`, `k {"v":"a"}`, `k {"v":null}`}, `k{ v: null | 1 | "a" }`, nil, nil},
		{"keys that are no names", []string{`k {"a b":[]}`}, `k{ "a b": [] }`, nil, nil},
		{"only questions are asked for", []string{"query-a; query-a", "query-a"}, "query-a+", nil, []string{""}},
	} {
		l, err := Learn("s", sessions(t, c.from...))
		if err != nil {
			t.Errorf("%s: %v", c.what, err)
			continue
		}
		if have := body(l.Text); c.want != "" && have != c.want {
			t.Errorf("%s: learned\n%s\nwant\n%s", c.what, have, c.want)
		}
		for _, s := range c.takes {
			if v := Hold(l.Machine, recorded(t, "s", s)); !v.Accepted {
				t.Errorf("%s: %q is refused: %s", c.what, s, v.Reason)
			}
		}
		for _, s := range c.denies {
			if v := Hold(l.Machine, recorded(t, "s", s)); v.Accepted {
				t.Errorf("%s: %q is accepted", c.what, s)
			}
		}
	}
}

// TestLearnRefuses: what cannot be learned from is refused with a reason.
func TestLearnRefuses(t *testing.T) {
	long := strings.Builder{}
	for i := range 5000 {
		fmt.Fprintf(&long, "c%d;", i)
	}
	deep := strings.Repeat(`{"a":`, 80) + "1" + strings.Repeat("}", 80)
	for want, from := range map[string][]Session{
		"no session to learn from":   nil,
		"no session has a hypercall": sessions(t, "", ""),
		"different steps":            sessions(t, long.String()),
		"nested deeper":              sessions(t, "a "+deep),
		"is no name of a command":    {{"x", &automaton.Recording{Calls: []automaton.Call{{Command: "a b"}}}}},
		"at most 128":                make([]Session, MaxSessions+1),
		"there is no recording":      make([]Session, 1),
		"too little in common":       different(t),
	} {
		if _, err := Learn("s", from); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func different(t *testing.T) []Session {
	var all []string
	for i := range maxShapes + 1 {
		all = append(all, fmt.Sprintf("a%d; b%d", i, i))
	}
	return sessions(t, all...)
}

// random makes sessions of one random command: steps, polls, names and numbers
// that differ.
func random(r *rand.Rand, t testing.TB, n int) []Session {
	type part struct {
		name string
		kind int
	}
	var parts []part
	for i := range 2 + r.IntN(8) {
		parts = append(parts, part{fmt.Sprintf("c%d", i), r.IntN(6)})
	}
	var all []string
	for range n {
		id := r.IntN(1000)
		var b strings.Builder
		for _, p := range parts {
			switch p.kind {
			case 0:
				fmt.Fprintf(&b, `%s {"n":"node-%d","v":%d};`, p.name, id, r.IntN(100))
			case 1:
				b.WriteString(strings.Repeat("query-"+p.name+";", r.IntN(4)))
			case 2:
				fmt.Fprintf(&b, `%s {"id":"job-node-%d"};`, p.name, id)
			case 3:
				if r.IntN(2) == 0 {
					b.WriteString(p.name + ";")
				}
			case 4:
				fmt.Fprintf(&b, `%s {"l":[%s]};`, p.name, strings.TrimSuffix(strings.Repeat("1,", r.IntN(3)), ","))
			default:
				b.WriteString(p.name + ";")
			}
		}
		all = append(all, b.String())
	}
	return sessions(t, append(all, "c0; c1")...)
}

// TestRandomSessions: whatever the sessions are, they are accepted by what was
// learned from them (Learn checks that itself), and the order in which they are
// given does not matter.
func TestRandomSessions(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		all := random(r, t, 1+r.IntN(5))
		one, err := Learn("s", all)
		if err != nil {
			t.Fatal(err)
		}
		r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		two, err := Learn("s", all)
		if err != nil || one.Text != two.Text || !slices.Equal(one.Notes, two.Notes) {
			t.Fatalf("%v: in another order\n%s\nbecomes\n%s", err, one.Text, two.Text)
		}
	}
}

// TestLongSessionsAreBounded: sessions that are alike nowhere are refused before
// they cost much.
func TestLongSessionsAreBounded(t *testing.T) {
	var all []Session
	for i := range 8 {
		rec := &automaton.Recording{}
		for k := range 3000 {
			rec.Calls = append(rec.Calls, automaton.Call{Command: fmt.Sprintf("c%d", (k*7+i*13)%2999), Arguments: map[string]any{"x": json.Number(fmt.Sprint(k))}})
		}
		all = append(all, Session{fmt.Sprint(i), rec})
	}
	l := &learner{name: "s", patterns: map[string]bool{}}
	for _, s := range all {
		p, err := prepare(s)
		if err != nil {
			t.Fatal(err)
		}
		p.index = len(l.sessions)
		l.sessions = append(l.sessions, p)
	}
	if _, err := l.learn(); err == nil {
		t.Fatal("it was learned from")
	}
	if l.cells > maxCells+1<<24 {
		t.Errorf("%d cells compared, the limit is %d", l.cells, maxCells)
	}
}

// FuzzLearn: any recording is learned from or refused, and what was learned from
// it accepts it.
func FuzzLearn(f *testing.F) {
	seeds, err := filepath.Glob("testdata/seeds/*.jsonl")
	if err != nil || len(seeds) == 0 {
		f.Fatal("no seeds: ", err)
	}
	for _, path := range seeds {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, uint(0))
		f.Add(data, uint(len(data)/2))
	}
	f.Fuzz(func(t *testing.T, data []byte, cut uint) {
		var all []Session
		at := int(cut % uint(len(data)+1))
		for _, part := range [][]byte{data, data[:at], data[at:]} {
			if rec, err := automaton.ReadRecording(bytes.NewReader(part)); err == nil {
				all = append(all, Session{fmt.Sprint(len(all)), rec})
			}
		}
		if _, err := Learn("s", all); err != nil && strings.Contains(err.Error(), "which it was learned from") {
			t.Fatal(err)
		}
	})
}
