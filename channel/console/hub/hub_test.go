package hub

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/uvbond/uvbond/channel/console"
)

func attach(token byte, mode console.Mode, start console.Start) console.Attach {
	return console.Attach{Session: [console.SessionSize]byte{token}, Mode: mode, Start: start, Name: "somebody", Size: console.Size{Columns: 80, Rows: 24}}
}

// port is a serial port that takes so many bytes as it is given leave for.
type port struct {
	leave chan int
	got   bytes.Buffer
}

func (p *port) Write(b []byte) (int, error) {
	n := 0
	for n < len(b) {
		k, ok := <-p.leave
		if !ok {
			return n, errors.New("disconnected")
		}
		k = min(k, len(b)-n)
		p.got.Write(b[n : n+k])
		n += k
	}
	return n, nil
}

// TestGuestDoesNotRead: a guest that does not read its serial port holds up its
// writer alone: the window is refused to be overrun, other things go on, and what
// was typed arrives when the guest reads again, on another connection too.
func TestGuestDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ring := &memory{size: 4096}
		h := New(ring)
		first := &port{leave: make(chan int)}
		failed := make(chan error, 1)
		go func() { failed <- h.Feed(t.Context(), first) }()
		x := join(h, attach(1, console.Write, console.All()))
		text := bytes.Repeat([]byte("0123456789abcdef"), console.InputWindow/16)
		for at := 0; at < len(text); at += console.MaxInput {
			x.send(console.Input{Offset: uint64(at), Data: text[at : at+console.MaxInput]})
		}
		synctest.Wait()
		if x.taken.Input != 0 || x.end != nil {
			t.Fatalf("told %+v, end %v, of a guest that read nothing", x.taken, x.end)
		}
		ring.print(h, []byte("still printing"))
		x.send(console.Resize{Size: console.Size{Columns: 0, Rows: 0}})
		synctest.Wait()
		if x.acked != 14 || x.viewers[0].Size != (console.Size{}) {
			t.Fatalf("%d bytes of output, %+v: the viewer was held up", x.acked, x.viewers)
		}
		first.leave <- 1000
		close(first.leave) // QEMU's connection breaks in the middle
		if err := <-failed; err == nil {
			t.Fatal("a port that failed was not noticed")
		}
		second := &port{leave: make(chan int, 1)}
		second.leave <- len(text) - 1000
		ctx, stop := context.WithCancel(t.Context())
		go h.Feed(ctx, second)
		go func() {
			for {
				select {
				case second.leave <- 1 << 20:
				case <-ctx.Done():
					return
				}
			}
		}()
		synctest.Wait()
		if got := first.got.String() + second.got.String(); got != string(text) {
			t.Fatalf("the guest got %d bytes, %d were typed", len(got), len(text))
		}
		if x.taken != (console.Taken{Input: uint64(len(text))}) {
			t.Fatalf("told %+v", x.taken)
		}
		stop()
		x.leave()
		<-x.served
	})
}

// TestFullQueue: sessions that come, type, and go fill the queue up to its bound, and are told.
func TestFullQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(&memory{size: 4096})
		data := make([]byte, console.MaxInput)
		refused := uint64(0)
		for i := range byte(40) {
			x := join(h, attach(i, console.Take, console.All()))
			for at := range uint64(4) {
				x.send(console.Input{Offset: at * console.MaxInput, Data: data})
			}
			synctest.Wait()
			refused += x.taken.Refused
			x.leave()
			<-x.served
		}
		if len(h.queue) != maxQueue || refused != 40*console.InputWindow-maxQueue {
			t.Fatalf("%d bytes wait, %d were refused", len(h.queue), refused)
		}
		if len(h.sessions) > maxSessions+console.MaxViewers {
			t.Fatalf("%d sessions are remembered", len(h.sessions))
		}
	})
}

// TestFlood: a guest that floods its console and a viewer that does not take what is
// sent: the viewer holds up nobody, gets the newest that is kept, and is told what it lost.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ring := &memory{size: 1 << 20}
		h := New(ring)
		quick := join(h, attach(1, console.Read, console.All()))
		slow := join(h, attach(2, console.Read, console.All()))
		synctest.Wait()
		slow.pause()
		for range 100 {
			ring.print(h, bytes.Repeat([]byte("y\n"), 50<<10))
			synctest.Wait()
		}
		if quick.next != ring.end() || quick.lost != 0 {
			t.Fatalf("the quick viewer is at %d of %d and lost %d", quick.next, ring.end(), quick.lost)
		}
		slow.resume()
		synctest.Wait()
		if slow.next != ring.end() || slow.lost == 0 || slow.lost+slow.acked != ring.end() || slow.acked < 1<<20 {
			t.Fatalf("the slow viewer is at %d of %d, got %d and lost %d", slow.next, ring.end(), slow.acked, slow.lost)
		}
		for _, x := range []*client{quick, slow} {
			x.leave()
			<-x.served
			if len(x.problems) > 0 {
				t.Fatal(x.problems)
			}
		}
	})
}

