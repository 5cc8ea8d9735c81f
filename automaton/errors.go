package automaton

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// SyntaxError says where a text is wrong, and how to mend it.
type SyntaxError struct {
	Name  string // of the text, as given to Parse
	Line  int    // from 1
	Col   int    // from 1, in characters
	Text  string // the part of the source line that is shown
	Caret int    // characters before the fault in Text
	Msg   string
	Hint  string // may be empty
}

// Error shows place, line, caret and hint on lines of their own.
func (e *SyntaxError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d:%d: %s", e.Name, e.Line, e.Col, e.Msg)
	if e.Text != "" {
		fmt.Fprintf(&b, "\n    %s\n    %s^", e.Text, strings.Repeat(" ", e.Caret))
	}
	if e.Hint != "" {
		fmt.Fprintf(&b, "\n    hint: %s", e.Hint)
	}
	return b.String()
}

// shownWidth is how much of a line an error shows, in characters.
const shownWidth = 100

// syntaxError describes a fault at a byte offset of text.
func syntaxError(name, text string, offset int, msg, hint string) *SyntaxError {
	offset = min(offset, len(text))
	start := strings.LastIndexByte(text[:offset], '\n') + 1
	line := text[start:]
	if i := strings.IndexByte(line, '\n'); i >= 0 {
		line = line[:i]
	}
	col := utf8.RuneCountInString(text[start:offset])
	// The text may be another's: no control characters reach a terminal.
	shown := []rune(strings.TrimRight(line, " \t\r"))
	for i, r := range shown {
		if !unicode.IsPrint(r) {
			shown[i] = ' '
		}
	}
	first := 0
	if col > shownWidth-20 {
		first = min(col-shownWidth/2, len(shown))
	}
	shown = shown[first:min(len(shown), first+shownWidth)]
	return &SyntaxError{
		Name: name, Line: 1 + strings.Count(text[:offset], "\n"), Col: col + 1,
		Text: string(shown), Caret: max(0, col-first), Msg: msg, Hint: hint,
	}
}

// Refusal is why a hypercall was not accepted.
type Refusal struct {
	Command  string
	Expected []string // commands that could have come, sorted
	// Reason is set when the command could have come, but not so: it names
	// the argument, what it must be and what it was.
	Reason string
}

func (r *Refusal) Error() string {
	switch {
	case r.Reason != "":
		return r.Reason
	case len(r.Expected) == 0:
		return "nothing more may follow, got " + tick(r.Command)
	}
	names := make([]string, len(r.Expected))
	for i, name := range r.Expected {
		names[i] = tick(name)
	}
	return "expected " + orList(names) + ", got " + tick(r.Command)
}

// orList joins "a, b or c".
func orList(items []string) string {
	if len(items) < 2 {
		return strings.Join(items, "")
	}
	last := len(items) - 1
	return strings.Join(items[:last], ", ") + " or " + items[last]
}

// near returns a hint that names the known word that was most likely meant, or
// otherwise.
func near(word string, known []string, otherwise string) string {
	best, least := "", 3 // at most two letters differ
	for _, k := range known {
		if d := distance(strings.ToLower(word), strings.ToLower(k)); d < least && d < len(k) {
			best, least = k, d
		}
	}
	if best == "" || len(word) > MaxName {
		return otherwise
	}
	return "did you mean " + best + "?"
}

// distance counts the letters to insert, remove or replace to get from a to b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

// tick quotes another domain's word for a message.
func tick(s string) string { return "`" + clip(s) + "`" }

// clip shortens s and drops what is not printable.
func clip(s string) string {
	const most = 80
	var b strings.Builder
	n := 0
	for _, r := range s {
		if n++; n > most {
			return b.String() + "..."
		}
		if !unicode.IsPrint(r) {
			r = '?'
		}
		b.WriteRune(r)
	}
	return b.String()
}
