package keeper

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/uvbond/uvbond/channel/console"
)

// TestRingCopy: the keeper's own view of the ring is that of a plain list.
func TestRingCopy(t *testing.T) {
	_, w := testRing(t, 4096)
	rnd := rand.New(rand.NewPCG(1, 2))
	var all []byte
	for range 3000 {
		p := make([]byte, rnd.IntN(1500))
		for i := range p {
			p[i] = byte(rnd.Uint32())
		}
		w.Write(p)
		all = append(all, p...)
		oldest, buf := max(0, len(all)-4096), make([]byte, rnd.IntN(6000))
		offset := rnd.IntN(len(all) + 10)
		n, at, end := w.Copy(buf, uint64(offset))
		from := max(offset, oldest)
		want := all[min(from, len(all)):]
		want = want[:min(len(want), len(buf))]
		if end != uint64(len(all)) || at != uint64(from) || !bytes.Equal(buf[:n], want) {
			t.Fatalf("from %d of %d: %d bytes at %d, want %d at %d", offset, len(all), n, at, len(want), from)
		}
	}
}

// testPort serves a serial port on a socket; dial is QEMU.
func testPort(t *testing.T) (port *serialPort, dial func() net.Conn) {
	t.Helper()
	_, ring := testRing(t, 64<<10)
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	p := newPeers(uint32(os.Getuid()))
	p.allow(0)
	port = newSerialPort(ring, p, slog.New(slog.DiscardHandler))
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan struct{})
	go func() {
		defer close(served)
		port.serve(ctx, l)
	}()
	t.Cleanup(func() { stop(); <-served })
	return port, func() net.Conn {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
}

// watch attaches a viewer that types text, and sends what it is told.
func watch(t *testing.T, port *serialPort, text string) <-chan console.Message {
	t.Helper()
	ours, theirs := net.Pipe()
	go func() {
		port.hub.Serve(t.Context(), theirs)
		theirs.Close()
	}()
	b := console.Append(nil, console.Attach{Mode: console.Write, Start: console.All(), Name: "test"})
	if text != "" {
		b = console.Append(b, console.Input{Data: []byte(text)})
	}
	got := make(chan console.Message, 1000)
	go ours.Write(b)
	go func() {
		defer close(got)
		defer ours.Close()
		r := console.NewClientReader(ours)
		for {
			m, err := r.Next()
			if err != nil {
				return
			}
			if o, ok := m.(console.Output); ok {
				o.Data = bytes.Clone(o.Data)
				m = o
			}
			got <- m
		}
	}()
	return got
}

// TestSerialPort: what a viewer types reaches QEMU, also the QEMU that connects again, and what
// QEMU printed last reaches the viewer before it is told of the end.
func TestSerialPort(t *testing.T) {
	port, dial := testPort(t)
	got := watch(t, port, "first\r")
	qemu := dial()
	buf := make([]byte, 6)
	if _, err := io.ReadFull(qemu, buf); err != nil || string(buf) != "first\r" {
		t.Fatalf("QEMU got %q, %v", buf, err)
	}
	qemu.Close()
	more := watch(t, port, "") // the same session attaches again, without input
	for m := range got {
		if e, ok := m.(console.End); ok && e.Why != console.Replaced {
			t.Fatalf("%+v", e)
		}
	}
	again := dial()
	again.Write([]byte("hello, "))
	waitFor(t, "the first words", func() bool { return port.ring.written.Load() == 7 })
	again.Write([]byte("last words"))
	again.Close()
	port.finish(console.End{Why: console.InstanceEnded, Text: "powered off"})
	said, ended := "", false
	for m := range more {
		switch m := m.(type) {
		case console.Output:
			said += string(m.Data)
		case console.End:
			ended = true
		}
	}
	if said != "hello, last words" || !ended {
		t.Fatalf("the viewer got %q, end %v", said, ended)
	}
}

// TestPortIsFull: a QEMU that does not read its socket holds up nobody, and what waits for it is
// bounded; its output is still taken.
func TestPortIsFull(t *testing.T) {
	port, dial := testPort(t)
	qemu := dial()
	qemu.Write([]byte("ready"))
	got := watch(t, port, "")
	ours, theirs := net.Pipe()
	defer ours.Close()
	go port.hub.Serve(t.Context(), theirs)
	b := console.Append(nil, console.Attach{Session: [16]byte{1}, Mode: console.Take, Start: console.Last(0), Name: "typist"})
	for at := 0; at < console.InputWindow; at += console.MaxInput {
		b = console.Append(b, console.Input{Offset: uint64(at), Data: make([]byte, console.MaxInput)})
	}
	taken := make(chan uint64, 100)
	go ours.Write(b)
	go func() {
		r := console.NewClientReader(ours)
		for {
			m, err := r.Next()
			if err != nil {
				return
			}
			if k, ok := m.(console.Taken); ok {
				taken <- k.Input
			}
		}
	}()
	waitFor(t, "some input to be taken", func() bool { return len(taken) > 0 })
	time.Sleep(50 * time.Millisecond)
	last := uint64(0)
	for len(taken) > 0 {
		last = <-taken
	}
	if last >= console.InputWindow {
		t.Errorf("%d bytes count as typed, and QEMU has read none", last)
	}
	qemu.Write([]byte(" and talking"))
	said := ""
	for m := range got {
		if o, ok := m.(console.Output); ok {
			if said += string(o.Data); strings.HasSuffix(said, "talking") {
				break
			}
		}
	}
	n, err := io.CopyN(io.Discard, qemu, console.InputWindow)
	if err != nil {
		t.Fatalf("QEMU got %d bytes: %v", n, err)
	}
}
