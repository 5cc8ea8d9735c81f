package gate

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/uvbond/uvbond/qmp"
)

func readDocs(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../docs/gate.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestAllowListInDocs: docs/gate.md shows the allow-list as it is, no more and no less.
func TestAllowListInDocs(t *testing.T) {
	text := readDocs(t)
	_, rest, ok := strings.Cut(text, "| command | needs | changes | instance | why |\n")
	if !ok {
		t.Fatal("docs/gate.md has no allow-list table")
	}
	body, _, _ := strings.Cut(rest, "\n\n")
	row := regexp.MustCompile("(?m)^\\| `([^`]+)` \\|.*$")
	shown := map[string]string{}
	for _, m := range row.FindAllStringSubmatch(body, -1) {
		shown[m[1]] = m[0]
	}
	if len(shown) == 0 {
		t.Fatal("docs/gate.md has an allow-list table without rows")
	}
	for command, e := range table {
		if e.verdict == never {
			continue
		}
		if want := docsRow(command, e); shown[command] != want {
			t.Errorf("docs/gate.md, allow-list: have %q, want %q", shown[command], want)
		}
		delete(shown, command)
	}
	for command := range shown {
		t.Errorf("docs/gate.md lists %s, which has no entry in the allow-list", command)
	}
}

func docsRow(command string, e entry) string {
	needs := map[verdict]string{outside: "–", byTicket: "ticket", byPolicy: "policy"}[e.verdict]
	if e.boot {
		needs = "boot " + needs
	}
	cell := func(b bool) string {
		if b {
			return " yes "
		}
		return " "
	}
	return fmt.Sprintf("| `%s` | %s |%s|%s| %s |", command, needs, cell(e.changes), cell(e.instance), e.why)
}

// TestNeverInDocs: docs/gate.md shows what never passes, with the reasons, and
// which events do, as the code has it.
func TestNeverInDocs(t *testing.T) {
	text := readDocs(t)
	list := func(names string) string { return "`" + strings.Join(strings.Fields(names), "`, `") + "`" }
	var nevers, stays, passes []string
	for _, r := range refusals {
		nevers = append(nevers, fmt.Sprintf("| %s | %s |", r.why, list(r.commands)))
	}
	for _, k := range kept {
		stays = append(stays, fmt.Sprintf("| %s | %s |", k.why, list(k.events)))
	}
	for name, n := range notices {
		data := "–"
		for i, m := range n.data.typ.Members {
			if i == 0 {
				data = "`" + m.Name + "`"
				continue
			}
			data += ", `" + m.Name + "`"
		}
		passes = append(passes, fmt.Sprintf("| `%s` | %s | %s |", name, data, n.why))
	}
	for head, want := range map[string][]string{"| why it never passes | commands |\n": nevers, "| why it stays | events |\n": stays, "| event | data | why |\n": passes} {
		_, rest, _ := strings.Cut(text, head)
		body, _, _ := strings.Cut(rest, "\n\n")
		_, body, _ = strings.Cut(body, "\n") // the line of dashes
		have := strings.Split(strings.TrimSuffix(body, "\n"), "\n")
		slices.Sort(want)
		slices.Sort(have)
		if !slices.Equal(have, want) {
			t.Errorf("docs/gate.md, %s have\n%s\nwant\n%s", head, strings.Join(have, "\n"), strings.Join(want, "\n"))
		}
	}
}

// TestErrorClassesInDocs: every class that the gate answers with is explained.
func TestErrorClassesInDocs(t *testing.T) {
	text := readDocs(t)
	for _, class := range []string{
		qmp.ClassGeneric, qmp.ClassDeviceNotFound, qmp.ClassDenied, qmp.ClassRefused, qmp.ClassRedirected,
		qmp.ClassExpired, qmp.ClassReplayed, qmp.ClassStale, qmp.ClassRevoked, qmp.ClassBusy, qmp.ClassNotRunning, qmp.ClassRunning, qmp.ClassNotBuilt,
		qmp.ClassInvalid, qmp.ClassDowngrade, qmp.ClassUnavailable, qmp.ClassInternal,
	} {
		if !strings.Contains(text, "| `"+class+"` |") {
			t.Errorf("docs/gate.md does not explain the class %s", class)
		}
	}
}

// TestLimitsInDocs: the numbers in docs/gate.md are those of the code.
func TestLimitsInDocs(t *testing.T) {
	text := readDocs(t)
	for _, want := range []string{
		fmt.Sprintf("at most %d MiB", qmp.MaxLine>>20),
		fmt.Sprintf("at most %d file descriptors", qmp.MaxFiles),
		fmt.Sprintf("At most %d connections of one user", maxPerUID),
		fmt.Sprintf("closed after %.0f minutes of silence", idleTimeout.Minutes()),
		fmt.Sprintf("cut off after %.0f seconds", strangerTimeout.Seconds()),
		fmt.Sprintf("at most %d hypercalls", maxCalls),
		fmt.Sprintf("(%.0f minute without one)", defaultDeadline.Minutes()),
		fmt.Sprintf("at most %.0f minutes", maxDeadline.Minutes()),
		fmt.Sprintf("%.0f seconds later", abortGrace.Seconds()),
		fmt.Sprintf("(0 to %d s)", qmp.MaxOpenWait),
	} {
		if !strings.Contains(text, want) {
			t.Errorf("docs/gate.md does not say %q", want)
		}
	}
}
