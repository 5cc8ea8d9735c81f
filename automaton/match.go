package automaton

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// matcher holds JSON values against predicates. Members of an object are
// tried in the order of their names, and a capture is never part of a choice,
// so that there is nothing to go back on.
type matcher struct {
	bound values // captured so far, those of the current hypercall included
	work  int    // what may still be spent; negative: gave up

	// For explaining a refusal.
	explaining bool
	captures   []string
	reason     string
}

// path is where in the arguments a value stands.
type path struct {
	parent *path
	key    string
	index  int // of a list element, when key is ""
}

func (p *path) String() string {
	switch {
	case p.parent == nil:
		return p.key
	case p.key == "":
		return p.parent.String() + "[" + strconv.Itoa(p.index) + "]"
	default:
		return p.parent.String() + "." + p.key
	}
}

func (m *matcher) load(v values) {
	clear(m.bound)
	copy(m.bound, v)
}

// spend reports whether n units of work are still allowed.
func (m *matcher) spend(n int) bool {
	m.work -= n
	return m.work >= 0
}

// object holds an object against v of kind valueObject. at is nil unless the
// matcher explains.
func (m *matcher) object(v *value, object map[string]any, at *path) bool {
	present := 0
	for i := range v.members {
		want := &v.members[i]
		got, ok := object[want.key]
		var here *path
		if m.explaining {
			here = &path{parent: at, key: want.key}
		}
		if !ok {
			if want.optional {
				continue
			}
			return m.fail(here, "is missing, it must be ", want.value, nil)
		}
		present++
		if !m.value(want.value, got, here) {
			return false
		}
	}
	if v.open || present == len(object) {
		return true
	}
	return m.surplus(v, object, at)
}

// surplus explains which argument should not be there.
func (m *matcher) surplus(v *value, object map[string]any, at *path) bool {
	if m.explaining && m.reason == "" {
		var extra []string
		for key := range object {
			if !slices.ContainsFunc(v.members, func(w member) bool { return w.key == key }) {
				extra = append(extra, key)
			}
		}
		m.reason = tick((&path{parent: at, key: slices.Min(extra)}).String()) + " is not allowed"
	}
	return false
}

func (m *matcher) value(v *value, got any, at *path) bool {
	if !m.spend(1) {
		return false
	}
	switch v.kind {
	case valueAny:
		return true
	case valueObject:
		object, ok := got.(map[string]any)
		if !ok {
			return m.fail(at, "must be ", v, got)
		}
		return m.object(v, object, at)
	case valueList:
		return m.list(v, got, at)
	case valueCapture:
		return m.capture(v, got) || m.fail(at, "must be ", v, got)
	case valueAs:
		return m.value(v.items[0], got, at) && (m.bind(v.capture, got) || m.fail(at, "must be ", v, got))
	}
	return m.scalar(v, got) || m.fail(at, "must be ", v, got)
}

// scalar holds got against a predicate that neither binds nor explains.
func (m *matcher) scalar(v *value, got any) bool {
	switch v.kind {
	case valueNull:
		return got == nil
	case valueTrue, valueFalse:
		b, ok := got.(bool)
		return ok && b == (v.kind == valueTrue)
	case valueText:
		s, ok := got.(string)
		return ok && s == v.text
	case valueRange:
		n, ok := integer(got)
		return ok && (v.low == nil || !n.less(*v.low)) && (v.high == nil || !v.high.less(n))
	case valueGlob:
		s, ok := got.(string)
		return ok && len(s) <= MaxSubject && m.spend(len(s)*len(v.text)/4) && globMatch(v.text, s)
	case valueRegexp:
		s, ok := got.(string)
		return ok && len(s) <= MaxSubject && m.spend(len(s)*v.cost/4) && v.re.MatchString(s)
	case valueType:
		return hasType(v.text, got)
	case valueOneOf:
		return m.oneOf(v, got)
	}
	return false
}

// oneOf keeps what an alternative lacks out of the explanation.
func (m *matcher) oneOf(v *value, got any) bool {
	explaining := m.explaining
	m.explaining = false
	ok := false
	for i := 0; i < len(v.items) && !ok; i++ {
		ok = m.value(v.items[i], got, nil)
	}
	m.explaining = explaining
	return ok
}

func (m *matcher) list(v *value, got any, at *path) bool {
	list, ok := got.([]any)
	least := len(v.items) + v.tailMin
	if !ok || len(list) < least || v.tail == nil && len(list) > least {
		return m.fail(at, "must be ", v, got)
	}
	for i, element := range list {
		want := v.tail
		if i < len(v.items) {
			want = v.items[i]
		}
		var here *path
		if m.explaining {
			here = &path{parent: at, index: i}
		}
		if !m.value(want, element, here) {
			return false
		}
	}
	return true
}

// capture holds got against $x, or a text with $x inside.
func (m *matcher) capture(v *value, got any) bool {
	if v.text == "" && v.suffix == "" {
		return m.bind(v.capture, got)
	}
	s, ok := got.(string)
	if !ok || len(s) > MaxSubject || len(s) < len(v.text)+len(v.suffix) || !strings.HasPrefix(s, v.text) || !strings.HasSuffix(s, v.suffix) {
		return false
	}
	return m.bindText(v.capture, s[len(v.text):len(s)-len(v.suffix)])
}

