package schema

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Of returns the type of the JSON that encoding/json makes of a T: the gate's own
// messages and its typed arguments are Go structs. Members with omitempty are
// optional, []byte is a string (base64). It panics on types that QMP has not.
func Of[T any]() *Type { return fromGo(reflect.TypeFor[T]()) }

func fromGo(t reflect.Type) *Type {
	switch t.Kind() {
	case reflect.Pointer:
		return fromGo(t.Elem())
	case reflect.String:
		return &Type{Kind: KindString}
	case reflect.Bool:
		return &Type{Kind: KindBoolean}
	case reflect.Int, reflect.Int64, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return &Type{Kind: KindInteger}
	case reflect.Interface:
		return &Type{Kind: KindAny}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return &Type{Kind: KindString}
		}
		return &Type{Kind: KindArray, Element: fromGo(t.Elem())}
	case reflect.Struct:
		o := &Type{Kind: KindObject}
		for i := range t.NumField() {
			f := t.Field(i)
			name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			o.Members = append(o.Members, Member{name, fromGo(f.Type), strings.Contains(options, "omitempty")})
		}
		slices.SortFunc(o.Members, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
		return o
	}
	panic(fmt.Sprintf("schema: %s is no type of QMP", t))
}

// Nothing is the type of no arguments and of an empty answer.
func Nothing() *Type { return &Type{Kind: KindObject} }

// With returns s with more commands. A command that is there already is replaced.
func (s *Schema) With(of string, more ...*Command) *Schema {
	out := &Schema{of: of, commands: map[string]*Command{}, events: s.events}
	for name, c := range s.commands {
		out.commands[name] = c
	}
	for _, c := range more {
		out.commands[c.Name] = c
	}
	return out
}

// New returns a schema of these commands, without events.
func New(of string, commands ...*Command) *Schema { return (&Schema{}).With(of, commands...) }

// Fits tells why a value of the narrower type n is not always one of t, or
// returns nil: each member of n exists in t with a type that it fits, and each
// member that t demands is in n and not optional there.
func (t *Type) Fits(n *Type) error { return fits("", t, n) }

func fits(at string, t, n *Type) error {
	where := at
	if where == "" {
		where = "it"
	}
	switch {
	case t.Kind == KindAny || t.Kind == n.Kind && t.Kind < KindEnum:
		return nil
	case t.Kind == KindNumber && n.Kind == KindInteger:
		return nil
	case t.Kind == KindAlternate:
		for _, a := range t.Alternatives {
			if fits(at, a, n) == nil {
				return nil
			}
		}
	case t.Kind == KindEnum && n.Kind == KindEnum:
		for _, v := range n.Enum {
			if !slices.Contains(t.Enum, v) {
				return fmt.Errorf("%s cannot be %q, it is %s", where, v, t)
			}
		}
		return nil
	case t.Kind == KindString && n.Kind == KindEnum:
		return nil
	case t.Kind == KindArray && n.Kind == KindArray:
		return fits(at+"[]", t.Element, n.Element)
	case t.Kind == KindObject && n.Kind == KindObject:
		return fitMembers(at, t, n)
	}
	return fmt.Errorf("%s is %s, not %s", where, t, n)
}

func fitMembers(at string, t, n *Type) error {
	known := t.reach()
	for _, m := range n.Members {
		have, ok := known[m.Name]
		if !ok {
			return fmt.Errorf("there is no %s%s", at+"."+m.Name, didYouMean(m.Name, sortedKeys(known)))
		}
		if err := fits(at+"."+m.Name, have.Type, m.Type); err != nil {
			return err
		}
	}
	for _, m := range t.Members {
		have, ok := n.member(m.Name)
		if !m.Optional && (!ok || have.Optional) {
			return fmt.Errorf("%s.%s is demanded", at, m.Name)
		}
	}
	return nil
}
