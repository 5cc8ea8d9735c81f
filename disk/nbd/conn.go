package nbd

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk"
	"github.com/uvbond/uvbond/disk/poll"
)

// conn is one client. In transmission one goroutine does all of its work, in
// rounds: take what has arrived, start what it asks for, send what is done.
type conn struct {
	srv *Server
	nc  net.Conn      // until transmission
	br  *bufio.Reader // until transmission

	// Set by the handshake, constant afterwards.
	export     *Export
	size       uint64
	flags      uint16
	structured bool
	noZeroes   bool

	sock  socket
	queue *disk.Queue
	arena *disk.Arena
	in    inbox
	out   outbox
	jobs  int     // requests of the client that are not answered
	parts []*part // by the Tag of their Request
	free  []*part
	spare []*job
	feed  *job // being taken from the client
	big   bool // a read is under way whose reply is not in the arena
	done  []*disk.Request
	poll  poll.Poller
	ended bool  // nothing more will be read
	err   error // why, if it was not the client's wish

	quit     atomic.Bool // no more requests, not even those that have arrived
	deadline time.Time   // for what is still to be sent once quit is set
}

func newConn(s *Server, nc net.Conn) *conn {
	return &conn{srv: s, nc: nc, br: bufio.NewReader(nc)}
}

// begin makes everything for transmission. stop must follow.
func (c *conn) begin() (err error) {
	if c.sock, err = takeSocket(c.nc); err != nil {
		return err
	}
	c.nc = nil
	if c.arena, err = disk.NewArena(connBuffers); err != nil {
		unix.Close(int(c.sock))
		return err
	}
	if c.queue, err = c.export.Device.NewQueue(maxParts); err != nil {
		c.arena.Close()
		unix.Close(int(c.sock))
		return err
	}
	c.in.init(c.arena)
	c.poll.Most = pollTime
	early := c.br.Buffered()
	b, _ := c.br.Peek(early) // what the client sent after its last option
	c.in.put(b)
	c.br = nil
	return nil
}

// stop gives everything back.
func (c *conn) stop() error {
	err := c.queue.Close() // waits for what is under way
	return errors.Join(err, c.arena.Close(), unix.Close(int(c.sock)))
}

// end makes the connection come to its end: what is under way is finished and
// answered. It may be called from anywhere, as long as the connection is open.
func (c *conn) end() {
	c.quit.Store(true)
	_ = unix.Shutdown(int(c.sock), unix.SHUT_RD) // wakes who waits for the client
}

// transmit serves requests until the client disconnects or fails, or the server
// ends, and returns when the last reply has left.
func (c *conn) transmit() error {
	for {
		c.work()
		if c.hold() {
			if got, err := c.receive(false); err != nil {
				return cmp.Or(c.err, err)
			} else if got {
				continue
			}
		}
		free := len(c.free)
		if err := c.out.send(c.sock, c.release); err != nil {
			return cmp.Or(c.err, err)
		}
		if c.feed != nil && len(c.free) > free {
			continue // what it waits for may have been given back
		}
		if c.quit.Load() {
			c.ended = true
			if c.deadline.IsZero() {
				c.deadline = time.Now().Add(cmp.Or(c.srv.DrainTimeout, defaultDrain))
			}
		}
		if c.ended && c.queue.Pending() == 0 && c.out.empty() {
			return c.err
		}
		if err := c.next(); err != nil {
			return cmp.Or(c.err, err)
		}
	}
}

// hold reports whether replies should wait for those to requests that have arrived
// meanwhile: sending costs both sides a system call and often a wake-up, for one reply
// as for many.
func (c *conn) hold() bool {
	n, size := c.out.size()
	return n > 0 && n < mostHeld && size < mostHeldBytes && !c.ended && !c.quit.Load() && c.wants()
}

// work starts and finishes as much as can be without waiting.
func (c *conn) work() {
	for {
		c.take()
		c.queue.Submit()
		c.done = c.queue.Completed(c.done[:0])
		if len(c.done) == 0 {
			return
		}
		for _, r := range c.done {
			c.completed(c.parts[r.Tag], r)
		}
	}
}

// next receives, or waits until there is something to do.
func (c *conn) next() error {
	receive := !c.ended && c.wants()
	if receive {
		idle := c.queue.Pending() == 0 && c.out.empty()
		began := time.Now()
		var got bool
		var err error
		if idle && c.poll.Look(func() bool { got, err = c.receive(false); return got || err != nil }) {
			return err
		}
		if got, err = c.receive(idle); got || err != nil {
			if idle {
				c.poll.Slept(time.Since(began))
			}
			return err
		}
	}
	fds := [2]unix.PollFd{{Fd: int32(c.sock)}, {Fd: -1, Events: unix.POLLIN}}
	if c.queue.Pending() > 0 {
		fds[1].Fd = int32(c.queue.FD())
	}
	if receive {
		fds[0].Events |= unix.POLLIN
	}
	if !c.out.empty() {
		fds[0].Events |= unix.POLLOUT
	}
	timeout := -1
	if c.ended && !c.deadline.IsZero() {
		left := time.Until(c.deadline)
		if left <= 0 {
			return errors.New("the client does not take its replies")
		}
		timeout = int(left.Milliseconds()) + 1
	}
	for {
		_, err := unix.Poll(fds[:], timeout)
		if err != unix.EINTR {
			break
		}
	}
	if fds[0].Revents&(unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) != 0 && !receive {
		return errors.New("the client is gone")
	}
	return nil
}

// receive takes what has arrived; false: nothing has.
func (c *conn) receive(wait bool) (bool, error) {
	n, err := c.sock.receive(c.in.vector(), wait)
	switch {
	case err == unix.EAGAIN:
		return false, nil
	case err != nil:
		return false, fmt.Errorf("receive: %w", err)
	case n == 0:
		c.ended = true
		if !c.quit.Load() {
			c.err = c.cutOff()
		}
		return true, nil
	}
	c.in.got(n)
	return true, nil
}

// cutOff returns what is wrong with the client having ended here.
func (c *conn) cutOff() error {
	switch {
	case c.feed != nil:
		return errors.New("the client ended within the data of a write")
	case c.in.len() > 0:
		return errors.New("the client ended within a request")
	}
	return nil // gone without a word; harmless
}
