package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

// screen prints the steps; in colour on a terminal.
type screen struct {
	w      io.Writer
	colour bool
	began  time.Time
}

func newScreen(f *os.File) *screen {
	return &screen{w: f, colour: term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "", began: time.Now()}
}

const (
	bold  = "1"
	red   = "31"
	green = "32"
	blue  = "36"
	faint = "2"
)

func (s *screen) paint(code, text string) string {
	if !s.colour {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s *screen) title(text string) { fmt.Fprintf(s.w, "\n%s\n", s.paint(bold, text)) }

// step prints one line: when, who, what.
func (s *screen) step(who, format string, args ...any) {
	at := fmt.Sprintf("%5.1fs", time.Since(s.began).Seconds())
	colour := blue
	if who == "operator" {
		colour = red
	}
	fmt.Fprintf(s.w, "%s  %s %s\n", s.paint(faint, at), s.paint(colour, pad(who, 10)), fmt.Sprintf(format, args...))
}

// quote prints what a program said, indented.
func (s *screen) quote(text string) {
	for _, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		if strings.TrimSpace(line) != "" {
			fmt.Fprintf(s.w, "%20s%s\n", "", s.paint(faint, strings.TrimRight(line, "\r")))
		}
	}
}

// row is one line of the table at the end.
type row struct {
	attack, stopped, view string
	ok                    bool
}

func (s *screen) rows(rows []row) {
	w := [3]int{len("attack"), len("what stopped it"), len("the tenant's view")}
	for _, r := range rows {
		w[0], w[1], w[2] = max(w[0], width(r.attack)), max(w[1], width(r.stopped)), max(w[2], width(r.view))
	}
	line := func(mark, a, b, c string) {
		fmt.Fprintf(s.w, "%s %s  %s  %s\n", mark, pad(a, w[0]), pad(b, w[1]), c)
	}
	line("     ", s.paint(bold, pad("attack", w[0])), s.paint(bold, pad("what stopped it", w[1])), s.paint(bold, "the tenant's view"))
	for _, r := range rows {
		mark := s.paint(green, "  ok ")
		if !r.ok {
			mark = s.paint(red, "WRONG")
		}
		line(mark, r.attack, r.stopped, r.view)
	}
}

func width(s string) int { return utf8.RuneCountInString(s) }

func pad(s string, n int) string {
	if m := n - width(s); m > 0 {
		return s + strings.Repeat(" ", m)
	}
	return s
}