// TestWindow: a viewer that reads the stream but deals with nothing, like one whose
// terminal is stopped, is sent the window and then only what is no output.
func TestWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ring := &memory{size: 1 << 20}
		h := New(ring)
		c, served := serve(h)
		c.Write(console.Append(nil, attach(1, console.Read, console.All())))
		got := make(chan console.Message, 1000)
		go func() {
			defer close(got)
			r := console.NewClientReader(c)
			for {
				m, err := r.Next()
				if err != nil {
					return
				}
				got <- m
			}
		}()
		ring.print(h, make([]byte, 900<<10))
		synctest.Wait()
		time.Sleep(10 * writeTimeout)
		c.Write(console.Append(nil, console.Who{}))
		synctest.Wait()
		output, lists := 0, 0
		for len(got) > 0 {
			switch m := (<-got).(type) {
			case console.Output:
				output += len(m.Data)
			case console.Viewers:
				lists++
			}
		}
		if output != console.OutputWindow || lists != 2 {
			t.Fatalf("%d bytes and %d lists were sent", output, lists)
		}
		c.Write(console.Append(nil, console.Ack{Bytes: console.OutputWindow}))
		synctest.Wait()
		if len(got) < console.OutputWindow/console.MaxOutput {
			t.Fatal("nothing followed the ack")
		}
		c.Close()
		if err := <-served; err != nil {
			t.Fatal(err)
		}
	})
}

// TestStuckViewer: one that takes nothing off its stream is let go after a while.
func TestStuckViewer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ring := &memory{size: 4096}
		h := New(ring)
		c, served := serve(h)
		defer c.Close()
		c.Write(console.Append(nil, attach(1, console.Write, console.All())))
		other := join(h, attach(2, console.Write, console.All()))
		begun := time.Now()
		if err := <-served; err == nil || !strings.Contains(err.Error(), "does not take") {
			t.Fatalf("the stuck viewer ended with %v", err)
		}
		if d := time.Since(begun); d != writeTimeout {
			t.Errorf("after %s", d)
		}
		time.Sleep(writerGrace)
		synctest.Wait()
		if len(other.viewers) != 1 || other.viewers[0].Mode != console.Write {
			t.Errorf("the other viewer was told of %+v", other.viewers)
		}
		other.leave()
		<-other.served
	})
}

// TestSilentClient: one that connects and says nothing is let go.
func TestSilentClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, served := serve(New(&memory{size: 4096}))
		defer c.Close()
		begun := time.Now()
		if err := <-served; err == nil {
			t.Fatal("no error")
		}
		if d := time.Since(begun); d != attachTimeout {
			t.Errorf("after %s", d)
		}
	})
}

// TestMisbehaved: who breaks the rules is told so and let go, and leaves nothing behind.
func TestMisbehaved(t *testing.T) {
	hello := console.Append(nil, attach(1, console.Write, console.All()))
	frame := func(m console.Message) []byte { return console.Append(bytes.Clone(hello), m) }
	full := bytes.Clone(hello)
	for i := range uint64(5) {
		full = console.Append(full, console.Input{Offset: i * console.MaxInput, Data: make([]byte, console.MaxInput)})
	}
	version := bytes.Clone(hello)
	version[3] = 99
	for name, sent := range map[string][]byte{
		"input ahead":        frame(console.Input{Offset: 1, Data: []byte("x")}),
		"more than a window": full,
		"attach twice":       frame(attach(1, console.Read, console.All())),
		"ack of too much":    frame(console.Ack{Bytes: 1 << 40}),
		"unknown kind":       append(bytes.Clone(hello), 99, 0, 0),
		"hypervisor's kind":  frame(console.Output{Data: []byte("x")}),
		"not attach":         console.Append(nil, console.Who{}),
		"another version":    version,
		"random":             []byte("GET / HTTP/1.1\r\n\r\n"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := New(&memory{size: 4096})
				c, served := serve(h)
				go c.Write(sent)
				var end *console.End
				r := console.NewClientReader(c)
				for {
					m, err := r.Next()
					if err != nil {
						break
					}
					if e, ok := m.(console.End); ok {
						end = &e
					}
				}
				if err := <-served; err == nil {
					t.Fatal("no error")
				}
				want := console.Misbehaved
				if name == "another version" {
					want = console.OtherVersion
				}
				if end == nil || end.Why != want {
					t.Fatalf("end %+v, want %s", end, want)
				}
				if len(h.viewers) != 0 || h.writer != nil {
					t.Fatal("a viewer was left behind")
				}
			})
		})
	}
}

