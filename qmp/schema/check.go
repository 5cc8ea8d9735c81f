package schema

import (
	"fmt"
	"slices"

	"github.com/uvbond/uvbond/automaton"
)

// Check holds the hypercalls of a text against the schema and returns what can
// never be sent, one finding a line, in the order of the text: commands and
// arguments that do not exist, values of another type, values that no such
// argument has, and arguments that the command demands and the text leaves out.
// It stops at maxFindings.
func (s *Schema) Check(f *automaton.File) []string {
	var found []string
	for _, h := range f.Hypercalls() {
		if len(found) >= maxFindings {
			break
		}
		where := fmt.Sprintf("automaton `%s`: ", h.Definition)
		if h.Definition[0] == '@' {
			where = fmt.Sprintf("part `%s`: ", h.Definition)
		}
		c, err := s.Command(h.Name)
		if err != nil {
			found = add(found, where+fmt.Sprintf("hypercall `%s`: %v", h.Name, err))
			continue
		}
		for _, problem := range Problems(c.Name, c.Arguments, h.Arguments) {
			found = add(found, where+problem)
		}
	}
	return found
}

// maxFindings bounds what is said of one text.
const maxFindings = 64

func add(list []string, text string) []string {
	if slices.Contains(list, text) {
		return list
	}
	return append(list, text)
}

// Problems tells why values that a pattern accepts can never be of a type. name
// is what the value is called in the messages.
func Problems(name string, t *Type, p automaton.Pattern) []string {
	c := &checker{}
	c.value(name, t, p)
	return c.found
}

// maxProblems bounds what is said of one hypercall.
const maxProblems = 16

type checker struct{ found []string }

func (c *checker) say(at, format string, args ...any) {
	if len(c.found) < maxProblems {
		c.found = add(c.found, fmt.Sprintf("`%s` ", at)+fmt.Sprintf(format, args...))
	}
}

func (c *checker) value(at string, t *Type, p automaton.Pattern) {
	switch {
	case t.Kind == KindAny || p.Shape() == automaton.ShapeAny:
	case p.Shape() == automaton.ShapeOneOf:
		for _, item := range p.Items() {
			c.value(at, t, item)
		}
	case t.Kind == KindAlternate:
		c.alternate(at, t, p)
	case !t.takes(p.Shape()):
		c.say(at, "must be %s, so `%s` never fits", t, p)
	case t.Kind == KindEnum:
		c.enum(at, t, p)
	case t.Kind == KindArray:
		for _, item := range p.Items() {
			c.value(at+"[]", t.Element, item)
		}
	case t.Kind == KindObject:
		c.object(at, t, p)
	}
}

// takes tells whether a type has values of a shape at all.
func (t *Type) takes(s automaton.Shape) bool {
	switch s {
	case automaton.ShapeNull:
		return t.Kind == KindNull
	case automaton.ShapeBoolean:
		return t.Kind == KindBoolean
	case automaton.ShapeString:
		return t.Kind == KindString || t.Kind == KindEnum
	case automaton.ShapeInteger, automaton.ShapeNumber:
		return t.Kind == KindInteger || t.Kind == KindNumber
	case automaton.ShapeObject:
		return t.Kind == KindObject
	case automaton.ShapeList:
		return t.Kind == KindArray
	}
	return true
}

// alternate is satisfied by any alternative; else the nearest one is spoken of.
func (c *checker) alternate(at string, t *Type, p automaton.Pattern) {
	var best []string
	for _, a := range t.Alternatives {
		problems := Problems(at, a, p)
		if len(problems) == 0 {
			return
		}
		if best == nil && a.takes(p.Shape()) {
			best = problems
		}
	}
	if best == nil {
		c.say(at, "must be %s, so `%s` never fits", t, p)
		return
	}
	for _, text := range best {
		if len(c.found) < maxProblems {
			c.found = add(c.found, text)
		}
	}
}

func (c *checker) enum(at string, t *Type, p automaton.Pattern) {
	if slices.ContainsFunc(t.Enum, p.AcceptsString) {
		return
	}
	hint := ""
	if text, ok := p.Constant(); ok {
		hint = didYouMean(text, t.Enum)
	}
	c.say(at, "must be %s, so `%s` never fits%s", t, p, hint)
}

// takesProperties is the command whose arguments are also properties of the
// device that it adds: those are not in the schema (QAPI's 'gen': false).
const takesProperties = "device_add"

// object checks the members that are named, and looks for those that the type
// demands. A variant counts where the pattern settles the tag; else a member of
// any variant may be there and none is demanded.
func (c *checker) object(at string, t *Type, p automaton.Pattern) {
	named := map[string]bool{}
	known, demanded := t.reach(), slices.Clone(t.Members)
	for _, m := range p.Members() {
		tag, settled := m.Value.Constant()
		if m.Key != t.Tag || !settled || t.Tag == "" || m.Optional {
			continue
		}
		known = map[string]Member{}
		(&Type{Kind: KindObject, Members: t.Members}).collect(known, map[*Type]bool{})
		if v := t.Variants[tag]; v != nil {
			v.collect(known, map[*Type]bool{})
			demanded = append(demanded, v.Members...)
		}
	}
	for _, m := range p.Members() {
		named[m.Key] = true
		have, ok := known[m.Key]
		if !ok && at == takesProperties {
			continue
		}
		if !ok {
			c.say(at+"."+m.Key, "does not exist%s", didYouMean(m.Key, sortedKeys(known)))
			continue
		}
		c.value(at+"."+m.Key, have.Type, m.Value)
	}
	for _, m := range demanded {
		if !m.Optional && !named[m.Name] && !p.Open() {
			c.say(at+"."+m.Name, "is demanded, and the text does not allow it")
		}
	}
}
