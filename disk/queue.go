package disk

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// MaxPiece is the most that a Queue transfers at once, in bytes: longer Requests
// are cut into pieces of this size. It fits the cache of a core, so that what was
// just read is deciphered, and copied on by the kernel, while it is there.
const MaxPiece = 128 << 10

// arenaBytes is the memory for ciphertext of a Queue, in which all its Requests
// on Shared data must find room.
const arenaBytes = 1 << 20

// On storage that never waits, Transfers of more than longInPlace bytes are left to
// longWorkers goroutines all the same: copying so much takes longer than waking one,
// and the owner enciphers and speaks with its client meanwhile.
const (
	longInPlace = 64 << 10
	longWorkers = 2
)

// Queue carries out Requests for one owner, who starts them and collects them when
// they are completed. Only one goroutine may use it. A Device has any number of
// Queues; Requests of all of them exclude each other where they must.
//
//	Start ─▶ limits ─▶ range lock ─▶ pieces ─▶ Backend ─▶ cipher ─▶ Completed
//	        (limit.go) (rangelock.go) (piece.go) (transfer.go)
//
// Nothing here waits: the owner sleeps, when nothing is to be done, until FD is
// readable.
type Queue struct {
	dev  *Device
	back BackendQueue
	now  func(*Transfer) // carries a Transfer out at once; nil if back waits
	// longest is the longest Transfer for now, in bytes.
	longest int
	arena   *Arena
	event   int // eventfd

	pending   int         // Requests between Start and Completed
	out       []*Transfer // for the next Submit
	transfers int         // under way in back
	arrived   []*Transfer // scratch
	starved   fifo        // no room in the arena
	feeding   bool        // starved Requests go on
	throttled fifo        // over the limit
	done      []*Request
	spare     []*piece

	stats  queueStats
	clock  int64 // nanoseconds; 0: to be read
	wakeup *time.Timer

	mailed atomic.Bool // there is something in mail, or the time of throttled has come
	mail   struct {
		sync.Mutex
		granted []*Request // whose ranges have become free
		closed  bool
	}
}

// NewQueue returns a Queue on d for depth Requests at a time; more are possible,
// and wait. The owner closes it before d.
func (d *Device) NewQueue(depth int) (*Queue, error) {
	q, err := d.newQueue(arenaBytes)
	if err != nil {
		return nil, err
	}
	if o, ok := d.backend.(QueueOpener); ok {
		if q.back, err = o.OpenQueue(depth, q.event, q.arena.mem); err != nil {
			q.release()
			return nil, fmt.Errorf("disk: new queue: %w", err)
		}
	} else {
		q.back = newWorkers(d.backend, depth, q.event)
	}
	if _, ok := q.back.(*inline); ok {
		q.now, q.longest = func(t *Transfer) { t.run(d.backend) }, longInPlace
		q.back = newWorkers(d.backend, longWorkers, q.event)
	}
	return q, nil
}

// newWaitingQueue returns a Queue that waits for the Backend in Start.
func (d *Device) newWaitingQueue() (*Queue, error) {
	q, err := d.newQueue(64 * arenaBlock)
	if err != nil {
		return nil, err
	}
	q.back = &inline{backend: d.backend}
	q.now, q.longest = func(t *Transfer) { t.run(d.backend) }, MaxPiece
	return q, nil
}

func (d *Device) newQueue(arena int) (*Queue, error) {
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("disk: eventfd: %w", err)
	}
	a, err := NewArena(arena)
	if err != nil {
		unix.Close(event)
		return nil, err
	}
	q := &Queue{dev: d, event: event, arena: a}
	d.stats.add(&q.stats)
	return q, nil
}

// FD is readable while there may be something for Submit and Completed to do. It
// is for poll only.
func (q *Queue) FD() int { return q.event }

// Pending returns how many Requests were started and not yet returned.
func (q *Queue) Pending() int { return q.pending }

// Start begins r, or lets it wait for its turn. An error is in r when it is
// completed.
func (q *Queue) Start(r *Request) {
	q.pending++
	r.started = q.time()
	r.N, r.Err, r.left, r.failed, r.at = 0, nil, 0, -1, place{}
	q.stats.started(q.pending)
	if r.Err = q.dev.admit(r); r.Err != nil {
		q.complete(r)
		return
	}
	if l := q.dev.limit.Load(); l != nil && r.Op != Flush {
		if q.throttled.first != nil || !q.pay(l, r) {
			q.throttled.push(r)
			return
		}
	}
	q.acquire(r)
}

// admit checks r and keeps the Device open for it.
func (d *Device) admit(r *Request) error {
	if r.Op == Read || r.Op == Write {
		r.Len = 0
		for _, s := range r.Data {
			r.Len += int64(len(s))
		}
	}
	if r.Op == Flush {
		r.Off, r.Len = 0, 0
	}
	size := d.Size()
	if r.Off < 0 || r.Len < 0 || r.Off > size || r.Len > size-r.Off {
		return ErrRange
	}
	if d.p.ReadOnly && r.Op != Read && r.Op != Flush {
		return ErrReadOnly
	}
	// Without waiting: a Close under way waits for Requests that this owner has to
	// collect.
	if !d.life.TryRLock() {
		return ErrClosed
	}
	if d.closed {
		d.life.RUnlock()
		return ErrClosed
	}
	r.life = true
	return nil
}

// acquire locks the sectors of r and goes on when it has them.
func (q *Queue) acquire(r *Request) {
	if r.Op == Flush {
		q.begin(r)
		return
	}
	sector := q.dev.sector
	r.span = span{first: r.Off / sector, end: (r.Off + r.Len + sector - 1) / sector, write: r.Op != Read, request: r, owner: q}
	r.locked = true
	if q.dev.locks.lock(&r.span) {
		q.begin(r)
	}
}

