package automaton

import (
	"fmt"
	"time"
	"unicode/utf8"
)

// Parse reads a text of automata; name stands for it in errors. An empty text
// is a File without automata. Imports are refused. Errors are of type
// *SyntaxError.
func Parse(name string, text []byte) (*File, error) { return ParseImports(name, text, nil) }

// ParseImports is Parse for texts that import automata: imports returns the
// text that holds the automaton of that name. It may be called more than once
// for a name. What imports returns counts towards the limits of the text, and
// is parsed as strictly; names come from the text and are hostile.
func ParseImports(name string, text []byte, imports func(name string) ([]byte, error)) (*File, error) {
	p := &parser{lexer: lexer{name: name, text: string(text)}, imports: imports, budget: &budget{bytes: MaxText}, captures: &captures{}}
	return p.file()
}

// file parses a whole text.
func (p *parser) file() (*File, error) {
	if len(p.lexer.text) > p.budget.bytes {
		return nil, syntaxError(p.name, "", 0, fmt.Sprintf("text of %d bytes: at most %d are allowed, imports included", len(p.lexer.text), MaxText), "")
	}
	p.budget.bytes -= len(p.lexer.text)
	if !utf8.ValidString(p.lexer.text) {
		offset := 0
		for {
			r, n := utf8.DecodeRuneInString(p.lexer.text[offset:])
			if r == utf8.RuneError && n == 1 {
				return nil, p.errorAt(offset, "", "text is not valid UTF-8")
			}
			offset += n
		}
	}
	if err := p.advance(); err != nil {
		return nil, err
	}
	f := &File{}
	for p.tok.kind != tokenEnd {
		if err := p.definition(f); err != nil {
			return nil, err
		}
	}
	f.prune(p.imported)
	if f.settle(); len(f.captures.names) > MaxCaptures {
		return nil, p.fail("", "more than %d names of captures, imports included", MaxCaptures)
	}
	return f, nil
}

// parser is a recursive-descent parser with one token of look-ahead.
type parser struct {
	lexer
	tok      token
	nesting  int
	imports  func(name string) ([]byte, error) // nil: refused
	budget   *budget
	captures *captures
	parts    map[string]*definition
	imported map[*definition]bool // of parts
	def      *definition
	commands int      // hypercalls and parts in def so far
	binds    bool     // the value just parsed holds captures
	unknown  []string // imports that Format does not look up
	before   int      // where the token before tok ends
	input    *input   // the text, for the places of hypercalls
}

// budget is what a text and its imports share.
type budget struct {
	bytes    int // that may still be read
	patterns int // globs and regular expressions so far
	depth    int // of imports
}

func (p *parser) advance() (err error) {
	p.before = p.tok.end
	p.tok, err = p.next()
	return err
}

func (p *parser) fail(hint, format string, args ...any) error {
	return p.errorAt(p.tok.offset, hint, format, args...)
}

func (p *parser) is(punct string) bool { return p.tok.kind == tokenPunct && p.tok.text == punct }
func (p *parser) isWord(word string) bool {
	return p.tok.kind == tokenName && p.tok.text == word
}

// accept takes punct when it is next.
func (p *parser) accept(punct string) (bool, error) {
	if !p.is(punct) {
		return false, nil
	}
	return true, p.advance()
}

func (p *parser) expect(punct, where, hint string) error {
	if !p.is(punct) {
		return p.fail(hint, "expected %s %s, found %s", tick(punct), where, p.tok)
	}
	return p.advance()
}

// enter counts nesting; the caller leaves by decrementing.
func (p *parser) enter() error {
	if p.nesting++; p.nesting > MaxNesting {
		return p.fail("", "nested deeper than %d", MaxNesting)
	}
	return nil
}

// reserved are words that cannot name a hypercall or an automaton.
var reserved = map[string]bool{"automaton": true, "on": true, "deadline": true, "import": true, "part": true}

func (p *parser) definition(f *File) error {
	switch {
	case p.isWord("part"):
		return p.part(f)
	case p.isWord("import"):
		return p.importAutomaton(f)
	case !p.isWord("automaton"):
		return p.fail("every definition is: automaton NAME = ... ;", "expected `automaton`, found %s", p.tok)
	}
	start := p.tok.offset
	if len(f.automata) == MaxAutomata {
		return p.fail("", "more than %d automata", MaxAutomata)
	}
	if err := p.advance(); err != nil {
		return err
	}
	if p.tok.kind != tokenName || reserved[p.tok.text] {
		return p.fail("", "expected the automaton's name, found %s", p.tok)
	}
	p.def, p.commands = &definition{name: p.tok.text}, 0
	if f.find(p.def.name) != nil {
		return p.fail("give it another name", "automaton %s is defined twice", tick(p.def.name))
	}
	if err := p.advance(); err != nil {
		return err
	}
	if err := p.expect("=", "after the automaton's name", ""); err != nil {
		return err
	}
	var err error
	if p.def.body, err = p.alternatives(); err != nil {
		return err
	}
	for !p.is(";") {
		if err := p.clause(); err != nil {
			return err
		}
	}
	f.automata = append(f.automata, p.def)
	p.keep(sourceItem{start: start, semicolon: p.tok.offset, word: "automaton", def: p.def})
	return p.advance()
}

