package automaton

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
)

// object = "{" [ member { "," member } ] [ "," ] [ "..." ] "}" .
func (p *parser) object() (*value, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer func() { p.nesting-- }()
	if err := p.advance(); err != nil {
		return nil, err
	}
	v := &value{kind: valueObject}
	for !p.is("}") {
		if dots, err := p.accept("..."); err != nil {
			return nil, err
		} else if dots {
			v.open = true
			break
		}
		if err := p.member(v); err != nil {
			return nil, err
		}
		if comma, err := p.accept(","); err != nil {
			return nil, err
		} else if !comma && !p.is("...") {
			break
		}
	}
	if err := p.expect("}", "after an argument", "arguments are separated by commas; ... comes last"); err != nil {
		return nil, err
	}
	slices.SortFunc(v.members, func(a, b member) int { return strings.Compare(a.key, b.key) })
	for i := 1; i < len(v.members); i++ {
		if v.members[i].key == v.members[i-1].key {
			return nil, p.fail("", "argument %s is given twice in the braces before this", tick(v.members[i].key))
		}
	}
	return v, nil
}

// member = ( name | string ) [ "?" ] ":" value .
func (p *parser) member(object *value) (err error) {
	if p.tok.kind != tokenName && p.tok.kind != tokenString {
		return p.fail("write { name: value }, or ... for any further arguments", "expected an argument's name, found %s", p.tok)
	}
	m := member{key: p.tok.text}
	if err := p.advance(); err != nil {
		return err
	}
	if m.optional, err = p.accept("?"); err != nil {
		return err
	}
	if p.is("=") {
		return p.fail("write name: value", "expected `:` after the argument's name, found `=`")
	}
	if err := p.expect(":", "after the argument's name", ""); err != nil {
		return err
	}
	if m.value, err = p.value(); err != nil {
		return err
	}
	object.members = append(object.members, m)
	return nil
}

// value = single { "|" single } [ "as" capture ] .
func (p *parser) value() (*value, error) {
	start := p.tok.offset
	before := p.binds
	p.binds = false
	first, err := p.single()
	if err != nil {
		return nil, err
	}
	v := first
	for p.is("|") {
		if v == first {
			v = &value{kind: valueOneOf, items: []*value{first}}
		}
		if err := p.advance(); err != nil {
			return nil, err
		}
		next, err := p.single()
		if err != nil {
			return nil, err
		}
		v.items = append(v.items, next)
	}
	if v.kind == valueOneOf && p.binds {
		return nil, p.errorAt(start, "write the choice first, then: as $name", "a capture stands inside a choice of values")
	}
	if p.isWord("as") {
		if v, err = p.as(v); err != nil {
			return nil, err
		}
	}
	p.binds = p.binds || before
	return v, nil
}

func (p *parser) as(v *value) (*value, error) {
	if err := p.advance(); err != nil {
		return nil, err
	}
	if p.tok.kind != tokenCapture {
		return nil, p.fail("write: as $name", "expected a capture after `as`, found %s", p.tok)
	}
	if v.kind == valueCapture && v.text == "" && v.suffix == "" {
		return nil, p.fail("use the same name for both", "one value cannot have two captures")
	}
	n, err := p.capture()
	if err != nil {
		return nil, err
	}
	if v.kind == valueAny {
		return &value{kind: valueCapture, capture: n}, nil
	}
	return &value{kind: valueAs, items: []*value{v}, capture: n}, nil
}

// capture takes a capture token and numbers its name.
func (p *parser) capture() (int, error) {
	p.binds = true
	n := slices.Index(p.captures.names, p.tok.text)
	if n < 0 {
		if len(p.captures.names) == MaxCaptures {
			return 0, p.fail("", "more than %d names of captures", MaxCaptures)
		}
		n = len(p.captures.names)
		p.captures.names = append(p.captures.names, p.tok.text)
	}
	return n, p.advance()
}

