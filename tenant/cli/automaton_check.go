package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/uvbond/uvbond/automaton"
	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/qmp/schema"
	"github.com/uvbond/uvbond/qmp/schema/recorded"
	"github.com/uvbond/uvbond/tenant/fail"
)

// gateTakes are the hypercalls on the gate's allow-list that a session may hold.
// The list itself is the hypervisor's; docs/gate.md shows it, and a test holds
// this one to it.
var gateTakes = map[string]bool{
	qmp.CmdQueryStatus: true, qmp.CmdStop: true, qmp.CmdCont: true, qmp.CmdSystemReset: true, qmp.CmdSystemPowerdown: true, qmp.CmdQuit: true,
	qmp.CmdLaunch: true, qmp.CmdReadConsole: true, qmp.CmdReadAudit: true, qmp.CmdSetPolicy: true, qmp.CmdRevoke: true, qmp.CmdGrow: true, qmp.CmdBuild: true, qmp.CmdChannel: true, qmp.CmdDelete: true,
}

// gateOwn are the gate's hypercalls that stand outside of sessions.
var gateOwn = map[string]bool{
	qmp.CmdCapabilities: true, qmp.CmdQueryHost: true, qmp.CmdRegister: true, qmp.CmdQueryVMs: true,
	qmp.CmdAttach: true, qmp.CmdQueryDisks: true, qmp.CmdSetLimits: true, qmp.CmdOpen: true, qmp.CmdClose: true,
}

func gateKnows(command string) error {
	switch {
	case gateTakes[command]:
		return nil
	case gateOwn[command]:
		return errors.New("it is for the gate itself, and no part of a session")
	}
	return errors.New("it is not on the gate's allow-list, so the gate denies it whatever a ticket says")
}

// checked is what was found in one text.
type checked struct {
	File     string        `json:"file"`
	OK       bool          `json:"ok"`
	Automata []machineView `json:"automata"`
	Findings []findingView `json:"findings"`
	Notes    []string      `json:"notes,omitempty"`
}

type findingView struct {
	Text string `json:"text"`
	Line int    `json:"line,omitempty"`
	Col  int    `json:"col,omitempty"`
	Hint string `json:"hint,omitempty"`
	full string // with the line and a caret
}

func (a *app) automatonCheck() *cobra.Command {
	var policy, version string
	var anyCommand bool
	c := &cobra.Command{
		Use: "check FILE...", Short: "Find what is wrong with texts of automata",
		Long: `Checks the syntax and looks for parts that nothing uses, hypercalls that the gate denies,
arguments that nothing can satisfy, and points from which no end can be reached. The exit
code is 1 when something was found. Commands, arguments and values are held against QEMU's
schema, as it was recorded, and the gate's own commands.

With --policy it also tells what a session could send by that policy just as well as by a
ticket with the automaton. That is no fault, but a receipt of it proves less.

` + refHelp,
		Example: `  uvbond automaton check web1.uva
  uvbond automaton check web1.uva --policy policy.uva
  uvbond automaton check libvirt.uva --any-command`,
		Args:              atLeastOne,
		ValidArgsFunction: a.automatonNames(0),
		RunE: func(c *cobra.Command, args []string) error {
			if err := oneInput(append(args[:len(args):len(args)], policy)...); err != nil {
				return err
			}
			known := gateKnows
			if anyCommand {
				known = nil
			}
			return a.runCheck(c.Context(), args, checkOptions{policy, version, known})
		},
	}
	c.Flags().StringVar(&policy, "policy", "", "policy to compare with")
	c.Flags().StringVar(&version, "qemu", "", "version of QEMU whose schema counts, or none (default: the newest that is recorded)")
	_ = c.RegisterFlagCompletionFunc("qemu", func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return append(recorded.Versions(), "none"), cobra.ShellCompDirectiveNoFileComp
	})
	c.Flags().BoolVar(&anyCommand, "any-command", false, "do not hold hypercalls against the gate's allow-list")
	complete := a.automatonNames(0)
	_ = c.RegisterFlagCompletionFunc("policy", complete)
	return c
}

// checkOptions is what texts are held against.
type checkOptions struct {
	policy, qemu string
	known        func(string) error // nil: any command
}

func (a *app) runCheck(ctx context.Context, refs []string, o checkOptions) error {
	qemu, err := schemaOf(o.qemu)
	if err != nil {
		return err
	}
	var whole *automaton.Machine
	if o.policy != "" {
		t, err := a.openText(ctx, o.policy)
		if err != nil {
			return err
		}
		if t.pick == "" {
			t.pick = wholeText
		}
		if whole, err = t.machine(); err != nil {
			return err
		}
	}
	list, bad := []checked{}, 0
	for _, ref := range refs {
		t, err := a.openText(ctx, ref)
		if err != nil {
			return err
		}
		v := t.check(o.known, qemu, whole)
		if !v.OK {
			bad++
		}
		list = append(list, v)
	}
	err = a.print(list, func(w io.Writer) {
		for _, v := range list {
			v.write(w)
		}
	})
	if err == nil && bad > 0 {
		verb := "needs"
		if bad > 1 {
			verb = "need"
		}
		return fail.New(fail.Other, "", "%s of %d %s attention", counted(bad, "text"), len(refs), verb)
	}
	return err
}