// granted is called by whoever gave back the last range that r waited for.
func (q *Queue) granted(r *Request) {
	q.mail.Lock()
	defer q.mail.Unlock()
	q.mail.granted = append(q.mail.granted, r)
	q.wakeLocked()
}

// alarm is called when the time of a throttled Request has come.
func (q *Queue) alarm() {
	q.mail.Lock()
	defer q.mail.Unlock()
	q.wakeLocked()
}

// wakeLocked makes the owner look.
func (q *Queue) wakeLocked() {
	if !q.mail.closed && !q.mailed.Swap(true) {
		signal(q.event)
	}
}

// Submit hands everything that was started to the Backend.
func (q *Queue) Submit() {
	if len(q.out) > 0 {
		q.transfers += len(q.out)
		q.back.Submit(q.out)
		clear(q.out)
		q.out = q.out[:0]
	}
}

// Completed appends the Requests that are completed. It also moves the others on,
// so it is called whenever FD is readable, and after Submit.
func (q *Queue) Completed(dst []*Request) []*Request {
	idle := q.now == nil && q.transfers == 0 && len(q.done) == 0
	for q.collect() {
		q.Submit()
		idle = false
	}
	if idle {
		// A Transfer can be taken before its end is signalled. Nobody would ever
		// take that signal, and the owner would not sleep again.
		drain(q.event)
		for q.collect() { // what the signal was for, if it was another
			q.Submit()
		}
	}
	q.clock = 0
	for _, r := range q.done {
		q.stats.completed(r, q.time()-r.started)
	}
	q.clock = 0
	q.pending -= len(q.done)
	dst = append(dst, q.done...)
	clear(q.done)
	q.done = q.done[:0]
	return dst
}

// collect takes what has come in and reports whether there was anything.
func (q *Queue) collect() bool {
	if q.mailed.Load() {
		q.mailed.Store(false)
		drain(q.event)
		q.readMail()
		return true
	}
	if q.transfers == 0 {
		return false
	}
	q.arrived = q.back.Finished(q.arrived[:0])
	if len(q.arrived) == 0 {
		drain(q.event)
		// What came in just before is not signalled again.
		if q.arrived = q.back.Finished(q.arrived); len(q.arrived) == 0 {
			return q.mailed.Load()
		}
	}
	if q.transfers -= len(q.arrived); q.transfers == 0 {
		drain(q.event) // nobody is to be woken for what was just taken
	}
	for i, t := range q.arrived {
		q.arrived[i] = nil
		q.finished(t)
	}
	return true
}

func (q *Queue) readMail() {
	q.mail.Lock()
	rs := q.mail.granted
	q.mail.granted = nil
	q.mail.Unlock()
	for _, r := range rs {
		q.begin(r)
	}
	for q.throttled.first != nil {
		l := q.dev.limit.Load()
		if l != nil && !q.pay(l, q.throttled.first) {
			return
		}
		q.acquire(q.throttled.pop())
	}
}

// pay takes what r costs from the limit; if that is not there yet, it sets an
// alarm.
func (q *Queue) pay(l *limiter, r *Request) bool {
	n := r.Len
	if r.Op == Trim {
		n = 0 // it moves none: what a guest gives back at once could be years of service
	}
	wait := l.take(n)
	if wait == 0 {
		return true
	}
	if q.wakeup == nil {
		q.wakeup = time.AfterFunc(wait, q.alarm)
	} else {
		q.wakeup.Reset(wait)
	}
	return false
}

// put starts a Transfer.
func (q *Queue) put(t *Transfer) {
	if q.now != nil && len(t.Buf) <= q.longest {
		q.now(t)
		q.finished(t)
		return
	}
	q.out = append(q.out, t)
}

// complete ends r.
func (q *Queue) complete(r *Request) {
	if r.locked {
		r.locked = false
		q.dev.locks.unlock(&r.span)
	}
	if r.life {
		r.life = false
		q.dev.life.RUnlock()
	}
	if r.Err == nil {
		r.N = r.Len
	}
	q.done = append(q.done, r)
}

var epoch = time.Now()

// time returns nanoseconds of a monotonic clock, read once between two calls of
// Completed: Requests of a batch begin and end together.
func (q *Queue) time() int64 {
	if q.clock == 0 {
		q.clock = int64(time.Since(epoch))
	}
	return q.clock
}

// Close waits for everything that was begun, which is then forgotten, and gives
// the memory back. What waits for a limit is not begun any more: that could take
// hours.
func (q *Queue) Close() error {
	for r := q.throttled.pop(); r != nil; r = q.throttled.pop() {
		r.Err = ErrClosed
		q.complete(r)
	}
	var rest []*Request
	for q.pending > 0 {
		q.Submit()
		if rest = q.Completed(rest[:0]); len(rest) == 0 {
			q.wait()
		}
	}
	q.mail.Lock()
	q.mail.closed = true
	q.mail.Unlock()
	if q.wakeup != nil {
		q.wakeup.Stop()
	}
	return errors.Join(q.back.Close(), q.release())
}

// wait sleeps until FD is readable.
func (q *Queue) wait() {
	fds := []unix.PollFd{{Fd: int32(q.event), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); err != unix.EINTR {
			return
		}
	}
}

func (q *Queue) release() error {
	q.dev.stats.remove(&q.stats)
	return errors.Join(q.arena.Close(), unix.Close(q.event))
}

// do carries r out and waits for it.
func (q *Queue) do(r *Request) {
	q.Start(r)
	var done [1]*Request
	for {
		q.Submit()
		if len(q.Completed(done[:0])) > 0 {
			return
		}
		q.wait()
	}
}
