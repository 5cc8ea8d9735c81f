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
)

// Device is what an export serves: plaintext, addressed in bytes from 0 to Size.
// Every method must be safe for concurrent use.  disk.Device implements it.
type Device interface {
	ReadAt(p []byte, off int64) (int, error)
	WriteAt(p []byte, off int64) (int, error)
	WriteZeroes(off, n int64) error
	Trim(off, n int64) error
	Flush() error // what was written before it, by anyone, is on stable storage after it
	Size() int64  // bytes; constant
}

// Export is one device under the name that clients ask for.
type Export struct {
	Name     string // at most 4096 bytes; "" is what clients ask for by default
	Device   Device
	ReadOnly bool // writes are answered with EPERM
	CanTrim  bool // trim is offered to clients and passed on
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
			if err := s.serveConn(ctx, nc); err != nil {
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
	stop := context.AfterFunc(ctx, func() {
		c.quit.Store(true)
		nc.SetReadDeadline(time.Unix(1, 0))
		nc.SetWriteDeadline(time.Now().Add(cmp.Or(s.DrainTimeout, 5*time.Second)))
	})
	defer stop()
	if err := c.handshake(); err != nil {
		if errors.Is(err, errAborted) || ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("handshake: %w", err)
	}
	nc.SetDeadline(time.Time{})
	if ctx.Err() != nil { // the deadlines above may just have been cleared
		return nil
	}
	err := c.transmit()
	if ctx.Err() != nil {
		return nil
	}
	return err
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
	if e.ReadOnly {
		f |= tfReadOnly
	} else {
		f |= tfWriteZeroes | tfFastZero
		if e.CanTrim {
			f |= tfTrim
		}
	}
	if structured {
		f |= tfDontFragment // reads are always answered in one piece
	}
	return f
}

func (s *Server) log() *slog.Logger {
	if s.Log != nil {
		return s.Log
	}
	return slog.New(slog.DiscardHandler)
}
