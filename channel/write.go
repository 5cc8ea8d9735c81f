package channel

import (
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"
)

// chunkWhileSlow is how much ReadFrom reads at once from a source that has not much.
const chunkWhileSlow = 2 << 10

// Write sends p, in records of at most 65,519 bytes. It blocks while the other end
// does not read: that is the stream's back-pressure. Nothing is kept back.
func (c *Conn) Write(p []byte) (written int, err error) {
	if err := c.beginWrite(); err != nil {
		return 0, err
	}
	defer c.endWrite()
	if len(p) == 0 {
		return 0, nil
	}
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf) // ciphertext by now
	for len(p) > 0 {
		n := copy((*buf)[headerSize:headerSize+maxData], p)
		taken, err := c.sendData(*buf, n)
		written += taken
		if err != nil {
			return written, err
		}
		p = p[n:]
	}
	return written, nil
}

// ReadFrom sends all that r has, and holds a large buffer only while r fills it.
func (c *Conn) ReadFrom(r io.Reader) (total int64, err error) {
	slow := make([]byte, headerSize+chunkWhileSlow+tagSize)
	var big *[]byte
	defer func() {
		if big != nil {
			buffers.Put(big)
		}
	}()
	for {
		buf, most := slow, chunkWhileSlow
		if big != nil {
			buf, most = *big, maxData
		}
		n, rerr := r.Read(buf[headerSize : headerSize+most])
		if n > 0 {
			if err := c.beginWrite(); err != nil {
				return total, err
			}
			taken, err := c.sendData(buf, n)
			c.endWrite()
			total += int64(taken)
			if err != nil {
				return total, err
			}
		}
		switch {
		case rerr == io.EOF:
			return total, nil
		case rerr != nil:
			return total, rerr
		case big == nil && n == most:
			big = buffers.Get().(*[]byte)
		case big != nil && n < chunkWhileSlow:
			buffers.Put(big)
			big = nil
		}
	}
}

// CloseWrite says that no more data comes from this side: the other end's Read returns
// io.EOF after what was sent. The other direction goes on.
func (c *Conn) CloseWrite() error {
	if err := c.beginWrite(); err != nil {
		return err
	}
	defer c.endWrite()
	c.ended = true
	return c.sendRecord(kindEnd, "")
}

// beginWrite gets the right to write.
func (c *Conn) beginWrite() error {
	if c.writeDeadline.passed() {
		return os.ErrDeadlineExceeded
	}
	select {
	case c.writing <- struct{}{}:
	case <-c.writeDeadline.wait():
		return os.ErrDeadlineExceeded
	case <-c.closed:
		return c.whyNoWrite()
	}
	if err := c.whyNoWrite(); err != nil {
		<-c.writing
		return err
	}
	c.writeLimit.begin()
	return nil
}

func (c *Conn) endWrite() {
	c.writeLimit.end()
	<-c.writing
}

// whyNoWrite returns why nothing can be written, or nil.
func (c *Conn) whyNoWrite() error {
	if cause := c.Cause(); cause == io.EOF {
		return &Error{Why: Ended, Reason: Done}
	} else if cause != nil {
		return cause
	}
	return nil
}

// sendData sends a record with the n bytes of payload that stand in buf behind
// the room for a header. It returns n if they will arrive, though perhaps later.
func (c *Conn) sendData(buf []byte, n int) (int, error) {
	if c.ended {
		return 0, net.ErrClosed
	}
	if err := c.flush(); err != nil {
		return 0, err
	}
	record, err := c.out.seal(buf, kindData, n)
	if err != nil {
		return 0, err
	}
	err = c.put(record)
	if err != nil && err != os.ErrDeadlineExceeded {
		return 0, err
	}
	c.sent.Add(uint64(n))
	return n, err
}

// sendRecord sends a record that is not data. The right to write is held.
func (c *Conn) sendRecord(k kind, payload string) error {
	if err := c.flush(); err != nil {
		return err
	}
	buf := make([]byte, headerSize+len(payload)+tagSize)
	copy(buf[headerSize:], payload)
	record, err := c.out.seal(buf, k, len(payload))
	if err != nil {
		return err
	}
	return c.put(record)
}

// flush sends what a deadline kept back.
func (c *Conn) flush() error {
	if len(c.pending) == 0 {
		return nil
	}
	b := c.pending
	c.pending = nil
	return c.put(b)
}

// put writes to raw. What a deadline keeps back becomes pending.
func (c *Conn) put(b []byte) error {
	if c.brokenBy != nil {
		return c.brokenBy
	}
	c.alive.waitsToWrite()
	defer c.alive.hasWritten()
	n, err := c.raw.Write(b)
	switch {
	case err == nil && n < len(b):
		err = io.ErrShortWrite
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.pending = slices.Clone(b[n:])
		err = os.ErrDeadlineExceeded
	}
	if cause := c.whyNoWrite(); cause != nil {
		return cause
	}
	if err == os.ErrDeadlineExceeded {
		return err
	}
	c.brokenBy = &Error{Why: Truncated, Err: err}
	return c.brokenBy
}

// writeLimit hands the write deadline on to raw, but only while a caller writes: pings
// go out also when the caller's deadline has passed.
type writeLimit struct {
	raw interface{ SetWriteDeadline(time.Time) error } // nil: it has none
	mu  sync.Mutex                                     // guards what follows
	at  time.Time
	on  bool
}

func (w *writeLimit) begin() { w.change(func() { w.on = true }) }
func (w *writeLimit) end()   { w.change(func() { w.on = false }) }

func (w *writeLimit) set(t time.Time) { w.change(func() { w.at = t }) }

func (w *writeLimit) change(f func()) {
	if w.raw == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.inForce()
	f()
	if now := w.inForce(); !now.Equal(before) {
		w.raw.SetWriteDeadline(now)
	}
}

func (w *writeLimit) inForce() time.Time {
	if w.on {
		return w.at
	}
	return time.Time{}
}
