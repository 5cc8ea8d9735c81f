package automaton

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"
)

type tokenKind uint8

const (
	tokenEnd     tokenKind = iota
	tokenName              // a command, key, keyword or automaton
	tokenString            // text is the decoded string
	tokenInteger           // text holds digits, unit what follows them
	tokenCapture           // text is the name without $
	tokenPart              // text is the name without @
	tokenPunct             // text is one of puncts
)

type token struct {
	kind   tokenKind
	text   string
	unit   string
	offset int // where it starts, in bytes
	end    int
}

// puncts are tried in this order.
var puncts = []string{"...", "..", "=", ";", "|", "&", "*", "+", "?", "(", ")", "{", "}", "[", "]", ",", ":"}

func (t token) String() string {
	switch t.kind {
	case tokenEnd:
		return "the end of the text"
	case tokenString:
		return "the string " + clip(quote(t.text))
	case tokenInteger:
		return tick(t.text + t.unit)
	case tokenCapture:
		return tick("$" + t.text)
	case tokenPart:
		return tick("@" + t.text)
	default:
		return tick(t.text)
	}
}

// lexer cuts a text into tokens. White space and comments (# to the end of
// the line) stand between them.
type lexer struct {
	name, text string
	offset     int
	source     *source // keeps comments; nil: they are dropped
}

func (l *lexer) errorAt(offset int, hint, format string, args ...any) error {
	return syntaxError(l.name, l.text, offset, fmt.Sprintf(format, args...), hint)
}

func (l *lexer) skipSpace() {
	for l.offset < len(l.text) {
		switch l.text[l.offset] {
		case ' ', '\t', '\r', '\n':
			l.offset++
		case '#':
			start := l.offset
			if i := strings.IndexByte(l.text[l.offset:], '\n'); i >= 0 {
				l.offset += i
			} else {
				l.offset = len(l.text)
			}
			if l.source != nil {
				l.source.addComment(l.text, start, l.offset)
			}
		default:
			return
		}
	}
}

func (l *lexer) next() (token, error) {
	l.skipSpace()
	start := l.offset
	t, err := l.scan(l.text[start:])
	if err != nil {
		return token{}, err
	}
	t.offset, t.end = start, l.offset
	return t, nil
}

func (l *lexer) scan(rest string) (token, error) {
	if rest == "" {
		return token{}, nil
	}
	c := rest[0]
	switch {
	case isLetter(c):
		n := nameLength(rest)
		l.offset += n
		return token{kind: tokenName, text: rest[:n]}, l.checkName(rest[:n])
	case c == '$':
		n := nameLength(rest[1:])
		if n == 0 || !isLetter(rest[1]) {
			return token{}, l.errorAt(l.offset, "a capture is written $name", "`$` without a name")
		}
		l.offset += n + 1
		return token{kind: tokenCapture, text: rest[1 : n+1]}, l.checkName(rest[1 : n+1])
	case c == '@':
		n := nameLength(rest[1:])
		if n == 0 || !isLetter(rest[1]) {
			return token{}, l.errorAt(l.offset, "a part is used as @name", "`@` without a name")
		}
		l.offset += n + 1
		return token{kind: tokenPart, text: rest[1 : n+1]}, l.checkName(rest[1 : n+1])
	case c == '"':
		return l.scanString(rest)
	case isDigit(c), c == '-' && len(rest) > 1 && isDigit(rest[1]):
		return l.scanInteger(rest), nil
	}
	for _, p := range puncts {
		if strings.HasPrefix(rest, p) {
			l.offset += len(p)
			return token{kind: tokenPunct, text: p}, nil
		}
	}
	r, _ := utf8.DecodeRuneInString(rest)
	hint := ""
	switch r {
	case '/':
		hint = "comments start with #"
	case '\'', '“', '”':
		hint = "strings stand in double quotes"
	}
	return token{}, l.errorAt(l.offset, hint, "unexpected character %s", tick(string(r)))
}

func (l *lexer) checkName(name string) error {
	if len(name) > MaxName {
		return l.errorAt(l.offset-len(name), "", "name is longer than %d bytes", MaxName)
	}
	return nil
}

func (l *lexer) scanString(rest string) (token, error) {
	end := 1
	for end < len(rest) && rest[end] != '"' && rest[end] != '\n' {
		if rest[end] == '\\' && end+1 < len(rest) {
			end++
		}
		end++
	}
	if end >= len(rest) || rest[end] != '"' {
		return token{}, l.errorAt(l.offset, `a string ends with " on the same line`, "string has no end")
	}
	var s string
	if err := json.Unmarshal([]byte(rest[:end+1]), &s); err != nil {
		return token{}, l.errorAt(l.offset, `escapes are those of JSON: \" \\ \n \t \u00e9`, "string is not well formed")
	}
	l.offset += end + 1
	return token{kind: tokenString, text: s}, nil
}

func (l *lexer) scanInteger(rest string) token {
	n := 1
	for n < len(rest) && isDigit(rest[n]) {
		n++
	}
	u := n
	for u < len(rest) && (isLetter(rest[u]) || isDigit(rest[u])) {
		u++
	}
	l.offset += u
	return token{kind: tokenInteger, text: rest[:n], unit: rest[n:u]}
}

func isLetter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' }
func isDigit(c byte) bool  { return c >= '0' && c <= '9' }

// nameLength counts letters, digits, "_" and inner "-" and ".".
func nameLength(s string) int {
	n := 0
	for n < len(s) {
		c := s[n]
		inner := (c == '-' || c == '.') && n+1 < len(s) && (isLetter(s[n+1]) || isDigit(s[n+1]) || s[n+1] == '-')
		if !isLetter(c) && !isDigit(c) && !inner {
			break
		}
		n++
	}
	return n
}

// isName reports whether s can be written as a name without quotes.
func isName(s string) bool {
	return s != "" && len(s) <= MaxName && isLetter(s[0]) && nameLength(s) == len(s)
}

// quote writes s as the lexer reads it.
func quote(s string) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		panic("automaton: a string cannot be encoded: " + err.Error())
	}
	return strings.TrimSuffix(b.String(), "\n")
}
