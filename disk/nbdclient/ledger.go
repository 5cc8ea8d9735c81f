package nbdclient

import (
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk/nbd/proto"
)

// ledger knows what was written and not yet flushed: a keyed hash of every such
// sector. See the package comment for what it is for.
//
//	enter ─▶ (acknowledged) ─▶ current ─▶ flushing ─▶ forgotten
//	                              │ connection lost │
//	                              ▼                 ▼
//	                             suspect ◀──────────┘
//	                              │ read back
//	                              ├─▶ as it was: written once more ─▶ current
//	                              └─▶ otherwise: bad, until written anew
type ledger struct {
	on     bool // off where nothing is written, or every write is durable at once
	sector int64
	most   int
	seed   maphash.Seed

	doubt atomic.Bool // suspect or bad is not empty: reads are to be checked

	mu       sync.Mutex
	current  map[int64]uint64   // sector number to hash
	flushing map[int64]uint64   // what the flush under way covers
	suspect  map[int64]uint64   // may not be what the server has
	bad      map[int64]struct{} // is not what the server has
	report   bool               // the next flush must fail: something became bad, or was given up
	flushes  bool               // a flush is under way
	writes   int                // writes and trims under way
	held     bool               // none may begin
	parked   []*request         // those that wait for that, or for a flush
	none     chan struct{}      // closed when held and writes is 0
}

// mostBad bounds bad, in multiples of most; a server that loses more is not read
// from any more.
const mostBad = 4

var errBad = fmt.Errorf("the server lost what was written here: %w", unix.EIO)

func (g *ledger) init(sector, most int, on bool) {
	g.on, g.sector, g.most, g.seed = on, int64(sector), most, maphash.MakeSeed()
	g.current, g.flushing, g.suspect, g.bad = map[int64]uint64{}, map[int64]uint64{}, map[int64]uint64{}, map[int64]struct{}{}
}

// hash returns the hashes of the sectors of p, appended to dst.
func (g *ledger) hash(dst []uint64, p []byte) []uint64 {
	if !g.on {
		return dst
	}
	for ; len(p) > 0; p = p[g.sector:] {
		dst = append(dst, maphash.Bytes(g.seed, p[:g.sector]))
	}
	return dst
}

// enter lets a write or trim begin, or keeps it for later. full says that a flush
// is needed soon.
func (g *ledger) enter(r *request) (enter, full bool) {
	if !g.on {
		return true, false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	full = len(g.current) >= g.most
	if g.held || full && g.flushes {
		g.parked = append(g.parked, r)
		return false, full
	}
	g.writes++
	return true, full
}

// leave is told of everything that is completed.
func (g *ledger) leave(l *link, r *request) {
	if !g.on {
		return
	}
	switch {
	case r.command == proto.CmdRead && !r.raw && r.err == nil && g.doubt.Load():
		r.err = g.check(r)
	case r.command == proto.CmdWrite || r.command == proto.CmdTrim:
		g.mu.Lock()
		defer g.mu.Unlock()
		if !r.raw {
			if g.writes--; g.writes == 0 && g.held {
				close(g.none)
			}
		}
		if r.command == proto.CmdTrim || r.err != nil {
			g.forgetLocked(r) // what is there now is not defined
			return
		}
		l.dirty = true
		for i, h := range r.hashes {
			s := r.off/g.sector + int64(i)
			g.current[s] = h
			if g.doubt.Load() {
				delete(g.suspect, s)
				delete(g.bad, s)
			}
		}
		g.doubtLocked()
	}
}

func (g *ledger) doubtLocked() {
	if doubt := len(g.suspect) > 0 || len(g.bad) > 0; doubt != g.doubt.Load() {
		g.doubt.Store(doubt)
	}
}

// forgetLocked makes nothing known about r's sectors. A failed write leaves bad
// sectors bad.
func (g *ledger) forgetLocked(r *request) {
	first, end := r.off/g.sector, (r.off+int64(r.n)+g.sector-1)/g.sector
	within := func(s int64, _ uint64) bool { return s >= first && s < end }
	for _, m := range []map[int64]uint64{g.current, g.flushing, g.suspect} {
		if end-first > int64(len(m)) {
			maps.DeleteFunc(m, within)
			continue
		}
		for s := first; s < end; s++ {
			delete(m, s)
		}
	}
	if r.command == proto.CmdTrim && r.err == nil {
		maps.DeleteFunc(g.bad, func(s int64, _ struct{}) bool { return within(s, 0) })
	}
	g.doubtLocked()
}

// check holds what was read against what was written.
func (g *ledger) check(r *request) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.bad) > mostBad*g.most {
		return errBad
	}
	for at := (g.sector - r.off%g.sector) % g.sector; at+g.sector <= int64(r.n); at += g.sector {
		s := (r.off + at) / g.sector
		if _, bad := g.bad[s]; bad {
			return errBad
		}
		want, ok := g.suspect[s]
		if ok && maphash.Bytes(g.seed, r.buf[at:at+g.sector]) != want {
			g.badLocked(s)
			return errBad
		}
	}
	return nil
}

