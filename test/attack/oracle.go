package main

import (
	"fmt"
	"slices"
	"strings"
)

// The oracle says what an automaton accepts. It is slow and obvious: it reads the
// text by itself and takes the expression apart hypercall by hypercall (partial
// derivatives). It shares no code with package automaton. Of arguments it knows
// what floor.go says by hand; those of hypercalls that never pass the gate do not
// matter, because the gate refuses them before it asks the automaton.

// expression is a part of an automaton's text.
type expression struct {
	op   byte // 'c' a hypercall, '.' a sequence, '|' a choice, '&' an interleaving, '*' a repetition
	name string
	subs []*expression
	min  int
	max  int // -1: no limit
}

// text is a parsed automaton.
type text struct {
	body, abort *expression
}

// reader reads the text of one automaton and its parts.
type reader struct {
	words []string
	at    int
	parts map[string]*expression
}

// readAutomaton reads what File.String writes: parts, then one automaton.
func readAutomaton(source string) (t *text, err error) {
	r := &reader{words: split(source), parts: map[string]*expression{}}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the oracle does not understand %v at word %d of %q", p, r.at, source)
		}
	}()
	for r.peek() == "part" {
		r.next()
		name := r.next()
		r.want("=")
		r.parts[name] = r.choice()
		r.want(";")
	}
	r.want("automaton")
	r.next()
	r.want("=")
	t = &text{body: r.choice()}
	for r.peek() != ";" {
		switch word := r.next(); word {
		case "on":
			r.want("abort")
			t.abort = r.choice()
		case "deadline":
			r.next()
		default:
			panic(word)
		}
	}
	return t, nil
}

// split takes a text apart. Braces behind a hypercall that hold arguments become
// one word, "{}"; those of a repetition stay as they are.
func split(source string) (words []string) {
	for i := 0; i < len(source); {
		switch c := source[i]; {
		case strings.IndexByte(" \n\t", c) >= 0:
			i++
		case c == '#':
			for i < len(source) && source[i] != '\n' {
				i++
			}
		case c == '{' && source[i+1] >= '0' && source[i+1] <= '9':
			end := i + strings.IndexByte(source[i:], '}') + 1
			words = append(words, source[i:end])
			i = end
		case c == '{':
			i = braces(source, i)
			words = append(words, "{}")
		case strings.IndexByte("()|&*+?;=", c) >= 0:
			words = append(words, string(c))
			i++
		default:
			end := i
			for end < len(source) && strings.IndexByte(" \n\t(){}|&*+?;=", source[end]) < 0 {
				end++
			}
			words = append(words, source[i:end])
			i = end
		}
	}
	return words
}

