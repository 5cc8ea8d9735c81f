package terminal

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/uvbond/uvbond/channel/console"
	"github.com/uvbond/uvbond/channel/console/hub"
)

// machine is a VM with a console: a ring that keeps everything, and a guest that takes all.
type machine struct {
	mu    sync.Mutex
	keep  int // bytes that are kept
	all   []byte
	typed []byte
	hub   *hub.Hub
	stop  context.CancelFunc
	conns []net.Conn // hypervisor's ends
	down  bool       // nothing can be opened
}

func newMachine() *machine {
	m := &machine{keep: 1 << 30}
	m.restart()
	return m
}

// restart puts another keeper beside the machine.
func (m *machine) restart() {
	if m.stop != nil {
		m.stop()
		m.cut()
		synctest.Wait()
	}
	var ctx context.Context
	ctx, m.stop = context.WithCancel(context.Background())
	m.hub = hub.New(m)
	go m.hub.Feed(ctx, m)
}

func (m *machine) Copy(p []byte, offset uint64) (n int, at, end uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	end = uint64(len(m.all))
	if at = max(offset, uint64(max(0, len(m.all)-m.keep))); at < end {
		n = copy(p, m.all[at:])
	}
	return n, at, end
}

func (m *machine) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.typed = append(m.typed, p...)
	return len(p), nil
}

func (m *machine) print(p []byte) {
	m.mu.Lock()
	m.all = append(m.all, p...)
	m.mu.Unlock()
	m.hub.Printed()
}

func (m *machine) open(context.Context) (net.Conn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down {
		return nil, errors.New("connection refused")
	}
	ours, theirs := net.Pipe()
	m.conns = append(m.conns, theirs)
	h := m.hub
	go func() {
		h.Serve(context.Background(), broken{theirs})
		theirs.Close()
	}()
	return broken{ours}, nil
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

// cut breaks all connections.
func (m *machine) cut() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.conns {
		c.Close()
	}
	m.conns = nil
}

// rest lets time pass and everything come to rest.
func rest(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// person is who uses a session.
type person struct {
	*Session
	mu     sync.Mutex
	shown  []byte
	events []Event
	hold   chan struct{} // not nil: output waits until it is closed
	result chan error
}

func sit(ctx context.Context, m *machine, change func(*Options)) *person {
	p := &person{result: make(chan error, 1)}
	o := Options{Open: m.open, Name: "test", Mode: console.Write, Start: console.All(), Reattach: true,
		Output: func(b []byte) error {
			p.mu.Lock()
			hold := p.hold
			p.mu.Unlock()
			if hold != nil {
				<-hold
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			p.shown = append(p.shown, b...)
			return nil
		},
		Event: func(e Event) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.events = append(p.events, e)
		}}
	if change != nil {
		change(&o)
	}
	p.Session = New(o)
	go func() { p.result <- p.Run(ctx) }()
	return p
}

// of returns a person's events of one type.
func of[E Event](p *person) (all []E) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.events {
		if one, ok := e.(E); ok {
			all = append(all, one)
		}
	}
	return all
}

