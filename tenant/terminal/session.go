// Package terminal is the owner's end of a console channel: it shows what a VM prints on
// its serial port, types into it, and attaches again when the channel breaks, without
// showing a byte twice or leaving one out. It knows no terminal and no network:
// whoever uses it gives it channels, a place for output, and what is typed.
//
// The channel authenticates the hypervisor; the VM behind it is the owner's, and may
// all the same be in somebody else's hands: what it prints is handed on as it is, and what
// the messages of package console carry is bounded and checked.
package terminal

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"github.com/uvbond/uvbond/channel/console"
)

// maxPending is how much input may wait to be sent, bytes.
const maxPending = 64 << 10

// Times of attaching again.
const (
	pauseFirst  = 250 * time.Millisecond
	pauseMost   = 5 * time.Second
	openTimeout = 30 * time.Second // for a channel and the hypervisor's first message
)

// Options says what a session does.
type Options struct {
	// Open opens a channel to the console. Whether its error, and those of its
	// connection, end the session is for Final to say.
	Open func(context.Context) (net.Conn, error)
	// Final tells errors after which it makes no sense to attach again: the VM has no
	// instance, or somebody touched the channel. Nil: none.
	Final func(error) bool
	// Output takes what the VM prints, in order. It may block: then the VM's output waits
	// in a bounded buffer in the hypervisor. Its error ends the session.
	Output func([]byte) error
	// Event takes what else happens, in order with the output; it must not block. Nil: nobody.
	Event func(Event)

	Name     string        // shown to other viewers
	Mode     console.Mode  // Read, Write or Take
	Start    console.Start // of the output
	Size     console.Size  // of the terminal, if there is one
	Reattach bool          // when a channel breaks
	// Answer has a shell told that asks for the terminal's size: see question. What it asked
	// is not given to Output.
	Answer bool
}

// Event is one of the types below.
type Event interface{ event() }

// Attached: the session is attached, for the first time or again.
type Attached struct {
	Again bool
	// Before is how many bytes of the output that comes next were printed before.
	Before uint64
	// Uncertain is how many bytes of input may have been typed or not: they were under
	// way when the hypervisor's end of the channel was lost. They are not sent again.
	Uncertain int
}

// Detached: the channel broke; the session attaches again after Pause.
type Detached struct {
	Err   error
	Pause time.Duration
}

// Lost: so many bytes of output are not kept any more.
type Lost struct{ Bytes uint64 }

// Viewers: who is attached has changed, or was asked for.
type Viewers struct {
	Viewers []console.Viewer
	Self    uint32 // the session's ID among them
	Asked   bool   // by Who
}

// Untyped: so many bytes of input were not typed, because somebody else writes, or
// because too much was waiting for the guest.
type Untyped struct{ Bytes uint64 }

func (Attached) event() {}
func (Detached) event() {}
func (Lost) event()     {}
func (Viewers) event()  {}
func (Untyped) event()  {}

// EndedError says how the hypervisor ended the console.
type EndedError struct{ End console.End }

func (e *EndedError) Error() string {
	if e.End.Text == "" {
		return e.End.Why.String()
	}
	return fmt.Sprintf("%s: %s", e.End.Why, e.End.Text)
}

// ErrMisbehaved is the class of errors about a hypervisor's end that breaks the rules.
var ErrMisbehaved = errors.New("the hypervisor's end of the console broke the rules")

// Session is a viewer of one console over as many channels as it takes. Its methods are safe
// for concurrent use.
type Session struct {
	o       Options
	screen  *screen
	crashed chan any // capacity 1: a panic of a goroutine

	mu      sync.Mutex
	wake    chan struct{} // capacity 1: the sender may have something to send
	moved   chan struct{} // closed when input was dealt with, or may be sent
	input   input
	hello   console.Attach // what attaching says next
	size    *console.Size  // to be sent
	mode    *console.Mode
	before  uint64 // end of the input that was typed before mode was asked for
	who     bool
	asked   bool // by Who: to be marked in the next list
	ready   bool // attached: input may be sent
	writing bool
	lines   int // typed since a shell asked for the terminal's size
	self    uint32
	ended   bool
}

// New returns a session that Run starts.
func New(o Options) *Session {
	if o.Event == nil {
		o.Event = func(Event) {}
	}
	if o.Final == nil {
		o.Final = func(error) bool { return false }
	}
	s := &Session{o: o, wake: make(chan struct{}, 1), moved: make(chan struct{}), crashed: make(chan any, 1)}
	s.screen = newScreen(s)
	s.hello = console.Attach{Mode: o.Mode, Start: o.Start, Size: o.Size, Name: console.CleanName(o.Name)}
	_, _ = rand.Read(s.hello.Session[:]) // cannot fail
	return s
}

// Run attaches and goes on until the console ends (an EndedError), ctx ends, or an error
// after which it does not attach again. All that came before the end has been
// given to Output then, unless ctx has ended.
func (s *Session) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer s.close()
	shown := make(chan error, 1)
	s.guard(func() { shown <- s.screen.run(ctx) })
	done := make(chan error, 1)
	s.guard(func() { done <- s.attachments(ctx) })
	for {
		select {
		case v := <-s.crashed:
			panic(v)
		case err := <-shown: // Output failed, or ctx has ended
			cancel()
			<-done
			return err
		case err := <-done:
			s.screen.finish()
			select {
			case outErr := <-shown:
				if outErr != nil && ctx.Err() == nil {
					return outErr
				}
			case v := <-s.crashed:
				panic(v)
			case <-ctx.Done(): // Output may hang in a terminal that was stopped
			}
			return err
		}
	}
}

// guard starts f and hands its panic to Run, whose caller may have a terminal to put
// right before it dies of it.
func (s *Session) guard(f func()) {
	go func() {
		defer func() {
			if v := recover(); v != nil {
				select {
				case s.crashed <- fmt.Sprintf("%v\n\n%s", v, debug.Stack()):
				default:
				}
			}
		}()
		f()
	}()
}

// attachments attaches again and again.
func (s *Session) attachments(ctx context.Context) error {
	pause, again := pauseFirst, false
	for {
		if err := s.screen.settle(ctx); err != nil {
			return err
		}
		begun := time.Now()
		worked, err := s.once(ctx, again)
		again = again || worked
		if worked && time.Since(begun) > pauseMost {
			pause = pauseFirst
		}
		var ended *EndedError
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, &ended) && ended.End.Why != console.HostRestarted,
			errors.Is(err, ErrMisbehaved), errors.Is(err, console.ErrMalformed), errors.Is(err, console.ErrVersion), s.o.Final(err):
			return err
		case !s.o.Reattach || !again:
			return err
		}
		s.screen.event(Detached{Err: err, Pause: pause})
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		pause = min(2*pause, pauseMost)
	}
}

func (s *Session) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.move()
}

// move wakes who waits for input to be dealt with. The mutex is held.
func (s *Session) move() {
	close(s.moved)
	s.moved = make(chan struct{})
}

func (s *Session) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Resize tells the terminal's new size.
func (s *Session) Resize(z console.Size) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hello.Size, s.size = z, &z
	s.wakeUp()
}

// SetMode asks to read, write or take.
func (s *Session) SetMode(m console.Mode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hello.Mode, s.mode = m, &m
	s.before = s.input.base + uint64(len(s.input.pending))
	s.wakeUp()
}

// Who asks for the list of viewers, which comes as an event.
func (s *Session) Who() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.who = true
	s.wakeUp()
}

// Writing tells whether what is typed now will reach the VM, as far as is known.
func (s *Session) Writing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writing
}
