package vhostuser

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk"
	"github.com/uvbond/uvbond/disk/poll"
)

// mostTaken is how many requests are taken from a ring before what is completed is
// given back: the driver fills the ring again while the next ones are done.
const mostTaken = 16

// mostHeld is how many segments of memory the requests under way may have before no
// more are taken: it bounds what a queue of long chains costs.
const mostHeld = 8 << 10

// negotiated is what a worker knows of the features.
type negotiated struct {
	indirect, eventIdx bool
	discard, zeroes    bool
	through            bool // every write is on stable storage when it is completed
}

// view is guest memory as one worker uses it, with its requests in there.
type view struct {
	mem     *memory
	pending int
}

// worker serves one virtqueue on a goroutine of its own, which alone uses all that
// is here but for the fields that say otherwise.
type worker struct {
	srv   *Server
	index int
	dq    *disk.Queue
	negotiated

	enabled   bool
	stopping  bool
	dead      error // the ring is not touched any more
	broken    atomic.Bool
	kick      int // the session's, as are call and err
	call      int
	err       int
	addr      vringAddr
	view      *view
	ring      *ring
	mask      uint16
	log       *shared // nil: nothing is logged
	lastAvail uint16  // next entry to take
	used      uint16  // next entry to fill
	published uint16  // what the driver has seen of used
	usedFlags uint16

	requests  []request // by head
	held      int       // segments of those under way
	again     []uint16  // heads that a predecessor did not finish
	completed []*disk.Request
	heads     []uint16 // filled in the used ring since published
	record    []byte   // inflight's memory, until it is opened
	inflight  *inflight

	poll   poll.Poller
	epoll  int
	wake   int // eventfd: there are commands
	ready  bool
	counts *counters

	attention atomic.Bool // any goroutine
	commands  chan func() // any goroutine
	done      chan struct{}
}

// open starts a worker whose first fields are set. It takes over the reference to
// view's memory, even if it fails.
func (w *worker) open(size uint16) (err error) {
	w.mask = size - 1
	w.requests = make([]request, size)
	w.commands, w.done = make(chan func(), 1), make(chan struct{})
	w.poll.Most = w.srv.Poll
	w.epoll, w.wake = -1, -1
	defer func() {
		if err != nil {
			w.close()
			closeFD(&w.wake)
		}
	}()
	if w.dq, err = w.srv.Device.NewQueue(int(size)); err != nil {
		return err
	}
	if w.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	if w.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	if err = errors.Join(w.watch(w.wake, unix.EPOLLIN), w.watch(w.dq.FD(), unix.EPOLLIN)); err != nil {
		return err
	}
	if err = w.watchKick(w.kick); err != nil {
		return err
	}
	go w.run()
	return nil
}

func (w *worker) watch(fd int, events uint32) error {
	e := unix.EpollEvent{Events: events, Fd: int32(fd)}
	if err := unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, fd, &e); err != nil {
		return fmt.Errorf("epoll of an event descriptor: %w", err)
	}
	return nil
}

// watchKick waits for edges: they are enough, and then nobody has to read the
// eventfd, which would be a system call more and could wait for whoever empties
// it first.
func (w *worker) watchKick(fd int) error { return w.watch(fd, unix.EPOLLIN|unix.EPOLLET) }

func (w *worker) unwatch(fd int) {
	_ = unix.EpollCtl(w.epoll, unix.EPOLL_CTL_DEL, fd, nil)
}

// run is the worker's goroutine.
func (w *worker) run() {
	defer close(w.done)
	defer w.close()
	debug.SetPanicOnFault(true)
	w.guard((*worker).begin)
	for {
		if w.attention.Load() {
			w.obey()
		}
		if w.guard((*worker).turn) {
			continue
		}
		if w.stopping && w.dq.Pending() == 0 && (w.dead != nil || len(w.again) == 0) {
			return
		}
		w.idle()
	}
}

// guard runs f, which touches guest memory. If that is gone, the queue is dead.
func (w *worker) guard(f func(*worker) bool) (busy bool) {
	defer func() {
		if v := recover(); v != nil {
			w.fault(v)
			busy = true
		}
	}()
	return f(w)
}

func (w *worker) fault(v any) {
	if e, ok := v.(runtime.Error); ok {
		if _, ok := v.(interface{ Addr() uintptr }); ok {
			w.fail(fmt.Errorf("guest memory is gone: %w", e))
			return
		}
	}
	panic(v)
}

