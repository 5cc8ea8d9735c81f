package disk

import (
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk/disktest"
)

// TestStorm does everything at once: queues that are closed under way and opened
// again, waiting callers, storage that fails and shortens, trims, limits that
// change, a disk that grows. Whatever happens, what is confirmed is there, an error
// says what was done before it, and nobody waits for ever.
func TestStorm(t *testing.T) {
	for _, sector := range []uint32{512, 4096} {
		const start, size, workers = 1 << 20, 2 << 20, 4
		b := disktest.New(testOffset + size)
		var faults atomic.Bool
		var mu sync.Mutex
		r := rand.New(rand.NewPCG(1, uint64(sector)))
		b.Fail = func(c disktest.Call) disktest.Fault {
			mu.Lock()
			defer mu.Unlock()
			if !faults.Load() || r.IntN(9) > 0 {
				return disktest.None
			}
			f := disktest.Fault{Short: r.IntN(c.Len/16+1) * 16}
			if r.IntN(2) == 0 {
				f.Err = errBreak
			}
			return f
		}
		d := testDevice(t, b, sector, start, 0)
		faults.Store(true)
		m := newModel(size)
		var storm sync.WaitGroup
		over := make(chan struct{})
		storm.Go(func() { weather(t, d, size, rand.New(rand.NewPCG(2, uint64(sector))), over) })
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				s := &sailor{T: t, d: d, m: m, from: w * size / workers, size: size / workers, r: rand.New(rand.NewPCG(uint64(w), uint64(sector)))}
				s.sail()
			})
		}
		wg.Wait()
		close(over)
		storm.Wait()
		faults.Store(false)
		if err := d.Grow(size); err != nil {
			t.Fatal(err)
		}
		whole := make([]byte, size)
		if _, err := d.ReadAt(whole, 0); err != nil {
			t.Fatal(err)
		}
		m.check(t, whole, 0)
		if s := d.Stats(); s.Pending != 0 {
			t.Errorf("%d requests are still counted as under way", s.Pending)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

// weather changes limits, and makes the disk grow.
func weather(t *testing.T, d *Device, size int64, r *rand.Rand, over <-chan struct{}) {
	for {
		select {
		case <-over:
			if err := d.SetLimits(Limits{}); err != nil {
				t.Error(err)
			}
			return
		default:
		}
		var l Limits
		if r.IntN(2) == 0 {
			l = Limits{IOPS: 20000 + r.Uint64N(20000), Bytes: 200 << 20, Burst: 0.001}
		}
		if err := d.SetLimits(l); err != nil {
			t.Error(err)
		}
		if n := d.Size() + 4096; n <= size {
			if err := d.Grow(uint64(n)); err != nil {
				t.Error(err)
			}
		}
		if err := d.Flush(); err != nil && !errors.Is(err, unix.EIO) {
			t.Error(err)
		}
	}
}

// sailor works in a part of the disk of its own, in whole blocks of 512 bytes.
type sailor struct {
	*testing.T
	d          *Device
	m          *model
	from, size int
	r          *rand.Rand
	plain      map[*Request][]byte // what a write was to write
	known      map[*Request]int64  // the disk's size at its start
	busy       []*Request
}

func (s *sailor) sail() {
	s.plain, s.known = map[*Request][]byte{}, map[*Request]int64{}
	rounds := 20
	if testing.Short() {
		rounds = 5
	}
	for range rounds {
		q, err := s.d.NewQueue(1 + s.r.IntN(32))
		if err != nil {
			s.Error(err)
			return
		}
		for range 30 {
			s.start(q)
			if s.r.IntN(3) == 0 {
				q.Submit()
				s.done(q.Completed(nil))
			}
		}
		q.Submit()
		for s.r.IntN(2) == 0 && q.Pending() > 0 { // else it is closed under way
			q.wait()
			s.done(q.Completed(nil))
			q.Submit()
		}
		if err := q.Close(); err != nil {
			s.Error(err)
		}
		s.done(append([]*Request(nil), s.busy...)) // what Close waited for has its result
	}
}

// start starts something that does not touch what is under way.
func (s *sailor) start(q *Queue) {
	blocks := s.size / 512
	off := s.from + s.r.IntN(blocks)*512
	n := min(s.from+s.size-off, (1+s.r.IntN(40))*512)
	for _, b := range s.busy {
		if b.Op != Flush && int(b.Off) < off+n && off < int(b.Off+b.Len) {
			return
		}
	}
	r := &Request{Op: Op(s.r.IntN(int(ops))), Off: int64(off), Len: int64(n), Shared: s.r.IntN(2) == 0, FUA: s.r.IntN(5) == 0}
	switch r.Op {
	case Read:
		p := make([]byte, n)
		for i := range p {
			p[i] = 0xee
		}
		r.Data = split(s.r, p)
	case Write:
		p := make([]byte, n)
		for i := range p {
			p[i] = byte(s.r.Uint32())
		}
		s.plain[r] = append([]byte(nil), p...)
		r.Data = split(s.r, p)
	case WriteZeroes:
		s.plain[r] = make([]byte, n)
	}
	s.known[r] = s.d.Size()
	s.busy = append(s.busy, r)
	q.Start(r)
}

// done compares what is completed with the model.
func (s *sailor) done(rs []*Request) {
	for _, r := range rs {
		for i, b := range s.busy {
			if b == r {
				s.busy = append(s.busy[:i], s.busy[i+1:]...)
				break
			}
		}
		switch {
		case errors.Is(r.Err, ErrRange):
			if r.Op != Flush && r.Off+r.Len <= s.known[r] {
				s.Errorf("%v of %d bytes at %d is refused on a disk of %d", r.Op, r.Len, r.Off, s.known[r])
			}
		case r.Err == nil && r.N != r.Len:
			s.Errorf("%v: %d of %d bytes and no error", r.Op, r.N, r.Len)
		case r.Err != nil && !errors.Is(r.Err, unix.EIO) && !errors.Is(r.Err, ErrClosed) && !isEnd(r.Err):
			s.Errorf("%v: %v", r.Op, r.Err)
		default:
			s.compare(r)
		}
		delete(s.plain, r)
		delete(s.known, r)
	}
}

func (s *sailor) compare(r *Request) {
	off := int(r.Off)
	switch r.Op {
	case Read:
		var got []byte
		for _, p := range r.Data {
			got = append(got, p...)
		}
		for i := range got {
			switch {
			case int64(i) >= r.N && got[i] != 0 && !errors.Is(r.Err, ErrClosed):
				s.Errorf("read at %d: %d bytes were read, and byte %d is %#x", off, r.N, i, got[i])
				return
			case int64(i) < r.N && s.m.known[off+i] && got[i] != s.m.data[off+i]:
				s.Errorf("read of %d bytes at %d: byte %d is wrong", len(got), off, i)
				return
			}
		}
	case Write, WriteZeroes:
		if errors.Is(r.Err, ErrClosed) {
			return // not begun
		}
		s.m.write(s.plain[r][:r.N], off)
		s.m.know(off+int(r.N), int(r.Len-r.N), false)
	case Trim:
		s.m.know(off, int(r.Len), false)
	}
}

// isEnd: the storage gave nothing, or took nothing, and no reason.
func isEnd(err error) bool {
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrShortWrite)
}
