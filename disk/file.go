package disk

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Engine is how a file is read and written.
type Engine uint8

// The engines of a file. Which one is fast was measured: docs/disks.md has the
// figures.
const (
	// Auto picks: Waiting for files in memory (tmpfs, memfd), where no call ever
	// waits and a call costs the least; Ring for others where the kernel allows
	// it; Threads for the rest.
	Auto    Engine = iota
	Waiting        // pread and pwrite, one after the other, by who owns the Queue
	Ring           // io_uring
	Threads        // pread and pwrite on a few threads for each Queue
)

func (e Engine) String() string {
	return [...]string{"auto", "waiting", "ring", "threads"}[e]
}

// FileOptions say how to use a file.
type FileOptions struct {
	Engine Engine
	// Direct says that the file was opened with O_DIRECT: buffers, lengths and
	// offsets are multiples of what the file system asks for, else FileBackend
	// refuses it.
	Direct bool
}

type fileBackend struct {
	f      *os.File
	size   atomic.Int64
	engine Engine
	direct bool
	lost   atomic.Pointer[error] // why a flush failed once
}

// FileBackend is the Backend of a regular file or a block device. The offset of
// f is left alone and never used, so others may share the open file. f is owned
// by the Backend once there is no error.
func FileBackend(f *os.File) (Backend, error) { return OpenFile(f, FileOptions{}) }

// OpenFile is FileBackend with options.
func OpenFile(f *os.File, o FileOptions) (Backend, error) {
	b := &fileBackend{f: f, engine: o.Engine, direct: o.Direct}
	if _, err := b.Resized(); err != nil {
		return nil, err
	}
	if b.engine == Auto {
		b.engine = b.pick()
	}
	return b, nil
}

// pick chooses the engine of a file.
func (b *fileBackend) pick() Engine {
	var fs unix.Statfs_t
	err := b.control("fstatfs", func(fd int) error { return unix.Fstatfs(fd, &fs) })
	if err == nil && (fs.Type == unix.TMPFS_MAGIC || fs.Type == unix.RAMFS_MAGIC) {
		return Waiting
	}
	if ringWorks() {
		return Ring
	}
	return Threads
}

// Resized asks the kernel for the size again, which may have grown.
func (b *fileBackend) Resized() (int64, error) {
	var size int64
	err := b.control("fstat", func(fd int) error {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		var err error
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			size = st.Size
		case unix.S_IFBLK:
			size, err = blockDeviceSize(fd)
		default:
			err = errors.New("neither a file nor a block device")
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("disk: %w", err)
	}
	b.size.Store(size)
	return size, nil
}

func (b *fileBackend) ReadAt(p []byte, off int64) (int, error)  { return b.f.ReadAt(p, off) }
func (b *fileBackend) WriteAt(p []byte, off int64) (int, error) { return b.f.WriteAt(p, off) }
func (b *fileBackend) Size() int64                              { return b.size.Load() }
func (b *fileBackend) Close() error                             { return b.f.Close() }

// Direct says whether buffers must start on a page.
func (b *fileBackend) Direct() bool { return b.direct }

// Sync is fdatasync: the size of the file does not change by writing, and where
// its blocks are is part of what fdatasync writes.
//
// The kernel reports a failure once and then forgets what it could not write: the
// next fdatasync would succeed though the data is lost. So after a failure none
// succeeds any more.
func (b *fileBackend) Sync() error {
	if err := b.flushable(); err != nil {
		return err
	}
	return b.flushed(b.control("fdatasync", unix.Fdatasync))
}

// flushable returns why no flush can succeed, or nil.
func (b *fileBackend) flushable() error {
	if err := b.lost.Load(); err != nil {
		return fmt.Errorf("disk: an earlier flush failed, and what it lost is not known: %w", *err)
	}
	return nil
}

// flushed takes note of how a flush ended. One that ran beside a flush that failed
// has failed too: the kernel tells only one of them.
func (b *fileBackend) flushed(err error) error {
	if err != nil {
		b.lost.CompareAndSwap(nil, &err)
		return err
	}
	return b.flushable()
}

func (b *fileBackend) PunchHole(off, n int64) error {
	return b.control("fallocate", func(fd int) error {
		return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	})
}

// OpenQueue implements QueueOpener.
func (b *fileBackend) OpenQueue(depth, event int, buffers []byte) (BackendQueue, error) {
	switch b.engine {
	case Waiting:
		return &inline{backend: b}, nil
	case Ring:
		if q, err := openRing(b, depth, event, buffers); err == nil {
			return q, nil
		}
		// Out of locked memory or descriptors: slower, and works.
	}
	return newWorkers(b, depth, event), nil
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
