package ui_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/uvbond/uvbond/tenant/fail"
	"github.com/uvbond/uvbond/tenant/ui"
	"github.com/uvbond/uvbond/tenant/ui/uitest"
)

// terminal is the page's terminal, played by a test.
type terminal struct {
	t      *testing.T
	c      *websocket.Conn
	output strings.Builder
	events []string
	slow   bool // does not say that output was drawn
}

func openTerminal(t *testing.T, b *browser) *terminal {
	t.Helper()
	h := http.Header{"Origin": {b.w.URL}, "Cookie": {b.cookie}}
	c, _, err := websocket.Dial(t.Context(), b.w.URL+"/api/vms/web1/console?cols=80&rows=24", &websocket.DialOptions{HTTPHeader: h, Subprotocols: []string{"uvbond.1", "uvbond.key." + b.key}})
	if err != nil {
		t.Fatal(err)
	}
	c.SetReadLimit(1 << 20)
	t.Cleanup(func() { c.CloseNow() })
	return &terminal{t: t, c: c}
}

func (x *terminal) send(kind websocket.MessageType, text string) {
	x.t.Helper()
	if err := x.c.Write(x.t.Context(), kind, []byte(text)); err != nil {
		x.t.Fatal(err)
	}
}

// next takes one message; false: the WebSocket is closed.
func (x *terminal) next() bool {
	x.t.Helper()
	kind, data, err := x.c.Read(x.t.Context())
	if err != nil {
		return false
	}
	if kind == websocket.MessageBinary {
		x.output.Write(data)
		if !x.slow {
			raw, _ := json.Marshal(map[string]int{"taken": len(data)})
			x.send(websocket.MessageText, string(raw))
		}
		return true
	}
	x.events = append(x.events, string(data))
	return true
}

func (x *terminal) until(what string, done func() bool) {
	x.t.Helper()
	for !done() {
		if !x.next() {
			x.t.Fatalf("the terminal ended before %s: %q %q", what, x.output.String(), x.events)
		}
	}
}

func (x *terminal) printed(text string) {
	x.t.Helper()
	x.until(text, func() bool { return strings.Contains(x.output.String(), text) })
}

func (x *terminal) told(text string) {
	x.t.Helper()
	x.until(text, func() bool { return strings.Contains(strings.Join(x.events, "\n"), text) })
}

func withMachine(t *testing.T) (*uitest.Machine, *browser) {
	m := uitest.NewMachine(t.Context())
	w := uitest.New(t, func(o *ui.Options) { o.Dial = m.Dial })
	return m, login(t, w)
}

// TestTerminal: scrollback, typing, resizing (to nothing too), a second viewer who takes the
// keyboard, and a channel that breaks and is opened again without a byte lost or twice.
func TestTerminal(t *testing.T) {
	m, b := withMachine(t)
	m.Print("firmware says hello\r\n")
	x := openTerminal(t, b)
	x.printed("hello\r\n")
	x.told(`"mode":"writing","me":true`)
	x.send(websocket.MessageText, `{"resize":{"columns":0,"rows":0}}`)
	x.send(websocket.MessageText, `{"resize":{"columns":132,"rows":50}}`)
	x.send(websocket.MessageBinary, "uname\r")
	x.printed("UNAME\r\n")

	m.Cut()
	x.told(`"reattaching"`)
	m.Print("printed while nobody was there\r\n")
	x.printed("nobody was there\r\n")
	if n := strings.Count(x.output.String(), "hello"); n != 1 {
		t.Errorf("the beginning is shown %d times", n)
	}
	x.told(`"mode":"writing","me":true`)

	y := openTerminal(t, b)
	y.printed("nobody was there\r\n")
	y.send(websocket.MessageText, `{"mode":"take"}`)
	y.told(`"mode":"writing","me":true`)
	x.until("losing the keyboard", func() bool {
		last := ""
		for _, e := range x.events {
			if strings.Contains(e, `"viewers"`) {
				last = e
			}
		}
		return strings.Contains(last, `"name"`) && !strings.Contains(last, `"mode":"writing","me":true`)
	})
	x.send(websocket.MessageBinary, "mine")
	x.told(`{"event":"refused","bytes":4}`)
	y.send(websocket.MessageBinary, "yours")
	x.printed("YOURS")
}