// TestEveryByteOnce: connections break at any moment, also in the middle of a message, and all that was
// printed is shown once, all that was typed is typed once.
func TestEveryByteOnce(t *testing.T) {
	for seed := range uint64(40) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 3))
			m := newMachine()
			p := sit(t.Context(), m, nil)
			synctest.Wait()
			var typed []byte
			for range 200 {
				switch rnd.IntN(6) {
				case 0:
					m.cut()
				case 1:
					time.Sleep(time.Duration(rnd.IntN(3000)) * time.Millisecond)
				case 2:
					text := bytes.Repeat([]byte{byte('a' + rnd.IntN(26))}, rnd.IntN(9000))
					typed = append(typed, text[:p.Type(text)]...)
				case 3:
					synctest.Wait()
				default:
					text := make([]byte, rnd.IntN(1<<rnd.IntN(18)))
					for i := range text {
						text[i] = byte(rnd.Uint32())
					}
					m.print(text)
				}
			}
			if err := p.Drain(t.Context()); err != nil {
				t.Fatal(err)
			}
			rest(2 * pauseMost)
			m.hub.End(t.Context(), console.End{Why: console.InstanceEnded, Text: "powered off"})
			var ended *EndedError
			if err := <-p.result; !errors.As(err, &ended) || ended.End.Text != "powered off" {
				t.Fatalf("seed %d: ended with %v", seed, err)
			}
			if !bytes.Equal(p.shown, m.all) {
				t.Fatalf("seed %d: %d bytes were shown, %d printed", seed, len(p.shown), len(m.all))
			}
			if !bytes.Equal(m.typed, typed) {
				t.Fatalf("seed %d: %d bytes reached the guest, %d were typed", seed, len(m.typed), len(typed))
			}
			if len(of[Lost](p)) > 0 || len(of[Untyped](p)) > 0 {
				t.Fatalf("seed %d: something was lost", seed)
			}
			m.stop()
		})
	}
}

// TestAnotherKeeper: the ring survives a keeper, what it knew of input does not.
func TestAnotherKeeper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.stop() // the guest reads nothing
		p := sit(t.Context(), m, nil)
		synctest.Wait()
		m.print([]byte("one "))
		p.Type([]byte("under way"))
		synctest.Wait()
		m.mu.Lock()
		m.down = true
		m.mu.Unlock()
		m.restart()
		m.print([]byte("two "))
		p.Type([]byte("typed meanwhile"))
		rest(time.Minute)
		if n := len(of[Detached](p)); n < 10 {
			t.Fatalf("it tried %d times", n)
		}
		m.mu.Lock()
		m.down = false
		m.mu.Unlock()
		rest(time.Minute)
		m.print([]byte("three"))
		synctest.Wait()
		if string(p.shown) != "one two three" || string(m.typed) != "typed meanwhile" {
			t.Fatalf("shown %q, typed %q", p.shown, m.typed)
		}
		a := of[Attached](p)
		if len(a) != 2 || a[0].Again || !a[1].Again || a[1].Uncertain != len("under way") {
			t.Fatalf("%+v", a)
		}
		m.stop()
		m.hub.End(t.Context(), console.End{})
		<-p.result
	})
}

// TestStoppedTerminal: output that is not taken makes nobody drop the channel, is bounded, and
// what was lost meanwhile is told. The rest goes on meanwhile.
func TestStoppedTerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.keep = 1 << 20
		p := sit(t.Context(), m, nil)
		synctest.Wait()
		p.mu.Lock()
		p.hold = make(chan struct{})
		p.mu.Unlock()
		for range 100 {
			m.print(make([]byte, 100<<10))
		}
		p.Type([]byte("q"))
		rest(10 * time.Minute)
		if string(m.typed) != "q" || p.screen.queued > console.OutputWindow {
			t.Fatalf("typed %q, %d bytes wait", m.typed, p.screen.queued)
		}
		for range 50 { // each channel may add a window
			m.cut()
			rest(10 * time.Second)
		}
		if p.screen.queued > maxQueued+console.OutputWindow {
			t.Fatalf("%d bytes wait", p.screen.queued)
		}
		close(p.hold)
		rest(time.Minute)
		lost := uint64(0)
		for _, l := range of[Lost](p) {
			lost += l.Bytes
		}
		if lost == 0 || lost+uint64(len(p.shown)) != uint64(len(m.all)) {
			t.Fatalf("%d lost, %d shown of %d", lost, len(p.shown), len(m.all))
		}
		m.stop()
		m.hub.End(t.Context(), console.End{})
		<-p.result
	})
}

