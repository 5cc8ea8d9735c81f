package automaton

import (
	"errors"
	"slices"
)

// part = "part" name "=" choice ";" .
func (p *parser) part(f *File) error {
	start := p.tok.offset
	if err := p.advance(); err != nil {
		return err
	}
	if p.tok.kind != tokenName || reserved[p.tok.text] {
		return p.fail("", "expected the part's name, found %s", p.tok)
	}
	name, place := p.tok.text, p.tok.offset
	if err := p.advance(); err != nil {
		return err
	}
	if err := p.expect("=", "after the part's name", ""); err != nil {
		return err
	}
	p.def, p.commands = &definition{name: name}, 0
	body, err := p.alternatives()
	if err != nil {
		return err
	}
	if p.isWord("on") || p.isWord("deadline") {
		return p.fail("give it to the automaton", "a part has no %s", tick(p.tok.text))
	}
	if !p.is(";") {
		return p.clause() // which says what is wrong
	}
	d := &definition{name: name, body: body, size: measure(body)}
	if err := p.define(f, d, place); err != nil {
		return err
	}
	p.keep(sourceItem{start: start, semicolon: p.tok.offset, word: "part", def: d})
	return p.advance()
}

// define adds a part; place is where its name stands.
func (p *parser) define(f *File, d *definition, place int) error {
	switch {
	case p.parts[d.name] != nil:
		return p.errorAt(place, "give it another name", "part %s is defined twice", tick(d.name))
	case len(d.name) > MaxName:
		return p.errorAt(place, "import it as a shorter name", "part %s has a name longer than %d bytes", tick(d.name), MaxName)
	case len(f.parts) == MaxParts:
		return p.errorAt(place, "", "more than %d parts", MaxParts)
	}
	if p.parts == nil {
		p.parts = map[string]*definition{}
	}
	p.parts[d.name] = d
	f.parts = append(f.parts, d)
	return nil
}

// use parses @name. A part can only use parts before it, so none uses itself.
func (p *parser) use() (*node, error) {
	if p.commands++; p.commands > MaxStates {
		return nil, p.fail("use * or a repetition", "more than %d hypercalls and parts in one automaton", MaxStates)
	}
	d := p.parts[p.tok.text]
	if d == nil && p.ofImport(p.tok.text) {
		d = &definition{name: p.tok.text, body: &node{kind: nodeEmpty}}
	}
	if d == nil {
		var known []string
		for name := range p.parts {
			known = append(known, "@"+name)
		}
		slices.Sort(known)
		return nil, p.fail(near("@"+p.tok.text, known, "define it before it is used: part "+clip(p.tok.text)+" = ... ;"), "there is no part %s here", p.tok)
	}
	return &node{kind: nodePart, part: d, subs: []*node{d.body}}, p.advance()
}

// importAutomaton = "import" name [ "as" name ] ";" . It makes the automaton's
// body the part of that name, its on-abort part the part NAME.abort, and the
// parts that these use NAME.part. Captures of the same name are the same.
func (p *parser) importAutomaton(f *File) error {
	start := p.tok.offset
	if err := p.advance(); err != nil {
		return err
	}
	if p.tok.kind != tokenName || reserved[p.tok.text] {
		return p.fail("write: import NAME ;", "expected the name of an automaton, found %s", p.tok)
	}
	name, local, place := p.tok.text, p.tok.text, p.tok.offset
	if err := p.advance(); err != nil {
		return err
	}
	if p.isWord("as") {
		if err := p.advance(); err != nil {
			return err
		}
		if p.tok.kind != tokenName || reserved[p.tok.text] {
			return p.fail("", "expected a name after `as`, found %s", p.tok)
		}
		local = p.tok.text
		if err := p.advance(); err != nil {
			return err
		}
	}
	if !p.is(";") {
		return p.fail("", "expected `;` after an import, found %s", p.tok)
	}
	if err := p.advance(); err != nil {
		return err
	}
	if p.source != nil {
		return p.keepImport(f, name, local, start, place)
	}
	from, d, err := p.fetch(name, place)
	if err != nil {
		return err
	}
	parts := []*definition{}
	needed := reachable(d)
	for _, part := range from.parts {
		if needed[part] {
			part.name = local + "." + part.name
			parts = append(parts, part)
		}
	}
	if d.abort != nil {
		parts = append(parts, &definition{name: local + ".abort", body: d.abort, size: measure(d.abort)})
	}
	for _, part := range append(parts, &definition{name: local, body: d.body, size: measure(d.body)}) {
		if err := p.define(f, part, place); err != nil {
			return err
		}
		if p.imported == nil {
			p.imported = map[*definition]bool{}
		}
		p.imported[part] = true
	}
	return nil
}

