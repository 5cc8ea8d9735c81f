package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// kind is a kind of attack.
type kind struct {
	name string
	what string
	// world says which daemon it needs; kinds with equal worlds share one.
	world worldOptions
	run   func(*trial) error
}

// Result is one line of the table.
type Result struct {
	Kind     string  `json:"kind"`
	What     string  `json:"what"`
	Attempts int     `json:"attempts"`
	Refused  int     `json:"refused"`  // as they should be
	Accepted int     `json:"accepted"` // as they should be
	Wrong    int     `json:"wrong"`
	Seconds  float64 `json:"seconds"`

	Findings []string `json:"findings,omitempty"` // what was wrong, the first ones
}

// maxFindings bounds what is told of one kind.
const maxFindings = 20

// report is a run.
type report struct {
	Seed     int64     `json:"seed"`
	Sample   bool      `json:"sample"`
	Results  []*Result `json:"results"`
	Attempts int       `json:"attempts"`
	Refused  int       `json:"refused"`
	Accepted int       `json:"accepted"`
	Wrong    int       `json:"wrong"`
	Seconds  float64   `json:"seconds"`

	began   time.Time
	screen  *screen
	verbose bool
}

// trial is one kind at work.
type trial struct {
	*world
	report *report
	sample bool
	bin    string

	mu     sync.Mutex
	result *Result
	shown  time.Time
}

// refused notes an attempt that must have been refused, and was unless why says
// what happened instead.
func (t *trial) refused(name, why string) { t.note(name, why, true) }

// accepted notes an attempt that must have been accepted: what an honest party
// does beside the attacks, or what was allowed after all.
func (t *trial) accepted(name, why string) { t.note(name, why, false) }

func (t *trial) note(name, why string, refusal bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.result
	r.Attempts++
	switch {
	case why != "":
		t.wrong(name, why)
	case refusal:
		r.Refused++
	default:
		r.Accepted++
	}
	if t.report.verbose {
		t.report.screen.step(r.Kind, "%s: %s", name, orFine(why))
	} else if time.Since(t.shown) > time.Second {
		t.shown = time.Now()
		t.report.screen.progress("%s: %d attempts, %d wrong", r.Kind, r.Attempts, r.Wrong)
	}
}

func orFine(why string) string {
	if why == "" {
		return "as it should be"
	}
	return "WRONG: " + why
}

// wrong notes something that is amiss. The caller holds mu.
func (t *trial) wrong(name, why string) {
	t.result.Wrong++
	if len(t.result.Findings) < maxFindings {
		t.result.Findings = append(t.result.Findings, clip(name)+": "+clip(why))
	}
}

// clip keeps what is shown of hostile lengths short.
func clip(s string) string {
	if len(s) > 300 {
		return s[:300] + "…"
	}
	return s
}

// amiss notes something wrong that is no attempt of its own.
func (t *trial) amiss(name, why string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.wrong(name, why)
}

// play runs the kinds, each in the world that it needs.
func (r *report) play(ctx context.Context, s *settings, chosen []*kind) (err error) {
	var w *world
	var of worldOptions
	end := func() {
		if w == nil {
			return
		}
		var amiss func(string)
		if err == nil && len(r.Results) > 0 {
			amiss = func(why string) {
				x := r.Results[len(r.Results)-1]
				x.Wrong++
				x.Findings = append(x.Findings, "the host's log: "+why)
			}
		}
		if cerr := w.close(amiss); err == nil {
			err = cerr
		}
		w = nil
	}
	defer end()
	for _, k := range chosen {
		o := k.world
		o.bin = s.bin
		if w == nil || o != of {
			end()
			if err != nil {
				return err
			}
			if w, err = newWorld(ctx, o, s.seed); err != nil {
				return err
			}
			of = o
		}
		t := &trial{world: w, report: r, sample: s.sample, bin: s.bin, result: &Result{Kind: k.name, What: k.what}}
		began := time.Now()
		if err := t.play(k); err != nil {
			return fmt.Errorf("%s: %w\nthe hypervisor's log ends with:\n%s", k.name, err, w.lab.Log("hypervisor"))
		}
		t.result.Seconds = time.Since(began).Seconds()
		r.Results = append(r.Results, t.result)
		r.screen.step(k.name, "%d attempts, %d wrong", t.result.Attempts, t.result.Wrong)
		for _, f := range t.result.Findings {
			r.screen.quote(f)
		}
	}
	return nil
}

