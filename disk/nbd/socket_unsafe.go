package nbd

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// socket is a connected stream socket outside of Go's network poller: the poller
// would wake a thread for everything that arrives, whoever reads it.
type socket int

// takeSocket takes the descriptor out of nc, which is closed.
func takeSocket(nc net.Conn) (socket, error) {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return -1, errors.New("not a socket")
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd, ferr := -1, error(nil)
	if err := raw.Control(func(old uintptr) { fd, ferr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return -1, err
	}
	if ferr != nil {
		return -1, fmt.Errorf("duplicate the socket: %w", ferr)
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("socket: %w", err)
	}
	nc.Close()
	return socket(fd), nil
}

// vector collects what one call sends or receives.
type vector []unix.Iovec

func (v *vector) add(b []byte) {
	if len(b) > 0 {
		e := unix.Iovec{Base: unsafe.SliceData(b)}
		e.SetLen(len(b))
		*v = append(*v, e)
	}
}

// send sends what it can without waiting. EAGAIN: nothing at all.
func (s socket) send(v vector) (int, error) {
	return s.message(unix.SYS_SENDMSG, v, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
}

// receive takes what has arrived, and waits for something only if wait is true. 0
// is the end.
func (s socket) receive(v vector, wait bool) (int, error) {
	flags := unix.MSG_DONTWAIT
	if wait {
		flags = 0
	}
	return s.message(unix.SYS_RECVMSG, v, flags)
}

func (s socket) message(call uintptr, v vector, flags int) (int, error) {
	h := unix.Msghdr{Iov: unsafe.SliceData(v)}
	h.SetIovlen(len(v))
	for {
		n, _, errno := unix.Syscall(call, uintptr(s), uintptr(unsafe.Pointer(&h)), uintptr(flags))
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.EINTR {
			return 0, errno
		}
	}
}
