package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/uvbond/uvbond/automata"
)

func TestMain(m *testing.M) {
	if code, ok := role(os.Args); ok {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// TestSample tries a sample of each kind of attack: nothing may be wrong.
func TestSample(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: the domains are kept apart by their uids")
	}
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin, "github.com/uvbond/uvbond/cmd/...")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	var out, errs bytes.Buffer
	code := run([]string{"-sample", "-json", "-bin", bin}, &out, &errs)
	var r report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("exit %d: %v\n%s", code, err, &errs)
	}
	for _, x := range r.Results {
		t.Logf("%-14s %5d attempts, %d wrong, %.1f s", x.Kind, x.Attempts, x.Wrong, x.Seconds)
		if x.Wrong > 0 {
			t.Errorf("%s: %s", x.Kind, strings.Join(x.Findings, "\n"))
		}
		if x.Attempts == 0 || x.Refused == 0 {
			t.Errorf("%s: nothing was refused", x.Kind)
		}
	}
	if code != 0 || len(r.Results) != len(kinds) {
		t.Errorf("exit %d, %d of %d kinds\n%s", code, len(r.Results), len(kinds), &errs)
	}
}

// TestFloor holds what the suite expects against docs/gate.md.
func TestFloor(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "gate.md"))
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("(?m)^\\| `([a-z_-]+)` \\| (–|ticket|boot ticket|policy) \\| (yes)? ?\\| (yes)? ?\\|")
	seen := map[string]bool{}
	for _, m := range row.FindAllStringSubmatch(string(text), -1) {
		f, ok := floors[m[1]]
		seen[m[1]] = true
		if !ok || f.needs != m[2] || f.changes != (m[3] != "") || f.instance != (m[4] != "") {
			t.Errorf("docs/gate.md: %q, here %+v", m[0], f)
		}
	}
	for name := range floors {
		if !seen[name] {
			t.Errorf("docs/gate.md lists no %s", name)
		}
	}
}

// TestOracle: the oracle understands every shipped automaton, and agrees with the
// engine on the walks through it and on their changes.
func TestOracle(t *testing.T) {
	accepted, refused := 0, 0
	for _, name := range automata.NativeNames() {
		f, _, text, err := shipped(automata.SetNative, name)
		if err != nil {
			t.Fatal(err)
		}
		w, err := newWalker(f, name, diskPlace, 64)
		if err != nil {
			t.Fatal(err)
		}
		words := w.words()
		if len(words) == 0 {
			t.Errorf("%s: no walk", name)
		}
		for _, word := range words {
			for _, m := range mutations(word, strangers(diskPlace)) {
				run, o := w.machine.Start(), text.start()
				for _, c := range m.calls {
					if !parses(c) {
						continue
					}
					err := run.Step(c.Command, c.Args)
					ok := o.step(c.Command, c.Args)
					if (err == nil) != ok {
						t.Fatalf("%s: %s: %s: %v, oracle %v", name, m, c, err, ok)
					}
					if ok {
						accepted++
						continue
					}
					refused++
					run.Abort()
					o.abort()
				}
				if run.Done() != o.done() {
					t.Fatalf("%s: %s: done %v, oracle %v", name, m, run.Done(), o.done())
				}
			}
		}
	}
	if accepted < 1000 || refused < 1000 {
		t.Errorf("%d accepted and %d refused steps do not test much", accepted, refused)
	}
}

// TestWrongIsSeen: a run in which something is wrong fails.
func TestWrongIsSeen(t *testing.T) {
	r := &report{screen: newScreen(&bytes.Buffer{})}
	x := &trial{report: r, result: &Result{Kind: "test"}}
	x.refused("one", "")
	x.refused("two", "it was accepted")
	x.accepted("three", "")
	x.amiss("log", "it is short")
	r.Results = []*Result{x.result}
	r.finish()
	if r.Attempts != 3 || r.Refused != 1 || r.Accepted != 1 || r.Wrong != 2 {
		t.Errorf("%+v", r)
	}
	var out bytes.Buffer
	r.table(&out)
	if !strings.Contains(out.String(), "WRONG") || !strings.Contains(out.String(), "it was accepted") {
		t.Error(out.String())
	}
	if differs(outcome{Class: "Denied"}, "") == "" || differs(outcome{}, "Denied") == "" || differs(outcome{Lost: "EOF"}, "") == "" || differs(outcome{Class: "Busy"}, "Busy|Denied") != "" {
		t.Error("answers are not told apart")
	}
	if _, err := choose("nonsense"); err == nil {
		t.Error("a kind that there is not is taken")
	}
	names := map[string]bool{}
	for _, k := range kinds {
		names[k.name] = true
	}
	if len(names) != len(kinds) || slices.ContainsFunc(kinds, func(k *kind) bool { return k.what == "" }) {
		t.Error("kinds without names of their own")
	}
}