// TestTerminalFlood: a page that draws nothing holds the output up in the hypervisor, and
// nothing else; then it gets the rest.
func TestTerminalFlood(t *testing.T) {
	m, b := withMachine(t)
	x := openTerminal(t, b)
	x.told("attached")
	x.slow = true
	line := strings.Repeat("x", 1023) + "\n"
	m.Print(strings.Repeat(line, 1024))
	for x.output.Len() < 256<<10 {
		x.next()
	}
	if n := x.output.Len(); n > 320<<10 {
		t.Errorf("%d bytes came without having been drawn", n)
	}
	x.slow = false
	raw, _ := json.Marshal(map[string]int{"taken": x.output.Len()})
	x.send(websocket.MessageText, string(raw))
	x.until("the rest", func() bool { return x.output.Len() == 1<<20 })
}

// TestTerminalPaste: a page that waits for what it sent to be typed can paste more than any
// buffer on the way holds; the terminal of one that does not wait ends.
func TestTerminalPaste(t *testing.T) {
	m, b := withMachine(t)
	x := openTerminal(t, b)
	x.told(`"mode":"writing","me":true`)
	text := strings.Repeat("0123456789abcde\n", 1<<20/16)
	sent, typed, seen := 0, 0, 0
	for typed < len(text) {
		for ; sent < len(text) && sent-typed < 32<<10; sent += 4096 {
			x.send(websocket.MessageBinary, text[sent:sent+4096])
		}
		if !x.next() {
			t.Fatalf("the terminal ended: %q", x.events)
		}
		for ; seen < len(x.events); seen++ {
			var e struct {
				Event string
				Bytes int
			}
			if err := json.Unmarshal([]byte(x.events[seen]), &e); err != nil || e.Event == "refused" {
				t.Fatalf("%s, %v", x.events[seen], err)
			}
			if e.Event == "typed" {
				typed += e.Bytes
			}
		}
	}
	x.until("the echo", func() bool { return x.output.Len() >= len(text) })
	if m.Typed() != text {
		t.Error("something else was typed than was pasted")
	}
	m.Deaf(true)
	defer m.Deaf(false)
	for range 1 << 10 {
		if x.c.Write(t.Context(), websocket.MessageBinary, []byte(text[:4096])) != nil {
			break
		}
	}
	for x.next() { // it ends
	}
}

// TestTerminalEnds: a page that breaks the rules, a channel that somebody touched, an
// instance that ended.
func TestTerminalEnds(t *testing.T) {
	m, b := withMachine(t)
	for _, bad := range []string{`{"taken":1}`, `{"mode":"root"}`, `nonsense`, `{"resize":{"columns":-1,"rows":1}}`} {
		x := openTerminal(t, b)
		x.told("attached")
		x.send(websocket.MessageText, bad)
		for x.next() {
		}
	}
	x := openTerminal(t, b)
	x.told("attached")
	m.Fail(fail.New(fail.Forged, "do not type secrets", "REDIRECTED OR FORGED: channel"))
	m.Cut()
	x.told("REDIRECTED OR FORGED")
	for x.next() {
	}
}

// TestTerminalLeft: a page that goes away while the guest floods it leaves nothing open.
func TestTerminalLeft(t *testing.T) {
	m, b := withMachine(t)
	m.Print(strings.Repeat(strings.Repeat("x", 1023)+"\n", 1024))
	for range 40 { // more than may be open at once
		x := openTerminal(t, b)
		x.slow = true
		for x.output.Len() < 256<<10 {
			if !x.next() {
				t.Fatalf("the terminal ended: %q", x.events)
			}
		}
		x.c.CloseNow()
	}
}
