package terminal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/uvbond/uvbond/channel/console"
)

// once opens a channel and serves it until it breaks or the console ends. worked tells
// whether the hypervisor let the session attach.
func (s *Session) once(ctx context.Context, again bool) (worked bool, err error) {
	opening, cancel := context.WithTimeout(ctx, openTimeout)
	c, err := s.o.Open(opening)
	cancel()
	if err != nil {
		return false, err
	}
	closing := sync.OnceFunc(func() { c.Close() })
	defer closing() // also waits for one that has begun
	stop := context.AfterFunc(ctx, closing)
	defer stop()
	l := &link{s: s, again: again}
	sent := make(chan error, 1)
	ending := make(chan struct{})
	s.guard(func() {
		err := l.send(c, ending)
		if err != nil {
			closing() // the reader must not wait for what never comes
		}
		sent <- err
	})
	err = l.receive(c)
	close(ending)
	closing()
	if serr := <-sent; serr != nil && errors.Is(err, net.ErrClosed) {
		err = serr
	}
	s.detached()
	return l.attached, err
}

func (s *Session) detached() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready = false
	if s.hello.Mode == console.Take {
		s.hello.Mode = console.Write // it was taken once; whoever took it since may keep it
	}
	s.hello.Start = s.screen.next()
	s.move()
}

// link is a session's use of one channel.
type link struct {
	s        *Session
	again    bool
	attached bool   // of the receiving goroutine
	got      uint64 // bytes of output that came; likewise
	before   uint64 // how much the VM had printed when the session attached; likewise

	mu     sync.Mutex
	shown  uint64 // bytes of this channel's output that were dealt with
	acked  uint64
	opened bool
}

// send sends what there is until the channel ends.
func (l *link) send(c net.Conn, ending <-chan struct{}) error {
	var b []byte
	for {
		if b = l.compose(b[:0]); len(b) > 0 {
			if _, err := c.Write(b); err != nil {
				return err
			}
			l.s.wrote()
			continue
		}
		select {
		case <-l.s.wake:
		case <-ending:
			return nil
		}
	}
}

// compose appends what is to be sent now.
func (l *link) compose(b []byte) []byte {
	s := l.s
	s.mu.Lock()
	defer s.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.opened {
		l.opened = true
		s.size, s.mode = nil, nil
		return console.Append(b, s.hello)
	}
	if !s.ready {
		return b
	}
	if s.size != nil {
		b = console.Append(b, console.Resize{Size: *s.size})
		s.size = nil
	}
	data := s.input.next()
	if s.mode != nil {
		if k := s.before - min(s.before, s.input.sent); *s.mode == console.Read && k > 0 && len(data) > 0 {
			data = data[:min(uint64(len(data)), k)] // who stops typing has typed that
		} else {
			b = console.Append(b, console.SetMode{Mode: *s.mode})
			s.mode = nil
		}
	}
	if s.who {
		b = console.Append(b, console.Who{})
		s.who, s.asked = false, true
	}
	if l.shown-l.acked >= console.OutputWindow/4 {
		b = console.Append(b, console.Ack{Bytes: l.shown})
		l.acked = l.shown
	}
	if len(data) > 0 {
		b = console.Append(b, console.Input{Offset: s.input.sent, Data: data})
		s.input.sent += uint64(len(data))
	}
	return b
}

// show notes that output was dealt with.
func (l *link) show(n int) {
	l.mu.Lock()
	l.shown += uint64(n)
	due := l.shown-l.acked >= console.OutputWindow/4
	l.mu.Unlock()
	if due {
		l.s.wakeUp()
	}
}

// given is how much output the hypervisor was told of as dealt with.
func (l *link) given() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked
}

// receive reads until the channel ends.
func (l *link) receive(c net.Conn) error {
	_ = c.SetReadDeadline(time.Now().Add(openTimeout))
	r := console.NewClientReader(c)
	m, err := r.Next()
	if err != nil {
		return err
	}
	switch m := m.(type) {
	case console.End:
		return &EndedError{m}
	case console.Attached:
		if err := l.attach(m); err != nil {
			return err
		}
	default:
		return fmt.Errorf("%w: it began with %T", ErrMisbehaved, m)
	}
	_ = c.SetReadDeadline(time.Time{})
	for {
		m, err := r.Next()
		if err == io.EOF {
			return errors.New("the channel was closed without a reason")
		}
		if err == nil {
			err = l.handle(m)
		}
		if err != nil {
			return err
		}
	}
}

func (l *link) attach(m console.Attached) error {
	s := l.s
	if err := s.screen.attached(m.Offset, m.End); err != nil {
		return err
	}
	l.before = m.End
	s.mu.Lock()
	defer s.mu.Unlock()
	uncertain, ok := s.input.attached(m)
	if !ok {
		return fmt.Errorf("%w: it has seen %d bytes of input, %d were sent", ErrMisbehaved, m.Input, s.input.sent)
	}
	l.attached, s.ready, s.self = true, true, m.ID
	s.screen.event(Attached{Again: l.again, Before: m.End - m.Offset, Uncertain: uncertain})
	s.move()
	s.wakeUp()
	return nil
}

func (l *link) handle(m console.Message) error {
	s := l.s
	switch m := m.(type) {
	case console.Output:
		return s.screen.output(l, m)
	case console.Lost:
		return s.screen.lost(m)
	case console.Taken:
		s.mu.Lock()
		defer s.mu.Unlock()
		refused, ok := s.input.taken(m)
		if !ok {
			return fmt.Errorf("%w: it took %d bytes of input, %d were sent", ErrMisbehaved, m.Input, s.input.sent)
		}
		if refused > 0 {
			s.screen.event(Untyped{refused})
		}
		s.move()
		s.wakeUp()
	case console.Viewers:
		s.viewers(m.Viewers)
	case console.End:
		return &EndedError{m}
	default:
		return fmt.Errorf("%w: it sent %T", ErrMisbehaved, m)
	}
	return nil
}

// viewers notes whether the session writes. What nobody sent before somebody else took
// the writing is not kept for later: it was meant for another moment.
func (s *Session) viewers(list []console.Viewer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	writing := false
	for _, v := range list {
		writing = writing || v.ID == s.self && v.Mode == console.Write
	}
	if s.writing && !writing {
		if n := s.input.unsent(); n > 0 {
			s.screen.event(Untyped{n})
		}
	}
	s.writing = writing
	s.screen.event(Viewers{Viewers: list, Self: s.self, Asked: s.asked})
	s.asked = false
	s.move()
}
