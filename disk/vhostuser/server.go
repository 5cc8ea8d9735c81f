package vhostuser

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk"
)

// DefaultPoll is a good value for Server.Poll where cores are free now and then.
const DefaultPoll = 32 * time.Microsecond

// Server serves one Device to one front end at a time. Its fields must not change
// once Serve is called.
type Server struct {
	Device *disk.Device
	Serial string // what the guest reads as the disk's serial number; at most 20 bytes
	Queues int    // how many virtqueues are offered; 0 means one, at most MaxQueues
	// Poll is how long a queue may look for new requests before it sleeps. It adapts
	// itself below that, and an idle queue never looks. 0 is never.
	Poll time.Duration
	// CheckPeer sees the kernel's word on who connected, before anything is sent
	// to it; an error closes the connection. It may block, until its context
	// ends. With nil everyone who can reach the listener is served.
	CheckPeer func(context.Context, *unix.Ucred) error
	// Log receives failures of the listener, queues that a guest brought out of
	// order, and at level debug broken connections. nil discards.
	Log *slog.Logger

	counts  counters
	blamed  atomic.Int64 // when complain logged last, in seconds
	waiting atomic.Int64
	turn    chan struct{} // holds one value while there is a front end
	current struct {
		sync.Mutex
		session *session
	}
}

const (
	// A front end that was restarted may connect before the end of the one before
	// it was noticed.
	graceTime   = time.Second
	mostWaiters = 4
	replyTime   = 5 * time.Second
)

// Serve accepts connections from l, a unix socket, until ctx ends. Then it closes
// l, lets the requests finish that were taken from the guest, closes the
// connection and returns nil. Requests that were not taken are left in the ring:
// the front end connects again, and the guest notices nothing but the time.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if len(s.Serial) > serialLen || s.Queues < 0 || s.Queues > MaxQueues {
		return fmt.Errorf("vhost-user: serial number of %d bytes, %d queues: at most %d and %d", len(s.Serial), s.Queues, serialLen, MaxQueues)
	}
	s.turn = make(chan struct{}, 1)
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("vhost-user: accept: %w", err)
			}
			// Out of descriptors or memory: that passes.
			s.log().Warn("vhost-user: accept failed, trying again", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		if s.waiting.Add(1) > mostWaiters {
			s.refuse(c, errors.New("too many connections"))
			s.waiting.Add(-1)
			continue
		}
		wg.Go(func() {
			defer s.waiting.Add(-1)
			s.admit(ctx, c)
		})
	}
}

func (s *Server) refuse(c net.Conn, err error) {
	c.Close()
	s.counts.refused.Add(1)
	s.log().Debug("vhost-user: connection refused", "err", err)
}

// admit serves c when it is who it should be and the only one.
func (s *Server) admit(ctx context.Context, c net.Conn) {
	uc, err := s.checkPeer(ctx, c)
	if err != nil {
		s.refuse(c, err)
		return
	}
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		c.Close()
		return
	case <-time.After(graceTime):
		s.refuse(c, errors.New("there is another front end"))
		return
	}
	defer func() { <-s.turn }()
	s.counts.accepted.Add(1)
	if err := s.serve(ctx, uc); err != nil && ctx.Err() == nil {
		s.log().Debug("vhost-user: connection ended", "err", err)
	}
}

func (s *Server) checkPeer(ctx context.Context, c net.Conn) (*net.UnixConn, error) {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.New("not a unix socket")
	}
	if s.CheckPeer == nil {
		return uc, nil
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var cerr error
	err = raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, cerr); err != nil {
		return nil, fmt.Errorf("credentials of the peer: %w", err)
	}
	return uc, s.CheckPeer(ctx, cred)
}

// serve talks to one front end until it or ctx ends.
func (s *Server) serve(ctx context.Context, c *net.UnixConn) error {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	x := newSession(s)
	defer x.close()
	s.setCurrent(x)
	defer s.setCurrent(nil)
	sock := &socket{c: c}
	for {
		m, err := sock.receive()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			return ctx.Err()
		case err != nil:
			return err
		}
		err = s.respond(x, sock, m)
		m.close()
		if err != nil {
			return fmt.Errorf("%v: %w", m, err)
		}
	}
}

// respond carries m out and answers it.
func (s *Server) respond(x *session, sock *socket, m *message) error {
	asked := m.flags&flagNeedReply != 0 && x.proto&protoReplyAck != 0
	a, err := x.handle(m)
	if err != nil {
		if !asked || a.reply {
			return err
		}
		s.log().Debug("vhost-user: message refused", "message", m.String(), "err", err)
		a = u64(1)
	} else if asked && !a.reply {
		a = u64(0)
	}
	if !a.reply {
		return nil
	}
	defer closeFD(&a.fd)
	sock.c.SetWriteDeadline(time.Now().Add(replyTime))
	return sock.send(m, a.payload, a.fd)
}

func (s *Server) setCurrent(x *session) {
	s.current.Lock()
	defer s.current.Unlock()
	s.current.session = x
}

// Resized tells the guest that the Device has grown. A front end that connects
// later sees the size by itself.
func (s *Server) Resized() {
	s.current.Lock()
	x := s.current.session
	s.current.Unlock()
	if x != nil {
		x.configChanged()
	}
}

// complain logs that a queue was given up, once in a second: a guest can do that as
// often as it likes.
func (s *Server) complain(queue int, err error) {
	now := time.Now().Unix()
	if s.blamed.Swap(now) != now {
		s.log().Warn("vhost-user: a queue is out of order and stopped", "queue", queue, "err", err)
	}
}

func (s *Server) queues() int { return cmp.Or(s.Queues, 1) }

func (s *Server) log() *slog.Logger {
	if s.Log != nil {
		return s.Log
	}
	return slog.New(slog.DiscardHandler)
}