// fail ends the queue: its ring is left alone until the session stops it.
func (w *worker) fail(err error) {
	if w.dead != nil {
		return
	}
	w.dead = err
	w.broken.Store(true)
	w.unwatch(w.kick)
	signal(w.err)
	w.counts.broken.Add(1)
	w.srv.complain(w.index, err)
}

// begin reads what is in the ring, and what a predecessor left there.
func (w *worker) begin() bool {
	w.used = w.ring.usedIndex.load()
	w.published = w.used
	if w.record != nil {
		f, again, err := openInflight(w.record, w.ring.size, w.used)
		if err != nil {
			w.fail(err)
			return true
		}
		// The base that the front end knows may be from before the others died.
		w.inflight, w.again, w.lastAvail = f, again, w.used+uint16(len(again))
		w.counts.resumed.Add(uint64(len(again)))
	}
	// A predecessor may have died before it called.
	signal(w.call)
	return true
}

// turn takes requests from the ring, hands them to the disk and gives back what is
// completed. It reports whether there was anything to do.
func (w *worker) turn() bool {
	taken := 0
	if w.dead == nil {
		if taken = w.take(); taken > 0 {
			w.dq.Submit()
		}
	}
	w.completed = w.completed[:0]
	if w.ready || w.dq.Pending() > 0 {
		w.ready = false
		w.completed = w.dq.Completed(w.completed)
	}
	for _, d := range w.completed {
		r := &w.requests[d.Tag]
		w.held -= len(r.segs)
		if d.Err != nil {
			r.result, r.used = statusIOErr, 1
		}
		w.finish(r)
	}
	if w.used != w.published && w.dead == nil {
		w.publish()
	}
	return taken+len(w.completed) > 0
}

// take starts up to mostTaken requests.
func (w *worker) take() int {
	n := 0
	for ; len(w.again) > 0 && n < mostTaken && w.dead == nil; n++ {
		head := w.again[0]
		w.again = w.again[1:]
		w.start(head, true)
	}
	if !w.enabled || w.stopping || w.dead != nil {
		return n
	}
	waiting := w.ring.availIndex.load() - w.lastAvail
	if waiting > w.ring.size {
		w.fail(fmt.Errorf("the index of the available ring jumped to %d beyond what is taken", waiting))
		return n
	}
	for ; waiting > 0 && n < mostTaken && w.held < mostHeld && w.dead == nil; n, waiting = n+1, waiting-1 {
		head := w.ring.avail[w.lastAvail&w.mask]
		w.lastAvail++
		w.start(head, false)
	}
	return n
}

// start begins the request at head.
func (w *worker) start(head uint16, again bool) {
	if head > w.mask {
		w.fail(fmt.Errorf("head %d of %d", head, w.ring.size))
		return
	}
	r := &w.requests[head]
	if r.busy {
		w.fail(fmt.Errorf("head %d is available twice", head))
		return
	}
	if w.inflight != nil && !again {
		w.inflight.taken(head)
	}
	r.busy, r.head, r.result, r.from = true, head, statusOK, w.view
	w.view.pending++
	err := r.collect(w.ring, w.view.mem, w.indirect)
	if err == nil {
		err = r.parse(w)
	}
	if err != nil {
		w.fail(fmt.Errorf("request at %d: %w", head, err))
		return
	}
	if r.onDisk {
		r.disk.Tag = uint64(head)
		w.held += len(r.segs)
		w.dq.Start(&r.disk)
	} else {
		w.finish(r)
	}
}

// finish puts r into the used ring.
func (w *worker) finish(r *request) {
	if w.dead == nil {
		r.status[0] = r.result
		if w.log != nil {
			w.logRequest(r)
		}
		w.ring.used[w.used&w.mask] = usedElem{uint32(r.head), r.used}
		w.used++
		if w.inflight != nil {
			w.inflight.done(r.head)
			w.heads = append(w.heads, r.head)
		}
		if r.result != statusOK {
			w.counts.errors.Add(1)
		}
	}
	if r.from.pending--; r.from.pending == 0 && r.from != w.view {
		r.from.mem.release()
	}
	r.reset()
}

