package automaton

import (
	"strings"
)

// printer writes texts in the one layout of the language: a sequence fills its
// lines, a choice or interleaving that does not fit one line has a line for
// each operand, groups and arguments that do not fit are indented.
type printer struct {
	b      strings.Builder
	column int
	indent int
	line   int  // the indent of the present line
	first  bool // the next line begins a clause, and stands at its indent

	// For Format; empty for the canonical form.
	comments []comment
	next     int
	spans    map[*node][2]int // where nodes begin and end in the source
}

const indentStep = 4

func (p *printer) newline() {
	if p.column > 0 {
		p.b.WriteByte('\n')
		p.column = 0
	}
}

// word writes something that is not broken, on this line or the next.
func (p *printer) word(text string) {
	switch {
	case p.column > 0 && p.column+1+len(text) > lineWidth:
		p.newline()
		fallthrough
	case p.column == 0:
		p.column = p.indent
		if p.first {
			p.column, p.first = indentStep, false
		}
		p.line = p.column
		p.b.WriteString(strings.Repeat(" ", p.column))
	default:
		p.b.WriteByte(' ')
		p.column++
	}
	p.b.WriteString(text)
	p.column += len(text)
}

func (p *printer) definition(d *definition, word string) {
	p.indent = 0
	p.word(word + " " + d.name + " =")
	p.newline()
	p.clause("", d.body)
	if d.abort != nil {
		p.clause("on abort", d.abort)
	}
	if d.deadline != 0 {
		p.indent = indentStep
		p.newline()
		p.word("deadline " + formatDuration(d.deadline))
	}
}

// clause writes a body or an on-abort part; what does not fit its first line
// is indented once more.
func (p *printer) clause(lead string, n *node) {
	p.indent = indentStep
	p.flush(p.spans[n][0])
	p.newline()
	p.first = true
	p.indent = 2 * indentStep
	if lead != "" {
		p.word(lead)
	}
	p.expression(n, "", false)
}

// expression writes the operands of n, or n itself, without parentheses. lead
// stands before the first.
func (p *printer) expression(n *node, lead string, breaks bool) {
	operator := operators[n.kind]
	if n.kind != nodeSeq && operator == "" {
		p.item(n, nodeAlt, lead)
		return
	}
	lines := operator != "" && (breaks || !p.fits(n, nodeAlt, lead))
	indent := p.indent
	for i, sub := range n.subs {
		if i > 0 {
			lead = operator
			if lines {
				p.newline()
			}
		}
		if i == 0 && lines && p.first {
			p.indent = indentStep // all operands stand below each other
		}
		p.item(sub, n.kind, lead)
	}
	p.indent = indent
}

var operators = map[nodeKind]string{nodeAlt: "| ", nodeShuffle: "& "}

// fits tells whether n can stand on a line: it is short enough and no comment
// is inside.
func (p *printer) fits(n *node, outer nodeKind, lead string) bool {
	if span := p.spans[n]; p.next < len(p.comments) && p.comments[p.next].offset < span[1] {
		return false
	}
	return p.indent+len(lead)+len(formatNode(n, outer)) <= lineWidth
}

// item writes n as an operand of outer.
func (p *printer) item(n *node, outer nodeKind, lead string) {
	p.flush(p.spans[n][0])
	text := lead + formatNode(n, outer)
	group := n
	if n.kind == nodeRepeat {
		group = n.subs[0]
	}
	switch {
	case p.fits(n, outer, lead), group.kind == nodeEmpty, group.kind == nodePart:
		p.word(text)
	case group.kind == nodeCommand:
		p.command(group.command, text, lead, strings.TrimPrefix(formatNode(n, outer), formatNode(group, nodeRepeat)))
	case n.kind == nodeRepeat:
		p.group(group, lead, repetition(n.min, n.max))
	case n.kind.binding() < outer.binding():
		p.group(n, lead, "")
	default:
		p.expression(n, lead, true)
	}
}

func (p *printer) group(n *node, lead, suffix string) {
	p.word(lead + "(")
	p.newline()
	before, base := p.indent, p.line
	p.indent = base + indentStep
	p.expression(n, "", true)
	p.newline()
	p.indent = base
	p.word(")" + suffix)
	p.indent = before
}

// command writes a hypercall, each argument on its line where all do not fit
// one.
func (p *printer) command(c *command, text, lead, suffix string) {
	if p.indent+len(text) <= lineWidth || len(c.args.members) == 0 {
		p.word(text)
		return
	}
	p.word(lead + c.name + "{")
	before, base := p.indent, p.line
	p.indent = base + indentStep
	for i, m := range c.args.members {
		tail := ""
		if i+1 < len(c.args.members) || c.args.open {
			tail = ","
		}
		p.member(m, c.captures.names, tail)
	}
	if c.args.open {
		p.newline()
		p.word("...")
	}
	p.newline()
	p.indent = base
	p.word("}" + suffix)
	p.newline()
	p.indent, p.first = before, base == indentStep
}

// member writes a member of an object on its line, or on several where a list
// or an object in it does not fit one.
func (p *printer) member(m member, captures []string, tail string) {
	key := strings.TrimSuffix(formatMember(m, captures), formatValue(m.value, captures))
	p.value(key, m.value, captures, tail)
}

// value writes lead, a value and tail; lists and objects that do not fit a line
// have one for each element.
func (p *printer) value(lead string, v *value, captures []string, tail string) {
	p.newline()
	text := lead + formatValue(v, captures) + tail
	parts := len(v.items) + len(v.members)
	if p.indent+len(text) <= lineWidth || parts == 0 || v.kind != valueList && v.kind != valueObject {
		p.word(text)
		return
	}
	begin, end := "[", "]"
	if v.kind == valueObject {
		begin, end = "{", "}"
	}
	p.word(lead + begin)
	p.indent += indentStep
	more := v.open || v.tail != nil
	comma := func(i int) string {
		if i+1 < parts || more {
			return ","
		}
		return ""
	}
	for i, item := range v.items {
		p.value("", item, captures, comma(i))
	}
	for i, m := range v.members {
		p.member(m, captures, comma(i))
	}
	if more {
		p.newline()
		p.word(formatTail(v, captures))
	}
	p.indent -= indentStep
	p.newline()
	p.word(end + tail)
}

// flush writes the comments up to an offset of the source: behind what they
// stood behind, or on lines of their own.
func (p *printer) flush(to int) {
	for ; p.next < len(p.comments) && p.comments[p.next].offset <= to; p.next++ {
		p.comment(&p.comments[p.next])
	}
}

func (p *printer) comment(c *comment) {
	switch {
	case c.trails && p.column > 0:
		p.b.WriteString("  ")
	default:
		p.newline()
		p.b.WriteString(strings.Repeat(" ", p.indent))
	}
	p.b.WriteString(c.text)
	p.b.WriteByte('\n')
	p.column = 0
}
