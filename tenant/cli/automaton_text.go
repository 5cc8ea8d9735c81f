package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/automaton"
	"github.com/uvbond/uvbond/policy"
	"github.com/uvbond/uvbond/tenant/fail"
)

const (
	shippedPrefix = automata.SetNative + "/"
	textSuffix    = ".uva"
	maxTraceBytes = 16 << 20
	wholeText     = "*" // FILE#*: all automata of the text, as a policy
)

// automatonText is a text of automata, and which of them was asked for.
type automatonText struct {
	ref   string // as it was given
	label string // ref without #NAME
	path  string // "" for shipped texts and standard input
	pick  string // NAME behind #, or ""
	text  []byte
}

// openText reads what a person named: FILE, FILE#NAME, native/NAME or -. A name
// of a shipped automaton is always that one; ./native/NAME is a file.
func (a *app) openText(ctx context.Context, ref string) (*automatonText, error) {
	t := &automatonText{ref: ref, label: ref}
	if i := strings.LastIndexByte(ref, '#'); i >= 0 {
		t.label, t.pick = ref[:i], ref[i+1:]
		if t.pick == "" {
			return nil, fail.New(fail.Usage, "write FILE#NAME, or FILE alone", "%q names no automaton behind #", ref)
		}
	}
	if text, ok := shipped(t.label); ok {
		t.text = []byte(text)
		return t, nil
	}
	data, err := a.readLimited(ctx, t.label, automaton.MaxText, "an automaton's text")
	if err != nil {
		var lacking *fail.Error
		if errors.Is(err, fs.ErrNotExist) && errors.As(err, &lacking) {
			lacking.Hint = "shipped automata: uvbond automaton list"
			for _, set := range automata.Sets() {
				if _, ok := shipped(set + "/" + t.label); ok {
					lacking.Hint = "did you mean " + set + "/" + t.label + "?"
					break
				}
			}
		}
		return nil, err
	}
	t.text = data
	if t.label != "-" {
		t.path = t.label
	} else {
		t.label = "standard input"
	}
	return t, nil
}

// shipped returns the text of SET/NAME.
func shipped(name string) (string, bool) {
	set, command, ok := strings.Cut(name, "/")
	if !ok || !slices.Contains(automata.Sets(), set) || !slices.Contains(automata.Names(set), command) {
		return "", false
	}
	text, err := automata.Text(set, command)
	return text, err == nil
}

// readLimited reads a file, or standard input for "-", of at most limit bytes.
func (a *app) readLimited(ctx context.Context, path string, limit int64, what string) ([]byte, error) {
	var in io.Reader = a.in
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fail.Wrap(err, fail.Other, "check the path", "cannot read %s", what)
		}
		defer f.Close()
		in = f
	}
	type result struct {
		data []byte
		err  error
	}
	// Another goroutine, so that Ctrl-C ends the wait for a pipe or terminal.
	done := make(chan result, 1)
	go func() {
		data, err := io.ReadAll(io.LimitReader(in, limit+1))
		done <- result{data, err}
	}()
	var r result
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case r = <-done:
	}
	switch {
	case r.err != nil:
		return nil, fail.Wrap(r.err, fail.Other, "check the path", "cannot read %s", what)
	case int64(len(r.data)) > limit:
		return nil, fail.New(fail.Other, "is it the right file?", "%s is larger than %s, the most for %s", path, bytesText(uint64(limit)), what)
	}
	return r.data, nil
}

// oneInput refuses to read standard input twice.
func oneInput(refs ...string) error {
	n := 0
	for _, ref := range refs {
		if ref == "-" || strings.HasPrefix(ref, "-#") {
			n++
		}
	}
	if n > 1 {
		return fail.New(fail.Usage, "put one of them into a file", "standard input can be read only once")
	}
	return nil
}

// parse reads the text with its imports. Rules that stand before the automata,
// where it is a policy, are left out.
func (t *automatonText) parse() (*automaton.File, error) {
	_, rest, err := policy.Split(string(t.text))
	if err != nil {
		return nil, fail.Wrap(err, fail.Usage, "the language of rules is in docs/automata.md", "%s", t.label)
	}
	f, err := automaton.ParseImports(t.label, []byte(rest), t.imported)
	return f, syntaxFailure(err)
}

// rules returns the rules that parse leaves out.
func (t *automatonText) rules() []*policy.Rule {
	rules, _, err := policy.Split(string(t.text))
	if err != nil {
		return nil // parse said so
	}
	return rules
}

