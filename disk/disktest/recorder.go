package disktest

import (
	"io"
	"math/rand/v2"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// Recorder is a Backend in memory that keeps what was done to it, in its order, so
// that the power can be cut afterwards at every moment of the run. It implements
// disk.Backend.
//
// Time is counted in events: each write, trim and sync has one when it begins and
// one when it ends. What a sync makes stable is what had ended when it began, not
// more: a disk that lets a sync overtake a write it should wait for is found out.
type Recorder struct {
	// Fail, if not nil, decides about every call, as in Backend.
	Fail func(Call) Fault

	mu     sync.Mutex
	data   []byte    // as reads see it; guarded by mu
	first  []byte    // what it was at the start
	log    []*change // in the order of their begin; guarded by mu
	now    int       // events so far; guarded by mu
	counts map[Op]int64
}

// change is a write, a trim or a sync.
type change struct {
	sync       bool
	off        int64
	data       []byte
	begin, end int // events; end is 0 until it has succeeded
}

// NewRecorder returns a Recorder of size bytes of zeros.
func NewRecorder(size int64) *Recorder {
	return &Recorder{data: make([]byte, size), first: make([]byte, size), counts: map[Op]int64{}}
}

// Now is how many events there were.
func (r *Recorder) Now() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

// Restart forgets what was done, and starts with the data that there is.
func (r *Recorder) Restart() {
	r.mu.Lock()
	defer r.mu.Unlock()
	copy(r.first, r.data)
	r.log, r.now = nil, 0
}

func (r *Recorder) judge(op Op, off int64, n int) (int, error) {
	r.mu.Lock()
	number := r.counts[op]
	r.counts[op]++
	r.mu.Unlock()
	f := None
	if r.Fail != nil {
		f = r.Fail(Call{op, number, off, n})
	}
	if f.Short < 0 || f.Short > n {
		if f.Err == nil {
			return n, nil
		}
		return 0, f.Err
	}
	return f.Short, f.Err
}

func (r *Recorder) begin(c *change) {
	r.mu.Lock()
	r.now++
	c.begin = r.now
	r.log = append(r.log, c)
	r.mu.Unlock()
	runtime.Gosched() // others shall get between begin and end
}

func (r *Recorder) end(c *change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now++
	c.end = r.now
}

// ReadAt is io.ReaderAt.
func (r *Recorder) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.judge(Read, off, len(p))
	if err == nil && off+int64(n) > r.Size() {
		n, err = int(max(0, r.Size()-off)), io.EOF
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return copy(p[:n], r.data[off:]), err
}

// WriteAt is io.WriterAt. A write that fails may have left anything of itself.
func (r *Recorder) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > r.Size() {
		return 0, unix.ENOSPC
	}
	n, err := r.judge(Write, off, len(p))
	if n < len(p) && err == nil {
		p = p[:n]
	}
	c := &change{off: off, data: append([]byte(nil), p...)}
	r.begin(c)
	for i := 0; i < n; i += piece {
		r.mu.Lock()
		copy(r.data[off+int64(i):], c.data[i:min(n, i+piece)])
		r.mu.Unlock()
	}
	if err == nil {
		r.end(c)
	}
	return n, err
}

// Sync makes stable what had ended before.
func (r *Recorder) Sync() error {
	c := &change{sync: true}
	r.begin(c)
	if _, err := r.judge(Sync, 0, 0); err != nil {
		return err
	}
	r.end(c)
	return nil
}

// PunchHole turns the range into zeros.
func (r *Recorder) PunchHole(off, n int64) error {
	if _, err := r.judge(Punch, off, int(n)); err != nil {
		return err
	}
	c := &change{off: off, data: make([]byte, n)}
	r.begin(c)
	r.mu.Lock()
	clear(r.data[off : off+n])
	r.mu.Unlock()
	r.end(c)
	return nil
}

// Size returns the size given to NewRecorder.
func (r *Recorder) Size() int64 { return int64(len(r.first)) }

// Close does nothing: what is left is looked at afterwards.
func (r *Recorder) Close() error { return nil }

// Cut returns the disk as a power failure right after the first at events could
// leave it. Everything that was made stable is there. What had begun and was not
// made stable is there or not, in any order, in units of so many bytes, a multiple
// of 16, that rnd picks.
func (r *Recorder) Cut(at, unit int, rnd *rand.Rand) *Backend {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := NewFrom(r.first)
	stable := 0 // what had ended by then is stable
	for _, c := range r.log {
		if c.sync && c.end != 0 && c.end <= at {
			stable = max(stable, c.begin)
		}
	}
	var loose []*change
	since := make([]int, (len(b.data)+piece-1)/piece) // when what is stable in a piece began
	for _, c := range r.log {
		switch {
		case c.sync || c.begin > at:
		case c.end != 0 && c.end < stable:
			copy(b.data[c.off:], c.data)
			for i := 0; i < len(c.data); i += piece {
				since[(c.off+int64(i))/piece] = c.begin
			}
		default:
			loose = append(loose, c)
		}
	}
	rnd.Shuffle(len(loose), func(i, j int) { loose[i], loose[j] = loose[j], loose[i] })
	for _, c := range loose {
		spill(b.data, since, c, unit, rnd)
	}
	copy(b.stable, b.data)
	return b
}

// spill writes some units of c, but not over what came later and is stable: a disk
// never has two changes under way at one place, so their begins say the order.
func spill(data []byte, since []int, c *change, unit int, rnd *rand.Rand) {
	fate := rnd.IntN(4) // 0: nothing is left of it, 1: all is
	for i := 0; i < len(c.data); {
		off := int(c.off) + i
		n := min(len(c.data)-i, unit-off%unit)
		if fate == 1 || fate > 1 && rnd.IntN(2) == 0 {
			for k := 0; k < n; k += piece {
				if since[(off+k)/piece] < c.begin {
					copy(data[off+k:], c.data[i+k:min(len(c.data), i+k+piece)])
				}
			}
		}
		i += n
	}
}
