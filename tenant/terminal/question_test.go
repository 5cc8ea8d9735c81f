package terminal

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/uvbond/uvbond/channel/console"
)

// ask has a question take output in pieces of so many bytes.
func ask(text string, piece int) (shown string, asked []string) {
	q := question{}
	var out []byte
	for p := []byte(text); len(p) > 0; p = p[min(piece, len(p)):] {
		out = append(out, q.filter(p[:min(piece, len(p))], func(z console.Size) { asked = append(asked, fmt.Sprint(z.Rows, " ", z.Columns)) })...)
	}
	return string(q.flush(out)), asked
}

func TestQuestion(t *testing.T) {
	for in, want := range map[string]string{
		"a\x1b[18;24;80tb":                     "ab|24 80",
		"\x1b[18;0;0t\x1b[18;65535;65535t":     "|0 0,65535 65535",
		"\x1b\x1b[18;1;2t":                     "\x1b|1 2",
		"\x1b[18;1\x1b[18;1;2t":                "\x1b[18;1|1 2",
		"\x1b[18t\x1b[18;t\x1b[18;1t":          "\x1b[18t\x1b[18;t\x1b[18;1t|",
		"\x1b[18;;t\x1b[18;1;t\x1b[18;;1t":     "\x1b[18;;t\x1b[18;1;t\x1b[18;;1t|",
		"\x1b[18;1;65536tx":                    "\x1b[18;1;65536tx|",
		"\x1b[18;1;99999999999999999999t":      "\x1b[18;1;99999999999999999999t|",
		"\x1b[18;01;2t\x1b[18;1;2;3t":          "\x1b[18;01;2t\x1b[18;1;2;3t|",
		"\x1b[18;1;2\x00t":                     "\x1b[18;1;2\x00t|",
		"\x1b[1mred\x1b[0m\x1b[8;1;2t":         "\x1b[1mred\x1b[0m\x1b[8;1;2t|",
		"no more than the beginning\x1b[18;12": "no more than the beginning\x1b[18;12|",
	} {
		for _, piece := range []int{1, 2, 3, 5, len(in)} {
			shown, asked := ask(in, piece)
			if got := shown + "|" + strings.Join(asked, ","); got != want {
				t.Errorf("%q in pieces of %d: %q, want %q", in, piece, got, want)
			}
		}
	}
}

// FuzzQuestion: what a guest prints and is no question passes, and little is held of it.
func FuzzQuestion(f *testing.F) {
	f.Add([]byte("$ \x1b[18;24;80t\x1b[18;"), 3)
	f.Fuzz(func(t *testing.T, p []byte, piece int) {
		if piece < 1 || piece > 64 || len(p) > 1<<12 {
			return
		}
		whole, n := ask(string(p), len(p)+1)
		cut, m := ask(string(p), piece)
		if whole != cut || len(n) != len(m) {
			t.Fatalf("%q: %q and %q", p, whole, cut)
		}
		rest := string(p)
		for _, z := range n {
			rest = strings.Replace(rest, "\x1b[18;"+strings.ReplaceAll(z, " ", ";")+"t", "", 1)
		}
		if rest != whole {
			t.Fatalf("%q became %q, want %q", p, whole, rest)
		}
		q := question{}
		q.filter(p, func(console.Size) {})
		if len(q.held) > 20 {
			t.Fatalf("%q is held", q.held)
		}
	})
}

// TestAnswer: a shell that asks is told the size of who types, if it is another, before anything that
// is typed at the prompt that it shows then.
func TestAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.print([]byte("old \x1b[18;1;1t"))
		with := func(o *Options) { o.Answer, o.Size = true, console.Size{Columns: 137, Rows: 53} }
		a := sit(t.Context(), m, with)
		synctest.Wait()
		b := sit(t.Context(), m, with)
		b.Resize(console.Size{Columns: 10, Rows: 10})
		typed := func(want string) {
			t.Helper()
			synctest.Wait()
			if string(m.typed) != want {
				t.Fatalf("typed %q, want %q", m.typed, want)
			}
			m.typed = nil
		}
		typed("") // what was printed before is no question any more
		m.print([]byte("\x1b[18;0;0t$ "))
		typed("\x1b[8;53;137t")
		m.print([]byte("\x1b[18;53;137t$ "))
		typed("")
		a.Resize(console.Size{Columns: 80, Rows: 24})
		a.Type([]byte("ls"))
		m.print([]byte("\x1b[18;53;"))
		m.print([]byte("137t$ "))
		typed("ls\x1b[8;24;80t")
		a.Resize(console.Size{})
		m.print([]byte("\x1b[18;53;137t$ "))
		typed("")
		a.SetMode(console.Read)
		synctest.Wait() // the typing has passed to b
		m.print([]byte("\x1b[18;53;137t$ "))
		typed("\x1b[8;10;10t")
		for _, p := range []*person{a, b} {
			if !bytes.HasSuffix(p.shown, []byte("$ $ $ $ $ ")) || bytes.Count(p.shown, []byte("\x1b")) > 1 {
				t.Errorf("shown %q", p.shown)
			}
		}
		m.stop()
		m.hub.End(t.Context(), console.End{})
		<-a.result
		<-b.result
	})
}

// TestAnswerMisses: lines that were typed ahead, and are under way when a shell asks, may start a
// program that would get the answer: there is none.
func TestAnswerMisses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.stop() // the guest reads nothing
		a := sit(t.Context(), m, func(o *Options) { o.Answer, o.Size = true, console.Size{Columns: 80, Rows: 24} })
		synctest.Wait()
		pending := func() string {
			synctest.Wait()
			a.mu.Lock()
			defer a.mu.Unlock()
			return string(a.input.pending)
		}
		a.Type([]byte("one\r"))
		m.print([]byte("\x1b[18;0;0t$ ")) // one line makes one prompt
		if got := pending(); got != "one\r\x1b[8;24;80t" {
			t.Fatalf("under way %q", got)
		}
		a.Type([]byte("two\rcat\r"))
		m.print([]byte("\x1b[18;0;0t$ "))
		if got := pending(); strings.Count(got, "t") != 3 {
			t.Fatalf("under way %q", got)
		}
		ctx := t.Context()
		go m.hub.Feed(ctx, m)
		a.Type([]byte("more\rlines\r"))
		rest(time.Second)
		m.print([]byte("\x1b[18;0;0t$ ")) // all of it has arrived
		synctest.Wait()
		if !bytes.HasSuffix(m.typed, []byte("lines\r\x1b[8;24;80t")) {
			t.Fatalf("typed %q", m.typed)
		}
		m.hub.End(t.Context(), console.End{})
		<-a.result
	})
}

// TestAnswerRoom: a question is not answered when the answer has no room, or nobody to go to.
func TestAnswerRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.stop()
		a := sit(t.Context(), m, func(o *Options) { o.Answer, o.Size = true, console.Size{Columns: 80, Rows: 24} })
		synctest.Wait()
		a.Type(make([]byte, maxPending-3))
		m.print([]byte("\x1b[18;0;0t$ "))
		synctest.Wait()
		if n := len(a.input.pending); n != maxPending-3 {
			t.Fatalf("%d bytes wait", n)
		}
		m.hub.End(t.Context(), console.End{})
		<-a.result
		a.answer(console.Size{})
		if n := len(a.input.pending); n != maxPending-3 {
			t.Fatalf("%d bytes wait", n)
		}
	})
}
