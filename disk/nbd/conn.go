package nbd

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// conn is one client.
type conn struct {
	srv *Server
	nc  net.Conn
	br  *bufio.Reader

	// Set by the handshake, constant afterwards.
	export     *Export
	size       uint64
	flags      uint16
	structured bool
	noZeroes   bool

	room    room
	replies replyQueue

	quit    atomic.Bool // no more requests, not even those that have arrived already
	reading sync.Mutex  // held by the worker that reads
	ended   bool        // nothing more will be read
	err     error       // why, if it was not the client's wish
}

func newConn(s *Server, nc net.Conn) *conn {
	c := &conn{srv: s, nc: nc, br: bufio.NewReaderSize(nc, readBuffer)}
	c.room.free = MaxRequest
	c.room.more.L = &c.room.mu
	c.replies.init(nc, &c.room, &c.quit)
	return c
}

// request is one command of the client.
type request struct {
	flags, command uint16
	cookie         uint64
	offset         uint64
	length         uint32
	buf            *buffer // for reads and writes that will be executed
	errno          uint32  // refused with this before execution
}

// transmit serves requests until the client disconnects or fails, and returns
// when the last reply has left.
func (c *conn) transmit() error {
	var wg sync.WaitGroup
	for range workersPerConn {
		wg.Go(c.work)
	}
	wg.Wait()
	if c.err != nil {
		return c.err
	}
	return c.replies.err
}

func (c *conn) work() {
	for {
		var r request
		c.reading.Lock()
		if c.ended || c.quit.Load() {
			c.reading.Unlock()
			return
		}
		ok, err := c.next(&r)
		if err != nil || !ok {
			c.ended, c.err = true, err
		}
		c.reading.Unlock()
		if !ok {
			return
		}
		c.replies.put(c.execute(&r))
	}
}

// next reads one request.  ok means that r is to be answered; err that the
// connection cannot go on (r may have to be answered all the same).
func (c *conn) next(r *request) (ok bool, err error) {
	b, err := c.br.Peek(28)
	if err != nil {
		if err == io.EOF && len(b) == 0 {
			return false, nil // gone without a word; harmless
		}
		return false, fmt.Errorf("request header: %w", err)
	}
	if binary.BigEndian.Uint32(b) != magicRequest {
		return false, errors.New("request without its magic number")
	}
	r.flags = binary.BigEndian.Uint16(b[4:])
	r.command = binary.BigEndian.Uint16(b[6:])
	r.cookie = binary.BigEndian.Uint64(b[8:])
	r.offset = binary.BigEndian.Uint64(b[16:])
	r.length = binary.BigEndian.Uint32(b[24:])
	c.br.Discard(28)
	if r.command == cmdDisconnect {
		return false, nil
	}
	r.errno = c.check(r)
	switch {
	case r.command == cmdWrite:
		return c.payload(r)
	case r.command == cmdRead && r.errno == 0 && r.length > 0:
		r.buf = c.room.take(int(r.length))
	}
	return true, nil
}

// payload reads the data of a write; of a refused one it is thrown away.
func (c *conn) payload(r *request) (ok bool, err error) {
	if r.errno != 0 {
		if r.length > maxDrain {
			return true, fmt.Errorf("write of %d bytes", r.length)
		}
		if _, err := c.br.Discard(int(r.length)); err != nil {
			return false, fmt.Errorf("data of a write: %w", err)
		}
		return true, nil
	}
	if r.length == 0 {
		return true, nil
	}
	buf := c.room.take(int(r.length))
	if _, err := io.ReadFull(c.br, buf.mem[:r.length]); err != nil {
		c.room.give(buf)
		return false, fmt.Errorf("data of a write: %w", err)
	}
	r.buf = buf
	return true, nil
}

// check returns the error number for a request that is not to be executed, or 0.
func (c *conn) check(r *request) uint32 {
	allowed := uint16(cfFUA) // valid on every command once offered
	beyond := errInvalid
	switch r.command {
	case cmdRead:
		if c.structured {
			allowed |= cfDontFragment
		}
	case cmdWrite:
		beyond = errNoSpace
	case cmdWriteZeroes:
		allowed |= cfNoHole | cfFastZero
		beyond = errNoSpace
	case cmdTrim:
		if !c.export.CanTrim && !c.export.ReadOnly {
			return errInvalid
		}
	case cmdFlush:
		if r.flags&^allowed != 0 || r.offset != 0 || r.length != 0 {
			return errInvalid
		}
		return 0
	default:
		return errInvalid
	}
	switch {
	case r.command != cmdRead && c.export.ReadOnly:
		return errPerm
	case r.flags&^allowed != 0:
		return errInvalid
	case r.length > MaxRequest && (r.command == cmdRead || r.command == cmdWrite):
		return errInvalid
	case r.offset > c.size || uint64(r.length) > c.size-r.offset:
		return beyond
	case r.flags&cfFastZero != 0:
		return errNotSup // zeroes are encrypted like all else: never faster than a write
	}
	return 0
}
