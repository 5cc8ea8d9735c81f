package learn

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"github.com/uvbond/uvbond/automaton"
)

// source is a scalar that differs between sessions and may be kept, so that a
// later step can demand it.
type source struct {
	slot   *slot
	at     string
	pat    *pattern
	values map[int]string // by session, as JSON
}

// one returns what a session has there, if that is the same each time.
func one(seen []observed) (map[int]string, bool) {
	out := map[int]string{}
	for _, o := range seen {
		text := scalarText(o.value)
		if old, ok := out[o.session]; ok && old != text || o.unknown {
			return nil, false
		}
		out[o.session] = text
	}
	return out, len(out) > 0
}

// earlier finds a value that an earlier step has: the pattern is then a capture,
// perhaps with text around it.
func (l *learner) earlier(s *slot, at string, seen []observed) *pattern {
	values, ok := one(seen)
	if !ok {
		return nil
	}
	for _, exact := range []bool{true, false} {
		for _, src := range l.sources {
			before, after, ok := l.fits(src, s, values, exact)
			if !ok || !l.keep(src) {
				continue
			}
			text := "$" + src.pat.capture
			if before != "" {
				text = quote(before) + " " + text
			}
			if after != "" {
				text += " " + quote(after)
			}
			l.note(s, at, text, fmt.Sprintf("the value of step %d, `%s`, in every session", src.slot.number, src.slot.name+"."+src.at))
			return &pattern{text: text}
		}
	}
	return nil
}

// fits tells whether in every session the value is that of the source, with the
// same text around it.
func (l *learner) fits(src *source, s *slot, values map[int]string, exact bool) (before, after string, ok bool) {
	if src.slot.segment != 0 && src.slot.segment != s.segment {
		return "", "", false
	}
	first := true
	for session, text := range values {
		from, known := src.values[session]
		if !known {
			return "", "", false
		}
		if exact {
			if from != text {
				return "", "", false
			}
			continue
		}
		inner, isText := unquote(from)
		outer, isTextToo := unquote(text)
		if !isText || !isTextToo || len(inner) < 3 || inner == outer {
			return "", "", false
		}
		b, a, found := strings.Cut(outer, inner)
		if !found || !first && (b != before || a != after) {
			return "", "", false
		}
		before, after, first = b, a, false
	}
	return before, after, true
}

var captureRest = regexp.MustCompile(`[^A-Za-z0-9_-]+`)

// keep gives the source a capture's name, if there is one left.
func (l *learner) keep(src *source) bool {
	if src.pat.capture != "" {
		return true
	}
	if len(l.captures) == automaton.MaxCaptures {
		return false
	}
	key := src.at[strings.LastIndexByte(src.at, '.')+1:]
	key = strings.Trim(captureRest.ReplaceAllString(key, "-"), "-")
	if key == "" || !commandName.MatchString(key) || len(key) > 32 {
		key = "value"
	}
	name := key
	for n := 2; l.taken(name); n++ {
		name = fmt.Sprintf("%s-%d", key, n)
	}
	l.captures = append(l.captures, name)
	src.pat.capture = name
	l.note(src.slot, src.at, "kept as $"+name, "a later step has the same value in every session")
	return true
}

func (l *learner) taken(name string) bool {
	for _, c := range l.captures {
		if c == name {
			return true
		}
	}
	return false
}

// maxSources is how many scalars are compared with later ones. A text has few
// captures, so that more would be of no use.
const maxSources = 256

// remember makes a source of a scalar that differs between sessions.
func (l *learner) remember(s *slot, at string, seen []observed, p *pattern) {
	values, ok := one(seen)
	if !ok || !s.binds || strings.Contains(at, "[]") || len(l.sources) == maxSources {
		return
	}
	for _, text := range values {
		if len(text) < 2 || text == "true" || text == "false" || text == "null" {
			return
		}
	}
	l.sources = append(l.sources, &source{s, at, p, values})
}

// quote writes a string as the language does.
func quote(s string) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if e.Encode(s) != nil {
		return `""`
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func unquote(text string) (string, bool) {
	if !strings.HasPrefix(text, `"`) {
		return "", false
	}
	var s string
	err := json.Unmarshal([]byte(text), &s)
	return s, err == nil
}

// scalarText writes a JSON scalar in one way.
func scalarText(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case string:
		return quote(v)
	case json.Number:
		return v.String()
	}
	return fmt.Sprint(v)
}
