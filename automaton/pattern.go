package automaton

import "slices"

// Hypercall is one hypercall as a text writes it, for programs that hold texts
// against a schema.
type Hypercall struct {
	Definition string  // the automaton's name, or "@" and the part's
	Name       string  // of the command
	Arguments  Pattern // of ShapeObject

	at origin
}

// Fault describes something wrong with the hypercall, at its place in the text.
func (h Hypercall) Fault(msg, hint string) *SyntaxError {
	if h.at.text == nil {
		return &SyntaxError{Msg: msg, Hint: hint}
	}
	return syntaxError(h.at.text.name, h.at.text.text, h.at.offset, msg, hint)
}

// Hypercalls returns every hypercall that the text writes, the definitions in
// their order, each with its on-abort part. One that stands in a part is there
// once.
func (f *File) Hypercalls() []Hypercall {
	var out []Hypercall
	add := func(name string, d *definition) {
		for _, n := range []*node{d.body, d.abort} {
			for _, c := range n.commands(nil) {
				out = append(out, Hypercall{name, c.name, Pattern{c.args, c.captures.names}, c.at})
			}
		}
	}
	for _, d := range f.parts {
		add("@"+d.name, d)
	}
	for _, d := range f.automata {
		add(d.name, d)
	}
	return out
}

// Shape is the kind of JSON value that a Pattern accepts.
type Shape uint8

// The shapes. ShapeOneOf is a choice of patterns, ShapeAny no restriction at all.
const (
	ShapeAny Shape = iota
	ShapeNull
	ShapeBoolean
	ShapeString
	ShapeInteger
	ShapeNumber
	ShapeObject
	ShapeList
	ShapeOneOf
)

// Pattern is a predicate on one JSON value, to be looked at. The zero value is
// not valid.
type Pattern struct {
	v        *value
	captures []string
}

// Member is one key of a Pattern of ShapeObject.
type Member struct {
	Key      string
	Optional bool
	Value    Pattern
}

var typeShapes = map[string]Shape{
	"string": ShapeString, "integer": ShapeInteger, "number": ShapeNumber,
	"boolean": ShapeBoolean, "object": ShapeObject, "list": ShapeList,
}

// Shape tells what kind of value the pattern accepts. A capture of a whole
// value is ShapeAny; `value as $x` has the shape of the value.
func (p Pattern) Shape() Shape {
	switch p.v.kind {
	case valueNull:
		return ShapeNull
	case valueTrue, valueFalse:
		return ShapeBoolean
	case valueText, valueGlob, valueRegexp:
		return ShapeString
	case valueRange:
		return ShapeInteger
	case valueType:
		return typeShapes[p.v.text]
	case valueObject:
		return ShapeObject
	case valueList:
		return ShapeList
	case valueOneOf:
		return ShapeOneOf
	case valueAs:
		return Pattern{p.v.items[0], p.captures}.Shape()
	case valueCapture:
		if p.v.text != "" || p.v.suffix != "" {
			return ShapeString
		}
	}
	return ShapeAny
}

// plain is the value under `as $x`.
func (p Pattern) plain() *value {
	v := p.v
	for v.kind == valueAs {
		v = v.items[0]
	}
	return v
}

// Members returns the keys of an object that the pattern names, sorted.
func (p Pattern) Members() []Member {
	var out []Member
	for _, m := range p.plain().members {
		out = append(out, Member{m.key, m.optional, Pattern{m.value, p.captures}})
	}
	return out
}

// Open tells that an object may have other keys than Members.
func (p Pattern) Open() bool {
	v := p.plain()
	return v.open || v.kind == valueType
}

// Items returns the patterns of a choice, or all those of a list's elements.
func (p Pattern) Items() []Pattern {
	v := p.plain()
	items := slices.Clone(v.items)
	if v.tail != nil {
		items = append(items, v.tail)
	}
	out := make([]Pattern, len(items))
	for i, item := range items {
		out[i] = Pattern{item, p.captures}
	}
	return out
}

// Constant returns the one string that the pattern accepts, if it is such.
func (p Pattern) Constant() (string, bool) {
	v := p.plain()
	return v.text, v.kind == valueText
}

// AcceptsString tells whether the pattern accepts s, whatever captures hold.
func (p Pattern) AcceptsString(s string) bool {
	m := matcher{bound: make(values, len(p.captures)), work: maxStepWork}
	return m.value(p.v, s, nil)
}

// String writes the pattern in the language, shortened.
func (p Pattern) String() string { return clip(formatValue(p.v, p.captures)) }
