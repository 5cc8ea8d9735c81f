package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/uvbond/uvbond/automaton"
	"github.com/uvbond/uvbond/tenant/fail"
)

const (
	answerYes       = "yes"
	answerNo        = "no"
	answerUndecided = "undecided"
)

// comparison is the answer of equal and includes. Undecided is an answer of
// its own, never taken for yes or no.
type comparison struct {
	A       string   `json:"a"`
	B       string   `json:"b"`
	Answer  string   `json:"answer"`
	Counter *counter `json:"counter_example,omitempty"`
	Why     string   `json:"why,omitempty"` // it is undecided
}

// counter is a shortest sequence that only one side accepts.
type counter struct {
	Accepts    string           `json:"accepts"`
	Refuses    string           `json:"refuses"`
	Calls      []automaton.Call `json:"calls"`
	AfterAbort bool             `json:"after_abort"`
	MayNotEnd  bool             `json:"may_not_end"` // all calls pass, but the one that refuses may not end there
}

// pair is the two automata of a command line. same tells that their texts
// already say the same, which also answers where captures cannot be compared.
type pair struct {
	refs []string
	m    [2]*automaton.Machine
	same bool
}

func (a *app) pair(ctx context.Context, refs []string) (*pair, error) {
	if err := oneInput(refs...); err != nil {
		return nil, err
	}
	p := &pair{refs: refs}
	var hashes [2][32]byte
	for i, ref := range refs {
		t, err := a.openText(ctx, ref)
		if err != nil {
			return nil, err
		}
		f, err := t.parse()
		if err != nil {
			return nil, err
		}
		hashes[i] = f.Hash()
		if p.m[i], err = t.compile(f); err != nil {
			return nil, err
		}
	}
	// A whole policy is not an automaton that happens to be called policy.
	p.same = hashes[0] == hashes[1] && p.m[0].Name() == p.m[1].Name() && isPolicy(refs[0]) == isPolicy(refs[1])
	return p, nil
}

func isPolicy(ref string) bool { return strings.HasSuffix(ref, "#"+wholeText) }

// include tells whether one side accepts all that the other does. Differences
// have the names that the person gave, because two automata may have the same.
func (p *pair) include(whole, part int) (*automaton.Difference, error) {
	if p.same {
		return nil, nil
	}
	d, err := automaton.Includes(p.m[whole], p.m[part])
	if d != nil {
		d.Accepts, d.Refuses = p.refs[part], p.refs[whole]
	}
	return d, err
}

const compareHelp = `
Every hypercall counts that is let through, at every point, also after an abort, and every
end. Deadlines are not compared. Where the captures of an automaton leave the question open
the answer is "undecided", with the reason and exit code 1, as for "no".

` + refHelp

func (a *app) automatonEqual() *cobra.Command {
	return &cobra.Command{
		Use: "equal A B", Short: "Tell whether two automata accept the same",
		Long: "Exit code 0: they do. 1: they do not, and a shortest counter-example is printed.\n" + compareHelp,
		Example: `  uvbond automaton equal native/pause pause.uva
  uvbond automaton equal old.uva#backup new.uva#backup --json`,
		Args:              exactly(2),
		ValidArgsFunction: a.automatonNames(2),
		RunE: func(c *cobra.Command, args []string) error {
			p, err := a.pair(c.Context(), args)
			if err != nil {
				return err
			}
			d, err := p.include(1, 0)
			less, err2 := p.include(0, 1)
			if d == nil || less != nil && len(less.Calls) < len(d.Calls) {
				d = less
			}
			if err = cmp.Or(err, err2); d != nil {
				err = nil // one direction tells, whether the other can be decided or not
			}
			return a.answer(p, d, err, "accept the same", "do not accept the same")
		},
	}
}

func (a *app) automatonIncludes() *cobra.Command {
	return &cobra.Command{
		Use: "includes A B", Short: "Tell whether all that A accepts is accepted by B",
		Long: `Exit code 0: B accepts all that A accepts. 1: it does not, and a shortest counter-example
is printed: what A lets through and B does not.
` + compareHelp,
		Example: `  uvbond automaton includes native/pause policy.uva#*
  uvbond automaton includes delegate.uva owner.uva`,
		Args:              exactly(2),
		ValidArgsFunction: a.automatonNames(2),
		RunE: func(c *cobra.Command, args []string) error {
			p, err := a.pair(c.Context(), args)
			if err != nil {
				return err
			}
			d, err := p.include(1, 0)
			return a.answer(p, d, err, "all that the first accepts is accepted by the second", "the second does not accept all that the first accepts")
		},
	}
}