// braces returns the place behind the brace that closes the one at i.
func braces(source string, i int) int {
	depth := 0
	for quoted := false; i < len(source); i++ {
		switch c := source[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{':
			depth++
		case c == '}':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	panic("braces")
}

func (r *reader) peek() string {
	if r.at == len(r.words) {
		return ""
	}
	return r.words[r.at]
}

func (r *reader) next() string {
	w := r.peek()
	r.at++
	return w
}

func (r *reader) want(word string) {
	if w := r.next(); w != word {
		panic(w)
	}
}

func (r *reader) choice() *expression       { return r.list("|", '|', r.interleaving) }
func (r *reader) interleaving() *expression { return r.list("&", '&', r.sequence) }

func (r *reader) list(word string, op byte, sub func() *expression) *expression {
	subs := []*expression{sub()}
	for r.peek() == word {
		r.next()
		subs = append(subs, sub())
	}
	if len(subs) == 1 {
		return subs[0]
	}
	return &expression{op: op, subs: subs}
}

func (r *reader) sequence() *expression {
	e := &expression{op: '.'}
	for {
		switch w := r.peek(); {
		case w == "" || w == "|" || w == "&" || w == ")" || w == ";" || w == "on" || w == "deadline":
			return e
		case w == "(":
			r.next()
			inner := &expression{op: '.'}
			if r.peek() != ")" {
				inner = r.choice()
			}
			r.want(")")
			e.subs = append(e.subs, r.repeated(inner))
		case w[0] == '@':
			r.next()
			part := r.parts[w[1:]]
			if part == nil {
				panic(w)
			}
			e.subs = append(e.subs, r.repeated(part))
		default:
			r.next()
			if r.peek() == "{}" {
				r.next()
			}
			e.subs = append(e.subs, r.repeated(&expression{op: 'c', name: w}))
		}
	}
}

func (r *reader) repeated(e *expression) *expression {
	switch w := r.peek(); {
	case w == "*":
		r.next()
		return &expression{op: '*', subs: []*expression{e}, max: -1}
	case w == "+":
		r.next()
		return &expression{op: '*', subs: []*expression{e}, min: 1, max: -1}
	case w == "?":
		r.next()
		return &expression{op: '*', subs: []*expression{e}, max: 1}
	case strings.HasPrefix(w, "{") && w != "{}":
		r.next()
		least, most, two := strings.Cut(strings.Trim(w, "{}"), ",")
		out := &expression{op: '*', subs: []*expression{e}, max: -1}
		scan(least, &out.min)
		switch {
		case !two:
			out.max = out.min
		case strings.TrimSpace(most) != "":
			scan(most, &out.max)
		}
		return out
	}
	return e
}

func scan(s string, n *int) {
	if _, err := fmt.Sscan(s, n); err != nil {
		panic(s)
	}
}

// ends tells whether the expression may be over here.
func (e *expression) ends() bool {
	switch e.op {
	case 'c':
		return false
	case '*':
		return e.min == 0 || e.subs[0].ends()
	case '|':
		return slices.ContainsFunc(e.subs, (*expression).ends)
	}
	return !slices.ContainsFunc(e.subs, func(s *expression) bool { return !s.ends() })
}

// after returns what may follow when the hypercall has been sent: any of these.
func (e *expression) after(name string) (out []*expression) {
	switch e.op {
	case 'c':
		if e.name == name {
			out = append(out, &expression{op: '.'})
		}
	case '|':
		for _, s := range e.subs {
			out = append(out, s.after(name)...)
		}
	case '&':
		for i, s := range e.subs {
			for _, d := range s.after(name) {
				subs := slices.Clone(e.subs)
				subs[i] = d
				out = append(out, &expression{op: '&', subs: subs})
			}
		}
	case '.':
		for i, s := range e.subs {
			for _, d := range s.after(name) {
				out = append(out, &expression{op: '.', subs: append([]*expression{d}, e.subs[i+1:]...)})
			}
			if !s.ends() {
				break
			}
		}
	case '*':
		if e.max == 0 {
			return nil
		}
		again := &expression{op: '*', subs: e.subs, min: max(0, e.min-1), max: max(e.max-1, -1)}
		if e.max < 0 {
			again.max = -1
		}
		for _, d := range e.subs[0].after(name) {
			out = append(out, &expression{op: '.', subs: []*expression{d, again}})
		}
	}
	return out
}

// key writes an expression so that equal ones can be told.
func (e *expression) key() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%c%s%d,%d(", e.op, e.name, e.min, e.max)
	for _, s := range e.subs {
		if k := s.key(); s.op != '.' || len(s.subs) > 0 {
			b.WriteString(k)
		}
	}
	b.WriteByte(')')
	return b.String()
}

// oracle follows one session.
type oracle struct {
	text *text
	now  []*expression
}

func (t *text) start() *oracle { return &oracle{text: t, now: []*expression{t.body}} }

// step takes a hypercall and tells whether it is accepted. If not it stays where it is.
func (o *oracle) step(name string, args map[string]any) bool {
	if fits, ok := shippedArguments[name]; ok && !fits(args) || !ok && len(args) > 0 {
		return false
	}
	var next []*expression
	seen := map[string]bool{}
	for _, e := range o.now {
		for _, d := range e.after(name) {
			if k := d.key(); !seen[k] {
				seen[k] = true
				next = append(next, d)
			}
		}
	}
	if len(next) > 0 {
		o.now = next
	}
	return len(next) > 0
}

func (o *oracle) abort() {
	o.now = nil
	if o.text.abort != nil {
		o.now = []*expression{o.text.abort}
	}
}

// done tells whether the session may end here.
func (o *oracle) done() bool { return slices.ContainsFunc(o.now, (*expression).ends) }