// clause parses what may follow the body: on abort, deadline.
func (p *parser) clause() (err error) {
	switch {
	case p.isWord("on"):
		if p.def.abort != nil {
			return p.fail("join the two with |", "`on abort` is given twice")
		}
		if err := p.advance(); err != nil {
			return err
		}
		if !p.isWord("abort") {
			return p.fail("write: on abort ...", "expected `abort`, found %s", p.tok)
		}
		if err := p.advance(); err != nil {
			return err
		}
		p.def.abort, err = p.alternatives()
		return err
	case p.isWord("deadline"):
		if p.def.deadline != 0 {
			return p.fail("", "`deadline` is given twice")
		}
		if err := p.advance(); err != nil {
			return err
		}
		p.def.deadline, err = p.duration()
		return err
	case p.tok.kind == tokenEnd, p.isWord("automaton"), p.isWord("part"), p.isWord("import"):
		return p.fail("end every automaton with ;", "expected `;`, found %s", p.tok)
	case p.is("{") || p.is("*") || p.is("+") || p.is("?"):
		return p.fail("to repeat twice over, use parentheses: (a{2,3})*", "unexpected %s after a repetition", p.tok)
	case p.is(")"):
		return p.fail("remove it, or open a group before", "`)` closes nothing")
	default:
		return p.fail("", "expected a hypercall, `on abort`, `deadline` or `;`, found %s", p.tok)
	}
}

func (p *parser) duration() (time.Duration, error) {
	start := p.tok.offset
	b, family, err := p.integer("a duration, like 30s")
	if err != nil {
		return 0, err
	}
	d := time.Duration(b.magnitude) * time.Millisecond
	if family != unitTime || b.negative || b.magnitude == 0 || b.magnitude > maxDeadlineS*1000 {
		return 0, p.errorAt(start, "write it like 30s or 2min", "a deadline is a duration from 1ms to 24h")
	}
	return d, nil
}

// alternatives = interleaving { "|" interleaving } .
func (p *parser) alternatives() (*node, error) { return p.operands(nodeAlt, "|", p.interleaving) }

// interleaving = sequence { "&" sequence } .
func (p *parser) interleaving() (*node, error) { return p.operands(nodeShuffle, "&", p.sequence) }

func (p *parser) operands(kind nodeKind, operator string, operand func() (*node, error)) (*node, error) {
	var subs []*node
	start := p.tok.offset
	for {
		n, err := operand()
		if err != nil {
			return nil, err
		}
		subs = append(subs, flatten(kind, n)...)
		if more, err := p.accept(operator); err != nil {
			return nil, err
		} else if !more {
			return p.span(join(kind, subs), start), nil
		}
	}
}

// flatten lifts the operands of the same associative operator out of a group.
func flatten(kind nodeKind, n *node) []*node {
	if n.kind == kind {
		return n.subs
	}
	return []*node{n}
}

func join(kind nodeKind, subs []*node) *node {
	if len(subs) == 1 {
		return subs[0]
	}
	return &node{kind: kind, subs: subs}
}

// sequence = step { step } .
func (p *parser) sequence() (*node, error) {
	var subs []*node
	start := p.tok.offset
	for p.is("(") || p.tok.kind == tokenPart || p.tok.kind == tokenName && !reserved[p.tok.text] {
		n, err := p.step()
		if err != nil {
			return nil, err
		}
		subs = append(subs, flatten(nodeSeq, n)...)
	}
	if len(subs) == 0 {
		hint := ""
		switch {
		case p.tok.kind == tokenString:
			hint = "hypercalls are written without quotes"
		case p.is(")") || p.is(";") || p.is("|") || p.is("&"):
			hint = "() stands for no hypercall at all"
		}
		return nil, p.fail(hint, "expected a hypercall or `(`, found %s", p.tok)
	}
	return p.span(join(nodeSeq, subs), start), nil
}

// step = ( command | part | "(" [ alternatives ] ")" ) [ repetition ] .
func (p *parser) step() (*node, error) {
	var n *node
	var err error
	start := p.tok.offset
	switch {
	case p.is("("):
		n, err = p.group()
	case p.tok.kind == tokenPart:
		n, err = p.use()
	default:
		n, err = p.command()
	}
	if err != nil {
		return nil, err
	}
	if n.kind == nodeCommand {
		p.hoist(start)
	}
	inner := p.span(n, start)
	end := p.before
	if n, err = p.repetition(inner); err != nil {
		return nil, err
	}
	if n == inner {
		return n, nil
	}
	p.hoist(end - 1)
	return p.span(n, start), nil
}

func (p *parser) group() (*node, error) {
	open := p.tok.offset
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer func() { p.nesting-- }()
	if err := p.advance(); err != nil {
		return nil, err
	}
	if empty, err := p.accept(")"); err != nil || empty {
		p.hoist(open)
		return &node{kind: nodeEmpty}, err
	}
	p.lower(open)
	n, err := p.alternatives()
	if err != nil {
		return nil, err
	}
	if !p.is(")") && (p.tok.kind == tokenEnd || p.is(";") || p.tok.kind == tokenName && reserved[p.tok.text]) {
		return nil, p.errorAt(open, "close it with )", "`(` is never closed")
	}
	end := p.before
	if err := p.expect(")", "at the end of a group", ""); err != nil {
		return nil, err
	}
	p.hoist(end - 1)
	return n, nil
}

func (p *parser) command() (*node, error) {
	if p.commands++; p.commands > MaxStates {
		return nil, p.fail("use * or a repetition", "more than %d hypercalls in one automaton", MaxStates)
	}
	if p.input == nil {
		p.input = &input{p.name, p.lexer.text}
	}
	c := &command{name: p.tok.text, args: &value{kind: valueObject}, captures: p.captures, at: origin{p.input, p.tok.offset}}
	if err := p.advance(); err != nil {
		return nil, err
	}
	if p.is("{") && !p.countFollows() {
		p.binds = false
		var err error
		if c.args, err = p.object(); err != nil {
			return nil, err
		}
		c.binds = p.binds
	}
	return &node{kind: nodeCommand, command: c}, nil
}