func (p *parser) single() (*value, error) {
	switch {
	case p.tok.kind == tokenString:
		return p.text()
	case p.tok.kind == tokenCapture:
		return p.template("")
	case p.tok.kind == tokenInteger, p.is(".."):
		return p.integerRange()
	case p.is("{"):
		return p.object()
	case p.is("["):
		return p.list()
	case p.tok.kind == tokenName:
		return p.word()
	case p.is("..."):
		return nil, p.fail("write any", "expected a value, found `...`")
	default:
		return nil, p.fail(`values are "text", 5, 1..9, 256MiB.., true, null, any, string, integer, $name, { ... } or [ ... ]`,
			"expected a value, found %s", p.tok)
	}
}

// text = string [ capture [ string ] ] .
func (p *parser) text() (*value, error) {
	s := p.tok.text
	if err := p.advance(); err != nil {
		return nil, err
	}
	if p.tok.kind != tokenCapture {
		return &value{kind: valueText, text: s}, nil
	}
	if s == "" {
		return nil, p.fail("remove the string", "an empty string beside a capture says nothing")
	}
	return p.template(s)
}

func (p *parser) template(prefix string) (*value, error) {
	n, err := p.capture()
	if err != nil {
		return nil, err
	}
	v := &value{kind: valueCapture, text: prefix, capture: n}
	if p.tok.kind == tokenString {
		if v.suffix = p.tok.text; v.suffix == "" {
			return nil, p.fail("remove the string", "an empty string beside a capture says nothing")
		}
		if err := p.advance(); err != nil {
			return nil, err
		}
	}
	if p.tok.kind == tokenCapture {
		return nil, p.fail("a text has one capture at most, or it could be split in several ways", "unexpected second capture %s", p.tok)
	}
	return v, nil
}

// integerRange = integer | integer ".." [ integer ] | ".." integer .
func (p *parser) integerRange() (*value, error) {
	v := &value{kind: valueRange}
	start := p.tok.offset
	if p.tok.kind == tokenInteger {
		low, family, err := p.integer("an integer")
		if err != nil {
			return nil, err
		}
		v.low, v.unit = &low, family
		if dots, err := p.accept(".."); err != nil {
			return nil, err
		} else if !dots {
			v.high = v.low
			return v, nil
		}
	} else if err := p.advance(); err != nil {
		return nil, err
	}
	if p.tok.kind != tokenInteger {
		if v.low == nil {
			return nil, p.fail("", "expected an integer after `..`, found %s", p.tok)
		}
		return v, nil
	}
	high, family, err := p.integer("an integer")
	if err != nil {
		return nil, err
	}
	v.high = &high
	if v.unit == unitNone {
		v.unit = family
	} else if family != v.unit && family != unitNone {
		return nil, p.errorAt(start, "", "a range mixes sizes and times")
	}
	if v.low != nil && high.less(*v.low) {
		return nil, p.errorAt(start, "", "the range is empty: its end lies before its beginning")
	}
	return v, nil
}

func (p *parser) integer(what string) (bound, unitFamily, error) {
	if p.tok.kind != tokenInteger {
		return bound{}, 0, p.fail("", "expected %s, found %s", what, p.tok)
	}
	u, known := findUnit(p.tok.unit)
	if !known {
		return bound{}, 0, p.fail(near(p.tok.unit, unitNames(), "units are B KiB MiB GiB TiB and ms s min h"), "unknown unit %s", tick(p.tok.unit))
	}
	b, ok := parseBound(p.tok.text)
	if ok {
		b, ok = b.scale(u.factor)
	}
	if !ok {
		return bound{}, 0, p.fail("integers lie between -2^63 and 2^64-1", "%s is too large", p.tok)
	}
	return b, u.family, p.advance()
}

