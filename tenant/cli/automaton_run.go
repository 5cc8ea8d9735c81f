package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/uvbond/uvbond/automaton"
	"github.com/uvbond/uvbond/tenant/fail"
)

const traceHelp = `TRACE holds JSON objects, one behind the other: QMP requests such as {"execute": "stop"},
or recorded lines {"dir": "out", "msg": {"execute": ...}} among answers and events.`

// traceView is what an automaton made of a trace.
type traceView struct {
	Automaton string     `json:"automaton"`
	Verdict   string     `json:"verdict"` // accepted, refused or incomplete
	Steps     []stepView `json:"steps"`
	MayEnd    bool       `json:"may_end"`
	Expected  []string   `json:"expected"` // what may follow
}

type stepView struct {
	automaton.Call
	OK         bool              `json:"ok"`
	Failed     bool              `json:"failed,omitempty"` // accepted, and recorded with an error as its answer
	AfterAbort bool              `json:"after_abort,omitempty"`
	From       []int             `json:"from"`
	To         []int             `json:"to"`
	Kept       map[string]string `json:"kept,omitempty"`   // captures
	Reason     string            `json:"reason,omitempty"` // of a refusal
}

func (a *app) automatonRun() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "run FILE TRACE", Short: "Follow a trace of hypercalls through an automaton",
		Long: `Shows each hypercall's verdict and the states around it, as at the gate: the first refusal
ends the sequence, and so does the first that was recorded with an error as its answer; the
rest is held against what may follow an abort. The exit code is 3 when a hypercall is refused, or when the session may not end behind the last one.

` + traceHelp + "\n\n" + refHelp,
		Example: `  uvbond automaton run native/pause session.jsonl
  uvbond automaton run web1.uva session.jsonl --name backup`,
		Args:              exactly(2),
		ValidArgsFunction: a.automatonNames(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := oneInput(args...); err != nil {
				return err
			}
			m, err := a.named(c.Context(), args[0], name)
			if err != nil {
				return err
			}
			calls, err := a.readTrace(c.Context(), args[1])
			if err != nil {
				return err
			}
			t, err := follow(m, calls)
			if err != nil {
				return err
			}
			v, failed := traceJSON(t)
			if err := a.print(v, func(w io.Writer) { fmt.Fprint(w, t) }); err != nil {
				return err
			}
			return failed
		},
	}
	nameFlag(c, &name)
	return c
}

// nameFlag adds the other way to write FILE#NAME.
func nameFlag(c *cobra.Command, to *string) {
	c.Flags().StringVar(to, "name", "", "automaton of FILE, as FILE#NAME")
}

// named compiles FILE, FILE#NAME or FILE with --name.
func (a *app) named(ctx context.Context, ref, name string) (*automaton.Machine, error) {
	t, err := a.openText(ctx, ref)
	if err != nil {
		return nil, err
	}
	if name != "" {
		if t.pick != "" && t.pick != name {
			return nil, fail.New(fail.Usage, "give one of them", "%s and --name %s name two automata", ref, name)
		}
		t.pick = name
	}
	return t.machine()
}

func (a *app) readTrace(ctx context.Context, path string) ([]automaton.Call, error) {
	data, err := a.readLimited(ctx, path, maxTraceBytes, "a trace")
	if err != nil {
		return nil, err
	}
	rec, err := automaton.ReadRecording(bytes.NewReader(data))
	if err != nil {
		return nil, fail.Wrap(err, fail.Other, `one JSON object a line, such as {"execute": "query-status"}`, "%s", path)
	}
	if n := rec.Elided(); n > 0 {
		a.note("note: %s leaves out %s, which are held against nothing", path, counted(n, "hypercall"))
	}
	return slices.DeleteFunc(rec.Calls, func(c automaton.Call) bool { return c.Elided > 0 }), nil
}

// follow keeps the memory of a trace within bounds: each step holds the states
// before and after it, and where there are captures it can be in all at once.
func follow(m *automaton.Machine, calls []automaton.Call) (*automaton.Trace, error) {
	const most = 1 << 24
	if !m.Deterministic() && len(calls)*m.States() > most {
		return nil, fail.New(fail.Other, "cut the trace into shorter ones", "%s has %s, and %d hypercalls are too many to follow through all of them",
			m.Name(), counted(m.States(), "state"), len(calls))
	}
	return m.Trace(calls), nil
}

// traceJSON also returns the error of a trace that was not accepted to its end.
func traceJSON(t *automaton.Trace) (*traceView, error) {
	v := &traceView{Automaton: t.Automaton, Verdict: "accepted", Steps: []stepView{}, MayEnd: t.Done, Expected: append([]string{}, t.Expected...)}
	var failed error
	for i := range t.Steps {
		s := &t.Steps[i]
		step := stepView{Call: s.Call, OK: s.Refusal == nil, Failed: s.Failed, AfterAbort: s.Aborted, From: s.From, To: s.To, Kept: s.Kept}
		if s.Refusal != nil {
			step.Reason = s.Refusal.Error()
			if failed == nil {
				v.Verdict = "refused"
				failed = fail.New(fail.Refused, "", "%s refuses hypercall %d: %s", t.Automaton, i+1, step.Reason)
			}
		}
		v.Steps = append(v.Steps, step)
	}
	if failed == nil && !t.Done {
		v.Verdict = "incomplete"
		failed = fail.New(fail.Refused, "", "%s may not end behind the last hypercall", t.Automaton)
	}
	return v, failed
}
