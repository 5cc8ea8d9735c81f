// Command report writes the part of docs/automata.md that tells, of every
// automaton for libvirt, how large it is, what it was learned from and what it
// accepts, and which of them cannot be told apart:
//
//	go run ./automata/cmd/report docs/automata.md
//
// A test holds the document to it.
package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/automata/traces"
	"github.com/uvbond/uvbond/automaton"
	"github.com/uvbond/uvbond/automaton/learn"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: report docs/automata.md")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

func run(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	report, err := write("automata/testdata/" + automata.SetLibvirt + ".jsonl.gz")
	if err != nil {
		return err
	}
	out, err := replace(string(text), report)
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(out), 0o644)
}

// Where the report stands in the document.
const (
	begin = "<!-- go run ./automata/cmd/report docs/automata.md -->\n"
	end   = "<!-- end of the report -->\n"
)

func replace(text, report string) (string, error) {
	before, rest, ok := strings.Cut(text, begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return "", errors.New("the document has no place for the report")
	}
	return before + begin + report + end + after, nil
}

// shipped is one automaton with what it was learned from.
type shipped struct {
	automata.Learned
	machine *automaton.Machine
}

func write(runsFile string) (string, error) {
	runs, err := traces.Load(runsFile)
	if err != nil {
		return "", err
	}
	var all []shipped
	for _, l := range automata.Libvirt {
		f, err := automata.Load(automata.SetLibvirt, l.Name)
		if err != nil {
			return "", err
		}
		m, err := f.Compile(l.Name)
		if err != nil {
			return "", err
		}
		if !l.Part {
			all = append(all, shipped{l, m})
		}
	}
	var b strings.Builder
	sizes(&b, all, runs)
	if err := overlaps(&b, all); err != nil {
		return "", err
	}
	alike(&b, all, runs)
	shared(&b, all)
	return b.String(), nil
}

// sizes writes the table of automata.
func sizes(b *strings.Builder, all []shipped, runs []traces.Run) {
	b.WriteString("\n| automaton | states | transitions | predicates | learned from runs | held out | accepted |\n|---|---|---|---|---|---|---|\n")
	for _, a := range all {
		var from, held []entry
		accepted, of := 0, 0
		for _, command := range a.Commands {
			last := 0
			for _, r := range runs {
				if r.Command == command {
					last = max(last, slices.Max(r.Runs))
				}
			}
			for _, r := range runs {
				if r.Command != command {
					continue
				}
				ok := learn.Hold(a.machine, learn.Session{Name: command, Recording: r.Recording}).Accepted
				for _, n := range r.Runs {
					if n == last && last > 1 {
						of++
						if ok {
							accepted++
						}
					}
				}
			}
			numbers := "1"
			if last > 2 {
				numbers = fmt.Sprintf("1–%d", last-1)
			}
			from = append(from, entry{command, numbers})
			if last > 1 {
				held = append(held, entry{command, fmt.Sprint(last)})
			}
		}
		fmt.Fprintf(b, "| %s | %d | %d | %d | %s | %s | %d of %d |\n", a.Name, a.machine.States(), a.machine.Transitions(),
			a.machine.Predicates(), squeeze(from), squeeze(held), accepted, of)
	}
}

// entry is a recorded command and the numbers of its runs.
type entry struct{ command, numbers string }

// squeeze names commands with the same numbers together.
func squeeze(list []entry) string {
	groups, order := map[string][]string{}, []string{}
	for _, e := range list {
		if groups[e.numbers] == nil {
			order = append(order, e.numbers)
		}
		groups[e.numbers] = append(groups[e.numbers], e.command)
	}
	var out []string
	for _, numbers := range order {
		out = append(out, strings.Join(groups[numbers], ", ")+": "+numbers)
	}
	if len(out) == 0 {
		return "–"
	}
	return strings.Join(out, "; ")
}

