package gate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/hypervisor/state"
	"github.com/uvbond/uvbond/qmp"
)

// channelTicket makes a ticket for a channel; change may bend it.
func (f *fixture) channelTicket(v *fakeVM, kind string, port uint16, change func(*bond.Ticket)) ([]byte, *bond.Ticket) {
	f.t.Helper()
	text, err := automata.Channel(kind, port)
	if err != nil {
		f.t.Fatal(err)
	}
	return f.ticket(v, "pause", func(k *bond.Ticket) {
		k.Command, k.Automaton = kind, text
		if change != nil {
			change(k)
		}
	})
}

func (v *fakeVM) takeStream(t *testing.T) net.Conn {
	t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.streams) != 1 {
		t.Fatalf("%d connections were handed over", len(v.streams))
	}
	c, err := net.FileConn(v.streams[0])
	if err != nil {
		t.Fatal(err)
	}
	v.streams[0].Close()
	v.streams = nil
	return c
}

// TestChannel: the connection becomes the channel, the session ends with a receipt.
func TestChannel(t *testing.T) {
	for kind, port := range map[string]uint16{"console": 0, "screen": 0, "forward": 22} {
		t.Run(kind, func(t *testing.T) {
			f := newFixture(t)
			c := f.dial()
			sealed, ticket := f.channelTicket(f.a, kind, port, nil)
			if err := open(t, c, f.a, sealed); err != nil {
				t.Fatal(err)
			}
			var r qmp.ChannelResult
			conn, err := c.Handover(t.Context(), qmp.CmdChannel, qmp.ChannelArgs{Kind: kind, Port: port}, &r)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			got := f.receipt(f.a, r.Receipt, ticket)
			if got.Verdict != bond.VerdictDone || len(got.Calls) != 1 || got.Calls[0].Command != qmp.CmdChannel || got.Calls[0].Verdict != bond.CallOK || got.Instance != 3 {
				t.Errorf("receipt %+v", got)
			}
			keeper := f.a.takeStream(t)
			ch := f.a.channels[0]
			if ch.Kind != kind || ch.Port != port || ch.Nonce != ticket.Nonce || ch.Instance != 3 || ch.Session == "" {
				t.Errorf("the keeper got %+v", ch)
			}
			if !slices.ContainsFunc(f.a.entries, func(e state.Entry) bool { return e.Kind == "open" && e.Fields["session"] == ch.Session }) {
				t.Errorf("no record of session %s", ch.Session)
			}
			for _, way := range [][2]net.Conn{{conn, keeper}, {keeper, conn}} {
				if _, err := way[0].Write([]byte("bytes\n")); err != nil {
					t.Fatal(err)
				}
				b := make([]byte, 6)
				if _, err := io.ReadFull(way[1], b); err != nil || string(b) != "bytes\n" {
					t.Fatalf("read %q, %v", b, err)
				}
			}
			// The gate keeps nothing of it: it ends when the keeper does.
			keeper.Close()
			if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("after the keeper closed it: %v", err)
			}
		})
	}
}