func (t *automatonText) check(known func(string) error, qemu *schema.Schema, policy *automaton.Machine) checked {
	v := checked{File: t.label, Automata: []machineView{}, Findings: []findingView{}}
	f, err := t.parse()
	var s *automaton.SyntaxError
	switch {
	case errors.As(err, &s):
		hint := fail.HintOf(err)
		v.Findings = append(v.Findings, findingView{s.Msg, s.Line, s.Col, hint, err.Error()})
		return v
	case err != nil:
		v.Findings = append(v.Findings, findingView{Text: strings.TrimPrefix(err.Error(), t.label+": ")})
		return v
	}
	for _, text := range f.Check(known) {
		v.Findings = append(v.Findings, findingView{Text: text})
	}
	v.Findings = append(v.Findings, againstSchema(f, qemu)...)
	if err := t.checkRules(f); err != nil {
		v.Findings = append(v.Findings, findingView{Text: err.Error()})
	}
	if len(f.Names()) == 0 {
		v.Notes = append(v.Notes, "there is no automaton in it: as a policy it allows nothing")
	}
	for _, name := range f.Names() {
		m, err := f.Compile(name)
		if err != nil {
			continue // Check found it
		}
		v.Automata = append(v.Automata, machineJSON(m))
		if policy != nil {
			v.Notes = append(v.Notes, againstPolicy(m, policy)...)
		}
	}
	v.OK = len(v.Findings) == 0
	return v
}

// maxSchemaFindings bounds what is said of one text.
const maxSchemaFindings = 64

// againstSchema finds hypercalls that can never be sent: commands, arguments and
// values that neither QEMU nor the gate has.
func againstSchema(f *automaton.File, qemu *schema.Schema) []findingView {
	var found []findingView
	if qemu == nil {
		return nil
	}
	known := map[string]bool{}
	say := func(h automaton.Hypercall, text string) {
		// An unknown name is the whole sentence's last half: what was meant.
		text, hint, meant := strings.Cut(text, "; did you mean ")
		if meant {
			hint = "did you mean " + hint
		}
		s := h.Fault(text, hint)
		shown := *s
		shown.Hint = ""
		view := findingView{Text: s.Msg, Line: s.Line, Col: s.Col, Hint: hint, full: shown.Error()}
		if !known[view.full] && len(found) < maxSchemaFindings {
			known[view.full] = true
			found = append(found, view)
		}
	}
	for _, h := range f.Hypercalls() {
		c, err := qemu.Command(h.Name)
		if err != nil {
			say(h, "hypercall `"+h.Name+"`: "+err.Error())
			continue
		}
		for _, problem := range schema.Problems(c.Name, c.Arguments, h.Arguments) {
			say(h, problem)
		}
	}
	return found
}

// schemaOf returns the schema of a version of QEMU with the gate's own commands,
// or nil for "none".
func schemaOf(version string) (*schema.Schema, error) {
	if version == "none" {
		return nil, nil
	}
	versions := recorded.Versions()
	if version == "" {
		version = versions[len(versions)-1]
	}
	s, err := recorded.Schema(version)
	if err != nil {
		return nil, fail.Wrap(err, fail.Usage, "recorded: "+strings.Join(versions, ", ")+"; or none", "no schema of QEMU %s", version)
	}
	return s.WithGate(), nil
}

// againstPolicy tells what a session may send by either right.
func againstPolicy(m, policy *automaton.Machine) []string {
	name := "automaton `" + m.Name() + "`: "
	d, err := automaton.Includes(policy, m)
	if err != nil {
		return []string{name + err.Error()}
	}
	if d == nil {
		return []string{name + "the policy allows all of it without a ticket"}
	}
	calls, err := automaton.Shared(m, policy)
	if err != nil {
		return []string{name + err.Error()}
	}
	if len(calls) == 0 {
		return []string{name + "the policy allows nothing of it"}
	}
	var words []string
	for _, c := range calls {
		words = append(words, "`"+c.String()+"`")
	}
	return []string{name + "the policy allows some of it too: " + strings.Join(words, ", ")}
}

func (v *checked) write(w io.Writer) {
	for _, f := range v.Findings {
		if f.full == "" {
			fmt.Fprintf(w, "%s: %s\n", v.File, f.Text)
			continue
		}
		fmt.Fprintln(w, f.full)
		if f.Hint != "" {
			fmt.Fprintf(w, "    hint: %s\n", f.Hint)
		}
	}
	if v.OK {
		var words []string
		for _, m := range v.Automata {
			words = append(words, fmt.Sprintf("%s (%s)", m.Name, counted(m.States, "state")))
		}
		fmt.Fprintf(w, "%s: nothing found: %s\n", v.File, strings.Join(words, ", "))
	}
	for _, n := range v.Notes {
		fmt.Fprintf(w, "%s: note: %s\n", v.File, n)
	}
}