// overlaps writes the pairs that share a session, or of which one's session may
// be the beginning of the other's.
func overlaps(b *strings.Builder, all []shipped) error {
	b.WriteString("\nPairs that overlap. Every pair was compared with `Common` and `Begins`; those that are not here share no session, and none's session begins another's.\n\n" +
		"| pair | how | such as | what it means |\n|---|---|---|---|\n")
	known := map[string]bool{}
	for i, x := range all {
		for j, y := range all {
			if i == j {
				continue
			}
			how := "every session"
			if i < j {
				calls, found, err := automaton.Common(x.machine, y.machine)
				if err != nil {
					return fmt.Errorf("%s and %s: %w", x.Name, y.Name, err)
				}
				if found {
					if d, err := automaton.Includes(y.machine, x.machine); err != nil || d != nil {
						how = "some session"
					}
					if err := row(b, known, x.Name+", "+y.Name, how+" of both", calls); err != nil {
						return err
					}
					continue
				}
			}
			calls, found, err := automaton.Begins(x.machine, y.machine)
			if err != nil {
				return fmt.Errorf("%s and %s: %w", x.Name, y.Name, err)
			}
			if found && !known[y.Name+", "+x.Name] {
				if _, both, _ := automaton.Common(x.machine, y.machine); both {
					continue
				}
				if err := row(b, known, x.Name+", "+y.Name, "a session of the first begins one of the second", calls); err != nil {
					return err
				}
			}
		}
	}
	for pair := range meanings {
		if !known[pair] {
			return fmt.Errorf("the pair %q is explained, and does not overlap", pair)
		}
	}
	return nil
}

func row(b *strings.Builder, known map[string]bool, pair, how string, calls []automaton.Call) error {
	known[pair] = true
	meaning, ok := meanings[pair]
	if !ok {
		return fmt.Errorf("%s overlap (%s): say what it means in meanings.go", pair, how)
	}
	fmt.Fprintf(b, "| %s | %s | %s | %s |\n", pair, how, example(calls), meaning)
	return nil
}

// example names the hypercalls of a session, a repetition once.
func example(calls []automaton.Call) string {
	if len(calls) == 0 {
		return "no hypercall"
	}
	var words []string
	for i, c := range calls {
		if i == 0 || calls[i-1].Command != c.Command {
			words = append(words, "`"+c.Command+"`")
		}
	}
	if len(words) > 7 {
		words = append(append(words[:3:3], "…"), words[len(words)-3:]...)
	}
	return strings.Join(words, " ")
}

// alike writes which recorded commands an automaton accepts beside its own.
func alike(b *strings.Builder, all []shipped, runs []traces.Run) {
	b.WriteString("\nRecorded sessions of commands that have no automaton, or another one, which an automaton accepts all the same because QEMU sees no difference:\n\n" +
		"| automaton | accepts sessions of |\n|---|---|\n")
	for _, a := range all {
		var others []string
		for _, r := range runs {
			if slices.Contains(a.Commands, r.Command) || slices.Contains(others, r.Command) {
				continue
			}
			if learn.Hold(a.machine, learn.Session{Name: r.Command, Recording: r.Recording}).Accepted {
				others = append(others, r.Command)
			}
		}
		if len(others) > 0 {
			fmt.Fprintf(b, "| %s | %s |\n", a.Name, strings.Join(others, ", "))
		}
	}
}

// shared writes the hypercalls that change something and stand in several automata.
func shared(b *strings.Builder, all []shipped) {
	b.WriteString("\nHypercalls that change something and that several automata let through, with arguments that some of them have in common. " +
		"Until a later one tells them apart, a session with one of them may be any of these:\n\n| hypercall | automata |\n|---|---|\n")
	senders := map[string][]string{}
	for i, x := range all {
		for _, y := range all[i+1:] {
			calls, err := automaton.Shared(x.machine, y.machine)
			if err != nil {
				continue
			}
			for _, c := range calls {
				if asks(c.Command) {
					continue
				}
				for _, name := range []string{x.Name, y.Name} {
					if !slices.Contains(senders[c.Command], name) {
						senders[c.Command] = append(senders[c.Command], name)
					}
				}
			}
		}
	}
	names := make([]string, 0, len(senders))
	for name := range senders {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(b, "| `%s` | %s |\n", name, strings.Join(senders[name], ", "))
	}
	b.WriteString("\n")
}

// asks tells that a hypercall changes nothing.
func asks(name string) bool {
	return strings.HasPrefix(name, "query-") || name == "qom-list" || name == "qom-get" || name == "qmp_capabilities"
}
