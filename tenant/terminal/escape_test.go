package terminal

import (
	"strings"
	"testing"
)

// feed types pieces and writes down what became of them: input as it is, commands in angles.
func feed(e *Escapes, pieces ...string) string {
	var out strings.Builder
	for _, p := range pieces {
		rest := []byte(p)
		for len(rest) > 0 {
			input, command, more := e.Next(rest)
			out.Write(input)
			if command != 0 {
				out.WriteString("<" + string(rune(command)) + ">")
			}
			rest = more
		}
	}
	return out.String()
}

func TestEscapes(t *testing.T) {
	for _, c := range []struct{ char, typed, want string }{
		{"~", "~.", "<.>"},
		{"~", "ls\r~.", "ls\r<.>"},
		{"~", "ls ~.", "ls ~."},
		{"~", "~~.", "~."},
		{"~", "~x", "~x"},
		{"~", "~x~.", "~x~."},
		{"~", "~\r~.", "~\r<.>"},
		{"~", "\n~?~#~w~r~s~\x1a", "\n<?><#><w><r><s><\x1a>"},
		{"~", "~.more", "<.>more"},
		{"~", "a\r~~\r~.", "a\r~\r<.>"},
		{"^]", "\x1d.", "<.>"},
		{"^]", "~.", "~."},
		{"%", "%.", "<.>"},
		{"none", "\r~.", "\r~."},
	} {
		whole, err := NewEscapes(c.char)
		if err != nil {
			t.Fatal(err)
		}
		if got := feed(whole, c.typed); got != c.want {
			t.Errorf("%s: %q became %q, want %q", c.char, c.typed, got, c.want)
		}
		single, _ := NewEscapes(c.char)
		if got := feed(single, strings.Split(c.typed, "")...); got != c.want {
			t.Errorf("%s, key by key: %q became %q, want %q", c.char, c.typed, got, c.want)
		}
		if single.String() != c.char {
			t.Errorf("%s is shown as %s", c.char, single)
		}
	}
	for _, bad := range []string{"", "ab", "^1", "^M", " ", "\x7f", "ä", "NONE"} {
		if _, err := NewEscapes(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// FuzzEscapes: it does not matter in which pieces keys arrive, and without the escape character
// nothing changes.
func FuzzEscapes(f *testing.F) {
	f.Add("ls\r~.x\r~~~#", 3)
	f.Add("\r~\r~w~?", 1)
	f.Fuzz(func(t *testing.T, typed string, n int) {
		whole, _ := NewEscapes("~")
		cut, _ := NewEscapes("~")
		n = max(0, min(n, len(typed)))
		want := feed(whole, typed)
		if got := feed(cut, typed[:n], typed[n:]); got != want {
			t.Fatalf("%q became %q in one piece and %q cut at %d", typed, want, got, n)
		}
		if !strings.Contains(typed, "~") && want != typed {
			t.Fatalf("%q became %q", typed, want)
		}
	})
}
