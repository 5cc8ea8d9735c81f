package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/uvbond/uvbond/automaton"
	"github.com/uvbond/uvbond/automaton/learn"
	"github.com/uvbond/uvbond/tenant/fail"
)

// learnedView is what was learned, and how it does on sessions that it was not
// learned from.
type learnedView struct {
	machineView
	Text     string       `json:"text"`
	Sessions []string     `json:"sessions"`
	Notes    []learn.Note `json:"generalised"`
	Holdout  holdoutView  `json:"holdout"`
	Others   *othersView  `json:"others,omitempty"`
}

type holdoutView struct {
	Method   string          `json:"method"` // files, leave-one-out or none
	Accepted int             `json:"accepted"`
	Of       int             `json:"of"`
	Sessions []learn.Verdict `json:"sessions"`
}

type othersView struct {
	Refused  int             `json:"refused"`
	Of       int             `json:"of"`
	Sessions []learn.Verdict `json:"sessions"`
}

func (a *app) automatonLearn() *cobra.Command {
	var name, out string
	var holdout, others []string
	c := &cobra.Command{
		Use: "learn TRACE...", Short: "Infer an automaton from recorded sessions of one command",
		Long: `Reads sessions of one management command, and prints an automaton that accepts them: what
was the same in all of them stays as it was, what differed becomes the narrowest predicate
that fits. Below it stands, as comments, what was generalised and why, and how many sessions
it accepts that it was not learned from: those of --holdout, or else each of the sessions in
turn, held against what is learned from the others. Read the text and narrow it before you
sign it.

The exit code is 3 when a session of --holdout is refused, or one of --others accepted.

` + traceHelp,
		Example: `  uvbond automaton learn save-1.jsonl save-2.jsonl save-3.jsonl
  uvbond automaton learn save-[12].jsonl --holdout save-3.jsonl --others dump-1.jsonl --others stop-1.jsonl
  uvbond automaton learn save-*.jsonl --name save --out save.uva`,
		Args: atLeastOne,
		RunE: func(c *cobra.Command, args []string) error {
			return a.runLearn(c.Context(), learnRequest{name, out, args, holdout, others})
		},
	}
	c.Flags().StringVar(&name, "name", "", "name of the automaton (default: the first file's, without what counts it)")
	c.Flags().StringVar(&out, "out", "", "write the automaton into this file")
	c.Flags().StringSliceVar(&holdout, "holdout", nil, "session to hold against what was learned, instead of each in turn (repeat or separate by commas)")
	c.Flags().StringSliceVar(&others, "others", nil, "session of another command, to be refused (repeat or separate by commas)")
	return c
}

type learnRequest struct {
	name, out                  string
	traces, holdout, elsewhere []string
}

func (a *app) runLearn(ctx context.Context, r learnRequest) error {
	if err := oneInput(append(append(append([]string{}, r.traces...), r.holdout...), r.elsewhere...)...); err != nil {
		return err
	}
	if r.name == "" {
		r.name = learnedName(r.traces[0])
	}
	sessions, err := a.sessions(ctx, r.traces)
	if err != nil {
		return err
	}
	l, err := learn.Learn(r.name, sessions)
	if err != nil {
		return fail.Wrap(err, fail.Other, "give recorded sessions of one command, see uvbond automaton record", "cannot learn")
	}
	v := &learnedView{machineView: machineJSON(l.Machine), Text: l.Text, Notes: append([]learn.Note{}, l.Notes...)}
	for _, s := range sessions {
		v.Sessions = append(v.Sessions, s.Name)
	}
	if v.Holdout, err = a.heldOut(ctx, r, sessions, l.Machine); err != nil {
		return err
	}
	if len(r.elsewhere) > 0 {
		foreign, err := a.sessions(ctx, r.elsewhere)
		if err != nil {
			return err
		}
		v.Others = &othersView{Of: len(foreign)}
		for _, s := range foreign {
			verdict := learn.Hold(l.Machine, s)
			v.Others.Sessions = append(v.Others.Sessions, verdict)
			if !verdict.Accepted {
				v.Others.Refused++
			}
		}
	}
	if r.out != "" {
		if err := replaceFile(r.out, []byte(l.Text), 0o666); err != nil {
			return err
		}
	}
	if err := a.print(v, func(w io.Writer) { v.write(w, r.out) }); err != nil {
		return err
	}
	return v.verdict()
}

