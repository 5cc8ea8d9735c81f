package vhostuser

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

var one = []byte{1, 0, 0, 0, 0, 0, 0, 0}

// adoptEvent checks a descriptor that a front end says is an eventfd. It is at
// least of a kind that only the kernel makes, so that asking it never waits
// for somebody else. In case of an error it is closed.
func adoptEvent(fd int) (int, error) {
	var fs unix.Statfs_t
	err := unix.Fstatfs(fd, &fs)
	if err == nil && fs.Type != unix.ANON_INODE_FS_MAGIC {
		err = errors.New("not an eventfd")
	}
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("event descriptor: %w", err)
	}
	return fd, nil
}

// signal adds one to an eventfd, if there is one.
func signal(fd int) {
	if fd >= 0 {
		for {
			if _, err := unix.Write(fd, one); err != unix.EINTR {
				return // EAGAIN: it is signalled already
			}
		}
	}
}

// relieve lets a writer of fd go on who waits because somebody else filled it up
// and made it block. It never waits itself.
func relieve(fd int) {
	if fd >= 0 {
		var b [8]byte
		_, _ = unix.Preadv2(fd, [][]byte{b[:]}, -1, unix.RWF_NOWAIT)
	}
}

func closeFD(fd *int) {
	if *fd >= 0 {
		unix.Close(*fd)
		*fd = -1
	}
}