// publish shows the driver what is in the used ring, and calls it if it wants.
func (w *worker) publish() {
	before := w.published
	if w.inflight != nil {
		w.inflight.mark()
	}
	w.ring.publish(w.usedFlags, w.used)
	if w.inflight != nil {
		w.inflight.published(w.heads, w.used)
		w.heads = w.heads[:0]
	}
	w.published = w.used
	w.counts.requests.Add(uint64(w.used - before))
	if w.log != nil && w.addr.logged {
		w.logUsed(before)
	}
	if w.eventIdx {
		if !needEvent(w.ring.usedEvent.load(), w.used, before) {
			return
		}
	} else if w.ring.availFlags.load()&availNoInterrupt != 0 {
		return
	}
	w.counts.calls.Add(1)
	signal(w.call)
}

func (w *worker) logRequest(r *request) {
	for _, s := range r.spans {
		if err := w.log.mark(s.addr, s.len); err != nil {
			w.fail(err)
		}
	}
}

func (w *worker) logUsed(before uint16) {
	err := w.log.mark(w.addr.log+2, 2)
	for i := before; i != w.used && err == nil; i++ {
		err = w.log.mark(w.addr.log+4+8*uint64(i&w.mask), 8)
	}
	if err != nil {
		w.fail(err)
	}
}

// idle waits until there may be something to do: first it looks for a while, then
// it sleeps.
func (w *worker) idle() {
	began := time.Now()
	if w.listening() {
		if w.dq.Pending() == 0 && w.guard((*worker).spin) {
			return
		}
		if w.guard((*worker).listen) {
			return
		}
	}
	var events [3]unix.EpollEvent
	n, err := unix.EpollWait(w.epoll, events[:], -1)
	if err != nil && err != unix.EINTR {
		w.fail(fmt.Errorf("epoll: %w", err))
		time.Sleep(time.Millisecond)
	}
	for i := range max(n, 0) {
		w.ready = w.ready || int(events[i].Fd) == w.dq.FD()
	}
	if !w.eventIdx {
		w.usedFlags = usedNoNotify // from the next used entries on
	}
	w.counts.sleeps.Add(1)
	w.poll.Slept(time.Since(began))
}

func (w *worker) listening() bool { return w.dead == nil && w.enabled && !w.stopping }

// spin looks at the ring for a while.
func (w *worker) spin() bool {
	return w.poll.Look(func() bool {
		for range 32 {
			if w.ring.availIndex.load() != w.lastAvail || w.attention.Load() {
				return true
			}
		}
		return false
	})
}

// listen asks the driver to kick, and looks once more.
func (w *worker) listen() bool {
	if w.eventIdx {
		w.ring.availEvent.store(w.lastAvail)
	} else {
		w.usedFlags = 0
		w.ring.publish(0, w.published)
	}
	return w.ring.availIndex.load() != w.lastAvail
}

// obey carries out what the session wants.
func (w *worker) obey() {
	w.attention.Store(false)
	relieve(w.wake)
	for {
		select {
		case f := <-w.commands:
			f()
		default:
			return
		}
	}
}

// do runs f on the worker's goroutine and waits for it. call is the descriptor on
// which a hostile front end could let the worker wait.
func (w *worker) do(call int, f func()) {
	done := make(chan struct{})
	w.commands <- func() { f(); close(done) }
	w.attention.Store(true)
	signal(w.wake)
	await(done, call)
}

// stop takes no more requests, waits for those under way, and returns where the
// next one would have been.
func (w *worker) stop(call int) uint16 {
	w.do(call, func() { w.stopping = true })
	await(w.done, call)
	closeFD(&w.wake) // only now: do writes to it after its function may have run
	return w.lastAvail
}

func await(done chan struct{}, call int) {
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-done:
			return
		case <-t.C:
			relieve(call)
		}
	}
}

// setMemory replaces guest memory. Requests under way go on in the old one.
func (w *worker) setMemory(m *memory, g *ring) {
	old := w.view
	w.view, w.ring = &view{mem: m}, g
	if old.pending == 0 {
		old.mem.release()
	}
}

// close gives everything back.
func (w *worker) close() {
	if w.dq != nil {
		if err := w.dq.Close(); err != nil {
			w.srv.log().Warn("vhost-user: closing a queue", "queue", w.index, "err", err)
		}
	}
	views := map[*view]bool{w.view: true}
	for i := range w.requests {
		if r := &w.requests[i]; r.from != nil {
			views[r.from] = true
			r.reset()
		}
	}
	for v := range views {
		v.mem.release()
	}
	w.view, w.ring, w.requests = nil, nil, nil
	w.inflight, w.record, w.log = nil, nil, nil
	closeFD(&w.epoll)
}
