package automaton

import (
	"crypto/sha256"
	"strconv"
	"strings"
)

// lineWidth is how long lines become, unless something cannot be broken.
const lineWidth = 96

// String returns the canonical text: comments dropped, imports written out as
// parts, arguments sorted by name, groups only where needed, white space fixed. Parsing it gives an equal
// File, whose canonical text is the same.
func (f *File) String() string {
	p := &printer{}
	define := func(d *definition, word string) {
		if p.b.Len() > 0 {
			p.b.WriteByte('\n')
		}
		p.definition(d, word)
		p.indent = indentStep
		p.word(";")
		p.newline()
	}
	for _, d := range f.parts {
		define(d, "part")
	}
	for _, d := range f.automata {
		define(d, "automaton")
	}
	return p.b.String()
}

// Hash identifies what the text says: SHA-256 over a label and String.
func (f *File) Hash() [32]byte {
	return sha256.Sum256([]byte("uvbond v1 automaton\x00" + f.String()))
}

// binding is how tightly a kind holds its parts together.
func (k nodeKind) binding() int {
	switch k {
	case nodeAlt:
		return 0
	case nodeShuffle:
		return 1
	case nodeSeq:
		return 2
	case nodeRepeat:
		return 3
	default:
		return 4
	}
}

// formatNode writes n on one line, as an operand of outer.
func formatNode(n *node, outer nodeKind) string {
	text := ""
	switch n.kind {
	case nodeEmpty:
		return "()"
	case nodePart:
		return "@" + n.part.name
	case nodeCommand:
		return n.command.String()
	case nodeRepeat:
		text = formatNode(n.subs[0], nodeRepeat) + repetition(n.min, n.max)
	default:
		parts := make([]string, len(n.subs))
		for i, sub := range n.subs {
			parts[i] = formatNode(sub, n.kind)
		}
		text = strings.Join(parts, map[nodeKind]string{nodeSeq: " ", nodeAlt: " | ", nodeShuffle: " & "}[n.kind])
	}
	if n.kind == outer && outer == nodeRepeat || n.kind.binding() < outer.binding() {
		return "(" + text + ")"
	}
	return text
}

func repetition(low, high int) string {
	switch {
	case low == 0 && high == unbounded:
		return "*"
	case low == 1 && high == unbounded:
		return "+"
	case low == 0 && high == 1:
		return "?"
	case high == unbounded:
		return "{" + strconv.Itoa(low) + ",}"
	case low == high:
		return "{" + strconv.Itoa(low) + "}"
	default:
		return "{" + strconv.Itoa(low) + "," + strconv.Itoa(high) + "}"
	}
}

func (c *command) String() string {
	if len(c.args.members) == 0 && !c.args.open {
		return c.name
	}
	return c.name + formatValue(c.args, c.captures.names)
}

// formatValue writes v in the language; messages use it too.
func formatValue(v *value, captures []string) string {
	switch v.kind {
	case valueNull:
		return "null"
	case valueTrue:
		return "true"
	case valueFalse:
		return "false"
	case valueText:
		return quote(v.text)
	case valueGlob:
		return "glob " + quote(v.text)
	case valueRegexp:
		return "regexp " + quote(v.text)
	case valueType:
		return v.text
	case valueRange:
		return formatRange(v)
	case valueObject:
		return formatObject(v, captures)
	case valueList:
		return formatList(v, captures)
	case valueOneOf:
		parts := make([]string, len(v.items))
		for i, item := range v.items {
			parts[i] = formatValue(item, captures)
		}
		return strings.Join(parts, " | ")
	case valueCapture:
		parts := []string{}
		if v.text != "" {
			parts = append(parts, quote(v.text))
		}
		parts = append(parts, "$"+captures[v.capture])
		if v.suffix != "" {
			parts = append(parts, quote(v.suffix))
		}
		return strings.Join(parts, " ")
	case valueAs:
		return formatValue(v.items[0], captures) + " as $" + captures[v.capture]
	default:
		return "any"
	}
}

func formatRange(v *value) string {
	switch {
	case v.low == nil:
		return ".." + v.high.format(v.unit)
	case v.high == nil:
		return v.low.format(v.unit) + ".."
	case *v.low == *v.high:
		return v.low.format(v.unit)
	default:
		return v.low.format(v.unit) + ".." + v.high.format(v.unit)
	}
}

func formatObject(v *value, captures []string) string {
	parts := []string{}
	for _, m := range v.members {
		parts = append(parts, formatMember(m, captures))
	}
	if v.open {
		parts = append(parts, "...")
	}
	if len(parts) == 0 {
		return "{}"
	}
	return "{ " + strings.Join(parts, ", ") + " }"
}

func formatMember(m member, captures []string) string {
	key := m.key
	if !isName(key) {
		key = quote(key)
	}
	if m.optional {
		key += "?"
	}
	return key + ": " + formatValue(m.value, captures)
}

func formatList(v *value, captures []string) string {
	parts := []string{}
	for _, item := range v.items {
		parts = append(parts, formatValue(item, captures))
	}
	if v.tail != nil {
		parts = append(parts, formatTail(v, captures))
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

// formatTail writes what may follow the elements or members that are written.
func formatTail(v *value, captures []string) string {
	switch {
	case v.kind == valueObject:
		return "..."
	case v.tailMin == 1:
		return formatValue(v.tail, captures) + "+"
	case v.tail.kind == valueAny:
		return "..."
	}
	return formatValue(v.tail, captures) + "*"
}
