package cli

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/uvbond/uvbond/automaton"
	"github.com/uvbond/uvbond/tenant/fail"
)

const (
	formatDOT = "dot"
	formatSVG = "svg"
)

type drawFlags struct{ name, format, out, trace string }

func (a *app) automatonDraw() *cobra.Command {
	var f drawFlags
	c := &cobra.Command{
		Use: "draw FILE", Short: "Draw an automaton as SVG, or as DOT for Graphviz",
		Long: fmt.Sprintf(`Draws the compiled automaton from its start downwards: states in which the session may end
have a second ring. With --trace the way of a session is marked, with its end and the first
refusal. SVG is drawn for at most %d states.

`, automaton.MaxDrawn) + traceHelp + "\n\n" + refHelp,
		Example: `  uvbond automaton draw native/start --out start.svg
  uvbond automaton draw web1.uva --name backup --format dot
  uvbond automaton draw native/pause --trace session.jsonl --out session.svg`,
		Args:              exactly(1),
		ValidArgsFunction: a.automatonNames(1),
		RunE:              func(c *cobra.Command, args []string) error { return a.runDraw(c, args[0], f) },
	}
	nameFlag(c, &f.name)
	c.Flags().StringVar(&f.format, "format", "", "svg or dot (default: by the end of OUT's name, else svg)")
	c.Flags().StringVarP(&f.out, "out", "o", "", "file to write; it is replaced (default: standard output)")
	c.Flags().StringVar(&f.trace, "trace", "", "trace to mark")
	choice(c, "format", formatSVG, formatDOT)
	return c
}

// settle chooses the format and refuses to write over what is read.
func (f *drawFlags) settle(file string) error {
	if err := oneInput(file, f.trace); err != nil {
		return err
	}
	if f.format == "" {
		f.format = formatSVG
		if end := strings.ToLower(filepath.Ext(f.out)); end == ".dot" || end == ".gv" {
			f.format = formatDOT
		}
	}
	if f.format != formatSVG && f.format != formatDOT {
		return fail.New(fail.Usage, "--format svg or --format dot", "%q is not a format", f.format)
	}
	if f.out == "-" {
		f.out = ""
	}
	label, _, _ := strings.Cut(file, "#")
	for _, in := range []string{label, f.trace} {
		if one, err := os.Stat(f.out); err == nil && f.out != "" && in != "" {
			if two, err := os.Stat(in); err == nil && one.Mode().IsRegular() && os.SameFile(one, two) {
				return fail.New(fail.Usage, "give another name with --out", "%s is what is read", f.out)
			}
		}
	}
	return nil
}

// highlight is Trace.Highlight within bounds: what could have been passed grows
// with the square of the states that a step leaves open, and each way drawn is
// looked for in it.
func highlight(t *automaton.Trace) (*automaton.Highlight, error) {
	const most, mostDistinct = 1 << 22, 1 << 12
	tooMany := fail.New(fail.Other, "draw a shorter trace, or none", "the trace leaves too many ways open to be marked")
	ways := 0
	for i := range t.Steps {
		if ways += len(t.Steps[i].From) * len(t.Steps[i].To); ways > most {
			return nil, tooMany
		}
	}
	h := t.Highlight()
	slices.SortFunc(h.Passed, func(a, b [2]int) int { return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1])) })
	h.Passed = slices.Compact(h.Passed) // a loop is passed often
	if len(h.Passed) > mostDistinct {
		return nil, tooMany
	}
	return h, nil
}

func (a *app) runDraw(c *cobra.Command, file string, f drawFlags) error {
	if err := f.settle(file); err != nil {
		return err
	}
	m, err := a.named(c.Context(), file, f.name)
	if err != nil {
		return err
	}
	var marks *automaton.Highlight
	if f.trace != "" {
		calls, err := a.readTrace(c.Context(), f.trace)
		if err != nil {
			return err
		}
		t, err := follow(m, calls)
		if err != nil {
			return err
		}
		if marks, err = highlight(t); err != nil {
			return err
		}
	}
	drawing := ""
	if f.format == formatDOT {
		drawing = m.DOT(marks)
	} else if drawing, err = m.SVG(marks); err != nil {
		return fail.Wrap(err, fail.Other, "--format dot has no such limit", "")
	}
	view := map[string]any{"automaton": m.Name(), "states": m.States(), "format": f.format}
	if f.out == "" {
		view["drawing"] = drawing
		return a.print(view, func(w io.Writer) { fmt.Fprint(w, drawing) })
	}
	if err := replaceFile(f.out, []byte(drawing), 0o666); err != nil {
		return err
	}
	view["file"] = f.out
	return a.print(view, func(w io.Writer) {
		fmt.Fprintf(w, "drew %s (%s) to %s\n", m.Name(), counted(m.States(), "state"), f.out)
	})
}
