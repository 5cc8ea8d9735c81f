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
func FileBackend(f *os.File) (Backend, error) { return OpenFile(f, Auto) }

// OpenFile is FileBackend with a choice of the engine.
func OpenFile(f *os.File, e Engine) (Backend, error) {
	b := &fileBackend{f: f, engine: e}
	if _, err := b.Resized(); err != nil {
		return nil, err
	}
	flags, err := b.flags()
	if err != nil {
		return nil, err
	}
	b.direct = flags&unix.O_DIRECT != 0
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

func (b *fileBackend) flags() (flags int, err error) {
	err = b.control("fcntl", func(fd int) (err error) {
		flags, err = unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		return err
	})
	return flags, err
}

// Direct opens the file of f again with O_DIRECT: what is read and written does not
// stay in the kernel's page cache, which a guest's own cache makes useless for most
// disks. f stays as it is. unit is what all offsets and lengths are multiples of, in
// bytes, as sectors are. It is an error that wraps errors.ErrUnsupported where the
// file system cannot, or wants larger multiples.
func Direct(f *os.File, unit uint32) (*os.File, error) {
	b := &fileBackend{f: f}
	var st unix.Statx_t
	err := b.control("statx", func(fd int) error { return unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st) })
	if err != nil {
		return nil, err
	}
	need := uint32(arenaBlock) // what kernels before 6.1 do not tell
	if st.Mask&unix.STATX_DIOALIGN != 0 {
		need = st.Dio_offset_align
	}
	if need == 0 || unit%need != 0 || st.Dio_mem_align > arenaBlock {
		return nil, fmt.Errorf("disk: %s: O_DIRECT for multiples of %d bytes: %w", f.Name(), unit, errors.ErrUnsupported)
	}
	flags, err := b.flags()
	if err != nil {
		return nil, err
	}
	var again *os.File
	err = b.control("open", func(fd int) error {
		// The name in /proc is the open file's, whatever its path leads to now.
		n, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), flags&unix.O_ACCMODE|unix.O_DIRECT|unix.O_CLOEXEC, 0)
		if err == nil {
			again = os.NewFile(uintptr(n), f.Name())
		}
		return err
	})
	if errors.Is(err, unix.EINVAL) {
		err = fmt.Errorf("disk: %s: no O_DIRECT on this file system: %w", f.Name(), errors.ErrUnsupported)
	}
	return again, err
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
