package disk

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Backend is the ciphertext of a disk. Methods are called concurrently. Errors
// should wrap the errno, which reaches the guest's side.
type Backend interface {
	io.ReaderAt
	io.WriterAt
	Sync() error                  // what was written before is on stable storage
	Size() int64                  // bytes; constant
	PunchHole(off, n int64) error // gives space back; what is read there later is not defined
	Close() error
}

type fileBackend struct {
	f    *os.File
	size int64
}

// FileBackend is the Backend of a regular file or a block device. The offset of
// f is left alone and never used, so others may share the open file. f is owned
// by the Backend once there is no error.
func FileBackend(f *os.File) (Backend, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, &os.PathError{Op: "fstat", Path: f.Name(), Err: err}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return &fileBackend{f, st.Size}, nil
	case unix.S_IFBLK:
		size, err := blockDeviceSize(int(f.Fd()))
		if err != nil {
			return nil, &os.PathError{Op: "size", Path: f.Name(), Err: err}
		}
		return &fileBackend{f, size}, nil
	}
	return nil, fmt.Errorf("disk: %s is neither a file nor a block device", f.Name())
}

func (b *fileBackend) ReadAt(p []byte, off int64) (int, error)  { return b.f.ReadAt(p, off) }
func (b *fileBackend) WriteAt(p []byte, off int64) (int, error) { return b.f.WriteAt(p, off) }
func (b *fileBackend) Size() int64                              { return b.size }
func (b *fileBackend) Close() error                             { return b.f.Close() }

// Sync is fdatasync: the size of the file never changes, and where its blocks
// are is part of what fdatasync writes.
func (b *fileBackend) Sync() error {
	return b.control("fdatasync", unix.Fdatasync)
}

func (b *fileBackend) PunchHole(off, n int64) error {
	return b.control("fallocate", func(fd int) error {
		return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	})
}

// control runs f with the descriptor, which cannot be closed meanwhile.
func (b *fileBackend) control(op string, f func(fd int) error) error {
	raw, err := b.f.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	err = raw.Control(func(fd uintptr) {
		for {
			if ferr = f(int(fd)); !errors.Is(ferr, unix.EINTR) {
				return
			}
		}
	})
	if err = errors.Join(err, ferr); err != nil {
		return &os.PathError{Op: op, Path: b.f.Name(), Err: err}
	}
	return nil
}
