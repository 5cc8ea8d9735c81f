package bond

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// CleanText returns s fit for a receipt or an audit record: at most max bytes,
// valid UTF-8, and without control characters, which could write to the
// terminal of whoever reads it. Replaced characters become U+FFFD; a cut text ends
// in "...".
func CleanText(s string, max int) string {
	const cut = "..."
	long := len(s) > max
	if long {
		s = s[:max] // before mapping: never work on more than the limit
	}
	s = strings.Map(func(r rune) rune {
		if unsafeRune(r) {
			return utf8.RuneError
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	if !long && len(s) <= max {
		return s
	}
	keep := max - len(cut)
	if keep < 0 {
		return ""
	}
	if keep < len(s) {
		for keep > 0 && !utf8.RuneStart(s[keep]) {
			keep--
		}
		s = s[:keep]
	}
	return s + cut
}

// unsafeRune tells control characters and those that change the direction or
// the layout of the text around them.
func unsafeRune(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029'
}

// clip shortens hostile text for an error message.
func clip(s string) string { return CleanText(s, 40) }

// validText accepts what CleanText leaves alone.
func validText(what, s string, max int) error {
	if len(s) > max {
		return invalid(what, "is %d bytes, want at most %d", len(s), max)
	}
	if !utf8.ValidString(s) || strings.ContainsFunc(s, unsafeRune) {
		return invalid(what, "has control characters or is not UTF-8")
	}
	return nil
}

// validProgram accepts automaton text: lines of printable characters.
func validProgram(what, s string, max int) error {
	if len(s) > max {
		return invalid(what, "is %d bytes, want at most %d", len(s), max)
	}
	bad := func(r rune) bool { return r != '\n' && r != '\t' && r != '\r' && unsafeRune(r) }
	if !utf8.ValidString(s) || strings.ContainsFunc(s, bad) {
		return invalid(what, "has control characters or is not UTF-8")
	}
	return nil
}
