package automaton

import "fmt"

// countFollows tells a bounded repetition from arguments: no key starts with a digit.
func (p *parser) countFollows() bool {
	ahead := p.lexer
	ahead.source = nil
	t, err := ahead.next()
	return err == nil && (t.kind == tokenInteger || t.kind == tokenPunct && t.text == ",")
}

func (p *parser) repetition(n *node) (*node, error) {
	r := &node{kind: nodeRepeat, subs: []*node{n}}
	switch {
	case p.is("*"):
		r.min, r.max = 0, unbounded
	case p.is("+"):
		r.min, r.max = 1, unbounded
	case p.is("?"):
		r.min, r.max = 0, 1
	case p.is("{") && p.countFollows():
		return r, p.bounds(r)
	default:
		return n, nil
	}
	return r, p.advance()
}

// bounds = "{" integer [ "," [ integer ] ] "}" .
func (p *parser) bounds(r *node) error {
	if err := p.advance(); err != nil {
		return err
	}
	start := p.tok.offset
	var err error
	if r.min, err = p.count(); err != nil {
		return err
	}
	r.max = r.min
	comma, err := p.accept(",")
	if err != nil {
		return err
	}
	if comma {
		r.max = unbounded
		if !p.is("}") {
			if r.max, err = p.count(); err != nil {
				return err
			}
		}
	}
	if r.max != unbounded && r.max < r.min {
		return p.errorAt(start, fmt.Sprintf("write {%d,%d}", r.max, r.min), "the larger count comes first")
	}
	if r.max == 0 {
		return p.errorAt(start, "leave it out, or write ()", "zero times is never")
	}
	return p.expect("}", "at the end of a repetition", "write {2} or {1,3} or {1,}")
}

func (p *parser) count() (int, error) {
	if p.tok.kind != tokenInteger || p.tok.unit != "" {
		return 0, p.fail("write {2} or {1,3} or {1,}", "expected a count, found %s", p.tok)
	}
	b, ok := parseBound(p.tok.text)
	if !ok || b.negative || b.magnitude > MaxRepeat {
		return 0, p.fail("", "a count lies between 0 and %d, found %s", MaxRepeat, p.tok)
	}
	return int(b.magnitude), p.advance()
}
