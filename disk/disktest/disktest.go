// Package disktest is a Backend for tests: memory that fails, tears, stalls and
// loses what was not synced, on demand. It is for tests of the disk and of what
// stands on it, and trusts them.
package disktest

import (
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Op is a kind of call.
type Op string

// The kinds of calls.
const (
	Read  Op = "read"
	Write Op = "write"
	Sync  Op = "sync"
	Punch Op = "punch"
)

// Call is one call that is about to be carried out.
type Call struct {
	Op     Op
	Number int64 // calls of this kind before it
	Off    int64
	Len    int
}

// Fault says how a call goes wrong. Err nil and Short below 0 is no fault.
type Fault struct {
	Err   error // what the call returns
	Short int   // how many bytes are carried out before that; below 0: all
}

// None lets a call succeed.
var None = Fault{Short: -1}

// Backend keeps the ciphertext in memory. It implements disk.Backend. Its own
// locks are finer than a disk's: a read sees a write beside it in pieces of 16
// bytes, as shared storage would show it.
type Backend struct {
	// Fail, if not nil, decides about every call. It is called concurrently, may
	// block, and must not be changed while the Backend is used.
	Fail func(Call) Fault

	mu     sync.Mutex
	data   []byte  // guarded by mu
	stable []byte  // what a crash leaves at the least; guarded by mu
	lost   []write // since the last sync; guarded by mu
	closed atomic.Bool
	counts [4]atomic.Int64
}

type write struct {
	off  int64
	data []byte
}

// New returns a Backend of size bytes of zeros.
func New(size int64) *Backend {
	return &Backend{data: make([]byte, size), stable: make([]byte, size)}
}

// NewFrom returns a Backend with a copy of data.
func NewFrom(data []byte) *Backend {
	b := New(int64(len(data)))
	copy(b.data, data)
	copy(b.stable, data)
	return b
}

func (b *Backend) judge(op Op, i int, off int64, n int) (int, error) {
	number := b.counts[i].Add(1) - 1
	if b.closed.Load() {
		return 0, unix.EBADF
	}
	f := None
	if b.Fail != nil {
		f = b.Fail(Call{op, number, off, n})
	}
	if f.Short < 0 || f.Short > n {
		if f.Err == nil {
			return n, nil
		}
		return 0, f.Err
	}
	return f.Short, f.Err
}

// Count returns how many calls of a kind there were.
func (b *Backend) Count(op Op) int64 {
	for i, o := range []Op{Read, Write, Sync, Punch} {
		if o == op {
			return b.counts[i].Load()
		}
	}
	return 0
}

const piece = 16

// ReadAt is io.ReaderAt.
func (b *Backend) ReadAt(p []byte, off int64) (int, error) {
	n, err := b.judge(Read, 0, off, len(p))
	if err == nil && off+int64(n) > b.Size() {
		n, err = int(max(0, b.Size()-off)), io.EOF
	}
	for i := 0; i < n; i += piece {
		b.mu.Lock()
		copy(p[i:min(n, i+piece)], b.data[off+int64(i):])
		b.mu.Unlock()
	}
	return n, err
}

// WriteAt is io.WriterAt; what is beyond the end answers ENOSPC.
func (b *Backend) WriteAt(p []byte, off int64) (int, error) {
	n, err := b.judge(Write, 1, off, len(p))
	if err == nil && off+int64(n) > b.Size() {
		n, err = int(max(0, b.Size()-off)), unix.ENOSPC
	}
	whole := append([]byte(nil), p[:n]...)
	for i := 0; i < n; i += piece {
		part := whole[i:min(n, i+piece)]
		b.mu.Lock()
		copy(b.data[off+int64(i):], part)
		b.lost = append(b.lost, write{off + int64(i), part})
		b.mu.Unlock()
	}
	return n, err
}

// Sync makes all writes survive Crash.
func (b *Backend) Sync() error {
	if _, err := b.judge(Sync, 2, 0, 0); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, w := range b.lost {
		copy(b.stable[w.off:], w.data)
	}
	b.lost = nil
	return nil
}

// PunchHole turns the range into zeros.
func (b *Backend) PunchHole(off, n int64) error {
	if _, err := b.judge(Punch, 3, off, int(n)); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.data[off : off+n])
	b.lost = append(b.lost, write{off, make([]byte, n)})
	return nil
}

// Size returns the size given to New.
func (b *Backend) Size() int64 { return int64(len(b.data)) }

// Close makes all later calls fail with EBADF.
func (b *Backend) Close() error {
	if b.closed.Swap(true) {
		return unix.EBADF
	}
	return nil
}

// Bytes returns a copy of the ciphertext.
func (b *Backend) Bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]byte(nil), b.data...)
}

// Crash returns the Backend as a power failure at this moment could leave it: all
// that was synced, and of what came later the pieces that r picks. b itself
// goes on.
func (b *Backend) Crash(r *rand.Rand) *Backend {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := NewFrom(b.stable)
	for _, w := range b.lost {
		if r.IntN(2) == 0 {
			copy(c.data[w.off:], w.data)
			copy(c.stable[w.off:], w.data)
		}
	}
	return c
}