// checkRules compares the rules with the automata, as the gate will. Imports are
// written out for that: the gate takes none.
func (t *automatonText) checkRules(f *automaton.File) error {
	rules := t.rules()
	if len(rules) == 0 {
		return nil
	}
	_, err := policy.Parse(policy.Compose(rules, f.String()))
	return err
}

// imported finds the text of an import: NAME.uva beside the file, except for the
// file itself, then the shipped ones: of its own set, for a shipped text. A name of the language has no slashes.
func (t *automatonText) imported(name string) ([]byte, error) {
	if t.path != "" {
		path := filepath.Join(filepath.Dir(t.path), name+textSuffix)
		st, err := os.Stat(path)
		own, ownErr := os.Stat(t.path)
		switch {
		case err == nil && !st.Mode().IsRegular():
			return nil, fmt.Errorf("%s is not a regular file", filepath.Base(path))
		case err == nil && (ownErr != nil || !os.SameFile(st, own)):
			return readSmall(path)
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	set, _, ok := strings.Cut(t.label, "/")
	if !ok || t.path != "" || !slices.Contains(automata.Sets(), set) {
		set = automata.SetNative
	}
	if text, ok := shipped(set + "/" + name); ok {
		return []byte(text), nil
	}
	return nil, fmt.Errorf("there is no %s%s beside the file, and no shipped automaton of that name", name, textSuffix)
}

// readSmall reads one byte more than a text may have at most: the parser
// refuses that one.
func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, automaton.MaxText+1))
}

// machine compiles the automaton that was asked for.
func (t *automatonText) machine() (*automaton.Machine, error) {
	f, err := t.parse()
	if err != nil {
		return nil, err
	}
	return t.compile(f)
}

func (t *automatonText) compile(f *automaton.File) (*automaton.Machine, error) {
	names := f.Names()
	if t.pick == wholeText {
		m, err := f.CompilePolicy()
		return m, syntaxFailure(err)
	}
	name := t.pick
	switch {
	case len(names) == 0:
		return nil, fail.New(fail.Other, "write: automaton NAME = ... ;", "%s holds no automaton", t.label)
	case name == "" && len(names) > 1:
		return nil, fail.New(fail.Usage, "select one: "+t.choices(names), "%s holds %d automata", t.label, len(names))
	case name == "":
		name = names[0]
	case !slices.Contains(names, name):
		return nil, fail.New(fail.Usage, "there are: "+t.choices(names), "%s holds no automaton %q", t.label, name)
	}
	m, err := f.Compile(name)
	return m, syntaxFailure(err)
}

// choices lists what could be written, a few of it.
func (t *automatonText) choices(names []string) string {
	given, _, _ := strings.Cut(t.ref, "#")
	if given == "-" {
		given = "/dev/stdin" // -#NAME would be taken for a flag
	}
	var out []string
	for i, name := range names {
		if i == 6 {
			out = append(out, "...")
			break
		}
		out = append(out, given+"#"+name)
	}
	return strings.Join(out, ", ")
}

// syntaxFailure moves the hint of a fault in a text to where uvbond shows hints.
func syntaxFailure(err error) error {
	var s *automaton.SyntaxError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &s):
		shown := *s
		shown.Hint = ""
		return fail.Wrap(&shown, fail.Other, s.Hint, "")
	}
	return fail.Wrap(err, fail.Other, "", "")
}

// automatonNames completes shipped names and the automata of FILE#, for the
// first most arguments (0: for all). Where nothing fits, the shell offers files.
func (a *app) automatonNames(most int) completer {
	return func(c *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if most > 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return a.completeAutomaton(c.Context(), word), cobra.ShellCompDirectiveDefault
	}
}

func (a *app) completeAutomaton(ctx context.Context, word string) []cobra.Completion {
	var out []cobra.Completion
	label, _, selects := strings.Cut(word, "#")
	if !selects {
		for _, set := range automata.Sets() {
			for _, name := range automata.Names(set) {
				if ref := set + "/" + name; strings.HasPrefix(ref, word) {
					out = append(out, ref)
				}
			}
		}
		return out
	}
	if label == "-" {
		return nil // it would wait for input
	}
	t, err := a.openText(ctx, label)
	if err != nil {
		return nil
	}
	f, err := t.parse()
	if err != nil {
		return nil
	}
	for _, name := range f.Names() {
		out = append(out, label+"#"+name)
	}
	return out
}