func (g *ledger) badLocked(s int64) {
	delete(g.suspect, s)
	if len(g.bad) <= mostBad*g.most {
		g.bad[s] = struct{}{}
	}
	g.report = true
}

// lost says that a connection broke, or a flush failed: what is not flushed may
// be gone.
func (g *ledger) lost() {
	if !g.on {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.suspect) == 0 {
		g.suspect, g.flushing = g.flushing, g.suspect
	} else {
		maps.Copy(g.suspect, g.flushing)
	}
	maps.Copy(g.suspect, g.current)
	g.flushing, g.current = map[int64]uint64{}, map[int64]uint64{}
	if len(g.suspect) > 4*g.most {
		// Nobody flushes, or no flush works.  Whoever flushes next is told.
		g.suspect, g.report = map[int64]uint64{}, true
	}
	g.doubtLocked()
}

// beginFlush makes what is written now what the flush covers. It returns the
// links which have to be flushed; ok is false while there are suspects.
func (g *ledger) beginFlush(links []*link) (dirty []*link, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.suspect) > 0 {
		return nil, false
	}
	g.flushing, g.current = g.current, g.flushing // which is empty: flushes do not overlap
	g.flushes = true
	for _, l := range links {
		if l.dirty {
			dirty = append(dirty, l)
			l.dirty = false
		}
	}
	return dirty, true
}

// endFlush returns the writes that may go on now. The flush is done if it covers
// all that beginFlush meant it to: nothing of it became suspect meanwhile.
func (g *ledger) endFlush() (parked []*request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.flushes = false
	if len(g.flushing) > g.most/8 {
		g.flushing = map[int64]uint64{} // gives memory back
	} else {
		clear(g.flushing)
	}
	if !g.held {
		parked, g.parked = g.parked, nil
	}
	return parked
}

// hold lets no write begin until release, and returns a channel that is closed
// when none is under way.
func (g *ledger) hold() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held, g.none = true, make(chan struct{})
	if g.writes == 0 {
		close(g.none)
	}
	return g.none
}

func (g *ledger) release() (parked []*request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held = false
	parked, g.parked = g.parked, nil
	return parked
}

// suspects returns the numbers of the suspect sectors, ascending.
func (g *ledger) suspects() []int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Sorted(maps.Keys(g.suspect))
}

// verify compares sectors that were read back, p at sector first, and returns how
// many of the first ones are all as they were written, and if none is, how many
// are all not.
func (g *ledger) verify(first int64, p []byte) (same, other int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := int64(0); i < int64(len(p))/g.sector; i++ {
		want, ok := g.suspect[first+i]
		_, bad := g.bad[first+i] // a read came by
		if !bad && (!ok || maphash.Bytes(g.seed, p[i*g.sector:(i+1)*g.sector]) == want) {
			if other > 0 {
				return 0, other
			}
			same++
			continue
		}
		if same > 0 {
			return same, 0
		}
		g.badLocked(first + i)
		other++
	}
	return same, other
}

// mustReport says whether this flush has to fail, once.
func (g *ledger) mustReport() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.doubtLocked()
	report := g.report
	g.report = false
	return report
}