// bindText is bind for a string; comparing allocates nothing.
func (m *matcher) bindText(slot int, s string) bool {
	if old := m.bound[slot]; old.kind != 0 {
		return old == kept{'s', s}
	}
	if len(s) > MaxCaptured || !m.spend(len(s)+1) {
		return false
	}
	m.bound[slot] = kept{'s', s}
	return true
}

// bind keeps got as the value of a capture, or compares it with the value kept.
func (m *matcher) bind(slot int, got any) bool {
	if s, ok := got.(string); ok {
		return m.bindText(slot, s)
	}
	value, ok := captured(got)
	if !ok || !m.spend(len(value.text)+1) {
		return false
	}
	if m.bound[slot].kind == 0 {
		m.bound[slot] = value
		return true
	}
	return m.bound[slot] == value
}

// captured makes a value that is no string ready to keep; values beyond
// MaxCaptured cannot be kept. Only what is neither a string nor a number allocates.
func captured(got any) (kept, bool) {
	if number, ok := got.(json.Number); ok {
		text := string(number)
		if n, ok := parseBound(text); ok && (text[0] == '-' || text[0] == '0') {
			text = n.String() // -0 is 0
		}
		return kept{'n', text}, len(text) <= MaxCaptured
	}
	if weight(got, MaxCaptured) < 0 {
		return kept{}, false
	}
	data, err := json.Marshal(got)
	return kept{'j', string(data)}, err == nil && len(data) <= MaxCaptured
}

// weight returns what is left of most after the parts of v, negative when v is
// larger; it looks at no more than it must.
func weight(v any, most int) int {
	most--
	switch v := v.(type) {
	case string:
		most -= len(v)
	case json.Number:
		most -= len(v)
	case []any:
		for i := 0; i < len(v) && most >= 0; i++ {
			most = weight(v[i], most)
		}
	case map[string]any:
		for key, member := range v {
			if most -= len(key); most < 0 {
				break
			}
			most = weight(member, most)
		}
	}
	return most
}

func integer(v any) (bound, bool) {
	n, ok := v.(json.Number)
	if !ok {
		return bound{}, false
	}
	return parseBound(string(n))
}

func hasType(name string, v any) bool {
	switch v.(type) {
	case string:
		return name == "string"
	case bool:
		return name == "boolean"
	case map[string]any:
		return name == "object"
	case []any:
		return name == "list"
	case json.Number:
		if name == "integer" {
			_, ok := integer(v)
			return ok
		}
		return name == "number"
	}
	return false
}

// globMatch holds s against a glob: * is any text, ? one character, and a
// backslash takes what follows as it is.
func globMatch(glob, s string) bool {
	// After a mismatch only the last * takes one more character.
	star, mark := -1, 0
	g, i := 0, 0
	for {
		if g == len(glob) && i == len(s) {
			return true
		}
		if g < len(glob) && glob[g] == '*' {
			star, mark = g, i
			g++
			continue
		}
		if n, m, ok := globOne(glob[g:], s[i:]); ok {
			g, i = g+n, i+m
			continue
		}
		if star < 0 || mark == len(s) {
			return false
		}
		_, size := utf8.DecodeRuneInString(s[mark:])
		mark += size
		g, i = star+1, mark
	}
}

// globOne matches one character and returns the lengths it took of both.
func globOne(glob, s string) (n, m int, ok bool) {
	if glob == "" || s == "" {
		return 0, 0, false
	}
	_, m = utf8.DecodeRuneInString(s)
	if glob[0] == '?' {
		return 1, m, true
	}
	escape := 0
	if glob[0] == '\\' && len(glob) > 1 {
		escape = 1
	}
	_, n = utf8.DecodeRuneInString(glob[escape:])
	return escape + n, m, glob[escape:escape+n] == s[:m]
}

// fail records why, once, and returns false.
func (m *matcher) fail(at *path, verb string, want *value, got any) bool {
	if !m.explaining || m.reason != "" {
		return false
	}
	m.reason = tick(at.String()) + " " + verb + m.wanted(want)
	if verb == "must be " {
		m.reason += ", was " + shown(got)
	}
	return false
}

// wanted writes a predicate, a captured value in place of its name.
func (m *matcher) wanted(v *value) string {
	if v.kind == valueCapture || v.kind == valueAs {
		if old := m.bound[v.capture]; old.kind != 0 {
			prefix, suffix := "", ""
			if v.kind == valueCapture {
				prefix, suffix = v.text, v.suffix
			}
			if old.kind == 's' {
				return clip(quote(prefix + old.text + suffix))
			}
			return clip(old.text)
		}
	}
	return clip(formatValue(v, m.captures))
}

// shown writes a value that was sent, shortened.
func shown(v any) string {
	if weight(v, 4*MaxCaptured) < 0 {
		return "something long"
	}
	if s, ok := v.(string); ok {
		return clip(quote(s))
	}
	data, err := json.Marshal(v)
	if err != nil {
		return "something that is not JSON"
	}
	return clip(string(data))
}
