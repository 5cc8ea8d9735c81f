package contract

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk"
	"github.com/uvbond/uvbond/disk/disktest"
)

// block is the cipher's: what storage may tear a write into.
const block = 16

// Cut writes through f from several places at once, cuts the power after every
// single event of the run (some of them with -short), deciphers what is left and
// looks at each block of it.
//
// In the last run storage also fails now and then, half-way through.
//
// Each block of plain text says which block it is and which write it is of. So a
// block that was enciphered for another place, or mixed of two, cannot pass for
// anything: it is noise.
func Cut(t *testing.T, f Front, sector uint32) {
	runs, step := uint64(3), 1
	if testing.Short() {
		runs, step = 1, 11
	}
	for seed := range runs {
		c := newCutRun(t, f, sector)
		if seed == runs-1 {
			c.rec.Fail = sometimes(seed)
		}
		c.run(8, 60, seed)
		for _, unit := range []int{block, 512, int(sector)} {
			r := rand.New(rand.NewPCG(seed, uint64(unit)))
			for at := 0; at <= c.rec.Now(); at += step {
				if err := c.check(at, unit, r); err != nil {
					t.Fatalf("seed %d, power cut after %d of %d events, writes torn into %d bytes: %v", seed, at, c.rec.Now(), unit, err)
				}
			}
		}
	}
}

// stable: what is forced is there after a power cut, however long it is and however
// many parts a front end makes of it; so is all that came before a flush.
func (s *suite) stable(*suite) {
	const size = 3 << 20
	rec := disktest.NewRecorder(offset + size)
	d := device(s, rec, s.sector, size)
	s.must(d.WriteZeroes(0, size))
	s.must(d.Flush())
	rec.Restart()
	c := s.serve(d)
	r := rand.New(rand.NewPCG(9, uint64(s.sector)))
	m := make([]byte, size)
	check := func(what string, off, n int64) {
		s.Helper()
		left, err := newDevice(rec.Cut(rec.Now(), block, r), s.sector, size)
		if err != nil {
			s.Fatal(err)
		}
		defer left.Close()
		got := make([]byte, n)
		if _, err := left.ReadAt(got, off); err != nil || !bytes.Equal(got, m[off:off+n]) {
			s.Errorf("%s of %d bytes at %d is not there after a power cut, or %v", what, n, off, err)
		}
	}
	for _, n := range []int64{512, 4096, 5 * 512, disk.MaxPiece, disk.MaxPiece + 512, 1<<20 + 512} {
		off := r.Int64N((size-n)/512) * 512
		if f, ok := c.(Forcer); ok {
			p := noise(r, n)
			copy(m[off:], p)
			s.must(f.WriteForced(p, off))
			check("a forced write", off, n)
		}
		if f, ok := c.(ZeroForcer); ok {
			clear(m[off : off+n])
			s.must(f.WriteZeroesForced(off, n))
			check("forced zeroes", off, n)
		}
		for range 5 {
			off := r.Int64N((size-n)/512) * 512
			p := noise(r, n)
			copy(m[off:], p)
			s.write(c, p, off)
		}
		s.must(c.Flush())
		check("what was flushed", 0, size)
		rec.Restart()
	}
}

// sometimes returns faults of all kinds, in pieces of a block.
func sometimes(seed uint64) func(disktest.Call) disktest.Fault {
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(seed, 99))
	return func(c disktest.Call) disktest.Fault {
		mu.Lock()
		defer mu.Unlock()
		f := disktest.Fault{Short: r.IntN(c.Len/block+1) * block}
		switch r.IntN(16) {
		case 0:
			f.Err = unix.EIO
		case 1:
			if c.Op == disktest.Sync || c.Op == disktest.Punch {
				return disktest.None
			}
		default:
			return disktest.None
		}
		return f
	}
}

// cutRun is one run, and what was done in it.
type cutRun struct {
	testing.TB
	f      Front
	sector uint32
	rec    *disktest.Recorder
	disk   Disk

	mu     sync.Mutex
	acts   []*act
	covers [][]*act // writes, by block; made when the run is over
}

// act is something that was done; its times are the Recorder's.
type act struct {
	id         uint64
	kind       actKind
	forced     bool
	off, n     int64
	start, end int // end: when it was confirmed, or failed
	failed     bool
}

type actKind uint8

const (
	writes actKind = iota
	zeroes
	trims // anything may be there afterwards
	flushes
)

const cutSize = 96 << 10

func newCutRun(t testing.TB, f Front, sector uint32) *cutRun {
	c := &cutRun{TB: t, f: f, sector: sector, rec: disktest.NewRecorder(offset + cutSize)}
	d := device(t, c.rec, sector, cutSize)
	if _, err := d.WriteAt(stamped(0, 0, cutSize), 0); err != nil {
		t.Fatal(err)
	}
	c.rec.Restart()
	c.disk = f.Serve(t, d)
	return c
}

// stamped is what write id puts at off.
func stamped(id uint64, off, n int64) []byte {
	p := make([]byte, n)
	for i := int64(0); i < n; i += block {
		binary.LittleEndian.PutUint64(p[i:], uint64(off+i)/block|1<<56)
		binary.LittleEndian.PutUint64(p[i+8:], id)
	}
	return p
}

