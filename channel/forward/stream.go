package forward

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

// ErrReset says that the other end's connection was reset.
var ErrReset = errors.New("the connection was reset")

// Stream is one connection in a channel: a net.Conn that can be half-closed.
type Stream struct {
	y   *yamux.Stream
	mux *mux

	mu       sync.Mutex
	reset    bool          // by either end
	gone     chan struct{} // closed with reset
	told     bool          // the other end knows of the reset: it said so, or said it itself
	readEnd  bool
	writeEnd bool
	received int64 // bytes of the connection
	sent     int64
}

func newStream(y *yamux.Stream, m *mux) *Stream {
	return &Stream{y: y, mux: m, gone: make(chan struct{})}
}

// Read returns io.EOF behind the last byte, and ErrReset after a reset.
func (s *Stream) Read(p []byte) (int, error) {
	n, err := s.y.Read(p)
	if n < len(p) {
		s.y.Shrink() // nothing is waiting: its buffer may go
	}
	s.count(&s.received, n)
	if err != nil {
		err = s.finish(&s.readEnd, err)
	}
	return n, err
}

// Write blocks while the other end's connection does not take what is sent.
func (s *Stream) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = s.y.Write(p[n:min(n+pieceSize, len(p))])
		n += m
	}
	s.count(&s.sent, n)
	if err != nil {
		err = s.finish(&s.writeEnd, err)
	}
	return n, err
}

func (s *Stream) count(of *int64, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*of += int64(n)
}

// Unanswered tells of a connection that has ended whether it went as where nobody
// listens. What takes connections for a guest takes them before the guest was asked, and
// breaks them off when it says no: nothing comes, and what was sent, if anything, is not
// taken. A program that took something and ended without a word is not unanswered.
func (s *Stream) Unanswered() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.received == 0 && (s.sent == 0 || s.reset)
}

// finish notes the end of a direction and finds the error to show for it.
func (s *Stream) finish(end *bool, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.reset:
		return ErrReset
	case s.mux.session.IsClosed():
		// Also for what looks like the end of the stream: yamux ends all streams so.
		if why := s.mux.why(yamux.ErrSessionShutdown); why != nil {
			return why
		}
		return net.ErrClosed
	case err == io.EOF: //nolint:errorlint // streams end with the plain one
		*end = true
	}
	return err
}

// CloseWrite ends this end's direction; the other goes on.
func (s *Stream) CloseWrite() error {
	s.mu.Lock()
	s.writeEnd = true
	s.mu.Unlock()
	return s.y.Close()
}

// Close frees the stream. Unless both directions have ended, the other end's
// connection is reset.
func (s *Stream) Close() error {
	s.mu.Lock()
	ended := s.readEnd && s.writeEnd
	s.mu.Unlock()
	if !ended {
		s.Reset()
	}
	s.mu.Lock()
	early := s.reset && !s.told
	s.mu.Unlock()
	if early {
		go s.awaitEnd()
		return nil
	}
	s.mux.remove(s)
	return s.y.Close()
}

// awaitEnd frees a stream that this end reset once the other end has noticed: an
// end of the stream that came there before the reset would look like one in order.
func (s *Stream) awaitEnd() {
	s.mu.Lock()
	if !s.told {
		s.y.SetReadDeadline(time.Now().Add(resetTimeout)) //nolint:errcheck // never fails
	}
	s.mu.Unlock()
	io.Copy(io.Discard, s.y) //nolint:errcheck // any end will do
	s.mux.remove(s)
	s.y.Close() //nolint:errcheck // fails with the session only
}

// resetTimeout bounds how long the other end may take to notice a reset.
const resetTimeout = 30 * time.Second

// Reset breaks the connection off, here and at the other end.
func (s *Stream) Reset() {
	if s.broken(false) {
		s.mux.sayReset(s.y.StreamID())
	}
}

// broken ends pending calls; it tells whether it was the first to.
func (s *Stream) broken(byOther bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := !s.reset
	if first {
		s.reset = true
		close(s.gone)
	}
	s.told = s.told || byOther
	if first || byOther {
		s.y.SetDeadline(time.Unix(1, 0)) //nolint:errcheck // never fails
	}
	return first
}

// Broken is closed when either end reset the connection.
func (s *Stream) Broken() <-chan struct{} { return s.gone }

// LocalAddr is the channel's.
func (s *Stream) LocalAddr() net.Addr { return s.mux.under.LocalAddr() }

// RemoteAddr is the channel's.
func (s *Stream) RemoteAddr() net.Addr { return s.mux.under.RemoteAddr() }

// SetDeadline sets both deadlines.
func (s *Stream) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

// SetReadDeadline bounds reads.
func (s *Stream) SetReadDeadline(t time.Time) error { return s.deadline(s.y.SetReadDeadline, t) }

// SetWriteDeadline bounds writes.
func (s *Stream) SetWriteDeadline(t time.Time) error { return s.deadline(s.y.SetWriteDeadline, t) }

func (s *Stream) deadline(set func(time.Time) error, t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reset {
		return ErrReset
	}
	return set(t)
}

// Local is a connection that Join can half-close: *net.TCPConn, *net.UnixConn.
type Local interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// Join moves bytes both ways until both directions have ended, or one is broken: then
// both are. It closes local and the stream. Its error tells what broke.
func Join(local Local, s *Stream) error {
	defer s.Close()
	up := make(chan error, 1)
	go func() { up <- pump(s, local, s) }()
	down := make(chan error, 1)
	go func() { down <- pump(local, s, s) }()
	var err error
	for range 2 {
		var one error
		select {
		case one = <-up:
			up = nil
		case one = <-down:
			down = nil
		case <-s.gone:
			one = ErrReset
		}
		if one != nil {
			err = one
			break
		}
	}
	if err != nil {
		s.Reset()
		if t, ok := local.(*net.TCPConn); ok {
			t.SetLinger(0) //nolint:errcheck // then it ends in order, which is worse, but an end
		}
	}
	local.Close()
	for _, c := range []chan error{up, down} {
		if c != nil {
			<-c
		}
	}
	return err
}

// pump moves one direction and passes its end on.
func pump(to interface {
	io.Writer
	CloseWrite() error
}, from io.Reader, s *Stream) error {
	buf := make([]byte, pieceSize)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF { //nolint:errorlint // connections end with the plain one
			return to.CloseWrite()
		}
		if err != nil {
			return err
		}
	}
}
