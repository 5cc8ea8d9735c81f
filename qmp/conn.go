package qmp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// MaxLine is the largest line in bytes, its newline included.
	MaxLine = 1 << 20
	// MaxFiles is how many descriptors one line may carry.
	MaxFiles = 16

	peekSize = 16 << 10
	// sendTimeout is how long Send waits for a peer that does not read.
	sendTimeout = 30 * time.Second
)

// Errors of Conn. After any of them the stream has no known boundary any
// more: the caller closes the connection.
var (
	ErrMixedSenders = errors.New("line was written by more than one process")
	ErrTooLong      = fmt.Errorf("line is longer than %d bytes", MaxLine)
	ErrTruncated    = errors.New("descriptors were lost on the way: too many open files")
)

// Cred is the sender of a line as the kernel recorded it.
type Cred struct {
	PID      int32
	UID, GID uint32
}

// Known reports whether the kernel named a process. It does not when the line
// was written before credentials were asked for, or by a process in a pid
// namespace that is not visible from here.
func (c *Cred) Known() bool { return c != nil && c.PID > 0 }

// Line is one message without its line ending. The receiver owns Files and
// closes them.
type Line struct {
	Data    []byte
	Files   []*os.File
	Surplus int   // descriptors beyond MaxFiles; they are closed already
	Cred    *Cred // nil unless credentials are enabled
}

// Close closes the line's files.
func (l *Line) Close() {
	for _, f := range l.Files {
		f.Close()
	}
	l.Files = nil
}

// Conn frames messages on a unix stream. One goroutine may receive while
// others send.
type Conn struct {
	c *net.UnixConn

	rmu     sync.Mutex
	creds   bool
	partial Line // what was read of the current line
	peek    []byte
	oob     []byte

	wmu sync.Mutex
}

// NewConn takes over c.
func NewConn(c *net.UnixConn) *Conn {
	return &Conn{c: c, peek: make([]byte, peekSize), oob: make([]byte, oobSize)}
}

// Close ends the connection and drops the descriptors of a half-read line.
func (c *Conn) Close() error {
	err := c.c.Close()
	c.rmu.Lock()
	defer c.rmu.Unlock()
	c.partial.Close()
	return err
}

// EnableCredentials makes every later line carry its sender (SO_PASSCRED).
// Bytes already under way have none; call ListenCredentials on the listener
// to have them from the first byte.
func (c *Conn) EnableCredentials() error {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	raw, err := c.c.SyscallConn()
	if err != nil {
		return err
	}
	if err := setPassCred(raw.Control); err != nil {
		return err
	}
	c.creds = true
	return nil
}

// ListenCredentials makes every connection that l accepts record senders from
// its first byte. Each Conn still needs EnableCredentials.
func ListenCredentials(l *net.UnixListener) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	return setPassCred(raw.Control)
}

func setPassCred(control func(func(uintptr)) error) error {
	var opt error
	err := control(func(fd uintptr) {
		opt = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1)
	})
	if err = errors.Join(err, opt); err != nil {
		return fmt.Errorf("asking the kernel for senders' credentials: %w", err)
	}
	return nil
}

// Receive returns the next line that is not blank. It returns io.EOF at the
// end of the stream, io.ErrUnexpectedEOF when that falls inside a line, and
// ctx.Err when ctx ends first; a half-read line is then kept for the next call.
func (c *Conn) Receive(ctx context.Context) (*Line, error) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	defer interrupt(ctx, c.c.SetReadDeadline)()
	for {
		complete, err := c.readMore()
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil {
				return nil, ctx.Err()
			}
			c.partial.Close()
			return nil, err
		}
		if !complete {
			continue
		}
		line := c.partial
		c.partial = Line{}
		line.Data = bytes.TrimSuffix(line.Data[:len(line.Data)-1], []byte{'\r'})
		if len(bytes.TrimLeft(line.Data, " \t\r")) > 0 {
			return &line, nil
		}
		line.Close()
	}
}

// interrupt makes the end of ctx unblock an operation, by a deadline in the
// past, until the returned func is called.
func interrupt(ctx context.Context, setDeadline func(time.Time) error) (release func()) {
	fired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		setDeadline(time.Unix(1, 0))
		close(fired)
	})
	return func() {
		if !stop() {
			<-fired
			setDeadline(time.Time{})
		}
	}
}

// Send writes v as one line of JSON with files beside its first byte. It
// copies the descriptors; the caller keeps its own. After an error the stream
// may end inside a line, so the connection is closed.
func (c *Conn) Send(v any, files ...*os.File) error {
	ctx, cancel := context.WithTimeout(context.Background(), sendTimeout)
	defer cancel()
	return c.send(ctx, v, files)
}

func (c *Conn) send(ctx context.Context, v any, files []*os.File) error {
	if len(files) > MaxFiles {
		return fmt.Errorf("%d descriptors for one line: at most %d are allowed", len(files), MaxFiles)
	}
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding a message: %w", err)
	}
	data = append(data, '\n')
	if len(data) > MaxLine {
		return ErrTooLong
	}
	fds, err := duplicate(files)
	if err != nil {
		return err
	}
	defer closeFDs(fds)
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}

	c.wmu.Lock()
	defer c.wmu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	release := interrupt(ctx, c.c.SetWriteDeadline)
	err = c.writeAll(data, rights)
	release()
	if err != nil {
		c.c.Close()
		if ctx.Err() != nil && errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("the peer does not read: %w", ctx.Err())
		}
	}
	return err
}

// writeAll writes data; rights go with the first byte only.
func (c *Conn) writeAll(data, rights []byte) error {
	for len(data) > 0 {
		n, _, err := c.c.WriteMsgUnix(data, rights, nil)
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrShortWrite
		}
		data, rights = data[n:], nil
	}
	return nil
}

// duplicate copies descriptors without File.Fd, which would make them blocking.
func duplicate(files []*os.File) ([]int, error) {
	var fds []int
	for _, f := range files {
		raw, err := f.SyscallConn()
		if err == nil {
			var dup error
			err = raw.Control(func(fd uintptr) {
				var n int
				if n, dup = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3); dup == nil {
					fds = append(fds, n)
				}
			})
			err = errors.Join(err, dup)
		}
		if err != nil {
			closeFDs(fds)
			return nil, fmt.Errorf("passing on %s: %w", f.Name(), err)
		}
	}
	return fds, nil
}

func closeFDs(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
