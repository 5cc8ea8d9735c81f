package contract

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk"
)

// sizes writes and reads back lengths from the least to megabytes, at places that
// do not suit sectors and pieces.
func (s *suite) sizes(*suite) {
	const size = 6 << 20
	_, c := s.open(size)
	m := make([]byte, size)
	r := rand.New(rand.NewPCG(1, uint64(s.sector)))
	for _, n := range []int64{1, 15, 16, 17, 511, 512, 513, 4095, 4096, 4097, 65536, disk.MaxPiece - 1, disk.MaxPiece, disk.MaxPiece + 513, 1 << 20, 4<<20 + 512} {
		if n = s.align(n); n == 0 {
			continue
		}
		for _, off := range []int64{0, 1, 512, 4095, 8192 + 300, size - n, size - n - 513} {
			if off = s.align(off); off < 0 || off+n > size {
				continue
			}
			p := noise(r, n)
			s.write(c, p, off)
			copy(m[off:], p)
			from, end := s.align(max(0, off-5000)), min(size, s.align(off+n+5000))
			s.expect(c, m[from:end], from)
		}
	}
	s.expect(c, m, 0)
}

// bounds: what is not wholly on the disk is refused, and changes nothing.
func (s *suite) bounds(*suite) {
	const size = 64 << 10
	_, c := s.open(size)
	u := int64(s.f.Unit)
	m := noise(rand.New(rand.NewPCG(2, 2)), size)
	s.write(c, m, 0)
	for _, x := range []struct{ off, n int64 }{{size, u}, {size - u, 2 * u}, {0, size + u}, {s.align(math.MaxInt64 - 4096), u}, {1 << 40, 4096}} {
		p := bytes.Repeat([]byte{0xee}, int(x.n))
		if _, err := c.WriteAt(p, x.off); err == nil {
			s.Errorf("write of %d bytes at %d succeeds", x.n, x.off)
		}
		if n, err := c.ReadAt(p, x.off); err == nil {
			s.Errorf("read of %d bytes at %d: %d", x.n, x.off, n)
		}
		if c.WriteZeroes(x.off, x.n) == nil {
			s.Errorf("zeroes of %d bytes at %d succeed", x.n, x.off)
		}
		if c.Trim(x.off, x.n) == nil {
			s.Errorf("trim of %d bytes at %d succeeds", x.n, x.off)
		}
	}
	s.expect(c, m, 0)
}

// zeroes: they are zeros, and a trim touches no sector that it covers partly.
func (s *suite) zeroes(*suite) {
	const size = 256 << 10
	_, c := s.open(size)
	r := rand.New(rand.NewPCG(3, 3))
	m := noise(r, size)
	s.write(c, m, 0)
	for range 20 {
		off := s.align(r.Int64N(size))
		n := s.align(r.Int64N(size-off) + 1)
		if n == 0 {
			continue
		}
		s.must(c.WriteZeroes(off, n))
		clear(m[off : off+n])
		s.expect(c, m, 0)
		p := noise(r, n)
		s.write(c, p, off)
		copy(m[off:], p)
	}
	sector := int64(s.sector)
	off, n := s.align(3*sector+sector/2), s.align(4*sector)
	s.must(c.Trim(off, n))
	first, end := (off+sector-1)/sector*sector, (off+n)/sector*sector
	s.expect(c, m[:first], 0)
	s.expect(c, m[end:], end)
	s.write(c, m[first:end], first)
	s.expect(c, m, 0)
}

// readOnly: reads and flushes work, nothing else does.
func (s *suite) readOnly(*suite) {
	const size = 64 << 10
	b := s.back(s, offset+size)
	d := device(s, b, s.sector, size, func(p *disk.Params) { p.ReadOnly = true })
	c := s.serve(d)
	want := make([]byte, size)
	if _, err := d.ReadAt(want, 0); err != nil {
		s.Fatal(err)
	}
	_, err := c.WriteAt(make([]byte, 4096), 0)
	for what, err := range map[string]error{"write": err, "zeroes": c.WriteZeroes(0, 4096), "trim": c.Trim(0, 4096)} {
		if err == nil || s.f.Errno && !errors.Is(err, os.ErrPermission) {
			s.Errorf("%s on a read-only disk: %v", what, err)
		}
	}
	if err := c.Flush(); err != nil {
		s.Errorf("flush: %v", err)
	}
	s.expect(c, want, 0)
}

