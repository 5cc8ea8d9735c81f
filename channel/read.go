package channel

import (
	"errors"
	"io"
	"net"
	"os"
)

// Read returns bytes of the stream.
func (c *Conn) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	if c.readDeadline.passed() {
		return 0, os.ErrDeadlineExceeded
	}
	if len(p) == 0 {
		return 0, nil
	}
	if err := c.await(); err != nil {
		return 0, err
	}
	n := copy(p, c.rest)
	c.consume(n)
	return n, nil
}

// WriteTo writes all that comes to w, record by record and without a buffer of its own.
func (c *Conn) WriteTo(w io.Writer) (total int64, err error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	for {
		if err := c.await(); err != nil {
			if err == io.EOF {
				err = nil
			}
			return total, err
		}
		n, err := w.Write(c.rest)
		total += int64(n)
		c.consume(n)
		if err != nil {
			return total, err
		}
	}
}

// await waits until there is something in rest. reading is held.
func (c *Conn) await() error {
	if c.Cause() == net.ErrClosed {
		return net.ErrClosed
	}
	if len(c.rest) > 0 {
		return nil
	}
	select {
	case c.rest = <-c.ready:
		return nil
	case <-c.readDeadline.wait():
		return os.ErrDeadlineExceeded
	case <-c.eof:
		return io.EOF
	case <-c.closed:
	}
	if cause := c.Cause(); cause == net.ErrClosed || !isClosed(c.eof) {
		return cause
	}
	return io.EOF
}

// consume gives the record back to the reader's goroutine when it is used up.
func (c *Conn) consume(n int) {
	c.rest = c.rest[n:]
	if len(c.rest) > 0 {
		return
	}
	select {
	case c.taken <- struct{}{}:
	case <-c.closed:
	}
}

// receive is the reader's goroutine: it takes records from raw until the channel ends.
func (c *Conn) receive() {
	defer close(c.gone)
	defer c.source.release()
	for {
		k, body, err := c.record()
		if err != nil {
			c.failed(err)
			return
		}
		switch k {
		case kindData:
			if isClosed(c.eof) {
				c.fail(&Error{Why: Malformed, Reason: "data after the end"})
				return
			}
			c.received.Add(uint64(len(body)))
			c.hand(body)
		case kindEnd:
			if !isClosed(c.eof) {
				close(c.eof)
			}
		case kindClose:
			c.closedBy(string(body))
			return
		}
	}
}

// hand gives a record to Read and waits until it is used up. After Close it is dropped:
// reading goes on so that the other end can still say its part.
func (c *Conn) hand(body []byte) {
	select {
	case c.ready <- body:
	case <-c.closed:
		return
	}
	select {
	case <-c.taken:
	case <-c.closed:
		// A Read may be copying at this moment: the buffer is not used again before it is done.
		c.reading.Lock()
		c.rest = nil
		c.reading.Unlock()
	}
}

// closedBy ends the channel as the other end wants it.
func (c *Conn) closedBy(reason string) {
	var cause error = io.EOF
	if reason != Done {
		cause = &Error{Why: Ended, Reason: cleanReason(reason)}
	}
	c.finish(cause)
	c.raw.Close()
}

// failed ends the channel after an error of record.
func (c *Conn) failed(err error) {
	var e *Error
	if !errors.As(err, &e) {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = nil
		}
		e = &Error{Why: Truncated, Err: err}
	}
	c.fail(e)
}

// record reads and opens the next record. The body is valid until the next call. Each
// sealed part has to come whole in time: bytes of one, which anybody in between can let
// trickle, are no sign of the other end.
func (c *Conn) record() (kind, []byte, error) {
	defer c.alive.hasRead()
	c.alive.waitsToRead()
	raw, err := c.source.take(c.raw, headerSize)
	if err != nil {
		return 0, nil, err
	}
	k, size, err := c.in.openHeader(raw, c.out)
	if err != nil {
		return 0, nil, err
	}
	c.alive.waitsToRead()
	sealed, err := c.source.take(c.raw, size)
	if err != nil {
		return 0, nil, err
	}
	body, err := c.in.openBody(sealed)
	return k, body, err
}

// source is what was read from raw and not yet taken. While a channel rests it has
// only its small buffer.
type source struct {
	small [smallBuffer]byte
	big   *[]byte
	held  []byte // what is there, within small or big
}

// take returns the next n bytes, at most maxBody. They are valid until the next call.
func (s *source) take(raw io.Reader, n int) ([]byte, error) {
	if len(s.held) < n {
		if err := s.fill(raw, n); err != nil {
			return nil, err
		}
	}
	b := s.held[:n:n]
	s.held = s.held[n:]
	return b, nil
}

// fill reads until n bytes are there, and more where more is there already.
func (s *source) fill(raw io.Reader, n int) error {
	buf := s.small[:]
	switch {
	case n > len(s.small):
		if s.big == nil {
			s.big = buffers.Get().(*[]byte)
		}
		buf = *s.big
	case len(s.held) == 0:
		s.release()
	case s.big != nil:
		buf = *s.big
	}
	have := copy(buf, s.held)
	for have < n {
		m, err := raw.Read(buf[have:])
		have += m
		if err != nil && have < n {
			if have > 0 && err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	s.held = buf[:have]
	return nil
}

// release gives the big buffer back.
func (s *source) release() {
	if s.big != nil {
		clear(*s.big) // it has had plaintext
		buffers.Put(s.big)
		s.big = nil
	}
	s.held = nil
}
