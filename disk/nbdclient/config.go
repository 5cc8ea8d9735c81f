package nbdclient

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/uvbond/uvbond/disk/nbd/proto"
)

// Defaults of a Config, and its limits.
const (
	DefaultConnections  = 4
	MaxConnections      = 16
	DefaultOutage       = time.Hour // as QEMU's reconnect-delay towards this product's own server
	DefaultMaxUnflushed = 64 << 10
)

// Config says which disk to use and how.
type Config struct {
	// Dial connects to the server. It is called for every connection, again when
	// one broke, and by several goroutines; ctx has a time limit, and ends with
	// Close.
	Dial func(ctx context.Context) (net.Conn, error)
	// Ready, if not nil, is used in the place of Dial, Export and TLS: it returns
	// connections on which the export was chosen already (see Negotiate).
	Ready func(ctx context.Context) (net.Conn, Offer, error)
	// Export is the name of the export, at most 4096 bytes; the empty one is the
	// server's default.
	Export string
	// TLS, if not nil, is required: the connection is upgraded with
	// NBD_OPT_STARTTLS or not used. ServerName and RootCAs must say whom to expect;
	// versions before 1.2 are not spoken.
	TLS *tls.Config
	// Connections is how many there are at most, 0: DefaultConnections. There is
	// one if the server does not say that several are safe.
	Connections int
	// Outage is how long a request waits for an answer, in all, before it fails
	// with EIO. 0: DefaultOutage.
	Outage time.Duration
	// SectorSize is what reads and writes are multiples of, in bytes: a power of
	// two from 512 to 65536, 0: 512. A server that needs more is refused.
	SectorSize int
	// ReadOnly refuses writes, and so needs no flush of the server.
	ReadOnly bool
	// MaxUnflushed is how many sectors may be written between two flushes; when
	// there are more, a flush is sent early. 0: DefaultMaxUnflushed. Each takes
	// about 50 bytes of memory.
	MaxUnflushed int
	// Log tells of connections made and broken; nil: nobody.
	Log *slog.Logger

	simpleReplies bool // for tests: do not ask for structured ones
}

// prepare fills the defaults in and checks the rest.
func (c *Config) prepare() error {
	set := func(n *int, to int) {
		if *n == 0 {
			*n = to
		}
	}
	set(&c.Connections, DefaultConnections)
	set(&c.SectorSize, 512)
	set(&c.MaxUnflushed, DefaultMaxUnflushed)
	if c.Outage == 0 {
		c.Outage = DefaultOutage
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case c.Dial == nil && c.Ready == nil:
		return errors.New("nbd: no way to connect is configured")
	case len(c.Export) > proto.MaxString:
		return fmt.Errorf("nbd: the export's name has %d bytes, the protocol allows %d", len(c.Export), proto.MaxString)
	case c.Connections < 1 || c.Connections > MaxConnections:
		return fmt.Errorf("nbd: %d connections, need 1 to %d", c.Connections, MaxConnections)
	case c.SectorSize < 512 || c.SectorSize > mostMinBlock || c.SectorSize&(c.SectorSize-1) != 0:
		return fmt.Errorf("nbd: sector size %d is not a power of two from 512 to %d", c.SectorSize, mostMinBlock)
	case c.Outage < 0 || c.MaxUnflushed < 1:
		return errors.New("nbd: outage and unflushed sectors must be positive")
	}
	if c.TLS != nil {
		c.TLS = c.TLS.Clone()
		c.TLS.MinVersion = max(c.TLS.MinVersion, tls.VersionTLS12)
	}
	return nil
}
