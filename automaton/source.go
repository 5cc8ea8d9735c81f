package automaton

import (
	"strings"
)

// comment is one comment of a source text.
type comment struct {
	offset int
	text   string // from the # on, without the space at its end
	trails bool   // something else stands before it on its line
	gap    bool   // an empty line follows
}

// source is what Format keeps of a text beside its meaning.
type source struct {
	comments []comment
	items    []sourceItem
	spans    map[*node][2]int
}

// sourceItem is a definition or an import, in the order of the text.
type sourceItem struct {
	start, semicolon int
	word             string // "automaton", "part" or "import"
	def              *definition
	imported         string // NAME or NAME as LOCAL
}

// Format writes a text in the layout of the canonical form, but keeps its
// comments, its imports and the order of its definitions. Comments inside of
// arguments move behind the hypercall. Errors are those of Parse; imports need
// not be known.
func Format(name string, text []byte) (string, error) {
	src := &source{spans: map[*node][2]int{}}
	p := &parser{lexer: lexer{name: name, text: string(text), source: src}, budget: &budget{bytes: MaxText}, captures: &captures{}}
	if _, err := p.file(); err != nil {
		return "", err
	}
	out := &printer{comments: src.comments, spans: src.spans}
	for i, item := range src.items {
		if i > 0 && (item.word != "import" || src.items[i-1].word != "import" || out.leads(item.start)) {
			out.b.WriteByte('\n')
		}
		out.leading(item.start)
		if item.word == "import" {
			out.word("import " + item.imported + " ;")
		} else {
			out.definition(item.def, item.word)
			out.indent = indentStep
			out.flush(item.semicolon)
			out.word(";")
		}
		out.indent = 0
		if out.next < len(out.comments) && out.comments[out.next].trails && src.before(i+1, out.comments[out.next].offset) {
			out.comment(&out.comments[out.next])
			out.next++
		}
		out.newline()
	}
	if out.b.Len() > 0 && out.next < len(out.comments) {
		out.b.WriteByte('\n')
	}
	out.leading(len(text) + 1)
	return strings.TrimRight(out.b.String(), "\n") + "\n", nil
}

// before tells whether an offset lies before item i, if there is one.
func (s *source) before(i, offset int) bool { return i >= len(s.items) || offset < s.items[i].start }

// leads tells whether comments come before an offset.
func (p *printer) leads(before int) bool {
	return p.next < len(p.comments) && p.comments[p.next].offset < before
}

// leading writes comments between definitions, with the empty lines that
// followed them.
func (p *printer) leading(before int) {
	p.indent = 0
	for p.leads(before) {
		c := &p.comments[p.next]
		p.next++
		p.comment(c)
		if c.gap {
			p.b.WriteByte('\n')
		}
	}
}

// addComment keeps a comment that the lexer passes.
func (s *source) addComment(text string, offset, end int) {
	line := text[strings.LastIndexByte(text[:offset], '\n')+1 : offset]
	rest := strings.TrimLeft(text[end:], " \t\r")
	after, found := strings.CutPrefix(rest, "\n")
	s.comments = append(s.comments, comment{
		offset: offset, text: strings.TrimRight(text[offset:end], " \t\r"), trails: strings.TrimSpace(line) != "",
		gap: found && strings.HasPrefix(strings.TrimLeft(after, " \t\r"), "\n"),
	})
}

// span notes where a node stands.
func (p *parser) span(n *node, start int) *node {
	if p.source != nil {
		p.source.spans[n] = [2]int{start, p.before}
	}
	return n
}

// lower moves comments from an offset to the present token before what begins
// at the offset.
func (p *parser) lower(to int) {
	if p.source == nil {
		return
	}
	for i := len(p.source.comments) - 1; i >= 0 && p.source.comments[i].offset > to; i-- {
		if c := &p.source.comments[i]; c.offset < p.tok.offset {
			c.offset = to
		}
	}
}

// hoist moves comments behind what was parsed from an offset on.
func (p *parser) hoist(from int) {
	if p.source == nil {
		return
	}
	for i := len(p.source.comments) - 1; i >= 0 && p.source.comments[i].offset > from; i-- {
		if c := &p.source.comments[i]; c.offset < p.before {
			c.offset = p.before
		}
	}
}

func (p *parser) keep(item sourceItem) {
	if p.source != nil {
		p.source.items = append(p.source.items, item)
	}
}

// keepImport defines the part of an import that is not looked up.
func (p *parser) keepImport(f *File, name, local string, start, place int) error {
	written := name
	if local != name {
		written += " as " + local
	}
	p.keep(sourceItem{start: start, semicolon: p.before, word: "import", imported: written})
	p.unknown = append(p.unknown, local)
	return p.define(f, &definition{name: local, body: &node{kind: nodeEmpty}}, place)
}

// ofImport tells whether a part's name can come from an import that was not
// looked up.
func (p *parser) ofImport(name string) bool {
	for _, local := range p.unknown {
		if strings.HasPrefix(name, local+".") {
			return true
		}
	}
	return false
}
