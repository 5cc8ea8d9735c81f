package disk

import (
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk/uring"
)

// ringWorks says whether io_uring can be used: some kernels and containers forbid
// it.
var ringWorks = sync.OnceValue(func() bool { return uring.Probe() == nil })

// mostRing is how many Transfers of a Queue are under way at a time in a ring.
const mostRing = 256

// File systems take a write that goes to memory first at once, but let a thread of
// the kernel do it if it comes by a ring, which costs four times as much. So such
// writes are done in place, as long as none was slow: when one took slowWrite, for
// it had to wait for storage, goroutines get them for slowTime.
const (
	slowWrite = time.Millisecond
	slowTime  = time.Second
)

// ring carries out with io_uring what the kernel can do without waiting. The rest is
// left to goroutines: flushes, trims, and writes to memory that are slow. The
// kernel would use threads of its own for them, one at least for each thread that
// submits, which wake up every five seconds as long as this program runs.
type ring struct {
	backend *fileBackend
	ring    *uring.Ring
	ready   []*Transfer // done in place
	waiting *workers    // for what waits
	slow    time.Time   // until when writes are slow
	file    *os.File
	fd      int
	slots   []*Transfer // under way, by the number that the kernel gives back
	free    []uint32    // of slots
	backlog []*Transfer
}

var _ BackendQueue = (*ring)(nil)

func openRing(b *fileBackend, depth, event int, buffers []byte) (*ring, error) {
	depth = max(8, min(depth, mostRing))
	r, err := uring.New(depth)
	if err != nil {
		return nil, err
	}
	if err := r.RegisterEventfd(event); err != nil {
		r.Close()
		return nil, err
	}
	if b.direct {
		// Saves the kernel from pinning pages for each request. It counts as
		// locked memory, of which there may be too little: then it is done without.
		_ = r.RegisterBuffers(buffers)
	}
	q := &ring{backend: b, ring: r, waiting: newWorkers(b, depth, event), file: b.f, slots: make([]*Transfer, depth), free: make([]uint32, depth)}
	for i := range q.free {
		q.free[i] = uint32(i)
	}
	// The Backend is closed after its Queues, so the number stays the file's.
	err = b.control("ring", func(fd int) error { q.fd = fd; return nil })
	if err != nil {
		r.Close()
		return nil, err
	}
	return q, nil
}

func (q *ring) Submit(ts []*Transfer) {
	q.ring.Notify(false)
	for _, t := range ts {
		switch {
		case t.Op == Write && !q.backend.direct && q.writeInPlace(t):
		case t.Op == Read || t.Op == Write && q.backend.direct:
			q.backlog = append(q.backlog, t)
		default:
			q.waiting.Submit([]*Transfer{t})
		}
	}
	q.push()
}

func (q *ring) writeInPlace(t *Transfer) bool {
	began := time.Now()
	if began.Before(q.slow) {
		return false
	}
	t.run(q.backend)
	q.ready = append(q.ready, t)
	if now := time.Now(); now.Sub(began) > slowWrite {
		q.slow = now.Add(slowTime)
	}
	return true
}

// push prepares and submits as much of the backlog as there is room for.
func (q *ring) push() {
	n := min(len(q.backlog), len(q.free), q.ring.Room())
	if n == 0 {
		return
	}
	for i, t := range q.backlog[:n] {
		q.prepare(t)
		q.backlog[i] = nil
	}
	q.backlog = append(q.backlog[:0], q.backlog[n:]...)
	if err := q.ring.Submit(); err != nil {
		panic("disk: " + err.Error())
	}
}

func (q *ring) prepare(t *Transfer) {
	slot := q.free[len(q.free)-1]
	q.free = q.free[:len(q.free)-1]
	q.slots[slot] = t
	switch t.Op {
	case Read:
		q.ring.Read(q.fd, t.Buf, t.Off, uint64(slot))
	case Write:
		q.ring.Write(q.fd, t.Buf, t.Off, uint64(slot))
	}
}

func (q *ring) Finished(dst []*Transfer) []*Transfer {
	before := len(dst)
	dst = append(dst, q.ready...)
	clear(q.ready)
	q.ready = q.ready[:0]
	dst = q.waiting.Finished(dst)
	dst = q.reap(dst)
	if len(dst) == before && len(q.free) < len(q.slots) {
		// The owner goes to sleep when there is nothing.
		q.ring.Notify(true)
		dst = q.reap(dst)
	}
	q.push()
	return dst
}

func (q *ring) reap(dst []*Transfer) []*Transfer {
	q.ring.Reap(func(slot uint64, n int, err error) {
		t := q.slots[slot]
		q.slots[slot] = nil
		q.free = append(q.free, uint32(slot))
		if err == unix.EINTR || err == unix.EAGAIN {
			q.backlog = append(q.backlog, t)
			return
		}
		t.N, t.Err = n, nil
		if err != nil {
			t.Err = &os.PathError{Op: t.Op.String(), Path: q.file.Name(), Err: err}
		}
		dst = append(dst, t)
	})
	return dst
}

func (q *ring) Close() error {
	for len(q.free) < len(q.slots) || len(q.backlog) > 0 {
		q.push()
		if err := q.ring.Wait(); err != nil {
			break
		}
		q.reap(nil)
	}
	return errors.Join(q.waiting.Close(), q.ring.Close())
}
