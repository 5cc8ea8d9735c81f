package disk

import (
	"errors"
	"io"
	"sync"

	"golang.org/x/sys/unix"
)

// Transfer is one operation of a Queue on the Backend.
type Transfer struct {
	Op  Op     // Read, Write, Flush or Trim
	Off int64  // in the Backend
	Buf []byte // of Read and Write: whole sectors of ciphertext
	Len int64  // of Trim

	N   int   // result: bytes read or written, which may be less than asked for
	Err error // result

	piece *piece
}

// BackendQueue carries out Transfers for one Queue. Only one goroutine calls it.
type BackendQueue interface {
	// Submit starts Transfers without waiting for storage. They belong to the
	// BackendQueue until Finished returns them; the slice does not.
	Submit([]*Transfer)
	// Finished appends the Transfers that have come to their end, in any order.
	Finished([]*Transfer) []*Transfer
	// Close waits for all Transfers under way, which are then forgotten.
	Close() error
}

// QueueOpener is a Backend with BackendQueues of its own. event is an eventfd that
// the BackendQueue writes to when a Transfer has come to its end after Submit
// returned; buffers is the memory that most Transfers use.
type QueueOpener interface {
	OpenQueue(depth, event int, buffers []byte) (BackendQueue, error)
}

// run carries t out on b and waits for it.
func (t *Transfer) run(b Backend) {
	switch t.Op {
	case Read:
		t.N, t.Err = b.ReadAt(t.Buf, t.Off)
		if errors.Is(t.Err, io.EOF) {
			t.Err = nil // what is missing tells; io.EOF may also come with the last byte
		}
	case Write:
		t.N, t.Err = b.WriteAt(t.Buf, t.Off)
		if errors.Is(t.Err, io.ErrShortWrite) {
			t.Err = nil
		}
	case Flush:
		t.Err = b.Sync()
	case Trim:
		t.Err = b.PunchHole(t.Off, t.Len)
	}
	t.N = max(0, min(t.N, len(t.Buf)))
}

// inline carries Transfers out in Submit. It is for storage that never makes
// anybody wait, and for callers that want to.
type inline struct {
	backend  Backend
	finished []*Transfer
}

var _ BackendQueue = (*inline)(nil)

func (q *inline) Submit(ts []*Transfer) {
	for _, t := range ts {
		t.run(q.backend)
		q.finished = append(q.finished, t)
	}
}

func (q *inline) Finished(dst []*Transfer) []*Transfer {
	dst = append(dst, q.finished...)
	q.finished = q.finished[:0]
	return dst
}

func (q *inline) Close() error { return nil }

// mostWorkers bounds the goroutines of a Queue on storage that can only be waited
// for: as many Transfers are under way at a time.
const mostWorkers = 16

// workers carries Transfers out on a fixed set of goroutines.
type workers struct {
	backend Backend
	event   int
	most    int
	running int // goroutines; only Submit changes it
	wg      sync.WaitGroup

	mu       sync.Mutex
	more     sync.Cond   // todo or closed has changed
	todo     []*Transfer // guarded by mu
	finished []*Transfer // guarded by mu
	closed   bool        // guarded by mu
}

var _ BackendQueue = (*workers)(nil)

func newWorkers(b Backend, depth, event int) *workers {
	q := &workers{backend: b, event: event, most: max(1, min(depth, mostWorkers))}
	q.more.L = &q.mu
	return q
}

func (q *workers) Submit(ts []*Transfer) {
	for range min(len(ts), q.most-q.running) {
		q.running++
		q.wg.Go(q.work)
	}
	q.mu.Lock()
	q.todo = append(q.todo, ts...)
	q.mu.Unlock()
	for range min(len(ts), q.running) {
		q.more.Signal()
	}
}

func (q *workers) work() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		for len(q.todo) == 0 {
			if q.closed {
				return
			}
			q.more.Wait()
		}
		t := q.todo[0]
		copy(q.todo, q.todo[1:])
		q.todo = q.todo[:len(q.todo)-1]
		q.mu.Unlock()
		t.run(q.backend)
		q.mu.Lock()
		if q.finished = append(q.finished, t); len(q.finished) == 1 {
			signal(q.event)
		}
	}
}

func (q *workers) Finished(dst []*Transfer) []*Transfer {
	q.mu.Lock()
	defer q.mu.Unlock()
	dst = append(dst, q.finished...)
	q.finished = q.finished[:0]
	return dst
}

func (q *workers) Close() error {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.more.Broadcast()
	q.wg.Wait()
	return nil
}

var one = []byte{1, 0, 0, 0, 0, 0, 0, 0}

// signal makes an eventfd readable.
func signal(event int) {
	for {
		if _, err := unix.Write(event, one); err != unix.EINTR {
			return // EAGAIN: it is readable already
		}
	}
}

// drain makes an eventfd unreadable.
func drain(event int) {
	var b [8]byte
	for {
		if _, err := unix.Read(event, b[:]); err != unix.EINTR {
			return
		}
	}
}
