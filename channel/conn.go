package channel

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// closeTime is how long closing waits for the other end to take the reason. After
// Close a goroutine goes on trying for as long as a slow reader is not dead.
const closeTime = 2 * time.Second

// Done is the reason of a channel that was closed in order.
const Done = "done"

// Conn is one end of a channel: a net.Conn for one reader and any number of writers. It holds one
// goroutine, which reads one record ahead, so that a channel that is touched is found out
// also while nobody reads.
//
// Read returns io.EOF only after the other end said that there is no more, else an *Error.
// Deadlines work as for every net.Conn; a write deadline needs a raw stream that has them, too.
type Conn struct {
	raw  io.ReadWriteCloser
	addr addr
	out  *direction // guarded by writing
	in   *direction // of the reader's goroutine

	reading  sync.Mutex  // guards rest
	rest     []byte      // of the record that is being read
	ready    chan []byte // records for Read
	taken    chan struct{}
	eof      chan struct{} // closed: the other end sends no more data
	source   source
	received atomic.Uint64 // bytes of payload that came

	writing    chan struct{} // holds a token while somebody writes
	pending    []byte        // rest of a record that a write deadline cut off
	ended      bool          // CloseWrite was called
	brokenBy   error         // the raw stream's error
	sent       atomic.Uint64 // bytes of payload that were handed to raw, or are pending
	writeLimit writeLimit

	readDeadline, writeDeadline deadline

	mu     sync.Mutex // guards cause
	cause  error
	closed chan struct{} // closed once cause is set
	gone   chan struct{} // closed when the reader's goroutine has ended

	alive keepAlive
}

var _ net.Conn = (*Conn)(nil)

func newConn(raw io.ReadWriteCloser, p Params, out, in *direction) *Conn {
	c := &Conn{
		raw: raw, addr: addr(p.VM.String() + "/" + p.Kind), out: out, in: in,
		ready: make(chan []byte), taken: make(chan struct{}), eof: make(chan struct{}),
		writing: make(chan struct{}, 1), closed: make(chan struct{}), gone: make(chan struct{}),
	}
	c.readDeadline.init()
	c.writeDeadline.init()
	c.writeLimit.raw, _ = raw.(interface{ SetWriteDeadline(time.Time) error })
	c.alive.start(c)
	go c.receive()
	return c
}

// Close ends the channel in order: CloseWith(Done).
func (c *Conn) Close() error { return c.CloseWith(Done) }

// CloseWith ends the channel and tells the other end why, in at most 256 bytes of
// printable ASCII; its Read then returns io.EOF for Done, and an *Error with Ended for
// other reasons. Where the other end is slow to take what was sent before, CloseWith returns
// after 2 s and the rest goes out behind it, in at most 45 s. Pending reads and writes end
// at once. Closing again does nothing and is no error.
func (c *Conn) CloseWith(reason string) error {
	if !c.finish(net.ErrClosed) {
		return nil
	}
	c.writeLimit.set(time.Unix(1, 0))
	said := make(chan struct{})
	go func() {
		c.sayClose(reason, deadAfter)
		c.raw.Close()
		close(said)
	}()
	wait := time.NewTimer(closeTime)
	defer wait.Stop()
	select {
	case <-said:
	case <-wait.C:
	}
	return nil
}

// fail ends the channel because of what this side found out.
func (c *Conn) fail(e *Error) {
	if c.finish(e) {
		c.sayClose(string(e.Why), closeTime)
		c.raw.Close()
	}
}

// finish sets the cause, wakes all who wait, and tells whether it was the first to.
func (c *Conn) finish(cause error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return false
	}
	c.cause = cause
	close(c.closed)
	c.alive.stop()
	return true
}

// Cause returns nil while the channel is open, net.ErrClosed after Close and CloseWith,
// io.EOF after the other end closed it in order, and else the *Error that ended it.
func (c *Conn) Cause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}

// Counts returns the bytes of payload received and sent so far.
func (c *Conn) Counts() (received, sent uint64) {
	return c.received.Load(), c.sent.Load()
}

// sayClose sends the close record if the stream takes it in time, and if whoever is
// writing ends soon.
func (c *Conn) sayClose(reason string, most time.Duration) {
	if reason = cleanReason(reason); reason == "" {
		reason = Done
	}
	limit := time.AfterFunc(most, func() { c.raw.Close() })
	defer limit.Stop()
	wait := time.NewTimer(closeTime)
	defer wait.Stop()
	select {
	case c.writing <- struct{}{}:
		c.sendRecord(kindClose, reason)
		<-c.writing
	case <-wait.C:
	}
}

// LocalAddr returns the VM and the kind of the channel.
func (c *Conn) LocalAddr() net.Addr { return c.addr }

// RemoteAddr returns the VM and the kind of the channel.
func (c *Conn) RemoteAddr() net.Addr { return c.addr }

type addr string

func (addr) Network() string  { return "uvbond" }
func (a addr) String() string { return string(a) }

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline limits pending and later reads. Nothing is lost by a read that it ends.
func (c *Conn) SetReadDeadline(t time.Time) error {
	if cause := c.Cause(); cause == net.ErrClosed {
		return cause
	}
	c.readDeadline.set(t)
	return nil
}

// SetWriteDeadline limits pending and later writes. A write that it ends may have
// begun a record: the record's bytes count as written, and its rest goes out before
// the next write.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	if cause := c.Cause(); cause == net.ErrClosed {
		return cause
	}
	c.writeDeadline.set(t)
	c.writeLimit.set(t)
	return nil
}