// heldOut holds the sessions of --holdout against the machine, or each session
// against what is learned from the others.
func (a *app) heldOut(ctx context.Context, r learnRequest, sessions []learn.Session, m *automaton.Machine) (holdoutView, error) {
	v := holdoutView{Method: "files", Sessions: []learn.Verdict{}}
	if len(r.holdout) > 0 {
		held, err := a.sessions(ctx, r.holdout)
		if err != nil {
			return v, err
		}
		for _, s := range held {
			v.Sessions = append(v.Sessions, learn.Hold(m, s))
		}
	} else if verdicts := learn.LeaveOneOut(r.name, sessions); verdicts != nil {
		v.Method, v.Sessions = "leave-one-out", verdicts
	} else {
		v.Method = "none"
	}
	v.Of = len(v.Sessions)
	for _, s := range v.Sessions {
		if s.Accepted {
			v.Accepted++
		}
	}
	return v, nil
}

func (a *app) sessions(ctx context.Context, paths []string) ([]learn.Session, error) {
	var out []learn.Session
	for _, path := range paths {
		data, err := a.readLimited(ctx, path, maxTraceBytes, "a trace")
		if err != nil {
			return nil, err
		}
		rec, err := automaton.ReadRecording(bytes.NewReader(data))
		if err != nil {
			return nil, fail.Wrap(err, fail.Other, `one JSON object a line, such as {"execute": "query-status"}`, "%s", path)
		}
		out = append(out, learn.Session{Name: filepath.Base(path), Recording: rec})
	}
	return out, nil
}

var runNumber = regexp.MustCompile(`[-_.]?[0-9]+$`)

// learnedName makes a name of a file's: save-2.jsonl is one of several save.
func learnedName(path string) string {
	name := filepath.Base(path)
	name, _, _ = strings.Cut(name, ".")
	name = runNumber.ReplaceAllString(name, "")
	name = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '-'
	}, name)
	if name = strings.Trim(name, "-0123456789"); name == "" || len(name) > automaton.MaxName {
		return "learned"
	}
	return name
}

func (v *learnedView) write(w io.Writer, out string) {
	if out == "" {
		fmt.Fprintf(w, "%s\n", v.Text)
	} else {
		fmt.Fprintf(w, "# wrote %s\n", out)
	}
	places := "nothing generalised"
	if len(v.Notes) > 0 {
		places = "generalised in " + counted(len(v.Notes), "place") + ":"
	}
	fmt.Fprintf(w, "# %s of %s, %s\n", v.Name, counted(v.States, "state"), places)
	for _, n := range v.Notes {
		fmt.Fprintf(w, "#   %s\n", n)
	}
	h := v.Holdout
	switch h.Method {
	case "none":
		fmt.Fprintln(w, "# held out: none, give more sessions or --holdout")
	case "files":
		fmt.Fprintf(w, "# held out: %d of %d accepted\n", h.Accepted, h.Of)
	default:
		fmt.Fprintf(w, "# held out, each in turn: %d of %d accepted\n", h.Accepted, h.Of)
	}
	writeVerdicts(w, h.Sessions, false)
	if v.Others != nil {
		fmt.Fprintf(w, "# of other commands: %d of %d refused\n", v.Others.Refused, v.Others.Of)
		writeVerdicts(w, v.Others.Sessions, true)
	}
}

// writeVerdicts tells of the sessions that are not as they should be, and of
// what a recording left out.
func writeVerdicts(w io.Writer, list []learn.Verdict, accepted bool) {
	for _, s := range list {
		switch {
		case s.Accepted == accepted && accepted:
			fmt.Fprintf(w, "#   %s is accepted\n", s.Session)
		case s.Accepted == accepted:
			fmt.Fprintf(w, "#   %s is refused: %s\n", s.Session, s.Reason)
		case s.Elided > 0 && !accepted:
			fmt.Fprintf(w, "#   %s: the recording leaves out %s, which could not be held against it\n", s.Session, counted(s.Elided, "hypercall"))
		}
	}
}

// verdict is the error of a session that is not as the caller said.
func (v *learnedView) verdict() error {
	if n := v.Holdout.Of - v.Holdout.Accepted; v.Holdout.Method == "files" && n > 0 {
		return fail.New(fail.Refused, "learn from more sessions, or widen the text by hand", "%s of %d held out refused", counted(n, "session"), v.Holdout.Of)
	}
	if v.Others != nil && v.Others.Refused < v.Others.Of {
		return fail.New(fail.Refused, "they may be the same to QEMU: compare the recordings", "%s of other commands accepted", counted(v.Others.Of-v.Others.Refused, "session"))
	}
	return nil
}