// TestWriters: who takes the writing gets it, the other is told, and what it had not sent is dropped.
func TestWriters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		a := sit(t.Context(), m, func(o *Options) { o.Name = "ada" })
		synctest.Wait()
		b := sit(t.Context(), m, func(o *Options) { o.Name = "bob"; o.Size = console.Size{Columns: 80, Rows: 24} })
		synctest.Wait()
		if !a.Writing() || b.Writing() || b.Type([]byte("x")) != 0 {
			t.Fatal("the first does not write")
		}
		b.SetMode(console.Take)
		synctest.Wait()
		if a.Writing() || !b.Writing() {
			t.Fatal("the writing was not taken")
		}
		a.Resize(console.Size{Columns: 0, Rows: 0})
		b.Type([]byte("b"))
		m.cut() // both attach again; bob does not take what somebody else may have taken since
		rest(time.Minute)
		if a.Writing() || !b.Writing() || string(m.typed) != "b" {
			t.Fatalf("after a break: %v, %v, typed %q", a.Writing(), b.Writing(), m.typed)
		}
		b.Who()
		synctest.Wait()
		lists := of[Viewers](b)
		last := lists[len(lists)-1]
		if !last.Asked || len(last.Viewers) != 2 || last.Viewers[1].Size.Columns+last.Viewers[0].Size.Columns != 80 {
			t.Fatalf("%+v", last)
		}
		b.SetMode(console.Read)
		synctest.Wait()
		if !a.Writing() || b.Writing() {
			t.Fatal("who waited does not write now")
		}
		done := make(chan error, 1)
		go func() { done <- b.TypeAll(t.Context(), []byte("patient")) }()
		rest(time.Minute)
		b.SetMode(console.Write)
		a.SetMode(console.Read)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if err := b.Drain(t.Context()); err != nil || string(m.typed) != "bpatient" {
			t.Fatalf("%v, typed %q", err, m.typed)
		}
		m.stop()
		m.hub.End(t.Context(), console.End{})
		<-a.result
		<-b.result
		if err := b.TypeAll(t.Context(), []byte("x")); !errors.Is(err, ErrEnded) {
			t.Fatal(err)
		}
	})
}

// TestStopTyping: what was typed before its typist gives the writing up is typed.
func TestStopTyping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		a, b := sit(t.Context(), m, nil), sit(t.Context(), m, nil)
		synctest.Wait()
		if !a.Writing() {
			a, b = b, a
		}
		long := bytes.Repeat([]byte("x"), 3*console.MaxInput)
		if n := a.Type(long); n != len(long) {
			t.Fatalf("took %d of %d bytes", n, len(long))
		}
		a.SetMode(console.Read)
		if n := a.Type([]byte("later")); n != 5 {
			t.Fatalf("took %d bytes before the answer", n)
		}
		rest(time.Second)
		if lost := of[Untyped](a); len(lost) != 1 || lost[0].Bytes != 5 || !bytes.Equal(m.typed, long) || a.Writing() || !b.Writing() {
			t.Fatalf("untyped %v, typed %d bytes of %d, writing %v and %v", lost, len(m.typed), len(long), a.Writing(), b.Writing())
		}
		m.stop()
		m.hub.End(t.Context(), console.End{})
		<-a.result
		<-b.result
	})
}