// model runs random requests from several places against plain bytes. Each has a
// place of its own; neighbours share sectors. Two connections serve them.
func (s *suite) model(*suite) {
	const size, workers = 2 << 20, 6
	d, c := s.open(size)
	conns := []Disk{c, s.serve(d)}
	m := make([]byte, size)
	steps := 60
	if testing.Short() {
		steps = 15
	}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			from, end := s.align(int64(w)*size/workers+700), s.align(int64(w+1)*size/workers+700)
			if w == 0 {
				from = 0
			}
			if w == workers-1 {
				end = size
			}
			r := rand.New(rand.NewPCG(uint64(w), uint64(s.sector)))
			for range steps {
				if !s.step(conns[r.IntN(2)], m, from, end, r) {
					return
				}
			}
		})
	}
	wg.Wait()
	if s.Failed() {
		return
	}
	s.must(conns[1].Flush())
	s.expect(c, m, 0)
	got := make([]byte, size)
	if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, m) {
		s.Errorf("the disk itself has other bytes than the front end shows, or %v", err)
	}
}

// step does one random thing between from and end; m is what should be there.
func (s *suite) step(c Disk, m []byte, from, end int64, r *rand.Rand) bool {
	off := from + s.align(r.Int64N(end-from))
	most := end - off
	if r.IntN(4) > 0 {
		most = min(most, 9000)
	}
	n := s.align(r.Int64N(most) + 1)
	if n == 0 {
		n = int64(s.f.Unit)
	}
	var err error
	switch r.IntN(6) {
	case 0, 1:
		p := noise(r, n)
		copy(m[off:], p)
		_, err = c.WriteAt(p, off)
	case 2:
		p := noise(r, n)
		copy(m[off:], p)
		if f, ok := c.(Forcer); ok {
			err = f.WriteForced(p, off)
		} else {
			_, err = c.WriteAt(p, off)
		}
	case 3:
		clear(m[off : off+n])
		err = c.WriteZeroes(off, n)
	case 4:
		err = c.Flush()
	default:
		p := bytes.Repeat([]byte{0xee}, int(n))
		if _, err = c.ReadAt(p, off); err == nil && !bytes.Equal(p, m[off:off+n]) {
			s.Errorf("read of %d bytes at %d is wrong", n, off)
			return false
		}
	}
	if err != nil {
		s.Errorf("%d bytes at %d: %v", n, off, err)
	}
	return err == nil
}

// overlap lets writers fight for the same sectors: each sector is one writer's.
func (s *suite) overlap(*suite) {
	const sectors, writers = 4, 5
	size := int64(sectors * 4096)
	d, c := s.open(size)
	conns := []Disk{c, s.serve(d)}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			p := bytes.Repeat([]byte{byte(w + 1)}, int(size))
			for range 30 {
				if _, err := conns[w%2].WriteAt(p, 0); err != nil {
					s.Error(err)
					return
				}
			}
		})
	}
	wg.Go(func() {
		p := make([]byte, size)
		for range 60 {
			if _, err := c.ReadAt(p, 0); err != nil {
				s.Error(err)
				return
			}
			s.whole(p)
		}
	})
	wg.Wait()
	p := make([]byte, size)
	if _, err := c.ReadAt(p, 0); err != nil {
		s.Fatal(err)
	}
	s.whole(p)
}

func (s *suite) whole(p []byte) {
	for i := 0; i < len(p); i += int(s.sector) {
		if part := p[i : i+int(s.sector)]; bytes.Count(part, part[:1]) != len(part) {
			s.Errorf("the sector at %d is mixed of two writes", i)
			return
		}
	}
}

// grow: connections made afterwards see the new size, those from before go on.
func (s *suite) grow(*suite) {
	const size = 64 << 10
	b := s.back(s, offset+2*size)
	d := device(s, b, s.sector, size)
	s.must(d.WriteZeroes(0, size))
	before := s.serve(d)
	p := noise(rand.New(rand.NewPCG(4, 4)), size)
	s.write(before, p, 0)
	if err := d.Grow(2 * size); err != nil {
		s.Fatal(err)
	}
	after := s.serve(d)
	s.write(after, p, size)
	s.expect(after, append(bytes.Clone(p), p...), 0)
	s.expect(before, p, 0)
	if err := d.Grow(size); err == nil {
		s.Error("a disk shrank")
	}
	if err := d.Grow(4 * size); err == nil || errors.Is(err, unix.EIO) {
		s.Errorf("grow beyond the storage: %v", err)
	}
}
