package cli

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/uvbond/uvbond/automaton"
)

// TestGateCommands holds what `automaton check` knows of the gate to the
// allow-list in docs/gate.md, which the gate's own test holds to its table.
func TestGateCommands(t *testing.T) {
	data, err := os.ReadFile("../../docs/gate.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(data), "| command | needs | changes | instance | why |\n")
	if !ok {
		t.Fatal("docs/gate.md has no allow-list")
	}
	rows, _, _ := strings.Cut(rest, "\n\n")
	n := 0
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([^|]+) \\|").FindAllStringSubmatch(rows, -1) {
		n++
		session := m[2] != "–"
		if gateTakes[m[1]] != session || gateOwn[m[1]] == session {
			t.Errorf("%s: docs/gate.md says that a session needs %q for it; mend gateTakes and gateOwn", m[1], m[2])
		}
	}
	if have := len(gateTakes) + len(gateOwn); n == 0 || n != have {
		t.Errorf("docs/gate.md lists %d hypercalls, automaton check knows %d", n, have)
	}
}

// TestAutomatonDocs runs the commands that docs/automata.md shows. A block of
// the language "console" holds prompts with their output; `$ cat FILE` shows a
// file that the commands after it use.
func TestAutomatonDocs(t *testing.T) {
	data, err := os.ReadFile("../../docs/automata.md")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	n := 0
	for _, block := range regexp.MustCompile("(?s)```console\n(.*?)```").FindAllStringSubmatch(string(data), -1) {
		for part := range strings.SplitSeq("\n"+block[1], "\n$ ") {
			line, want, _ := strings.Cut(part, "\n")
			want = strings.TrimSuffix(want, "\n")
			words := strings.Fields(line)
			switch {
			case len(words) == 0:
			case words[0] == "cat":
				if err := os.WriteFile(words[1], []byte(want+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			case words[0] == "uvbond":
				n++
				if have := output(t, words[1:]); have != want {
					t.Errorf("docs/automata.md shows for %q\n%s\nbut it prints\n%s", line, want, have)
				}
			default:
				t.Errorf("docs/automata.md: what is %q?", line)
			}
		}
	}
	if n < 8 {
		t.Fatalf("found %d commands only", n)
	}
}

// output runs uvbond and returns all that it printed.
func output(t *testing.T, args []string) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	run(t.Context(), args, os.Stdin, f, f)
	data, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(string(data), "\n")
}

// TestReadInterrupted: Ctrl-C ends the wait for input that does not come.
func TestReadInterrupted(t *testing.T) {
	in, hold, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer hold.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := (&app{in: in}).readLimited(ctx, "-", automaton.MaxText, "a text"); err == nil {
		t.Fatal("nothing was read, and that is no error")
	}
}

// TestTextAtLimit: the largest text is taken, one byte more is not.
func TestTextAtLimit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "large.uva")
	text := "automaton a = stop ;\n"
	text += "#" + strings.Repeat(" ", automaton.MaxText-len(text)-1)
	for _, c := range []struct {
		text string
		ok   bool
	}{{text, true}, {text + " ", false}} {
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		text, err := (&app{}).openText(t.Context(), path)
		if err == nil {
			_, err = text.machine()
		}
		if (err == nil) != c.ok {
			t.Errorf("%d bytes: %v", len(c.text), err)
		}
	}
}

// TestOpenTraces: a trace through an automaton with captures, which may be in
// all states at once, is followed and drawn within bounds or refused.
func TestOpenTraces(t *testing.T) {
	f, err := automaton.Parse("t", []byte("automaton t = b{ x: $x }? (a?){1000} a* ;"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := f.Compile("t")
	if err != nil {
		t.Fatal(err)
	}
	calls := make([]automaton.Call, 1<<16)
	for i := range calls {
		calls[i].Command = "a"
	}
	if _, err := follow(m, calls); err == nil {
		t.Error("a trace of 65536 steps through all states was followed")
	}
	for _, steps := range []int{3, 200} {
		trace, err := follow(m, calls[:steps])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := highlight(trace); err == nil {
			t.Errorf("all ways of %d steps were marked", steps)
		}
	}
	// However often a loop is passed, it is one way.
	if f, err = automaton.Parse("t", []byte("automaton t = a* ;")); err != nil {
		t.Fatal(err)
	}
	if m, err = f.Compile("t"); err != nil {
		t.Fatal(err)
	}
	trace, err := follow(m, calls)
	if err != nil {
		t.Fatal(err)
	}
	if h, err := highlight(trace); err != nil || len(h.Passed) != 1 {
		t.Errorf("a loop: %v", err)
	}
}
