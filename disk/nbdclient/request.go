package nbdclient

import (
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk/nbd/proto"
)

// request is one command of the protocol. It belongs to the caller, then to the
// Client until done is called, which happens when no link holds it any more.
type request struct {
	command uint16
	off     int64
	n       int    // bytes
	buf     []byte // read into, or to be written; n bytes
	once    bool   // not to be sent again: a flush means what was written over this connection
	raw     bool   // of the recovery itself: not held up and not held against the hashes
	started time.Time
	err     error
	done    func(*request) // must neither wait nor send

	hashes []uint64 // of a write's sectors

	// Of the link that holds it; guarded by its mutex.
	state    sendState
	answered bool // while state is sending
	cookie   uint64

	// Of the link's reader.
	cover coverage // of a read
	fail  error    // an error chunk came

	wake  chan struct{} // for callers that wait
	owner any           // of a queue
	pool  *sync.Pool
}

type sendState uint8

const (
	queued  sendState = iota // not yet given to the kernel: an answer is a lie
	sending                  // being given to the kernel
	sent
)

// errLost is a request with once whose connection broke.
var errLost = fmt.Errorf("nbd: the connection broke: %w", unix.EIO)

func (c *Client) newRequest(command uint16, off int64, n int, buf []byte) *request {
	r, ok := c.requests.Get().(*request)
	if !ok {
		r = &request{wake: make(chan struct{}, 1)}
	}
	r.pool = &c.requests
	r.command, r.off, r.n, r.buf = command, off, n, buf
	r.once, r.raw, r.err, r.done, r.owner = false, false, nil, wakeCaller, nil
	r.hashes = r.hashes[:0]
	return r
}

// release gives r back; r must be done.
func (r *request) release() {
	r.buf, r.done, r.owner = nil, nil, nil
	r.pool.Put(r)
}

func wakeCaller(r *request) { r.wake <- struct{}{} }

// reset prepares r for being sent, or sent again.
func (r *request) reset() {
	r.state, r.answered, r.fail = queued, false, nil
	r.cover.reset()
}

// errno is the error of the protocol's number, or EIO for those it does not have.
func errno(n uint32) error {
	switch n {
	case proto.EPERM, proto.EIO, proto.ENOMEM, proto.EINVAL, proto.ENOSPC, proto.EOVERFLOW, proto.ENOTSUP:
		return unix.Errno(n)
	}
	return unix.EIO
}

// failure describes an error for the caller.
func (r *request) failure(err error) error {
	name := "?"
	switch r.command {
	case proto.CmdRead:
		name = "read"
	case proto.CmdWrite:
		name = "write"
	case proto.CmdFlush:
		return fmt.Errorf("nbd: flush: %w", err)
	case proto.CmdTrim:
		name = "trim"
	}
	return fmt.Errorf("nbd: %s of %d bytes at %d: %w", name, r.n, r.off, err)
}

// coverage is which bytes of a read have come. Servers send them in order, so
// there is mostly one range.
type coverage struct {
	ranges []extent // ascending, apart from each other
}

type extent struct{ from, to int }

const maxExtents = 1024

func (c *coverage) reset() { c.ranges = c.ranges[:0] }

// add takes [from, to) in; it fails if a byte of it has come before.
func (c *coverage) add(from, to int) error {
	i := len(c.ranges)
	for i > 0 && c.ranges[i-1].from >= to {
		i--
	}
	// ranges[i:] are behind; ranges[i-1], if any, starts before to.
	if i > 0 && c.ranges[i-1].to > from {
		return violated("a byte of a read came twice")
	}
	left := i > 0 && c.ranges[i-1].to == from
	right := i < len(c.ranges) && c.ranges[i].from == to
	switch {
	case left && right:
		c.ranges[i-1].to = c.ranges[i].to
		c.ranges = append(c.ranges[:i], c.ranges[i+1:]...)
	case left:
		c.ranges[i-1].to = to
	case right:
		c.ranges[i].from = from
	case len(c.ranges) == maxExtents:
		return violated("a read came in more than %d scattered parts", maxExtents)
	default:
		c.ranges = append(c.ranges, extent{})
		copy(c.ranges[i+1:], c.ranges[i:])
		c.ranges[i] = extent{from, to}
	}
	return nil
}

// whole reports whether all of [0, n) has come.
func (c *coverage) whole(n int) bool {
	return len(c.ranges) == 1 && c.ranges[0] == extent{0, n}
}

// at is where the answer to r went wrong, for io's errors in the middle of it.
func midway(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
