package nbd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk"
)

// Export is one device under the name that clients ask for.
type Export struct {
	Name   string // at most 4096 bytes; "" is what clients ask for by default
	Device *disk.Device
}

// Server serves its exports.  Its fields must not change once Serve is called.
type Server struct {
	// Exports; a client that asks for "" gets the only one if there is only one.
	Exports []Export
	// CheckPeer sees the kernel's word on who connected, before anything is
	// sent to it; an error closes the connection.  It may block, until its
	// context ends.  With nil everyone who can reach the listener is served;
	// otherwise only unix sockets are.
	CheckPeer func(context.Context, *unix.Ucred) error
	// HandshakeTimeout is how long negotiation may take; 0 means ten seconds.
	HandshakeTimeout time.Duration
	// DrainTimeout is how long replies may take to leave after the context
	// ended; 0 means five seconds.
	DrainTimeout time.Duration
	// MaxConnections at one time; 0 means 16.  More are closed at once.
	MaxConnections int
	// Log receives failures of the listener, and at level debug what a client can
	// cause: refused peers, broken connections.  nil discards.
	Log *slog.Logger

	stats counters
	open  atomic.Int64

	mu    sync.Mutex
	conns map[*conn]struct{} // in transmission; guarded by mu
}

// Serve accepts connections from l until ctx ends, then closes l, lets requests
// that are being executed finish and their replies leave, and returns nil.
// Requests not yet read are not answered: a client that reconnects sends them
// again, while an answer of ESHUTDOWN would reach a guest as an I/O error.
// Several listeners may be served at one time.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if err := s.checkExports(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		nc, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("nbd: accept: %w", err)
			}
			// Out of descriptors or memory: that passes.
			s.log().Warn("nbd: accept failed, trying again", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		if s.open.Add(1) > int64(cmp.Or(s.MaxConnections, 16)) {
			s.open.Add(-1)
			s.stats.refused.Add(1)
			nc.Close()
			continue
		}
		wg.Go(func() {
			defer s.open.Add(-1)
			if err := s.serveConn(ctx, nc); err != nil && ctx.Err() == nil {
				s.log().Debug("nbd: connection ended", "err", err)
			}
		})
	}
}

// serveConn owns nc from the peer check to its end.
func (s *Server) serveConn(ctx context.Context, nc net.Conn) error {
	defer nc.Close()
	if err := s.checkPeer(ctx, nc); err != nil {
		s.stats.refused.Add(1)
		return fmt.Errorf("peer refused: %w", err)
	}
	s.stats.accepted.Add(1)
	nc.SetDeadline(time.Now().Add(cmp.Or(s.HandshakeTimeout, 10*time.Second)))
	if b, ok := nc.(interface{ SetWriteBuffer(int) error }); ok {
		_ = b.SetWriteBuffer(sendBuffer)
	}
	c := newConn(s, nc)
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	err := c.handshake()
	stop()
	if errors.Is(err, errAborted) || ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	return s.transmit(ctx, c)
}

// transmit owns c from the end of the handshake on.
func (s *Server) transmit(ctx context.Context, c *conn) error {
	if err := c.begin(); err != nil {
		return err
	}
	s.mu.Lock()
	if s.conns == nil {
		s.conns = map[*conn]struct{}{}
	}
	s.conns[c] = struct{}{}
	s.mu.Unlock()
	// Now that it is listed, one of the two sees that the context has ended.
	stop := context.AfterFunc(ctx, s.Disconnect)
	err := c.transmit()
	stop()
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	if quit := c.quit.Load(); quit {
		err = nil
	}
	return errors.Join(err, c.stop())
}

// Disconnect ends the connections that there are: requests being executed are
// answered, others are not. Clients that come back learn the size of the device
// anew, and send again what was not answered.
func (s *Server) Disconnect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.end()
	}
}

func (s *Server) checkExports() error {
	if len(s.Exports) == 0 {
		return errors.New("nbd: no exports to serve")
	}
	seen := map[string]bool{}
	for i := range s.Exports {
		e := &s.Exports[i]
		switch {
		case len(e.Name) > maxName:
			return fmt.Errorf("nbd: export name of %d bytes, the protocol allows %d", len(e.Name), maxName)
		case seen[e.Name]:
			return fmt.Errorf("nbd: two exports are named %q", e.Name)
		case e.Device == nil:
			return fmt.Errorf("nbd: export %q has no device", e.Name)
		}
		seen[e.Name] = true
	}
	return nil
}

// find returns the export that a client means by name, or nil.
func (s *Server) find(name string) *Export {
	for i := range s.Exports {
		if s.Exports[i].Name == name {
			return &s.Exports[i]
		}
	}
	if name == "" && len(s.Exports) == 1 {
		return &s.Exports[0]
	}
	return nil
}

// transmissionFlags are what e can do, as clients are told.
func (e *Export) transmissionFlags(structured bool) uint16 {
	// Flush acts on the device whoever wrote, so several connections are safe.
	f := uint16(tfHasFlags | tfFlush | tfFUA | tfMultiConn)
	if e.Device.ReadOnly() {
		f |= tfReadOnly
	} else {
		f |= tfWriteZeroes | tfFastZero
		if e.Device.CanTrim() {
			f |= tfTrim
		}
	}
	if structured {
		f |= tfDontFragment
	}
	return f
}

func (s *Server) log() *slog.Logger {
	if s.Log != nil {
		return s.Log
	}
	return slog.New(slog.DiscardHandler)
}
