package nbd

import (
	"context"
	"errors"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// Device is what an export serves: plaintext blocks.  Every method must be
// safe for concurrent use.  disk.Device implements it.
type Device interface {
	ReadAt(p []byte, off int64) (int, error)
	WriteAt(p []byte, off int64) (int, error)
	Flush() error
	WriteZeroes(off, n int64) error
	Trim(off, n int64) error
	Size() int64
}

// Export is one device under the name that clients ask for.
type Export struct {
	Name     string
	Device   Device
	ReadOnly bool // writes are answered with EPERM
	CanTrim  bool // trim is offered and passed on
}

// Server serves its exports to every connection of the listeners given to Serve.
type Server struct {
	Exports          []Export
	CheckPeer        func(*unix.Ucred) error // nil allows everyone
	HandshakeTimeout time.Duration           // 0 means ten seconds
	MaxConnections   int                     // 0 means 16
}

// Serve accepts connections until ctx ends.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	return errors.New("nbd: not written yet")
}