// play runs one kind and then looks at what it may have left behind.
func (t *trial) play(k *kind) error {
	before, err := t.look()
	if err != nil {
		return err
	}
	if err := k.run(t); err != nil {
		return err
	}
	return t.settle(before)
}

func (r *report) finish() {
	for _, x := range r.Results {
		r.Attempts += x.Attempts
		r.Refused += x.Refused
		r.Accepted += x.Accepted
		r.Wrong += x.Wrong
	}
	r.Seconds = time.Since(r.began).Seconds()
}

// table prints the result for people.
func (r *report) table(out io.Writer) {
	s := newScreen(out)
	s.title("What was tried")
	line := func(mark, kind, attempts, refused, accepted, wrong, seconds, what string) {
		fmt.Fprintf(out, "%s %-13s %8s  %8s  %8s  %5s  %7s  %s\n", mark, kind, attempts, refused, accepted, wrong, seconds, what)
	}
	line("     ", "kind", "attempts", "refused", "accepted", "wrong", "seconds", "what is tried")
	number := func(n int) string { return fmt.Sprint(n) }
	for _, x := range r.Results {
		mark := s.paint(green, "  ok ")
		if x.Wrong > 0 {
			mark = s.paint(red, "WRONG")
		}
		line(mark, x.Kind, number(x.Attempts), number(x.Refused), number(x.Accepted), number(x.Wrong), fmt.Sprintf("%.1f", x.Seconds), x.What)
		for _, f := range x.Findings {
			s.quote(f)
		}
	}
	fmt.Fprintf(out, "\n%d attempts: %d refused and %d accepted as they should be, %d wrong; seed %d, %.0f seconds\n",
		r.Attempts, r.Refused, r.Accepted, r.Wrong, r.Seed, r.Seconds)
}

// screen prints what happens; in colour, and with progress, on a terminal.
type screen struct {
	w      io.Writer
	tty    bool
	colour bool
	began  time.Time
}

func newScreen(w io.Writer) *screen {
	s := &screen{w: w, began: time.Now()}
	if f, ok := w.(*os.File); ok {
		s.tty = term.IsTerminal(int(f.Fd()))
		s.colour = s.tty && os.Getenv("NO_COLOR") == ""
	}
	return s
}

const (
	bold  = "1"
	red   = "31"
	green = "32"
	faint = "2"
)

func (s *screen) paint(code, text string) string {
	if !s.colour {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s *screen) title(text string) { fmt.Fprintf(s.w, "\n%s\n", s.paint(bold, text)) }

func (s *screen) step(who, format string, args ...any) {
	s.wipe()
	at := fmt.Sprintf("%5.1fs", time.Since(s.began).Seconds())
	fmt.Fprintf(s.w, "%s  %s %s\n", s.paint(faint, at), fmt.Sprintf("%-14s", who), fmt.Sprintf(format, args...))
}

// progress is overwritten by what is printed next.
func (s *screen) progress(format string, args ...any) {
	if s.tty {
		s.wipe()
		fmt.Fprintf(s.w, "%s", s.paint(faint, fmt.Sprintf(format, args...)))
	}
}

func (s *screen) wipe() {
	if s.tty {
		fmt.Fprint(s.w, "\r\x1b[K")
	}
}

func (s *screen) quote(text string) {
	for line := range strings.Lines(text) {
		fmt.Fprintf(s.w, "%20s%s\n", "", s.paint(faint, strings.TrimRight(line, "\r\n")))
	}
}
