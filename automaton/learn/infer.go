package learn

import (
	"encoding/json"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"sort"
	"strings"
)

// pattern is a predicate on one value, to be printed.
type pattern struct {
	text    string     // of a scalar, or a choice of them
	capture string     // name that the value is kept as, or ""
	object  []field    // with isObject
	list    []*pattern // with isList
	tail    *pattern   // with isList: what all elements are, instead of list
	some    bool       // with tail: at least one
	choice  []*pattern
	kind    valueKind
}

type field struct {
	key      string
	optional bool
	value    *pattern
}

// observed is one value that was seen, in which session and step.
type observed struct {
	session, pos int
	value        any
	unknown      bool // left out of the recording
}

type valueKind int

// The kinds of values, in the order in which a choice lists them.
const (
	kindNull valueKind = iota
	kindBoolean
	kindNumber
	kindString
	kindList
	kindObject
)

func kindOf(v any) valueKind {
	switch v.(type) {
	case bool:
		return kindBoolean
	case json.Number:
		return kindNumber
	case string:
		return kindString
	case []any:
		return kindList
	case map[string]any:
		return kindObject
	}
	return kindNull
}

// infer finds the predicate for a slot's arguments.
func (l *learner) infer(s *slot) {
	var seen []observed
	sessions := make([]int, 0, len(s.seen))
	for i := range s.seen {
		sessions = append(sessions, i)
	}
	sort.Ints(sessions)
	for _, i := range sessions {
		for _, st := range s.seen[i] {
			var value any = st.args
			if st.args == nil {
				value = map[string]any{}
			}
			seen = append(seen, observed{session: i, pos: st.pos, value: unknowns(value, st.elided > 0)})
		}
	}
	if len(seen) == 0 {
		s.args = &pattern{kind: kindObject}
		return
	}
	s.args = l.object(s, "", seen)
}

// leftOut stands for a value that a recording has not.
type leftOut struct{}

// unknowns replaces what a recording writes for values that it left out: a text
// in angle brackets.
func unknowns(v any, elided bool) any {
	args, ok := v.(map[string]any)
	if !ok || !elided {
		return v
	}
	out := map[string]any{}
	for k, e := range args {
		if text, ok := e.(string); ok && strings.HasPrefix(text, "<") && strings.HasSuffix(text, ">") {
			e = leftOut{}
		}
		out[k] = e
	}
	return out
}

func (l *learner) value(s *slot, at string, seen []observed) *pattern {
	by := map[valueKind][]observed{}
	for _, o := range seen {
		if _, o.unknown = o.value.(leftOut); o.unknown {
			o.value = ""
		}
		kind := kindOf(o.value)
		by[kind] = append(by[kind], o)
	}
	var choice []*pattern
	for kind := kindNull; kind <= kindObject; kind++ {
		group := by[kind]
		switch {
		case len(group) == 0:
			continue
		case kind == kindObject:
			choice = append(choice, l.object(s, at, group))
		case kind == kindList:
			choice = append(choice, l.listOf(s, at, group))
		default:
			choice = append(choice, l.scalar(s, at, kind, group, len(by) == 1))
		}
	}
	if len(choice) == 1 {
		return choice[0]
	}
	l.note(s, at, "one of several types", fmt.Sprintf("%d types of values were seen", len(choice)))
	return &pattern{choice: choice}
}

// maxVariants is how many objects told apart by a tag become a choice.
const maxVariants = 8

// tags are keys whose value says what else an object holds.
var tags = []string{"type", "driver", "qom-type", "backend", "id"}