// TestAckTakenBack: a count of what was dealt with does not get smaller.
func TestAckTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ring := &memory{size: 4096}
		h := New(ring)
		ring.print(h, []byte("hello"))
		x := join(h, attach(1, console.Read, console.All()))
		synctest.Wait()
		x.send(console.Ack{Bytes: 4})
		if err := <-x.served; err == nil {
			t.Fatal("no error")
		}
		<-x.gone
		if x.acked != 5 || x.end == nil || x.end.Why != console.Misbehaved {
			t.Fatalf("%d bytes, end %+v", x.acked, x.end)
		}
	})
}

// TestTurnedAway: viewers for whom there is no room do not make the console forget how much
// of a session's input it has seen.
func TestTurnedAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(&memory{size: 4096})
		first := join(h, attach(200, console.Write, console.All()))
		synctest.Wait()
		first.send(console.Input{Data: []byte("hello")})
		synctest.Wait()
		first.leave()
		<-first.served
		var all []*client
		for i := range byte(console.MaxViewers + maxSessions + 1) {
			all = append(all, join(h, attach(i, console.Read, console.All())))
			synctest.Wait()
		}
		all[0].leave()
		<-all[0].served
		again := join(h, attach(200, console.Write, console.All()))
		synctest.Wait()
		if !again.hello.Resumed || again.hello.Input != 5 {
			t.Errorf("the session is greeted with %+v", again.hello)
		}
		for _, x := range append(all[1:], again) {
			x.leave()
			<-x.served
		}
	})
}

// TestCrowded: there is room for so many viewers, and the next is told.
func TestCrowded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(&memory{size: 4096})
		var all []*client
		for i := range byte(console.MaxViewers + 1) {
			all = append(all, join(h, attach(i, console.Write, console.All())))
			synctest.Wait()
		}
		last := all[console.MaxViewers]
		if last.end == nil || last.end.Why != console.Crowded {
			t.Fatalf("the last was told %+v", last.end)
		}
		again := join(h, attach(3, console.Write, console.All())) // in place of itself
		synctest.Wait()
		if e := all[3].end; e == nil || e.Why != console.Replaced || again.end != nil || len(again.viewers) != console.MaxViewers {
			t.Fatalf("the replaced viewer was told %+v, the new one %+v and of %d viewers", e, again.end, len(again.viewers))
		}
		for _, x := range append(all, again) {
			x.leave()
			<-x.served
		}
		if len(h.viewers) != 0 {
			t.Fatal("viewers are left")
		}
	})
}

// TestEndDoesNotWait: a viewer that takes nothing does not hold up the end for longer
// than it may, and who attaches afterwards still gets everything.
func TestEndDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ring := &memory{size: 4096}
		h := New(ring)
		stuck := join(h, attach(1, console.Write, console.All()))
		synctest.Wait()
		stuck.pause()
		ring.print(h, []byte("last words"))
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		begun := time.Now()
		h.End(ctx, console.End{Why: console.InstanceCrashed, Text: "killed\x1b[2J"})
		if d := time.Since(begun); d > 3*time.Second {
			t.Errorf("the end took %s", d)
		}
		late := join(h, attach(2, console.Write, console.All()))
		<-late.gone
		if late.acked != 10 || late.end == nil || *late.end != (console.End{Why: console.InstanceCrashed, Text: "killed?[2J"}) {
			t.Errorf("who came late got %d bytes and %+v", late.acked, late.end)
		}
		late.c.Close()
		stuck.leave()
	})
}

// broken is a stream that does not end in order, as a channel that is cut does not.
type broken struct{ net.Conn }

func (b broken) Read(p []byte) (int, error) {
	n, err := b.Conn.Read(p)
	if err == io.EOF {
		err = io.ErrClosedPipe
	}
	return n, err
}

