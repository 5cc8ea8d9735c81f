package disk

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk/disktest"
)

var errBreak = &unixError{unix.EIO}

// unixError is an errno in a wrapping, as os gives it.
type unixError struct{ errno unix.Errno }

func (e *unixError) Error() string { return "broken: " + e.errno.Error() }
func (e *unixError) Unwrap() error { return e.errno }

func testKey(n int) []byte {
	k := make([]byte, n)
	for i := range k {
		k[i] = byte(i*7 + 3)
	}
	return k
}

const testOffset = 64 << 10

func testDevice(t testing.TB, b Backend, sector uint32, length uint64, tweak uint64) *Device {
	t.Helper()
	d, err := NewDevice(b, Params{Key: testKey(64), SectorSize: sector, DataOffset: testOffset, Length: length, IVTweak: tweak, Discard: true})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// model is the slow and obvious disk: plain bytes, and which of them are known.
type model struct {
	data  []byte
	known []bool
}

func newModel(n int) *model { return &model{make([]byte, n), make([]bool, n)} }

func (m *model) write(p []byte, off int) {
	copy(m.data[off:], p)
	m.know(off, len(p), true)
}

func (m *model) know(off, n int, yes bool) {
	for i := off; i < off+n; i++ {
		m.known[i] = yes
	}
}

func (m *model) check(t *testing.T, got []byte, off int) {
	t.Helper()
	for i := range got {
		if m.known[off+i] && got[i] != m.data[off+i] {
			t.Fatalf("byte %d is %#x, want %#x", off+i, got[i], m.data[off+i])
		}
	}
}

// TestModel runs random operations, some of which the Backend fails, against the
// model. Whatever fails, bytes that no operation touched must not change.
func TestModel(t *testing.T) {
	for _, sector := range []uint32{512, 1024, 2048, 4096} {
		for _, faults := range []bool{false, true} {
			for seed := range uint64(3) {
				runModel(t, sector, faults, rand.New(rand.NewPCG(seed, uint64(sector))))
			}
		}
	}
}

func runModel(t *testing.T, sector uint32, faults bool, r *rand.Rand) {
	const size = 96 << 10
	b := disktest.New(testOffset + size + 4096)
	d := testDevice(t, b, sector, size, 8*r.Uint64N(1<<40))
	m := newModel(size)
	if err := d.WriteZeroes(0, size); err != nil {
		t.Fatal(err)
	}
	m.know(0, size, true)
	if faults {
		// Storage tears writes, but not within a cipher block: the rest of a torn
		// block would become noise, also where the request did not reach.
		b.Fail = func(c disktest.Call) disktest.Fault {
			switch r.IntN(12) {
			case 0:
				return disktest.Fault{Err: errBreak, Short: r.IntN(c.Len/16+1) * 16}
			case 1:
				return disktest.Fault{Err: nil, Short: r.IntN(c.Len/16+1) * 16}
			}
			return disktest.None
		}
	}
	for range 200 {
		off := r.IntN(size)
		n := r.IntN(min(size-off, 20<<10) + 1)
		if r.IntN(3) == 0 {
			off, n = off/512*512, n/512*512
		}
		modelStep(t, d, m, r, off, n, faults)
	}
	b.Fail = nil
	whole := make([]byte, size)
	if n, err := d.ReadAt(whole, 0); n != size || err != nil {
		t.Fatalf("ReadAt = %d, %v", n, err)
	}
	m.check(t, whole, 0)
}

func modelStep(t *testing.T, d *Device, m *model, r *rand.Rand, off, n int, faults bool) {
	t.Helper()
	p := make([]byte, n)
	must := func(err error) bool {
		if err != nil && !faults {
			t.Fatal(err)
		}
		return err == nil
	}
	switch r.IntN(6) {
	case 0, 1:
		for i := range p {
			p[i] = byte(r.Uint32())
		}
		before := bytes.Clone(p)
		done, err := d.WriteAt(p, int64(off))
		if !bytes.Equal(p, before) {
			t.Fatal("WriteAt changed its argument")
		}
		m.write(p[:done], off)
		if !must(err) {
			m.know(off+done, n-done, false)
		} else if done != n {
			t.Fatalf("WriteAt = %d of %d without an error", done, n)
		}
	case 2:
		if must(d.WriteZeroes(int64(off), int64(n))) {
			m.write(p, off)
		} else {
			m.know(off, n, false)
		}
	case 3:
		must(d.Trim(int64(off), int64(n)))
		sector := d.SectorSize()
		if first, end := (off+sector-1)/sector*sector, (off+n)/sector*sector; first < end {
			m.know(first, end-first, false)
		}
	default:
		done, err := d.ReadAt(p, int64(off))
		must(err)
		m.check(t, p[:done], off)
		if len(bytes.Trim(p[done:], "\x00")) > 0 {
			t.Fatal("what was not read is not zeros")
		}
	}
}

// TestNeighbours has each worker write its own 512 bytes of shared sectors; a
// lost update or a torn sector shows at once.
func TestNeighbours(t *testing.T) {
	const workers, size = 8, 64 << 10
	d := testDevice(t, disktest.New(testOffset+size), 4096, size, 0)
	if err := d.WriteZeroes(0, size); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 1))
			var last [size / 4096]byte
			p, whole := make([]byte, 512), make([]byte, 4096)
			for i := range 150 {
				at := r.IntN(len(last))
				off := int64(at*4096 + w*512)
				if i%3 == 0 {
					n, err := d.ReadAt(whole, int64(at*4096))
					if err != nil || n != len(whole) || !uniform(whole[w*512:][:512], last[at]) {
						t.Errorf("worker %d read %d, %v, or others' bytes", w, n, err)
						return
					}
					for v := range workers {
						if part := whole[v*512:][:512]; !uniform(part, part[0]) {
							t.Errorf("worker %d saw half a write of worker %d", w, v)
							return
						}
					}
					continue
				}
				last[at] = byte(r.Uint32())
				for i := range p {
					p[i] = last[at]
				}
				if _, err := d.WriteAt(p, off); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func uniform(p []byte, b byte) bool { return bytes.Count(p, []byte{b}) == len(p) }

// TestCrash: what was flushed is there after a power failure at any moment.
func TestCrash(t *testing.T) {
	const size = 64 << 10
	r := rand.New(rand.NewPCG(5, 6))
	for range 20 {
		b := disktest.New(testOffset + size)
		d := testDevice(t, b, 4096, size, 0)
		m := newModel(size)
		for i := range 12 {
			off := r.IntN(size - 5000)
			p := bytes.Repeat([]byte{byte(r.Uint32())}, 1+r.IntN(5000))
			if i == 8 {
				if err := d.Flush(); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := d.WriteAt(p, int64(off)); err != nil {
				t.Fatal(err)
			}
			m.write(p, off)
			if i >= 8 { // may be lost
				m.know(off, len(p), false)
			}
		}
		again := testDevice(t, b.Crash(r), 4096, size, 0)
		got := make([]byte, size)
		if _, err := again.ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		m.check(t, got, 0)
	}
}

func TestErrnoSurfaces(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EIO, unix.ENOSPC, unix.EROFS} {
		b := disktest.New(testOffset + 8192)
		d := testDevice(t, b, 4096, 8192, 0)
		b.Fail = func(disktest.Call) disktest.Fault { return disktest.Fault{Err: &unixError{errno}, Short: 0} }
		p := make([]byte, 8192)
		_, re := d.ReadAt(p, 0)
		_, we := d.WriteAt(p, 0)
		_, pe := d.WriteAt(p[:100], 50)
		for name, err := range map[string]error{"read": re, "write": we, "part": pe, "zeroes": d.WriteZeroes(1, 5000), "trim": d.Trim(0, 8192), "flush": d.Flush()} {
			if got := unix.Errno(0); !errors.As(err, &got) || got != errno {
				t.Errorf("%s: %v does not wrap %v", name, err, errno)
			}
		}
	}
}
