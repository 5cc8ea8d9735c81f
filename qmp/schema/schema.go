// Package schema knows the commands, arguments, answers and events of QMP: what
// QEMU says of itself with query-qmp-schema, and the gate's own commands. It
// holds automata and the gate's allow-list against that, so that a misspelt
// command, an argument that does not exist or a value that can never be sent is
// found when a text is written, and not when a session is refused.
//
// The package is pure. Package recorded holds the schemas of the versions of
// QEMU that UVBond supports; the trusted daemon needs none of them, because its
// allow-list has types of its own, which tests hold against these schemas.
package schema

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Kind is what a Type describes.
type Kind uint8

// The kinds of types. JSON has no others.
const (
	KindAny Kind = iota
	KindString
	KindInteger
	KindNumber
	KindBoolean
	KindNull
	KindEnum      // a string out of Enum
	KindArray     // of Element
	KindObject    // Members, and those of the variant that Tag chooses
	KindAlternate // one of Alternatives
)

// Type is the type of an argument or of an answer. Types may contain themselves.
type Type struct {
	Kind         Kind
	Enum         []string // sorted
	Element      *Type
	Members      []Member         // sorted by name
	Tag          string           // name of the member that chooses a variant, or ""
	Variants     map[string]*Type // by the tag's value; a value without one adds nothing
	Alternatives []*Type
}

// Member is one member of an object.
type Member struct {
	Name     string
	Type     *Type
	Optional bool
}

// Command is a QMP command.
type Command struct {
	Name      string
	Arguments *Type // of KindObject
	Returns   *Type
}

// Event is a QMP event.
type Event struct {
	Name string
	Data *Type // of KindObject
}

// Schema is the set of commands and events of one QMP server. It does not
// change, so that many may use it at once.
type Schema struct {
	of       string // whose, for messages
	commands map[string]*Command
	events   map[string]*Event
}

// Commands returns the names of all commands, sorted.
func (s *Schema) Commands() []string { return sortedKeys(s.commands) }

// Events returns the names of all events, sorted.
func (s *Schema) Events() []string { return sortedKeys(s.events) }

// Of names the server, such as "QEMU 7.2".
func (s *Schema) Of() string { return s.of }

// Command returns a command. The error says that there is none, and which it may
// have been meant to be.
func (s *Schema) Command(name string) (*Command, error) {
	if c, ok := s.commands[name]; ok {
		return c, nil
	}
	return nil, fmt.Errorf("%s has no such command%s", s.of, didYouMean(name, s.Commands()))
}

// Event returns an event; the error is like that of Command.
func (s *Schema) Event(name string) (*Event, error) {
	if e, ok := s.events[name]; ok {
		return e, nil
	}
	return nil, fmt.Errorf("%s has no such event%s", s.of, didYouMean(name, s.Events()))
}

// Argument returns the type of a nested argument, such as "backing.file" or
// "disks.name"; arrays are walked through. An object's variants are all looked
// into. The error says where the path ends, and what may have been meant.
func (c *Command) Argument(path string) (*Type, error) { return find(c.Name, c.Arguments, path) }

// Field is Argument for the answer.
func (c *Command) Field(path string) (*Type, error) { return find(c.Name, c.Returns, path) }

func find(at string, t *Type, path string) (*Type, error) {
	if path == "" {
		return t, nil
	}
	name, rest, _ := strings.Cut(path, ".")
	members := t.reach()
	m, ok := members[name]
	if !ok {
		return nil, fmt.Errorf("%q has no member %q%s", at, name, didYouMean(name, sortedKeys(members)))
	}
	return find(at+"."+name, m.Type, rest)
}

// reach returns the members that a value of the type may have, those of all
// variants and alternatives included.
func (t *Type) reach() map[string]Member {
	out := map[string]Member{}
	t.collect(out, map[*Type]bool{})
	return out
}

func (t *Type) collect(out map[string]Member, seen map[*Type]bool) {
	if t == nil || seen[t] {
		return
	}
	seen[t] = true
	switch t.Kind {
	case KindArray:
		t.Element.collect(out, seen)
	case KindAlternate:
		for _, a := range t.Alternatives {
			a.collect(out, seen)
		}
	case KindObject:
		for _, m := range t.Members {
			out[m.Name] = m
		}
		for _, v := range t.Variants {
			v.collect(out, seen)
		}
	}
}

// member finds one of an object's own members.
func (t *Type) member(name string) (Member, bool) {
	n, ok := slices.BinarySearchFunc(t.Members, name, func(m Member, name string) int { return strings.Compare(m.Name, name) })
	if !ok {
		return Member{}, false
	}
	return t.Members[n], true
}

// String says what a value must be, in words.
func (t *Type) String() string {
	switch t.Kind {
	case KindString:
		return "a string"
	case KindInteger:
		return "an integer"
	case KindNumber:
		return "a number"
	case KindBoolean:
		return "true or false"
	case KindNull:
		return "null"
	case KindEnum:
		const most = 12
		if len(t.Enum) > most {
			return fmt.Sprintf("one of %s and %d more", quoted(t.Enum[:most]), len(t.Enum)-most)
		}
		return "one of " + quoted(t.Enum)
	case KindArray:
		return "a list"
	case KindObject:
		return "an object"
	case KindAlternate:
		var words []string
		for _, a := range t.Alternatives {
			if w := a.String(); !slices.Contains(words, w) {
				words = append(words, w)
			}
		}
		return strings.Join(words, " or ")
	}
	return "anything"
}

func quoted(list []string) string {
	words := make([]string, len(list))
	for i, s := range list {
		words[i] = fmt.Sprintf("%q", s)
	}
	return strings.Join(words, ", ")
}