// run does so many things at a time, and in all.
func (c *cutRun) run(depth, count int, seed uint64) {
	var wg sync.WaitGroup
	for w := range depth {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(w)))
			for range count / depth {
				c.do(r)
			}
		})
	}
	wg.Wait()
	c.covers = make([][]*act, cutSize/block)
	for _, a := range c.acts {
		for b := a.off / block; b < (a.off+a.n)/block; b++ {
			if a.kind != trims || whole(b, a, c.sector) {
				c.covers[b] = append(c.covers[b], a)
			}
		}
	}
}

// whole says whether a covers all of the sector that a block is in.
func whole(b int64, a *act, sector uint32) bool {
	s := int64(sector)
	first := b * block / s * s
	return a.off <= first && first+s <= a.off+a.n
}

func (c *cutRun) do(r *rand.Rand) {
	unit := max(int64(c.f.Unit), block)
	a := &act{off: r.Int64N(cutSize/unit) * unit}
	n := 2 * int64(c.sector) / unit
	if r.IntN(6) == 0 {
		n = cutSize / unit
	}
	a.n = min(cutSize-a.off, (1+r.Int64N(n))*unit)
	if r.IntN(3) == 0 { // whole sectors
		s := int64(c.sector)
		a.off, a.n = a.off/s*s, max(s, a.n/s*s)
		a.n = min(a.n, cutSize-a.off)
	}
	force, canForce := c.disk.(Forcer)
	switch k := r.IntN(20); {
	case k < 4:
		a.kind, a.off, a.n = flushes, 0, 0
	case k < 6:
		a.kind = zeroes
	case k < 7:
		a.kind = trims
	case k < 10:
		a.forced = canForce
	}
	c.mu.Lock()
	c.acts = append(c.acts, a)
	a.id = uint64(len(c.acts))
	c.mu.Unlock()
	a.start = c.rec.Now()
	var err error
	switch p := stamped(a.id, a.off, a.n); {
	case a.kind == flushes:
		err = c.disk.Flush()
	case a.kind == zeroes:
		err = c.disk.WriteZeroes(a.off, a.n)
	case a.kind == trims:
		err = c.disk.Trim(a.off, a.n)
	case a.forced:
		err = force.WriteForced(p, a.off)
	default:
		_, err = c.disk.WriteAt(p, a.off)
	}
	a.end, a.failed = c.rec.Now(), err != nil
	if err != nil && c.rec.Fail == nil {
		c.Errorf("%d bytes at %d: %v", a.n, a.off, err)
	}
}

// check cuts the power and says what is wrong with what is left.
func (c *cutRun) check(at, unit int, r *rand.Rand) error {
	return c.look(c.rec.Cut(at, unit, r), at, unit)
}

// look says what is wrong with what a cut left.
func (c *cutRun) look(b disk.Backend, at, unit int) error {
	left, err := newDevice(b, c.sector, cutSize)
	if err != nil {
		return err
	}
	got := make([]byte, cutSize)
	if _, err := left.ReadAt(got, 0); err != nil {
		return err
	}
	if err := left.Close(); err != nil {
		return err
	}
	flushed := -1 // what had ended by then was flushed
	for _, a := range c.acts {
		if a.kind == flushes && !a.failed && a.end <= at {
			flushed = max(flushed, a.start)
		}
	}
	stable := func(a *act) bool {
		return !a.failed && (a.end <= flushed || a.forced && a.end <= at)
	}
	owners := make([]*act, cutSize/block)
	for b := range owners {
		if owners[b], err = owner(got[b*block:][:block], int64(b), c.covers[b], at, stable); err != nil {
			return err
		}
	}
	if unit >= int(c.sector) && c.rec.Fail == nil { // faults tear sectors as well
		return c.notMixed(owners)
	}
	return nil
}

var initial = &act{n: cutSize}

// owner returns the act that a block's content is of, if it may be.
func owner(p []byte, b int64, covers []*act, at int, stable func(*act) bool) (*act, error) {
	newest := -1 // what had ended by then was written over by something stable
	for _, a := range covers {
		if stable(a) {
			newest = max(newest, a.start)
		}
	}
	place, id := binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[8:])
	var trimmed *act
	for _, a := range covers {
		if a.start >= at || a.end <= newest {
			continue
		}
		switch {
		case a.kind == trims:
			trimmed = a
		case a.kind == zeroes && place == 0 && id == 0, a.kind == writes && place == uint64(b)|1<<56 && id == a.id:
			return a, nil
		}
	}
	switch {
	case newest < 0 && place == uint64(b)|1<<56 && id == 0:
		return initial, nil
	case trimmed != nil:
		return trimmed, nil
	case place != uint64(b)|1<<56:
		return nil, fmt.Errorf("block %d is noise, or another one's content: %x", b, p)
	}
	return nil, fmt.Errorf("block %d is of write %d: it is too old, or from the future", b, id)
}

// notMixed: where storage writes whole sectors, each is what one moment left: two
// writes that both covered two blocks cannot have one each.
func (c *cutRun) notMixed(owners []*act) error {
	per := int(c.sector) / block
	for first := 0; first < len(owners); first += per {
		seen := map[*act]int{}
		for b := first; b < first+per; b++ {
			seen[owners[b]] = b
		}
		for x, bx := range seen {
			for y, by := range seen {
				if x != y && x.kind == writes && y.kind == writes && x.has(by) && y.has(bx) {
					return fmt.Errorf("the sector of block %d is mixed of writes %d and %d", bx, x.id, y.id)
				}
			}
		}
	}
	return nil
}

func (a *act) has(b int) bool {
	return a.off <= int64(b)*block && int64(b)*block < a.off+a.n
}
