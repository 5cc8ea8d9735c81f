package learn

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// print writes the automaton. Its layout is left to automaton.Format.
func (l *learner) print(body, abort *expr) string {
	var b strings.Builder
	var names []string
	for _, s := range l.sessions {
		names = append(names, comment(s.name))
	}
	slices.Sort(names)
	fmt.Fprintf(&b, "# Learned from %d %s: %s.\n", len(names), plural(len(names), "session"), few(names))
	b.WriteString("# Read it and narrow it before you sign it: what differed was generalised.\n")
	fmt.Fprintf(&b, "automaton %s = %s\n", l.name, text(body, 0))
	if abort != nil && !empty(abort) {
		fmt.Fprintf(&b, "on abort %s\n", text(abort, 0))
	}
	if d := l.deadline(); d > 0 {
		fmt.Fprintf(&b, "deadline %dms\n", d/time.Millisecond)
	}
	b.WriteString(";\n")
	return b.String()
}

func plural(n int, word string) string {
	if n == 1 {
		return word
	}
	return word + "s"
}

// comment makes a file's name fit for a comment.
func comment(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
}

// How tight an expression binds: a choice least, a single hypercall most.
const (
	inChoice = iota
	inShuffle
	inSequence
	inRepeat
)

func text(e *expr, around int) string {
	group := func(binds int, s string) string {
		if binds < around {
			return "(" + s + ")"
		}
		return s
	}
	switch e.kind {
	case exprStep:
		return e.slot.name + args(e.slot.args)
	case exprSeq:
		return sequenceText(e, group)
	case exprAlt:
		if len(e.subs) == 1 {
			return text(e.subs[0], around)
		}
		var parts []string
		for _, sub := range e.subs {
			parts = append(parts, text(sub, inShuffle))
		}
		return group(inChoice, strings.Join(parts, " | "))
	case exprShuffle:
		var parts []string
		for _, sub := range e.subs {
			if !empty(sub) {
				parts = append(parts, text(sub, inSequence))
			}
		}
		if len(parts) == 1 {
			return "(" + parts[0] + ")"
		}
		return group(inShuffle, strings.Join(parts, " & "))
	}
	inner := text(e.subs[0], inRepeat)
	switch {
	case e.min == 1 && e.max == 1:
		return inner
	case e.max == 1:
		return inner + "?"
	case e.min == 1:
		return inner + "+"
	}
	return inner + "*"
}

// sequenceText writes equal neighbours once, with their number.
func sequenceText(e *expr, group func(int, string) string) string {
	var parts []string
	var counts []int
	for _, sub := range e.subs {
		if empty(sub) {
			continue
		}
		part := text(sub, inSequence)
		if sub.kind == exprStep && len(parts) > 0 && parts[len(parts)-1] == part {
			counts[len(counts)-1]++
			continue
		}
		parts, counts = append(parts, part), append(counts, 1)
	}
	for i, n := range counts {
		if n > 1 {
			parts[i] += fmt.Sprintf("{%d}", n)
		}
	}
	switch {
	case len(parts) == 0:
		return "()"
	case len(parts) == 1 && counts[0] == 1:
		// A single part binds as it does by itself.
		for _, sub := range e.subs {
			if !empty(sub) && sub.kind != exprStep {
				return group(inSequence, parts[0])
			}
		}
		return parts[0]
	}
	return group(inSequence, strings.Join(parts, " "))
}

// args writes a hypercall's arguments, nothing where it takes none.
func args(p *pattern) string {
	if len(p.object) == 0 {
		return ""
	}
	return p.String()
}

func (p *pattern) String() string {
	out := ""
	switch {
	case len(p.choice) > 0:
		var parts []string
		for _, c := range p.choice {
			parts = append(parts, c.String())
		}
		out = strings.Join(parts, " | ")
	case p.kind == kindObject:
		var parts []string
		for _, f := range p.object {
			key := f.key
			if !commandName.MatchString(key) || len(key) > 64 {
				key = quote(key)
			}
			if f.optional {
				key += "?"
			}
			parts = append(parts, key+": "+f.value.String())
		}
		out = "{ " + strings.Join(parts, ", ") + " }"
	case p.kind == kindList && p.tail != nil:
		sign := "*"
		if p.some {
			sign = "+"
		}
		out = "[" + p.tail.String() + sign + "]"
	case p.kind == kindList:
		var parts []string
		for _, e := range p.list {
			parts = append(parts, e.String())
		}
		out = "[" + strings.Join(parts, ", ") + "]"
	default:
		out = p.text
	}
	if p.capture != "" {
		out += " as $" + p.capture
	}
	return out
}