func (l *learner) object(s *slot, at string, seen []observed) *pattern {
	if variants := byTag(seen); variants != nil && at != "" { // a hypercall's own arguments are one object
		out := &pattern{kind: kindObject}
		for _, v := range variants {
			out.choice = append(out.choice, l.object(s, at, v))
		}
		return out
	}
	counts := map[string]int{}
	for _, o := range seen {
		for k := range o.value.(map[string]any) {
			counts[k]++
		}
	}
	keys := make([]string, 0, len(counts))
	for k := range counts {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	out := &pattern{kind: kindObject}
	for _, k := range keys {
		var values []observed
		for _, o := range seen {
			if v, ok := o.value.(map[string]any)[k]; ok {
				values = append(values, observed{session: o.session, pos: o.pos, value: v})
			}
		}
		inner := k
		if at != "" {
			inner = at + "." + k
		}
		f := field{key: k, optional: counts[k] < len(seen)}
		if f.optional {
			l.note(s, inner, "optional", fmt.Sprintf("in %d of %d", counts[k], len(seen)))
		}
		f.value = l.value(s, inner, values)
		out.object = append(out.object, f)
	}
	return out
}

// byTag groups objects of different keys by a tag that settles their keys.
func byTag(seen []observed) [][]observed {
	keys := func(o observed) string {
		var all []string
		for k := range o.value.(map[string]any) {
			all = append(all, k)
		}
		sort.Strings(all)
		return strings.Join(all, "\x00")
	}
	if !slices.ContainsFunc(seen, func(o observed) bool { return keys(o) != keys(seen[0]) }) {
		return nil
	}
	for _, tag := range tags {
		groups, shape, fits := map[string][]observed{}, map[string]string{}, true
		for _, o := range seen {
			text, isText := o.value.(map[string]any)[tag].(string)
			old, known := shape[text]
			fits = fits && isText && (!known || old == keys(o))
			shape[text] = keys(o)
			groups[text] = append(groups[text], o)
		}
		if !fits || len(groups) > maxVariants || len(groups) < 2 {
			continue
		}
		names := make([]string, 0, len(groups))
		for name := range groups {
			names = append(names, name)
		}
		sort.Strings(names)
		var out [][]observed
		for _, name := range names {
			out = append(out, groups[name])
		}
		return out
	}
	return nil
}

func (l *learner) listOf(s *slot, at string, seen []observed) *pattern {
	shortest, longest := len(seen[0].value.([]any)), 0
	for _, o := range seen {
		n := len(o.value.([]any))
		shortest, longest = min(shortest, n), max(longest, n)
	}
	out := &pattern{kind: kindList}
	if shortest == longest {
		for i := range longest {
			var values []observed
			for _, o := range seen {
				values = append(values, observed{session: o.session, pos: o.pos, value: o.value.([]any)[i]})
			}
			out.list = append(out.list, l.value(s, fmt.Sprintf("%s[%d]", at, i), values))
		}
		return out
	}
	var values []observed
	for _, o := range seen {
		for _, v := range o.value.([]any) {
			values = append(values, observed{session: o.session, pos: o.pos, value: v})
		}
	}
	l.note(s, at, "a list of any length", fmt.Sprintf("%d to %d elements", shortest, longest))
	out.tail, out.some = l.value(s, at+"[]", values), shortest > 0
	return out
}

// maxChoice is how many values become a choice.
const maxChoice = 8

// scalar finds the predicate for values of one type. alone tells that no other
// type was seen there.
func (l *learner) scalar(s *slot, at string, kind valueKind, seen []observed, alone bool) *pattern {
	counts := map[string]int{}
	known, total := []string{}, 0
	for _, o := range seen {
		if o.unknown {
			continue
		}
		total++
		text := scalarText(o.value)
		if counts[text]++; counts[text] == 1 {
			known = append(known, text)
		}
	}
	sort.Strings(known)
	some := total < len(seen) // values were left out
	made := l.madeUp(kind, seen)
	if len(known) == 1 && !some && !made {
		// What one session uses again is kept, if it was made up there.
		if text, _ := unquote(known[0]); len(l.sessions) == 1 && alone && strings.ContainsAny(text, "0123456789") {
			if p := l.earlier(s, at, seen); p != nil {
				return p
			}
		}
		return &pattern{text: constant(at, known[0]), kind: kind}
	}
	if alone && !some {
		if p := l.earlier(s, at, seen); p != nil {
			return p
		}
	}
	why := fmt.Sprintf("%d values in %d: %s", len(known), total, few(short(known)))
	out := &pattern{kind: kind}
	switch {
	case some && len(known) <= maxChoice && kind == kindString:
		out.text, why = "string", "the recordings leave its values out"
	case kind == kindBoolean:
		out.text = "boolean"
	case !some && !made && total > len(known) && len(known) <= maxChoice:
		for i, text := range known {
			known[i] = constant(at, text)
		}
		out.text = strings.Join(known, " | ")
		why = fmt.Sprintf("%d values, some of them more than once in %d", len(known), total)
	case kind == kindNumber:
		out.text, why = numbers(at, known, total)
	default:
		var texts []string
		for _, text := range known {
			v, _ := unquote(text)
			texts = append(texts, v)
		}
		out.text = l.strings(texts, made)
	}
	if made {
		why = "the number is another one in another session: " + few(short(known))
	}
	l.note(s, at, out.text, why)
	if alone && !some {
		l.remember(s, at, seen, out)
	}
	return out
}

// constant writes a scalar that is always the same.
func constant(at, text string) string {
	if n, ok := new(big.Int).SetString(text, 10); ok {
		return integer(at, n)
	}
	switch {
	case strings.HasPrefix(text, `"`), text == "true", text == "false", text == "null":
		return text
	}
	return "number" // the language has no other numbers than integers
}

// madeUp tells that strings are names that the toolstack numbers through and uses
// again: the next session has other numbers. With several sessions only those
// that differ are asked about.
func (l *learner) madeUp(kind valueKind, seen []observed) bool {
	if kind != kindString {
		return false
	}
	differ := false
	for _, o := range seen {
		text, _ := o.value.(string)
		if o.unknown || len(text) < 4 || !strings.ContainsAny(text, "0123456789") {
			return false
		}
		if descriptor.MatchString(text) {
			differ = true
			continue
		}
		if !l.usedAgain(l.sessions[o.session], text, o.pos) {
			return false
		}
		differ = differ || text != seen[0].value
	}
	return differ || len(l.sessions) == 1
}

// numberedName is a name with a number behind some letters, such as libvirt-3-format.
var numberedName = regexp.MustCompile(`^([A-Za-z][A-Za-z_.-]{3,})[0-9]`)

// usedAgain tells that a step after pos has the string, or one that holds it; or
// that another step has a name that begins with the same text and a number.
func (l *learner) usedAgain(s *session, text string, pos int) bool {
	quoted := quote(text)
	if s.last[quoted] > pos {
		return true
	}
	if l.cells += len(s.last); l.cells > maxCells {
		return false
	}
	inner, stem := quoted[1:len(quoted)-1], ""
	if m := numberedName.FindStringSubmatch(text); m != nil {
		stem = `"` + m[1]
	}
	for other, last := range s.last {
		if last > pos && strings.Contains(other, inner) {
			return true
		}
		if rest, same := strings.CutPrefix(other, stem); same && stem != "" && last != pos && isDigit(rune(rest[0])) {
			return true
		}
	}
	return false
}

func short(texts []string) []string {
	out := make([]string, len(texts))
	for i, t := range texts {
		if r := []rune(t); len(r) > 48 {
			t = string(r[:45]) + "..."
		}
		out[i] = t
	}
	return out
}