// TestChannelOutlivesTheGate: it is the keeper's, and the server's.
func TestChannelOutlivesTheGate(t *testing.T) {
	f := newFixture(t)
	c := f.dial()
	sealed, _ := f.channelTicket(f.a, "console", 0, nil)
	if err := open(t, c, f.a, sealed); err != nil {
		t.Fatal(err)
	}
	conn, err := c.Handover(t.Context(), qmp.CmdChannel, qmp.ChannelArgs{Kind: "console"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	f.stop()
	keeper := f.a.takeStream(t)
	defer keeper.Close()
	if _, err := keeper.Write([]byte("still here")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 10)
	if _, err := io.ReadFull(conn, b); err != nil {
		t.Fatal(err)
	}
}

func TestChannelRefused(t *testing.T) {
	console := qmp.ChannelArgs{Kind: "console"}
	for _, test := range []struct {
		name  string
		kind  string
		port  uint16
		bend  func(*bond.Ticket)
		args  any
		class string
	}{
		{"another kind", "console", 0, nil, qmp.ChannelArgs{Kind: "screen"}, qmp.ClassRefused},
		{"another port", "forward", 22, nil, qmp.ChannelArgs{Kind: "forward", Port: 23}, qmp.ClassRefused},
		{"no port", "forward", 22, nil, qmp.ChannelArgs{Kind: "forward"}, qmp.ClassRefused},
		{"no descriptor", "console", 0, func(k *bond.Ticket) { k.Descriptor = nil }, console, qmp.ClassDenied},
		{"an argument more", "console", 0, nil, map[string]any{"kind": "console", "path": "/x"}, qmp.ClassInvalid},
		{"a port that is none", "forward", 22, nil, map[string]any{"kind": "forward", "port": 65536}, qmp.ClassInvalid},
		{"a kind that does not exist", "console", 0, func(k *bond.Ticket) {
			k.Automaton = `automaton console = uvbond-channel{ kind: "sound" } ;`
		}, qmp.ChannelArgs{Kind: "sound"}, qmp.ClassInvalid},
		{"a console with a port", "console", 0, func(k *bond.Ticket) {
			k.Automaton = `automaton console = uvbond-channel{ kind: "console", port: 22 } ;`
		}, qmp.ChannelArgs{Kind: "console", Port: 22}, qmp.ClassInvalid},
		{"an automaton that goes on", "console", 0, func(k *bond.Ticket) {
			k.Automaton = `automaton console = uvbond-channel{ kind: "console" } stop ;`
		}, console, qmp.ClassRefused},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFixture(t)
			c := f.dial()
			sealed, ticket := f.channelTicket(f.a, test.kind, test.port, test.bend)
			if err := open(t, c, f.a, sealed); err != nil {
				t.Fatal(err)
			}
			_, err := c.Handover(t.Context(), qmp.CmdChannel, test.args, nil)
			if got := class(t, err); got != test.class {
				t.Errorf("%v, want class %s", err, test.class)
			}
			// QMP goes on, for the receipt.
			if r := f.receipt(f.a, closeSession(t, c).Receipt, ticket); r.Verdict != bond.VerdictRefused || r.Class != test.class {
				t.Errorf("receipt %+v", r)
			}
			if len(f.a.channels) != 0 {
				t.Error("it reached the keeper")
			}
		})
	}
}

// TestChannelNeedsTheOwner: no policy, no delegate, no session without a ticket.
func TestChannelNeedsTheOwner(t *testing.T) {
	f := newFixture(t)
	if _, err := CheckPolicy(`automaton console = uvbond-channel{ kind: "console" } ;`); err == nil {
		t.Error("a policy may hold it")
	}
	c := f.dial()
	if got := class(t, run(t, c, qmp.CmdChannel, qmp.ChannelArgs{Kind: "console"})); got != qmp.ClassDenied {
		t.Errorf("outside of a session: %s", got)
	}
	if err := open(t, c, f.a, nil); err != nil {
		t.Fatal(err)
	}
	if got := class(t, run(t, c, qmp.CmdChannel, qmp.ChannelArgs{Kind: "console"})); got != qmp.ClassDenied {
		t.Errorf("without a ticket: %s", got)
	}
}

