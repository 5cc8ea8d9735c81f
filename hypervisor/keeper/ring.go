package keeper

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// The console ring file, version 1; numbers are little-endian:
//
//	0     8  magic "UVRING01"
//	8     8  capacity in bytes
//	16    8  reserved: what has been, or is just being, written
//	24    8  written
//	4096  capacity bytes; byte number n of the console is at n modulo capacity
//
// The keeper raises reserved, copies, raises written.  A reader that copies bytes
// out and then finds reserved more than capacity ahead of a byte knows that this
// byte may have been overwritten meanwhile.  The file belongs to the daemon and
// outlives both; it is meant to be on a tmpfs.

const (
	ringMagic  = "UVRING01"
	ringHeader = 4096

	// DefaultRingSize is how much of a console is kept, in bytes.
	DefaultRingSize = 1 << 20
	maxRingSize     = 64 << 20
)

// CreateRing makes the console ring file at path, mode 0600, for size bytes of
// console (0: DefaultRingSize; at most 64 MiB), or opens the one that is there,
// whatever its size.  The caller closes it.
func CreateRing(path string, size int) (*os.File, error) {
	if size == 0 {
		size = DefaultRingSize
	}
	if size < 4096 || size > maxRingSize {
		return nil, fmt.Errorf("console ring of %d bytes, allowed are 4096 to %d", size, maxRingSize)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := initRing(f, size); err != nil {
		f.Close()
		return nil, fmt.Errorf("console ring %s: %w", path, err)
	}
	return f, nil
}

func initRing(f *os.File, size int) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() != 0 {
		_, err := readRingHeader(f)
		return err
	}
	if err := f.Truncate(int64(ringHeader + size)); err != nil {
		return err
	}
	b := append([]byte(nil), ringMagic...)
	_, err = f.WriteAt(binary.LittleEndian.AppendUint64(b, uint64(size)), 0)
	return err
}

type ringState struct{ capacity, reserved, written uint64 }

func (s *ringState) sane(fileSize int64) bool {
	return s.capacity >= 4096 && s.capacity <= maxRingSize && fileSize == int64(ringHeader+s.capacity) &&
		s.written <= s.reserved && s.reserved-s.written <= s.capacity && s.reserved < 1<<62
}

// readRingHeader reads until it gets the same twice: the keeper may be writing.
func readRingHeader(f *os.File) (ringState, error) {
	info, err := f.Stat()
	if err != nil {
		return ringState{}, err
	}
	var last [32]byte
	for try := range 1000 {
		var b [32]byte
		if _, err := f.ReadAt(b[:], 0); err != nil {
			return ringState{}, err
		}
		if string(b[:8]) != ringMagic {
			return ringState{}, errors.New("not a console ring file")
		}
		if try > 0 && b == last {
			s := ringState{binary.LittleEndian.Uint64(b[8:]), binary.LittleEndian.Uint64(b[16:]), binary.LittleEndian.Uint64(b[24:])}
			if !s.sane(info.Size()) {
				return ringState{}, errors.New("console ring file is damaged")
			}
			return s, nil
		}
		last = b
	}
	return ringState{}, errors.New("console ring file changes too fast")
}

// ReadRing returns at most limit bytes of the console from offset on.  lost is how many
// bytes from offset on are not kept any more: data starts at offset+lost.  end is
// the number of bytes written since the ring was made.  An offset at or after the
// end gives no data and no error.
func ReadRing(f *os.File, offset uint64, limit int) (data []byte, end, lost uint64, err error) {
	s, err := readRingHeader(f)
	if err != nil {
		return nil, 0, 0, err
	}
	if offset >= s.written || limit <= 0 {
		return nil, s.written, 0, nil
	}
	from := max(offset, oldest(s))
	data = make([]byte, min(s.written-min(from, s.written), uint64(limit)))
	if err := copyRing(f, s.capacity, from, data); err != nil {
		return nil, 0, 0, err
	}
	after, err := readRingHeader(f)
	if err != nil {
		return nil, 0, 0, err
	}
	if low := oldest(after); low > from { // overwritten while being copied
		drop := min(low-from, uint64(len(data)))
		data, from = data[drop:], from+drop
	}
	return data, after.written, from - offset, nil
}

func oldest(s ringState) uint64 {
	if s.reserved <= s.capacity {
		return 0
	}
	return s.reserved - s.capacity
}

func copyRing(f *os.File, capacity, from uint64, data []byte) error {
	for len(data) > 0 {
		at := from % capacity
		n := min(uint64(len(data)), capacity-at)
		if _, err := f.ReadAt(data[:n], int64(ringHeader+at)); err != nil {
			if err == io.EOF {
				return errors.New("console ring file was cut short")
			}
			return err
		}
		data, from = data[n:], from+n
	}
	return nil
}

// ringWriter is the keeper's side. The lock is for readers in the keeper; it is held
// no longer than it takes to copy what one call is about.
type ringWriter struct {
	mu       sync.Mutex
	mem      []byte
	reserved *atomic.Uint64
	written  *atomic.Uint64
	data     []byte
}

func openRingWriter(f *os.File) (*ringWriter, error) {
	s, err := readRingHeader(f)
	if err != nil {
		return nil, err
	}
	fd, err := descriptor(f)
	if err != nil {
		return nil, err
	}
	mem, err := unix.Mmap(fd, 0, int(ringHeader+s.capacity), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the console ring: %w", err)
	}
	w := &ringWriter{
		mem: mem, data: mem[ringHeader:],
		reserved: counter(mem, 16),
		written:  counter(mem, 24),
	}
	// A keeper that was killed half way through a copy left old bytes in the gap:
	// they are shown as text, so that nothing before them has to be thought lost.
	w.written.Store(s.reserved)
	return w, nil
}

// Write appends p; it cannot fail.
func (w *ringWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	total, size := len(p), uint64(len(w.data))
	for len(p) > 0 {
		at := w.written.Load()
		n := min(uint64(len(p)), size-at%size)
		w.reserved.Store(at + n)
		copy(w.data[at%size:], p[:n])
		w.written.Store(at + n)
		p = p[n:]
	}
	return total, nil
}

// Copy implements hub.Ring.
func (w *ringWriter) Copy(p []byte, offset uint64) (n int, at, end uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	size := uint64(len(w.data))
	end = w.written.Load()
	at = offset
	if end > size {
		at = max(at, end-size)
	}
	for from := at; n < len(p) && from < end; from = at + uint64(n) {
		k := min(uint64(len(p)-n), end-from, size-from%size)
		n += copy(p[n:], w.data[from%size:][:k])
	}
	return n, at, end
}