// wire is one entry of the answer to query-qmp-schema. Which fields it has depends on
// its meta-type (QEMU's qapi/introspect.json).
type wire struct {
	MetaType    string          `json:"meta-type"`
	Name        string          `json:"name"`
	ArgType     string          `json:"arg-type"`
	RetType     string          `json:"ret-type"`
	AllowOOB    bool            `json:"allow-oob"`
	JSONType    string          `json:"json-type"`
	ElementType string          `json:"element-type"`
	Values      []string        `json:"values"`
	Tag         string          `json:"tag"`
	Features    json.RawMessage `json:"features"`
	Members     []wireMember    `json:"members"`
	Variants    []struct {
		Case string `json:"case"`
		Type string `json:"type"`
	} `json:"variants"`
}

type wireMember struct {
	Name     string          `json:"name"`
	Type     string          `json:"type"`
	Default  json.RawMessage `json:"default"` // present, though null: the member is optional
	Features json.RawMessage `json:"features"`
}

// Parse reads the answer to query-qmp-schema of the server that of names.
// Members that are not known and names that lead nowhere are errors.
func Parse(of string, answer []byte) (*Schema, error) {
	var entries []wire
	d := json.NewDecoder(strings.NewReader(string(answer)))
	d.DisallowUnknownFields()
	if err := d.Decode(&entries); err != nil {
		return nil, fmt.Errorf("schema of %s: %w", of, err)
	}
	p := &resolver{types: map[string]*Type{}}
	s := &Schema{of: of, commands: map[string]*Command{}, events: map[string]*Event{}}
	for i := range entries {
		if err := p.declare(&entries[i]); err != nil {
			return nil, fmt.Errorf("schema of %s: %w", of, err)
		}
	}
	for i := range entries {
		if err := p.fill(s, &entries[i]); err != nil {
			return nil, fmt.Errorf("schema of %s: %s: %w", of, entries[i].Name, err)
		}
	}
	if len(s.commands) == 0 {
		return nil, fmt.Errorf("schema of %s: it has no commands", of)
	}
	return s, nil
}

type resolver struct{ types map[string]*Type }

var metaKinds = map[string]Kind{"enum": KindEnum, "array": KindArray, "object": KindObject, "alternate": KindAlternate}

var jsonKinds = map[string]Kind{
	"string": KindString, "int": KindInteger, "number": KindNumber, "boolean": KindBoolean, "null": KindNull, "value": KindAny,
}

// declare makes room for a type, so that types may refer to each other.
func (p *resolver) declare(e *wire) error {
	var t *Type
	switch e.MetaType {
	case "command", "event":
		return nil
	case "builtin":
		kind, ok := jsonKinds[e.JSONType]
		if !ok {
			return fmt.Errorf("type %s is %q", e.Name, e.JSONType)
		}
		t = &Type{Kind: kind}
	default:
		kind, ok := metaKinds[e.MetaType]
		if !ok {
			return fmt.Errorf("%s is of the unknown meta-type %q", e.Name, e.MetaType)
		}
		t = &Type{Kind: kind}
	}
	if p.types[e.Name] != nil {
		return fmt.Errorf("type %s is there twice", e.Name)
	}
	p.types[e.Name] = t
	return nil
}

func (p *resolver) named(name string) (*Type, error) {
	if t := p.types[name]; t != nil {
		return t, nil
	}
	return nil, fmt.Errorf("there is no type %q", name)
}

// fill resolves the names in an entry.
func (p *resolver) fill(s *Schema, e *wire) (err error) {
	t := p.types[e.Name]
	switch e.MetaType {
	case "command":
		c := &Command{Name: e.Name}
		if c.Arguments, err = p.object(e.ArgType); err == nil {
			c.Returns, err = p.named(e.RetType)
		}
		if s.commands[e.Name] != nil {
			err = errors.New("the command is there twice")
		}
		s.commands[e.Name] = c
	case "event":
		ev := &Event{Name: e.Name}
		ev.Data, err = p.object(e.ArgType)
		if s.events[e.Name] != nil {
			err = errors.New("the event is there twice")
		}
		s.events[e.Name] = ev
	case "enum":
		t.Enum = slices.Sorted(slices.Values(e.Values))
		if len(e.Values) == 0 {
			for _, m := range e.Members {
				t.Enum = append(t.Enum, m.Name)
			}
			slices.Sort(t.Enum)
		}
	case "array":
		t.Element, err = p.named(e.ElementType)
	case "alternate":
		for _, m := range e.Members {
			a, err := p.named(m.Type)
			if err != nil {
				return err
			}
			t.Alternatives = append(t.Alternatives, a)
		}
	case "object":
		err = p.fillObject(t, e)
	}
	return err
}

func (p *resolver) object(name string) (*Type, error) {
	t, err := p.named(name)
	if err == nil && t.Kind != KindObject {
		err = fmt.Errorf("type %q is no object", name)
	}
	return t, err
}

func (p *resolver) fillObject(t *Type, e *wire) error {
	for _, m := range e.Members {
		mt, err := p.named(m.Type)
		if err != nil {
			return err
		}
		t.Members = append(t.Members, Member{m.Name, mt, len(m.Default) > 0})
	}
	slices.SortFunc(t.Members, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	t.Tag = e.Tag
	for _, v := range e.Variants {
		vt, err := p.object(v.Type)
		if err != nil {
			return err
		}
		if t.Variants == nil {
			t.Variants = map[string]*Type{}
		}
		t.Variants[v.Case] = vt
	}
	if _, ok := t.member(t.Tag); t.Tag != "" && !ok {
		return fmt.Errorf("the tag %q is no member", t.Tag)
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