// TestChannelPipelined: what is sent before the answer is refused, whatever it is.
func TestChannelPipelined(t *testing.T) {
	for _, behind := range []string{"x", `{"execute":"uvbond-close"}` + "\n", strings.Repeat("a", 48)} {
		f := newFixture(t)
		sealed, _ := f.channelTicket(f.a, "console", 0, nil)
		conn, err := net.Dial("unix", f.path)
		if err != nil {
			t.Fatal(err)
		}
		c := qmp.NewConn(conn.(*net.UnixConn))
		receive := func() *qmp.Line {
			t.Helper()
			line, err := c.Receive(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return line
		}
		receive() // greeting
		if err := c.Send(map[string]any{"execute": qmp.CmdOpen, "arguments": qmp.OpenArgs{VM: f.a.id.String(), Ticket: sealed}}); err != nil {
			t.Fatal(err)
		}
		receive()
		if _, err := conn.Write([]byte(`{"execute":"uvbond-channel","arguments":{"kind":"console"}}` + "\n" + behind)); err != nil {
			t.Fatal(err)
		}
		if line := receive(); !bytes.Contains(line.Data, []byte(`"Invalid"`)) {
			t.Errorf("with %q behind it: %s", behind, line.Data)
		}
		conn.Close()
		f.a.waitFor(t, "close")
		if len(f.a.channels) != 0 {
			t.Errorf("%q: it reached the keeper", behind)
		}
		// The ticket is burnt all the same.
		if got := class(t, open(t, f.dial(), f.a, sealed)); got != qmp.ClassReplayed {
			t.Errorf("again: %s", got)
		}
	}
}

func (v *fakeVM) waitFor(t *testing.T, kind string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !v.recorded(kind, ""); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %s record", kind)
		}
	}
}

// TestChannelFails: what the keeper refuses, the receipt says; QMP goes on.
func TestChannelFails(t *testing.T) {
	for class, err := range map[string]error{
		qmp.ClassNotRunning:  ErrNotRunning,
		qmp.ClassBusy:        &qmp.Error{Class: qmp.ClassBusy, Desc: "UVBond: too many"},
		qmp.ClassUnavailable: &qmp.Error{Class: qmp.ClassUnavailable, Desc: "UVBond: no screen"},
		qmp.ClassInternal:    errors.New("keeper is gone"),
	} {
		f := newFixture(t)
		f.a.fail[qmp.CmdChannel] = err
		c := f.dial()
		sealed, ticket := f.channelTicket(f.a, "screen", 0, nil)
		if err := open(t, c, f.a, sealed); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Handover(t.Context(), qmp.CmdChannel, qmp.ChannelArgs{Kind: "screen"}, nil); qmp.ClassOf(err) != class {
			t.Errorf("%v, want %s", err, class)
		}
		if r := f.receipt(f.a, closeSession(t, c).Receipt, ticket); r.Verdict != bond.VerdictRefused || r.Class != class {
			t.Errorf("receipt %+v", r)
		}
	}
}

// TestChannelUnknown: where nobody knows whether the keeper took the connection, the gate
// reads it no more, and seals no receipt that nothing was done.
func TestChannelUnknown(t *testing.T) {
	f := newFixture(t)
	f.a.fail[qmp.CmdChannel] = fmt.Errorf("keeper 1: %w", context.DeadlineExceeded)
	c := f.dial()
	sealed, _ := f.channelTicket(f.a, "console", 0, nil)
	if err := open(t, c, f.a, sealed); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Handover(t.Context(), qmp.CmdChannel, qmp.ChannelArgs{Kind: "console"}, nil); qmp.ClassOf(err) != qmp.ClassUnavailable {
		t.Errorf("%v", err)
	}
	if err := c.Execute(t.Context(), qmp.CmdClose, nil, nil); err == nil || qmp.ClassOf(err) != "" {
		t.Errorf("the gate still answers: %v", err)
	}
	f.a.waitFor(t, "close")
}

// TestNoEventInAChannel: events end before the answer, and none comes behind it.
func TestNoEventInAChannel(t *testing.T) {
	f := newFixture(t)
	c := f.dial()
	sealed, _ := f.channelTicket(f.a, "console", 0, nil)
	if err := open(t, c, f.a, sealed); err != nil {
		t.Fatal(err)
	}
	f.a.mu.Lock()
	for range 8 {
		f.a.events[0] <- qmp.Event{Event: "STOP"}
	}
	f.a.mu.Unlock()
	conn, err := c.Handover(t.Context(), qmp.CmdChannel, qmp.ChannelArgs{Kind: "console"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	keeper := f.a.takeStream(t)
	if _, err := keeper.Write([]byte("first")); err != nil {
		t.Fatal(err)
	}
	keeper.Close()
	if b, err := io.ReadAll(conn); err != nil || string(b) != "first" {
		t.Errorf("the channel began with %q, %v", b, err)
	}
	conn.Close()
}