// list = "[" [ value { "," value } [ "*" | "+" ] ] [ "," "..." ] "]" .
func (p *parser) list() (*value, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer func() { p.nesting-- }()
	if err := p.advance(); err != nil {
		return nil, err
	}
	v := &value{kind: valueList}
	for !p.is("]") {
		if dots, err := p.accept("..."); err != nil {
			return nil, err
		} else if dots {
			v.tail = &value{kind: valueAny}
			break
		}
		item, err := p.value()
		if err != nil {
			return nil, err
		}
		if p.is("*") || p.is("+") {
			v.tail = item
			if p.is("+") {
				v.tailMin = 1
			}
			if err := p.advance(); err != nil {
				return nil, err
			}
			break
		}
		v.items = append(v.items, item)
		if comma, err := p.accept(","); err != nil {
			return nil, err
		} else if !comma {
			break
		}
	}
	return v, p.expect("]", "at the end of a list", "elements are separated by commas; a repeated one and ... come last")
}

func (p *parser) word() (*value, error) {
	word := p.tok.text
	switch word {
	case "glob", "regexp":
		return p.pattern(word)
	case "any", "null", "true", "false":
		kind := map[string]valueKind{"any": valueAny, "null": valueNull, "true": valueTrue, "false": valueFalse}[word]
		return &value{kind: kind}, p.advance()
	}
	if !slices.Contains(types, word) {
		known := append([]string{"any", "null", "true", "false", "glob", "regexp"}, types...)
		return nil, p.fail(near(word, known, "text stands in quotes: "+clip(quote(word))+"; types are any, "+strings.Join(types, ", ")),
			"unknown word %s for a value", tick(word))
	}
	return &value{kind: valueType, text: word}, p.advance()
}

// pattern = ( "glob" | "regexp" ) string .
func (p *parser) pattern(word string) (*value, error) {
	if err := p.advance(); err != nil {
		return nil, err
	}
	if p.tok.kind != tokenString {
		return nil, p.fail("", "expected a string after %s, found %s", tick(word), p.tok)
	}
	if len(p.tok.text) > MaxPattern {
		return nil, p.fail("", "pattern is longer than %d bytes", MaxPattern)
	}
	if p.budget.patterns++; p.budget.patterns > MaxPatterns {
		return nil, p.fail("", "more than %d globs and regular expressions", MaxPatterns)
	}
	v := &value{kind: valueGlob, text: p.tok.text}
	if word == "regexp" {
		v.kind = valueRegexp
		var err error
		if v.re, v.cost, err = compileRegexp(v.text); err != nil {
			return nil, p.fail("RE2 syntax; the whole value must match", "regular expression: %v", err)
		}
	}
	return v, p.advance()
}

// compileRegexp bounds the work before it does it: flags and Unicode classes
// are refused because case folding of large classes is slow, and repetitions
// are multiplied out beforehand.
func compileRegexp(text string) (*regexp.Regexp, int, error) {
	if strings.Count(text, "(?") != strings.Count(text, "(?:") {
		return nil, 0, fmt.Errorf("flags and names such as (?i) are not offered")
	}
	if strings.Contains(text, `\p`) || strings.Contains(text, `\P`) {
		return nil, 0, fmt.Errorf("classes of Unicode are not offered")
	}
	parsed, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return nil, 0, err
	}
	cost := regexpCost(parsed)
	if cost > maxRegexp {
		return nil, 0, fmt.Errorf("too large: about %d instructions, at most %d are allowed", cost, maxRegexp)
	}
	re, err := regexp.Compile(`\A(?:` + text + `)\z`)
	return re, cost, err
}

// regexpCost is an upper bound of the instructions re compiles to.
func regexpCost(re *syntax.Regexp) int {
	cost := 2 + len(re.Rune)
	for _, sub := range re.Sub {
		cost += regexpCost(sub)
	}
	if re.Op == syntax.OpRepeat {
		cost *= max(1, re.Min, re.Max)
	}
	return min(cost, 1<<20)
}
