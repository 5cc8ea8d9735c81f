package contract

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk/disktest"
)

// errors: each of the storage's errors reaches who asked, nothing else is harmed,
// and all works again when the storage does.
func (s *suite) errors(*suite) {
	const size = 256 << 10
	b := disktest.New(offset + size)
	var fail atomic.Pointer[disktest.Fault]
	b.Fail = func(disktest.Call) disktest.Fault {
		if f := fail.Load(); f != nil {
			return *f
		}
		return disktest.None
	}
	d := device(s, b, s.sector, size)
	c := s.serve(d)
	m := noise(rand.New(rand.NewPCG(5, 5)), size)
	s.write(c, m, 0)
	for _, errno := range []unix.Errno{unix.EIO, unix.ENOSPC, unix.EPERM} {
		fail.Store(&disktest.Fault{Err: errno, Short: 0})
		p := bytes.Repeat([]byte{0xee}, 8192)
		_, re := c.ReadAt(p, 4096)
		if n := bytes.Count(p, []byte{0}) + bytes.Count(p, []byte{0xee}); n != len(p) {
			s.Errorf("a read that failed left something")
		}
		_, we := c.WriteAt(m[:8192], 0)
		_, pe := c.WriteAt(m[512:1024], 512)
		for what, err := range map[string]error{"read": re, "write": we, "write of a part": pe,
			"zeroes": c.WriteZeroes(0, 4096), "trim": c.Trim(0, 8192), "flush": c.Flush()} {
			if err == nil || s.f.Errno && !errors.Is(err, errno) {
				s.Errorf("%s on storage with %v: %v", what, errno, err)
			}
		}
		fail.Store(nil)
		s.must(c.Flush())
		s.expect(c, m, 0)
	}
	for name, f := range map[string]disktest.Fault{"nothing is read or written": {Short: 0}, "half is": {Short: int(s.sector) / 2}} {
		fail.Store(&f)
		p := make([]byte, s.sector)
		_, re := c.ReadAt(p, 0)
		_, we := c.WriteAt(m[:s.sector], 0)
		// Half at a time is slow, and no error: the rest is asked for.
		if failed := re != nil && we != nil; failed != (f.Short == 0) {
			s.Errorf("%s: %v, %v", name, re, we)
		}
		if re == nil && !bytes.Equal(p, m[:s.sector]) {
			s.Errorf("%s: wrong bytes", name)
		}
		fail.Store(nil)
		s.expect(c, m, 0)
	}
}

// faultyModel is model over storage that fails, tears and shortens at random: what
// is confirmed is there, what failed is old or new in pieces of 16 bytes, and all
// else is untouched.
func (s *suite) faultyModel(*suite) {
	const size, workers = 512 << 10, 4
	b := disktest.New(offset + size)
	var mu sync.Mutex
	faults := rand.New(rand.NewPCG(6, uint64(s.sector)))
	var on atomic.Bool
	b.Fail = func(c disktest.Call) disktest.Fault {
		mu.Lock()
		defer mu.Unlock()
		if !on.Load() {
			return disktest.None
		}
		switch faults.IntN(10) {
		case 0:
			return disktest.Fault{Err: unix.EIO, Short: faults.IntN(c.Len/16+1) * 16}
		case 1:
			return disktest.Fault{Short: faults.IntN(c.Len/16+1) * 16}
		}
		return disktest.None
	}
	d := device(s, b, s.sector, size)
	s.must(d.WriteZeroes(0, size))
	c := s.serve(d)
	on.Store(true)
	old, now := make([]byte, size), make([]byte, size) // equal where nothing failed
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 7))
			from, end := int64(w)*size/workers, int64(w+1)*size/workers
			for range 80 {
				s.faultyStep(c, old, now, from, end, r)
			}
		})
	}
	wg.Wait()
	on.Store(false)
	got := make([]byte, size)
	if _, err := c.ReadAt(got, 0); err != nil {
		s.Fatal(err)
	}
	s.eitherOr(got, old, now, 0)
}

// faultyStep writes or reads 512 bytes and more, within from and end. A failed
// write is undone by one that succeeds later.
func (s *suite) faultyStep(c Disk, old, now []byte, from, end int64, r *rand.Rand) {
	off := from + r.Int64N((end-from)/512)*512
	n := min(end-off, 512*(1+r.Int64N(20)))
	if r.IntN(3) == 0 {
		p := make([]byte, n)
		if _, err := c.ReadAt(p, off); err == nil {
			s.eitherOr(p, old, now, off)
		}
		return
	}
	for i := off; i < off+n; i++ {
		if old[i] != now[i] { // two failed writes on top of each other are not kept apart here
			return
		}
	}
	p := noise(r, n)
	copy(now[off:], p)
	if _, err := c.WriteAt(p, off); err == nil {
		copy(old[off:], p)
		return
	}
	for range 100 {
		if _, err := c.WriteAt(p, off); err == nil {
			copy(old[off:], p)
			return
		}
		if r.IntN(4) == 0 {
			return // it stays torn
		}
	}
}

func (s *suite) eitherOr(got, old, now []byte, off int64) {
	s.Helper()
	for i := 0; i < len(got); i += 16 {
		at := off + int64(i)
		if p := got[i : i+16]; !bytes.Equal(p, old[at:at+16]) && !bytes.Equal(p, now[at:at+16]) {
			s.Errorf("16 bytes at %d are neither old nor new", at)
			return
		}
	}
}

// hanging: requests wait for storage that hangs, other connections too if they need
// it, and all end well when it comes back.
func (s *suite) hanging(*suite) {
	const size, writers = 1 << 20, 12
	b := disktest.New(offset + size)
	back, begun := make(chan struct{}), make(chan struct{}, 1000)
	var hang atomic.Bool
	b.Fail = func(disktest.Call) disktest.Fault {
		if hang.Load() {
			begun <- struct{}{}
			<-back
		}
		return disktest.None
	}
	d := device(s, b, s.sector, size)
	s.must(d.WriteZeroes(0, size))
	c := s.serve(d)
	m := noise(rand.New(rand.NewPCG(8, 8)), size)
	hang.Store(true)
	var wg sync.WaitGroup
	var ended atomic.Int64
	for w := range writers {
		wg.Go(func() {
			from, end := w*size/writers/512*512, (w+1)*size/writers/512*512
			if w == writers-1 {
				end = size
			}
			if _, err := c.WriteAt(m[from:end], int64(from)); err != nil {
				s.Error(err)
			}
			if err := c.Flush(); err != nil {
				s.Error(err)
			}
			ended.Add(1)
		})
	}
	for range 3 {
		<-begun
	}
	if n := ended.Load(); n != 0 {
		s.Errorf("%d requests ended while storage hangs", n)
	}
	hang.Store(false)
	close(back)
	wg.Wait()
	s.expect(c, m, 0)
}
