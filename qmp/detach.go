package qmp

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// ErrPipelined says that the peer did not wait for an answer after which the
// connection speaks another protocol.
var ErrPipelined = errors.New("more bytes came before the answer")

// Detach returns a descriptor of the connection for whoever speaks another protocol
// on it after this side's next and last Send. It refuses with ErrPipelined when the peer has
// sent anything behind the last line received, and with io.EOF when it has hung up: then
// QMP goes on. The Conn may only send and close after a success; closing does not
// end the connection while the descriptor is open, on which senders are still recorded.
func (c *Conn) Detach() (*os.File, error) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	if len(c.partial.Data) > 0 || len(c.partial.Files) > 0 {
		return nil, ErrPipelined
	}
	raw, err := c.c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var peeked error
	err = raw.Control(func(fd uintptr) { peeked = nothingCame(int(fd)) })
	if err = errors.Join(err, peeked); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, ErrPipelined) {
			return nil, peeked
		}
		return nil, fmt.Errorf("taking the connection over: %w", err)
	}
	return c.c.File()
}

// nothingCame looks whether the socket holds anything, or its end.
func nothingCame(fd int) error {
	var b [1]byte
	for {
		n, _, err := unix.Recvfrom(fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return nil
		case err != nil:
			return os.NewSyscallError("recvfrom", err)
		case n == 0:
			return io.EOF
		}
		return ErrPipelined
	}
}
