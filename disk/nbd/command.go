package nbd

import (
	"errors"
	"io"
	"io/fs"

	"golang.org/x/sys/unix"
)

// execute carries r out and makes its reply, which takes over r's buffer if it
// carries data and gives it back otherwise.
func (c *conn) execute(r *request) reply {
	errno := r.errno
	if errno == 0 {
		errno = errnoOf(c.run(r))
	}
	c.srv.stats.count(r, errno)
	if r.command == cmdRead && errno == 0 && r.buf != nil {
		return readReply(r, c.structured)
	}
	c.room.give(r.buf)
	r.buf = nil
	if r.command == cmdRead && c.structured {
		return structuredEnd(r, errno)
	}
	return simpleReply(r, errno)
}

func (c *conn) run(r *request) error {
	d, off, n := c.export.Device, int64(r.offset), int64(r.length)
	var err error
	switch r.command {
	case cmdRead:
		if n == 0 {
			return nil
		}
		return readFull(d, r.buf.mem[:n], off)
	case cmdFlush:
		return d.Flush()
	case cmdWrite:
		if n > 0 {
			err = writeFull(d, r.buf.mem[:n], off)
		}
	case cmdTrim:
		err = inSteps(off, n, d.Trim)
	case cmdWriteZeroes:
		err = inSteps(off, n, d.WriteZeroes)
	}
	if err == nil && r.flags&cfFUA != 0 {
		err = d.Flush()
	}
	return err
}

func readFull(d Device, p []byte, off int64) error {
	n, err := d.ReadAt(p, off)
	if n == len(p) { // io.ReaderAt allows io.EOF with the last byte
		return nil
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func writeFull(d Device, p []byte, off int64) error {
	n, err := d.WriteAt(p, off)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return err
}

// inSteps keeps one long request from holding the device's locks for long.
func inSteps(off, n int64, do func(off, n int64) error) error {
	for n > 0 {
		step := min(n, zeroStep)
		if err := do(off, step); err != nil {
			return err
		}
		off, n = off+step, n-step
	}
	return nil
}

// errnoOf maps an error to one that the protocol has; what it does not know is
// an I/O error.
func errnoOf(err error) uint32 {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, unix.EFBIG):
		return errNoSpace
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EROFS):
		return errPerm
	case errors.Is(err, errors.ErrUnsupported):
		return errNotSup
	case errors.Is(err, fs.ErrClosed), errors.Is(err, unix.ESHUTDOWN):
		return errShutdown
	case errors.Is(err, unix.ENOMEM):
		return errNoMem
	case errors.Is(err, fs.ErrInvalid), errors.Is(err, unix.EINVAL):
		return errInvalid
	default:
		return errIO
	}
}