// fetch parses the text that holds an automaton.
func (p *parser) fetch(name string, place int) (*File, *definition, error) {
	if p.imports == nil {
		return nil, nil, p.errorAt(place, "write it out as a part", "automaton %s cannot be imported here", tick(name))
	}
	if p.budget.depth == MaxImports {
		return nil, nil, p.errorAt(place, "", "more than %d imports inside each other", MaxImports)
	}
	text, err := p.imports(name)
	if err != nil {
		return nil, nil, p.errorAt(place, "", "automaton %s cannot be imported: %s", tick(name), clip(err.Error()))
	}
	p.budget.depth++
	sub := &parser{lexer: lexer{name: "import " + name, text: string(text)}, imports: p.imports, budget: p.budget, captures: &captures{}}
	f, err := sub.file()
	p.budget.depth--
	if err != nil {
		if s := (*SyntaxError)(nil); errors.As(err, &s) {
			return nil, nil, err
		}
		return nil, nil, p.errorAt(place, "", "%v", err)
	}
	d := f.find(name)
	if d == nil {
		return nil, nil, p.errorAt(place, "", "the text imported for automaton %s does not define it", tick(name))
	}
	return f, d, nil
}

// reachable returns the parts that definitions use, directly or not.
func reachable(defs ...*definition) map[*definition]bool {
	used := map[*definition]bool{}
	var walk func(*node)
	walk = func(n *node) {
		if n == nil {
			return
		}
		if n.kind == nodePart {
			if used[n.part] {
				return
			}
			used[n.part] = true
		}
		for _, sub := range n.subs {
			walk(sub)
		}
	}
	for _, d := range defs {
		walk(d.body)
		walk(d.abort)
	}
	return used
}

// prune drops imported parts that nothing uses; what the text itself defines
// stays.
func (f *File) prune(imported map[*definition]bool) {
	own := slices.Clone(f.automata)
	for _, part := range f.parts {
		if !imported[part] {
			own = append(own, part)
		}
	}
	needed := reachable(own...)
	f.parts = slices.DeleteFunc(f.parts, func(part *definition) bool { return imported[part] && !needed[part] })
	if len(f.parts) == 0 {
		f.parts = nil
	}
}

// settle numbers the captures of the text and its imports in the order of
// their names.
func (f *File) settle() {
	var commands []*command
	for _, d := range slices.Concat(f.parts, f.automata) {
		for _, n := range []*node{d.body, d.abort} {
			commands = n.commands(commands)
		}
	}
	var names []string
	for _, c := range commands {
		c.args.eachCapture(func(v *value) {
			if name := c.captures.names[v.capture]; !slices.Contains(names, name) {
				names = append(names, name)
			}
		})
	}
	slices.Sort(names)
	f.captures = &captures{names}
	for _, c := range commands {
		c.args.eachCapture(func(v *value) { v.capture = slices.Index(names, c.captures.names[v.capture]) })
		c.captures = f.captures
	}
}

// commands appends the hypercalls of n, those of its parts left out.
func (n *node) commands(out []*command) []*command {
	if n == nil || n.kind == nodePart {
		return out
	}
	if n.kind == nodeCommand {
		out = append(out, n.command)
	}
	for _, sub := range n.subs {
		out = sub.commands(out)
	}
	return out
}

func (v *value) eachCapture(visit func(*value)) {
	if v == nil {
		return
	}
	if v.kind == valueCapture || v.kind == valueAs {
		visit(v)
	}
	for i := range v.members {
		v.members[i].value.eachCapture(visit)
	}
	for _, item := range v.items {
		item.eachCapture(visit)
	}
	v.tail.eachCapture(visit)
}