// TestEnds: after which errors a session ends, and that it ends at once when told to.
func TestEnds(t *testing.T) {
	broken := errors.New("touched")
	for name, c := range map[string]struct {
		change func(*Options)
		act    func(m *machine, p *person)
		want   func(error) bool
	}{
		"no first channel": {
			change: func(o *Options) {
				o.Open = func(context.Context) (net.Conn, error) { return nil, errors.New("refused") }
			},
			want: func(err error) bool { return err.Error() == "refused" },
		},
		"final": {
			change: func(o *Options) {
				open, n := o.Open, 0
				o.Final = func(err error) bool { return errors.Is(err, broken) }
				o.Open = func(ctx context.Context) (net.Conn, error) {
					if n++; n > 3 {
						return nil, broken
					}
					return open(ctx)
				}
			},
			act: func(m *machine, _ *person) {
				for range 4 {
					m.cut()
					rest(time.Minute)
				}
			},
			want: func(err error) bool { return errors.Is(err, broken) },
		},
		"no reattach": {
			change: func(o *Options) { o.Reattach = false },
			act:    func(m *machine, _ *person) { m.cut() },
			want:   func(err error) bool { return err != nil },
		},
		"crash": {
			act: func(m *machine, _ *person) {
				m.hub.End(context.Background(), console.End{Why: console.InstanceCrashed})
			},
			want: func(err error) bool {
				var e *EndedError
				return errors.As(err, &e) && e.End.Why == console.InstanceCrashed
			},
		},
		"output fails": {
			change: func(o *Options) { o.Output = func([]byte) error { return broken } },
			act:    func(m *machine, _ *person) { m.print([]byte("x")) },
			want:   func(err error) bool { return errors.Is(err, broken) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMachine()
				p := sit(t.Context(), m, c.change)
				synctest.Wait()
				if c.act != nil {
					c.act(m, p)
				}
				if err := <-p.result; !c.want(err) {
					t.Fatalf("ended with %v", err)
				}
				m.stop()
				synctest.Wait()
			})
		})
	}
}

// TestLeave: a person who leaves does not wait for output that nobody takes.
func TestLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		ctx, cancel := context.WithCancel(t.Context())
		p := sit(ctx, m, nil)
		p.hold = make(chan struct{})
		m.print([]byte("x"))
		synctest.Wait()
		cancel()
		if err := <-p.result; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		close(p.hold)
		m.stop()
	})
}

// TestPanic: a panic of what takes the output comes out of Run.
func TestPanic(t *testing.T) {
	m := &machine{keep: 1 << 30, all: []byte("x")}
	m.hub = hub.New(m)
	s := New(Options{Open: m.open, Mode: console.Read, Start: console.All(), Output: func([]byte) error { panic("oh no") }})
	defer func() {
		if v, _ := recover().(string); !strings.HasPrefix(v, "oh no") {
			t.Fatalf("recovered %v", v)
		}
		m.cut()
	}()
	_ = s.Run(t.Context())
}

// TestHypervisorMisbehaves: what cannot be is not believed.
func TestHypervisorMisbehaves(t *testing.T) {
	hello := console.Attached{ID: 1, Offset: 5, End: 10}
	many := []console.Message{hello}
	for i := range uint64(console.OutputWindow/console.MaxOutput + 1) {
		many = append(many, console.Output{Offset: 5 + i*console.MaxOutput, Data: make([]byte, console.MaxOutput)})
	}
	for name, said := range map[string][]console.Message{
		"no attached":      {console.Output{Data: []byte("x")}},
		"attached twice":   {hello, hello},
		"a gap":            {hello, console.Output{Offset: 6, Data: []byte("x")}},
		"again":            {hello, console.Output{Offset: 5, Data: []byte("x")}, console.Output{Offset: 5, Data: []byte("x")}},
		"lost elsewhere":   {hello, console.Lost{Offset: 4, Bytes: 1}},
		"lost nothing":     {hello, console.Lost{Offset: 5}},
		"lost around":      {hello, console.Lost{Offset: 5, Bytes: ^uint64(0)}},
		"typed too much":   {hello, console.Taken{Input: 1}},
		"seen too much":    {console.Attached{Resumed: true, Input: 9}},
		"more than window": many,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hold := make(chan struct{})
				s := New(Options{Mode: console.Read, Reattach: true, Output: func([]byte) error { <-hold; return nil },
					Open: func(context.Context) (net.Conn, error) {
						ours, theirs := net.Pipe()
						go func() {
							console.NewHypervisorReader(theirs).Next()
							for _, m := range said {
								theirs.Write(console.Append(nil, m))
							}
						}()
						return ours, nil
					}})
				go func() { time.Sleep(time.Hour); close(hold) }()
				if err := s.Run(t.Context()); !errors.Is(err, ErrMisbehaved) {
					t.Errorf("ended with %v", err)
				}
				rest(2 * time.Hour)
			})
		})
	}
}
