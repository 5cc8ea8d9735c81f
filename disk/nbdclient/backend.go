package nbdclient

import (
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk/nbd/proto"
)

// maxTrim is the longest trim in one request, in bytes: a multiple of every block
// size.
const maxTrim = 1 << 30

// Size returns the size of the export in bytes, as the server last told it: it may
// grow with a new connection, and a server where it shrank is not used.
func (c *Client) Size() int64 { return c.size.Load() }

// ReadAt is io.ReaderAt. After an error what is in p is not defined.
func (c *Client) ReadAt(p []byte, off int64) (n int, err error) {
	size := c.Size()
	if off < 0 {
		return 0, fmt.Errorf("nbd: read at %d: %w", off, unix.EINVAL)
	}
	if off >= size {
		return 0, io.EOF
	}
	var end error
	if int64(len(p)) > size-off {
		p, end = p[:size-off], io.EOF
	}
	if min := int64(c.minBlock); (off|int64(len(p)))%min != 0 {
		if err := c.readPart(p, off); err != nil {
			return 0, err
		}
		return len(p), end
	}
	for n < len(p) {
		k := min(len(p)-n, c.maxBlock)
		if err := c.read(p[n:n+k], off+int64(n)); err != nil {
			return n, err
		}
		n += k
	}
	return n, end
}

func (c *Client) read(p []byte, off int64) error {
	r := c.newRequest(proto.CmdRead, off, len(p), p)
	defer r.release()
	return c.do(r)
}

// readPart reads what does not start or end on a block, of headers mostly.
func (c *Client) readPart(p []byte, off int64) error {
	block := int64(c.minBlock)
	from := off - off%block
	to := min((off+int64(len(p))+block-1)/block*block, c.Size())
	for from < to {
		b := make([]byte, min(to-from, int64(min(c.maxBlock, 1<<20))))
		if err := c.read(b, from); err != nil {
			return err
		}
		copy(p[max(0, from-off):], b[max(0, off-from):])
		from += int64(len(b))
	}
	return nil
}

// do carries r out and waits for it.
func (c *Client) do(r *request) error {
	c.submit(r, true)
	<-r.wake
	if r.err != nil {
		return r.failure(r.err)
	}
	return nil
}

// WriteAt is io.WriterAt for whole sectors. A write that would run over the end is
// refused as a whole.
func (c *Client) WriteAt(p []byte, off int64) (n int, err error) {
	if err := c.writable("write", off, int64(len(p))); err != nil {
		return 0, err
	}
	for n < len(p) {
		k := min(len(p)-n, c.maxBlock)
		r := c.newWrite(p[n:n+k], off+int64(n))
		err := c.do(r)
		r.release()
		if err != nil {
			return n, err
		}
		n += k
	}
	return n, nil
}

func (c *Client) newWrite(p []byte, off int64) *request {
	r := c.newRequest(proto.CmdWrite, off, len(p), p)
	r.hashes = c.ledger.hash(r.hashes, p)
	return r
}

func (c *Client) writable(what string, off, n int64) error {
	var err error
	switch {
	case c.config.ReadOnly:
		err = unix.EPERM
	case off < 0 || n < 0 || (off|n)%int64(c.config.SectorSize) != 0:
		err = unix.EINVAL
	case off > c.Size() || n > c.Size()-off:
		err = unix.ENOSPC
	default:
		return nil
	}
	return fmt.Errorf("nbd: %s of %d bytes at %d of %d: %w", what, n, off, c.Size(), err)
}

// Sync returns when every write that was completed before is on stable storage.
// See the package comment for what becomes of that when a connection breaks.
func (c *Client) Sync() error {
	if c.config.ReadOnly || c.fua {
		return nil
	}
	r := c.newRequest(proto.CmdFlush, 0, 0, nil)
	defer r.release()
	c.flusher.add(r)
	<-r.wake
	if r.err != nil {
		return r.failure(r.err)
	}
	return nil
}

// PunchHole trims the whole blocks of a range; EOPNOTSUPP says that the server
// cannot.
func (c *Client) PunchHole(off, n int64) error {
	if err := c.writable("trim", off, n); err != nil {
		return err
	}
	if !c.canTrim.Load() {
		return fmt.Errorf("nbd: the server cannot trim: %w", unix.EOPNOTSUPP)
	}
	for n > 0 {
		k := min(n, maxTrim)
		r := c.newRequest(proto.CmdTrim, off, int(k), nil)
		err := c.do(r)
		r.release()
		if err != nil {
			return err
		}
		off, n = off+k, n-k
	}
	return nil
}

// Resized asks the server for the size of the export, for disk.Device.Resize. If
// it grew, all connections are made anew: servers hold requests against the size
// that they told at the start of each.
func (c *Client) Resized() (int64, error) {
	old := c.Size()
	s, err := c.open(c.ctx, 0)
	if err != nil {
		return 0, err
	}
	s.nc.Close()
	if c.Size() > old {
		for _, l := range c.links {
			l.hangUp()
		}
	}
	return c.Size(), nil
}
