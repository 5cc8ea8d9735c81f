package cli

import (
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/automaton"
	"github.com/uvbond/uvbond/policy"
)

// refHelp is how every command below is told which automaton is meant.
const refHelp = `An automaton is named by its file, or as one that ships with UVBond, such as
native/pause or libvirt-9.0-qemu-7.2/save. FILE#NAME selects one of several in a text, FILE#* stands for the whole
text as a policy: any of its automata, one after the other. "-" is standard input.
Imports are looked for as NAME.uva in the file's folder, then among the shipped ones.`

func (a *app) automatonCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "automaton", Short: "Write, check, compare and draw hypercall automata",
		Long: "An automaton says which hypercalls a management command may be. These commands need\nneither a host nor the state folder.\n\n" + refHelp,
	}
	group(c)
	c.AddCommand(a.automatonList(), a.automatonShow(), a.automatonFmt(), a.automatonCheck(), a.automatonEqual(),
		a.automatonIncludes(), a.automatonIntersect(), a.automatonRun(), a.automatonDraw(), a.automatonLearn(), a.automatonRecord())
	return c
}

// machineView is what is told of one compiled automaton.
type machineView struct {
	Name          string   `json:"name"`
	States        int      `json:"states"`
	Deterministic bool     `json:"deterministic"`
	DeadlineMS    int64    `json:"deadline_ms,omitempty"`
	Commands      []string `json:"commands"`
}

func machineJSON(m *automaton.Machine) machineView {
	v := machineView{m.Name(), m.States(), m.Deterministic(), m.Deadline().Milliseconds(), m.Commands()}
	if v.Commands == nil {
		v.Commands = []string{}
	}
	return v
}

// deadlineText writes a time as the language does.
func deadlineText(d time.Duration) string {
	switch {
	case d == 0:
		return "none"
	case d%time.Hour == 0:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d%time.Minute == 0:
		return fmt.Sprintf("%dmin", d/time.Minute)
	case d%time.Second == 0:
		return fmt.Sprintf("%ds", d/time.Second)
	}
	return fmt.Sprintf("%dms", d.Milliseconds())
}

func (a *app) automatonList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the automata that ship with UVBond", Aliases: []string{"ls"},
		Long:    "POLICY tells whether an owner's policy may hold the automaton, so that operators need no\nticket for it (see: uvbond vm allow).",
		Example: "  uvbond automaton list",
		Args:    exactly(0),
		RunE: func(c *cobra.Command, _ []string) error {
			type view struct {
				machineView
				Policy bool `json:"policy"`
			}
			views, rows := []view{}, [][]string{}
			policy := map[string]bool{}
			for _, name := range automata.PolicyNames() {
				policy[name] = true
			}
			for _, set := range automata.Sets() {
				for _, name := range automata.Names(set) {
					t, err := a.openText(c.Context(), set+"/"+name)
					if err != nil {
						return err
					}
					m, err := t.machine()
					if err != nil {
						return err
					}
					v := view{machineJSON(m), policy[name] && set == automata.SetNative}
					v.Name = t.label
					views = append(views, v)
					may := "no"
					if v.Policy {
						may = "yes"
					}
					rows = append(rows, []string{v.Name, fmt.Sprint(v.States), deadlineText(m.Deadline()), may, strings.Join(v.Commands, " ")})
				}
			}
			return a.print(views, func(w io.Writer) {
				table(w, []string{"NAME", "STATES", "DEADLINE", "POLICY", "HYPERCALLS"}, rows)
			})
		},
	}
}

func (a *app) automatonShow() *cobra.Command {
	var canonical bool
	c := &cobra.Command{
		Use: "show NAME|FILE", Short: "Show the text of an automaton",
		Long: `Shows a shipped automaton, or a file. The canonical text is the one that a hash is made
of: without comments, in one layout, imports written out as parts. Rules of a policy are
shown too; the hash is of the automata.`,
		Example:           "  uvbond automaton show native/pause\n  uvbond automaton show web1.uva --canonical",
		Args:              exactly(1),
		ValidArgsFunction: a.automatonNames(1),
		RunE: func(c *cobra.Command, args []string) error {
			t, err := a.openText(c.Context(), args[0])
			if err != nil {
				return err
			}
			f, err := t.parse()
			if err != nil {
				return err
			}
			hash, whole := f.Hash(), policy.Compose(t.rules(), f.String())
			view := map[string]any{
				"name": t.label, "automata": append([]string{}, f.Names()...), "hash": hex.EncodeToString(hash[:]),
				"text": string(t.text), "canonical": whole,
			}
			return a.print(view, func(w io.Writer) {
				if canonical {
					fmt.Fprint(w, whole)
					return
				}
				fmt.Fprint(w, string(t.text))
			})
		},
	}
	c.Flags().BoolVar(&canonical, "canonical", false, "the canonical text")
	return c
}
