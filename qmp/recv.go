package qmp

import (
	"bytes"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// maxScmFDs is SCM_MAX_FD of the kernel: no sendmsg carries more. With room
// for all of them, a truncated control message means that this process has no
// free descriptors, never that the sender was generous.
const maxScmFDs = 253

var oobSize = unix.CmsgSpace(maxScmFDs*4) + unix.CmsgSpace(unix.SizeofUcred)

// readMore reads up to the end of the current line, or what is there of it,
// and reports whether the line is complete.
func (c *Conn) readMore() (bool, error) {
	want, err := c.lookAhead()
	if err != nil {
		return false, err
	}
	if want == 0 {
		if len(c.partial.Data) > 0 {
			return false, io.ErrUnexpectedEOF
		}
		return false, io.EOF
	}
	if len(c.partial.Data)+want > MaxLine {
		return false, ErrTooLong
	}
	old := len(c.partial.Data)
	c.partial.Data = append(c.partial.Data, make([]byte, want)...)
	n, err := c.readMessage(c.partial.Data[old:])
	c.partial.Data = c.partial.Data[:old+n]
	if err != nil {
		return false, err
	}
	if n == 0 {
		return false, io.ErrUnexpectedEOF
	}
	end := bytes.IndexByte(c.partial.Data[old:], '\n')
	if end >= 0 && old+end != len(c.partial.Data)-1 {
		return false, errors.New("connection is being read by another process as well")
	}
	return end >= 0, nil
}

// lookAhead tells how many bytes to read: up to and with the next newline, or
// all that are there. Zero means end of stream. It installs no descriptors,
// for it offers no room for them.
func (c *Conn) lookAhead() (int, error) {
	n, _, _, err := c.recvmsg(c.peek, nil, unix.MSG_PEEK)
	if err != nil {
		return 0, err
	}
	if i := bytes.IndexByte(c.peek[:n], '\n'); i >= 0 {
		return i + 1, nil
	}
	return n, nil
}

// readMessage is one recvmsg into the tail of partial.Data, its descriptors and sender added to the line.
func (c *Conn) readMessage(buf []byte) (int, error) {
	first := len(buf) == len(c.partial.Data)
	n, oobn, flags, err := c.recvmsg(buf, c.oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return 0, err
	}
	fds, cred, err := parseControl(c.oob[:oobn])
	if err != nil || flags&unix.MSG_CTRUNC != 0 {
		closeFDs(fds)
		return n, errors.Join(ErrTruncated, err)
	}
	c.keepFiles(fds)
	if n == 0 || !c.creds {
		return n, nil
	}
	if first {
		c.partial.Cred = cred
		return n, nil
	}
	if cred == nil || c.partial.Cred == nil || *cred != *c.partial.Cred {
		return n, ErrMixedSenders
	}
	return n, nil
}

func (c *Conn) keepFiles(fds []int) {
	for _, fd := range fds {
		if len(c.partial.Files) == MaxFiles {
			unix.Close(fd)
			c.partial.Surplus++
			continue
		}
		c.partial.Files = append(c.partial.Files, os.NewFile(uintptr(fd), "received descriptor"))
	}
}

func (c *Conn) recvmsg(buf, oob []byte, flags int) (n, oobn, recvflags int, err error) {
	raw, err := c.c.SyscallConn()
	if err != nil {
		return 0, 0, 0, err
	}
	var callErr error
	err = raw.Read(func(fd uintptr) bool {
		for {
			n, oobn, recvflags, _, callErr = unix.Recvmsg(int(fd), buf, oob, flags|unix.MSG_DONTWAIT)
			if callErr != unix.EINTR {
				return callErr != unix.EAGAIN
			}
		}
	})
	if err == nil && callErr != nil {
		err = os.NewSyscallError("recvmsg", callErr)
	}
	if err != nil {
		return 0, 0, 0, err
	}
	return n, oobn, recvflags, nil
}

// parseControl returns every descriptor found, even beside an error, so that
// the caller can close them.
func parseControl(oob []byte) (fds []int, cred *Cred, err error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, nil, err
	}
	for i := range messages {
		m := &messages[i]
		if m.Header.Level != unix.SOL_SOCKET {
			continue
		}
		switch m.Header.Type {
		case unix.SCM_RIGHTS:
			got, rightsErr := unix.ParseUnixRights(m)
			fds, err = append(fds, got...), errors.Join(err, rightsErr)
		case unix.SCM_CREDENTIALS:
			u, credErr := unix.ParseUnixCredentials(m)
			if credErr != nil {
				err = errors.Join(err, credErr)
				continue
			}
			cred = &Cred{PID: u.Pid, UID: u.Uid, GID: u.Gid}
		}
	}
	return fds, cred, err
}