// TestWriterComesBack: a writer whose stream broke goes on writing when it attaches again in time,
// and else the next writes.
func TestWriterComesBack(t *testing.T) {
	for _, pause := range []time.Duration{writerGrace - time.Second, writerGrace + time.Second} {
		synctest.Test(t, func(t *testing.T) {
			h := New(&memory{size: 4096})
			ours, theirs := net.Pipe()
			served := make(chan error, 1)
			go func() { served <- h.Serve(t.Context(), broken{theirs}) }()
			go io.Copy(io.Discard, ours)
			ours.Write(console.Append(nil, attach(1, console.Write, console.All())))
			synctest.Wait()
			other := join(h, attach(2, console.Write, console.All()))
			synctest.Wait()
			ours.Close()
			if err := <-served; err == nil {
				t.Fatal("a stream that broke is no error")
			}
			theirs.Close()
			time.Sleep(pause)
			again := join(h, attach(1, console.Write, console.All()))
			synctest.Wait()
			want := []console.Mode{console.Waiting, console.Write}
			if pause > writerGrace {
				want = []console.Mode{console.Write, console.Waiting}
			}
			if l := again.viewers; len(l) != 2 || l[0].Mode != want[0] || l[1].Mode != want[1] {
				t.Errorf("after %s: %+v", pause, l)
			}
			for _, x := range []*client{other, again} {
				x.leave()
				<-x.served
			}
			synctest.Wait()
		})
	}
}

// TestWriterComesBackTwice: each time that a writer's stream breaks it has the whole time to
// attach again.
func TestWriterComesBackTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(&memory{size: 4096})
		var other *client
		breaks := func() {
			ours, theirs := net.Pipe()
			served := make(chan error, 1)
			go func() { served <- h.Serve(t.Context(), broken{theirs}) }()
			go io.Copy(io.Discard, ours)
			ours.Write(console.Append(nil, attach(1, console.Write, console.All())))
			synctest.Wait()
			ours.Close()
			<-served
			theirs.Close()
		}
		shown := func(when string, want console.Mode) {
			synctest.Wait()
			other.mu.Lock()
			defer other.mu.Unlock()
			if l := other.viewers; len(l) != 1 || l[0].Mode != want {
				t.Errorf("%s: %+v", when, l)
			}
		}
		breaks()
		other = join(h, attach(2, console.Write, console.All()))
		time.Sleep(writerGrace - time.Second)
		breaks()
		time.Sleep(writerGrace - time.Second) // the first break's time is over
		shown("after the second break", console.Waiting)
		time.Sleep(2 * time.Second)
		shown("when nobody came back", console.Write)
		other.leave()
		<-other.served
		synctest.Wait()
	})
}

// TestContext: the keeper's end ends a viewer at once.
func TestContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(&memory{size: 4096})
		ctx, cancel := context.WithCancel(t.Context())
		ours, theirs := net.Pipe()
		served := make(chan error, 1)
		go func() { served <- h.Serve(ctx, theirs) }()
		ours.Write(console.Append(nil, attach(1, console.Write, console.All())))
		go io.Copy(io.Discard, ours)
		synctest.Wait()
		cancel()
		if err := <-served; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		ours.Close()
	})
}

// FuzzServe: no client makes the hub panic, hang, or remember it.
func FuzzServe(f *testing.F) {
	hello := console.Append(nil, attach(1, console.Write, console.All()))
	f.Add(console.Append(bytes.Clone(hello), console.Input{Data: []byte("ls\r")}))
	f.Add(console.Append(bytes.Clone(hello), console.SetMode{Mode: console.Take}))
	f.Add(console.Append(console.Append(bytes.Clone(hello), console.Resize{}), console.Ack{Bytes: 5}))
	f.Add([]byte{1, 0, 32})
	f.Fuzz(func(t *testing.T, sent []byte) {
		synctest.Test(t, func(t *testing.T) {
			ring := &memory{size: 4096}
			h := New(ring)
			ring.print(h, []byte("hello"))
			c, served := serve(h)
			go io.Copy(io.Discard, c)
			c.SetWriteDeadline(time.Now().Add(time.Minute))
			c.Write(sent)
			c.Close()
			<-served
			if len(h.viewers) != 0 || len(h.queue) > maxQueue {
				t.Fatalf("%d viewers, %d bytes of input are left", len(h.viewers), len(h.queue))
			}
		})
	})
}
