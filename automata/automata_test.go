package automata

import (
	"encoding/json"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/uvbond/uvbond/automaton"
)

// A call is a hypercall as these tests write it: a name, and JSON arguments
// after a space.
func decode(t *testing.T, call string) (string, map[string]any) {
	t.Helper()
	name, text, found := strings.Cut(call, " ")
	if !found {
		return name, nil
	}
	var args map[string]any
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&args); err != nil {
		t.Fatalf("%s: %v", call, err)
	}
	return name, args
}

func machine(t *testing.T, command string) *automaton.Machine {
	t.Helper()
	text, err := Native(command)
	if err != nil {
		t.Fatal(err)
	}
	f, err := automaton.Parse(command, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if names := f.Names(); !slices.Equal(names, []string{command}) {
		t.Fatalf("%s.uva defines %v", command, names)
	}
	m, err := f.Compile(command)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

const (
	launch     = `uvbond-launch {"disks":[{"name":"root","fd-index":0}]}`
	launchFull = `uvbond-launch {"disks":[{"name":"root","fd-index":0},{"name":"data-1","fd-index":1}],"taps":[2,3],` +
		`"expect":{"memory":1073741824,"vcpus":2,"firmware":"uefi","machine":"q35"}}`
	launchStored = `uvbond-launch {"disks":[],"exports":[{"name":"root","storage":"ceph1","export":"pool/image-564caa"}]}`

	query = "query-status"
)

// sequences tells of every automaton which sequences it accepts in full, and
// which hypercall it refuses after the calls before it.
var sequences = map[string]struct{ accepted, refused [][]string }{
	"start": {
		accepted: [][]string{{launch, "cont"}, {launchStored, "cont"}, {launchFull, query, query, "cont", query}},
		refused: [][]string{
			{"cont"}, {query}, {launch, launch}, {launch, "cont", "cont"}, {launch, "quit"}, {launch, "stop"}, {launch, "cont", "system_reset"},
			{`uvbond-launch`}, {`uvbond-launch {"disks":[],"exports":[]}`}, {`uvbond-launch {"exports":[{"name":"root","storage":"ceph1","export":"x"}]}`},
			{`uvbond-launch {"disks":[],"exports":[{"name":"root","storage":"nbd://10.0.0.1","export":"x"}]}`}, {`uvbond-launch {"disks":[],"exports":[{"name":"root","storage":"ceph1","export":"a b"}]}`}, {`uvbond-launch {"disks":[{"name":"root"}]}`},
			{`uvbond-launch {"disks":[{"name":"root","fd-index":16}]}`}, {`uvbond-launch {"disks":[{"name":"root","fd-index":-1}]}`},
			{`uvbond-launch {"disks":[{"name":"root","fd-index":0,"path":"/etc/shadow"}]}`}, {`uvbond-launch {"disks":[{"name":"../x","fd-index":0}]}`},
			{`uvbond-launch {"disks":[{"name":"root","fd-index":0}],"kernel":"x"}`}, {`uvbond-launch {"disks":[{"name":"root","fd-index":0}],"taps":["a"]}`},
			{`uvbond-launch {"disks":[{"name":"root","fd-index":0}],"expect":{"memory":1024}}`},
			{`uvbond-launch {"disks":[{"name":"root","fd-index":0}],"expect":{"firmware":"other"}}`},
			{launch, `cont {"x":1}`}, {launch, `query-status {"x":1}`},
		},
	},
	"status": {
		accepted: [][]string{{query}, {query, query, query}},
		refused:  [][]string{{"stop"}, {query, "stop"}, {`query-status {"a":null}`}, {"query-block"}},
	},
	"pause": {
		accepted: [][]string{{"stop"}, {query, "stop"}, {query, query, "stop", query, query}},
		refused:  [][]string{{"cont"}, {"stop", "stop"}, {"stop", "cont"}, {query, "quit"}, {"stop", "screendump"}, {`stop {"x":1}`}, {""}},
	},
	"resume": {
		accepted: [][]string{{"cont"}, {query, "cont", query}},
		refused:  [][]string{{"stop"}, {"cont", "cont"}, {"cont", "stop"}, {`cont {"x":1}`}, {"system_reset"}},
	},
	"reset": {
		accepted: [][]string{{"system_reset"}, {query, "system_reset", query}},
		refused:  [][]string{{"system_powerdown"}, {"system_reset", "system_reset"}, {"system_reset", "cont"}, {`system_reset {"x":1}`}},
	},
	"shutdown": {
		accepted: [][]string{{"system_powerdown"}, {query, "system_powerdown", query, query, query}},
		refused:  [][]string{{"quit"}, {"system_powerdown", "system_powerdown"}, {"system_powerdown", "quit"}, {`system_powerdown {"x":1}`}},
	},
	"poweroff": {
		accepted: [][]string{{"quit"}, {query, "quit", query}},
		refused:  [][]string{{"system_powerdown"}, {"quit", "quit"}, {"quit", "uvbond-launch"}, {`quit {"x":1}`}},
	},
	"log": {
		accepted: [][]string{{`uvbond-read-console {"offset":0}`}, {`uvbond-read-console {"offset":0}`, `uvbond-read-console {"offset":18446744073709551615}`}},
		refused: [][]string{{`uvbond-read-console`}, {`uvbond-read-console {"offset":-1}`}, {`uvbond-read-console {"offset":"0"}`},
			{`uvbond-read-console {"offset":0,"path":"x"}`}, {`uvbond-read-console {"offset":1.5}`}, {query}, {`uvbond-read-audit {"from":0}`}},
	},
	"audit": {
		accepted: [][]string{{`uvbond-read-audit {"from":0}`}, {`uvbond-read-audit {"from":0}`, `uvbond-read-audit {"from":100}`}},
		refused:  [][]string{{`uvbond-read-audit`}, {`uvbond-read-audit {"from":-1}`}, {`uvbond-read-audit {"from":0,"to":1}`}, {query}},
	},
	"allow": {
		accepted: [][]string{{"uvbond-set-policy"}},
		refused:  [][]string{{`uvbond-set-policy {"policy":"x"}`}, {"uvbond-set-policy", "uvbond-set-policy"}, {"uvbond-delete"}},
	},
	"grow": {
		accepted: [][]string{{`uvbond-grow {"disk":"root","size":1073741824}`}, {query, `uvbond-grow {"disk":"data-1","size":512}`, query}},
		refused: [][]string{{`uvbond-grow`}, {`uvbond-grow {"disk":"root"}`}, {`uvbond-grow {"disk":"../x","size":4096}`}, {`uvbond-grow {"disk":"root","size":"4096"}`},
			{`uvbond-grow {"disk":"root","size":511}`}, {`uvbond-grow {"disk":"root","size":4096,"shrink":true}`},
			{`uvbond-grow {"disk":"root","size":4096}`, `uvbond-grow {"disk":"root","size":8192}`}, {"stop"}, {"uvbond-delete"}},
	},
	"build": {
		accepted: [][]string{{`uvbond-build {"disk":"root"}`}, {`uvbond-build {"disk":"root"}`, `uvbond-build {"disk":"root"}`, `uvbond-build {"disk":"root"}`},
			{`uvbond-build {"disk":"root","place":{"storage":"ceph1","export":"web1"}}`, `uvbond-build {"disk":"root","place":{"storage":"ceph1","export":""}}`}},
		refused: [][]string{{`uvbond-build`}, {`uvbond-build {"disk":"../x"}`}, {`uvbond-build {"disk":"root","base":"x"}`}, {query},
			{`uvbond-build {"disk":"root","place":{"storage":"ceph1"}}`}, {`uvbond-build {"disk":"root","place":{"storage":"nbd://x","export":"y"}}`}, {`uvbond-build {"disk":"root","place":{"storage":"ceph1","export":"a b"}}`},
			{`uvbond-build {"disk":"root","place":"ceph1"}`}, {`uvbond-build {"disk":"root","place":{"storage":"ceph1","export":"x","uri":"y"}}`}, {"uvbond-launch"},
			{`uvbond-build {"disk":"root"}`, "stop"}, {`uvbond-build {"disk":"root"}`, "uvbond-delete"}},
	},
	"undelegate": {
		accepted: [][]string{{`uvbond-revoke {"delegation":"` + strings.Repeat("0a", 32) + `"}`}, {`uvbond-revoke {"issued-until":1800000000}`}},
		refused: [][]string{{"uvbond-revoke"}, {`uvbond-revoke {"delegation":"all"}`}, {`uvbond-revoke {"issued-until":0}`}, {`uvbond-revoke {"delegation":"` + strings.Repeat("0a", 32) + `","issued-until":5}`},
			{`uvbond-revoke {"issued-until":5}`, `uvbond-revoke {"issued-until":6}`}, {"uvbond-set-policy"}},
	},
	"delete": {
		accepted: [][]string{{"uvbond-delete"}},
		refused:  [][]string{{`uvbond-delete {"vm":"x"}`}, {"uvbond-delete", "uvbond-delete"}, {"uvbond-set-policy"}, {"quit"}},
	},
}

func TestNative(t *testing.T) {
	for _, command := range NativeNames() {
		t.Run(command, func(t *testing.T) {
			m := machine(t, command)
			cases, ok := sequences[command]
			if !ok || len(cases.accepted) == 0 || len(cases.refused) == 0 {
				t.Fatal("no sequences to test with")
			}
			if m.Deadline() <= 0 {
				t.Error("no deadline")
			}
			if m.Start().Done() {
				t.Error("done before the first hypercall")
			}
			for _, calls := range cases.accepted {
				r := m.Start()
				for _, call := range calls {
					name, args := decode(t, call)
					if err := r.Step(name, args); err != nil {
						t.Errorf("%q: %s: %v", calls, call, err)
					}
				}
				if !r.Done() {
					t.Errorf("%q is not done, expected %q", calls, r.Expected())
				}
			}
			for _, calls := range cases.refused {
				r := m.Start()
				for i, call := range calls {
					name, args := decode(t, call)
					err := r.Step(name, args)
					if last := i == len(calls)-1; last != (err != nil) {
						t.Errorf("%q: %s: %v", calls, call, err)
					}
				}
			}
		})
	}
}

// Before its essential hypercall no command is done, after an abort only
// looking is allowed, and start may end what it launched.
func TestNativePrefixAndAbort(t *testing.T) {
	for command, before := range map[string][]string{
		"start": {launch, query}, "pause": {query}, "resume": {query}, "reset": {query}, "shutdown": {query}, "poweroff": {query},
	} {
		r := machine(t, command).Start()
		for _, call := range before {
			name, args := decode(t, call)
			if err := r.Step(name, args); err != nil {
				t.Fatal(err)
			}
		}
		if r.Done() {
			t.Errorf("%s: done after %q", command, before)
		}
		r.Abort()
		if err := r.Step(query, nil); err != nil || !r.Done() || !r.Aborted() {
			t.Errorf("%s: after an abort: %v", command, err)
		}
		for _, name := range []string{"stop", "cont", "system_reset", "system_powerdown", "uvbond-launch", "screendump"} {
			if r.Step(name, nil) == nil {
				t.Errorf("%s: %s accepted after an abort", command, name)
			}
		}
		if err := r.Step("quit", nil); (err == nil) != (command == "start") {
			t.Errorf("%s: quit after an abort: %v", command, err)
		}
	}
}

func TestNativeFilesAreListed(t *testing.T) {
	files, err := fs.Glob(texts, "native/*")
	if err != nil || len(files) != len(native)+len(channels) {
		t.Fatalf("%d files, %d commands, %d channels, %v", len(files), len(native), len(channels), err)
	}
	if _, err := Native("../automata.go"); err == nil {
		t.Error("a path was taken for a command")
	}
}

func TestPolicy(t *testing.T) {
	text, err := Policy("pause", "status", "pause")
	if err != nil {
		t.Fatal(err)
	}
	if names, err := Describe(text); err != nil || !slices.Equal(names, []string{"status", "pause"}) {
		t.Fatalf("%q, %v", names, err)
	}
	f, err := automaton.Parse("policy", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	m, err := f.CompilePolicy()
	if err != nil {
		t.Fatal(err)
	}
	r := m.Start()
	for range 3 {
		for _, name := range []string{"stop", query, "stop"} {
			if err := r.Step(name, nil); err != nil || !r.Done() {
				t.Fatalf("%s: %v, done %v", name, err, r.Done())
			}
		}
		for _, name := range []string{"cont", "quit", "screendump", "uvbond-delete"} {
			if r.Step(name, nil) == nil {
				t.Errorf("the policy allows %s", name)
			}
		}
	}
	if all, err := Policy(PolicyNames()...); err != nil {
		t.Error(err)
	} else if names, err := Describe(all); err != nil || !slices.Equal(names, PolicyNames()) {
		t.Errorf("%q, %v", names, err)
	}
}

func TestEmptyPolicyAllowsNothing(t *testing.T) {
	text, err := Policy()
	if err != nil || text != "" {
		t.Fatalf("%q, %v", text, err)
	}
	f, err := automaton.Parse("policy", nil)
	if err != nil {
		t.Fatal(err)
	}
	m, err := f.CompilePolicy()
	if err != nil || m.Start().Step(query, nil) == nil || len(m.Commands()) != 0 {
		t.Fatalf("the empty policy allows %v (%v)", m.Commands(), err)
	}
}

// TestUndelegate: what a ticket says of one delegation lets no other pass.
func TestUndelegate(t *testing.T) {
	id, other := strings.Repeat("0a", 32), strings.Repeat("0b", 32)
	whole := machine(t, "undelegate")
	for text, want := range map[string][2]string{
		Undelegate(id, 0):  {`uvbond-revoke {"delegation":"` + id + `"}`, `uvbond-revoke {"delegation":"` + other + `"}`},
		Undelegate("", 77): {`uvbond-revoke {"issued-until":77}`, `uvbond-revoke {"issued-until":78}`},
	} {
		f, err := automaton.Parse("t", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		m, err := f.Compile("undelegate")
		if err != nil {
			t.Fatal(err)
		}
		if d, err := automaton.Includes(whole, m); err != nil || d != nil {
			t.Errorf("%s is no part of the shipped one: %v, %v", text, d, err)
		}
		for i, call := range want {
			name, args := decode(t, call)
			if err := m.Start().Step(name, args); (err == nil) != (i == 0) {
				t.Errorf("%s: %v", call, err)
			}
		}
	}
}

func TestPolicyRefuses(t *testing.T) {
	for _, name := range []string{"start", "log", "audit", "allow", "undelegate", "delete", "nonsense", ""} {
		if text, err := Policy("status", name); err == nil || text != "" || !strings.Contains(err.Error(), `"`+name+`"`) {
			t.Errorf("%q in a policy: %v", name, err)
		}
	}
	if _, err := Describe("automaton x = "); err == nil {
		t.Error("a broken policy was described")
	}
}

// TestBuild: the text of a ticket accepts one disk.
func TestBuild(t *testing.T) {
	text, err := Build("root")
	if err != nil {
		t.Fatal(err)
	}
	f, err := automaton.Parse("ticket", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	m, err := f.Compile("build")
	if err != nil {
		t.Fatal(err)
	}
	for call, want := range map[string]bool{`uvbond-build {"disk":"root"}`: true, `uvbond-build {"disk":"data"}`: false, `uvbond-build {"disk":"root","x":1}`: false,
		`uvbond-build {"disk":"root","place":{"storage":"ceph1","export":"web1"}}`: true, `uvbond-build {"disk":"data","place":{"storage":"ceph1","export":"web1"}}`: false} {
		name, args := decode(t, call)
		if err := m.Start().Step(name, args); (err == nil) != want {
			t.Errorf("%s: %v", call, err)
		}
	}
}

// TestGrow: the text of a ticket accepts one disk and one size.
func TestGrow(t *testing.T) {
	text, err := Grow("root", 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	f, err := automaton.Parse("ticket", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	m, err := f.Compile("grow")
	if err != nil {
		t.Fatal(err)
	}
	for call, want := range map[string]bool{
		`uvbond-grow {"disk":"root","size":1073741824}`: true, `uvbond-grow {"disk":"root","size":1073741825}`: false,
		`uvbond-grow {"disk":"data","size":1073741824}`: false, `uvbond-grow {"disk":"root","size":1073741824,"x":1}`: false,
	} {
		name, args := decode(t, call)
		if err := m.Start().Step(name, args); (err == nil) != want {
			t.Errorf("%s: %v", call, err)
		}
	}
}