// answer prints a comparison; anything but yes is an error.
func (a *app) answer(p *pair, d *automaton.Difference, err error, yes, no string) error {
	refs := p.refs
	v := comparison{A: refs[0], B: refs[1], Answer: answerYes}
	var failed error
	switch {
	case errors.Is(err, automaton.ErrUndecided):
		v.Answer, v.Why = answerUndecided, err.Error()
		failed = undecided(err)
	case err != nil:
		return err
	case d != nil:
		v.Answer = answerNo
		v.Counter = &counter{d.Accepts, d.Refuses, append([]automaton.Call{}, d.Calls...), d.Aborted, d.Ends}
		failed = fail.New(fail.Other, "", "%s and %s: %s", refs[0], refs[1], no)
	}
	if perr := a.print(v, func(w io.Writer) {
		switch v.Answer {
		case answerYes:
			fmt.Fprintf(w, "%s and %s: %s\n", refs[0], refs[1], yes)
		case answerNo:
			fmt.Fprintln(w, d)
		}
	}); perr != nil {
		return perr
	}
	if one, two := p.m[0].Deadline(), p.m[1].Deadline(); one != two && v.Answer == answerYes {
		a.note("note: deadlines are not compared: %s has %s, %s has %s", refs[0], deadlineText(one), refs[1], deadlineText(two))
	}
	if d != nil {
		a.noteShortened(d.Calls)
	}
	return failed
}

// noteShortened says where arguments are too long for a line.
func (a *app) noteShortened(calls []automaton.Call) {
	for _, c := range calls {
		if strings.HasSuffix(c.String(), "...") {
			a.note("note: long arguments are shortened, --json shows them whole")
			return
		}
	}
}

func undecided(err error) error {
	return fail.Wrap(err, fail.Other, "compare smaller parts, or read both: uvbond automaton show", "neither yes nor no")
}

// common is the answer of intersect.
type common struct {
	A          string           `json:"a"`
	B          string           `json:"b"`
	Answer     string           `json:"answer"` // is there a session that both accept?
	Example    []automaton.Call `json:"example,omitempty"`
	States     int              `json:"states,omitempty"` // of the intersection
	DeadlineMS int64            `json:"deadline_ms,omitempty"`
	Shared     []automaton.Call `json:"shared"` // of each hypercall that both let through somewhere
	Why        string           `json:"why,omitempty"`
}

func (a *app) automatonIntersect() *cobra.Command {
	return &cobra.Command{
		Use: "intersect A B", Short: "Show what two automata both accept",
		Long: `Prints a shortest session that both accept to its end, or that there is none, and the
hypercalls that both let through at some point. Exit code 0 either way; 1 when it cannot
be decided, as it may be for automata with captures.

` + refHelp,
		Example:           "  uvbond automaton intersect native/shutdown native/poweroff\n  uvbond automaton intersect web1.uva policy.uva#* --json",
		Args:              exactly(2),
		ValidArgsFunction: a.automatonNames(2),
		RunE: func(c *cobra.Command, args []string) error {
			p, err := a.pair(c.Context(), args)
			if err != nil {
				return err
			}
			v, err := intersect(p.m, args)
			if v == nil {
				return err
			}
			if perr := a.print(v, v.write); perr != nil {
				return perr
			}
			a.noteShortened(append(v.Example[:len(v.Example):len(v.Example)], v.Shared...))
			return err
		},
	}
}

func intersect(m [2]*automaton.Machine, refs []string) (*common, error) {
	v := &common{A: refs[0], B: refs[1], Answer: answerNo, Shared: []automaton.Call{}}
	shared, err := automaton.Shared(m[0], m[1])
	found := false
	if err == nil {
		v.Example, found, err = automaton.Common(m[0], m[1])
	}
	if errors.Is(err, automaton.ErrUndecided) {
		v.Answer, v.Why = answerUndecided, err.Error()
		return v, undecided(err)
	}
	if err != nil {
		return nil, err
	}
	if found {
		v.Answer = answerYes
		// Where there are captures there is no machine of both.
		if all, err := automaton.Intersect(m[0], m[1]); err == nil {
			v.States, v.DeadlineMS = all.States(), all.Deadline().Milliseconds()
		}
	}
	v.Shared = append(v.Shared, shared...)
	return v, nil
}

func (v *common) write(w io.Writer) {
	switch {
	case v.Answer == answerUndecided:
		return
	case v.Answer == answerNo:
		fmt.Fprintf(w, "%s and %s accept no common session\n", v.A, v.B)
	case len(v.Example) == 0:
		fmt.Fprintf(w, "%s and %s both accept a session without hypercalls\n", v.A, v.B)
	default:
		fmt.Fprintf(w, "%s and %s both accept:\n", v.A, v.B)
		writeCalls(w, v.Example)
	}
	if len(v.Shared) > 0 {
		fmt.Fprintln(w, "hypercalls that both let through at some point:")
		writeCalls(w, v.Shared)
	}
}

func writeCalls(w io.Writer, calls []automaton.Call) {
	for _, c := range calls {
		fmt.Fprintf(w, "    %s\n", c)
	}
}
