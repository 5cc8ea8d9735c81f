package nbdclient

import (
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk"
	"github.com/uvbond/uvbond/disk/nbd/proto"
)

// queue carries a disk.Queue's Transfers out: requests of one Submit go to the
// server together, and whichever link's reader has an answer puts the Transfer
// where Finished finds it.
type queue struct {
	c     *Client
	event int

	mu       sync.Mutex
	finished []*disk.Transfer // guarded by mu
	flying   int              // guarded by mu
	none     sync.Cond        // flying is 0
}

// transfer is a Transfer under way, in one or more requests.
type transfer struct {
	q    *queue
	t    *disk.Transfer
	left atomic.Int32
	err  atomic.Pointer[error] // of a request that failed
}

var transfers = sync.Pool{New: func() any { return new(transfer) }}

// OpenQueue is disk.QueueOpener; any buffers will do.
func (c *Client) OpenQueue(depth, event int, buffers []byte) (disk.BackendQueue, error) {
	q := &queue{c: c, event: event}
	q.none.L = &q.mu
	return q, nil
}

func (q *queue) Submit(ts []*disk.Transfer) {
	q.mu.Lock()
	q.flying += len(ts)
	q.mu.Unlock()
	for _, t := range ts {
		x := transfers.Get().(*transfer)
		x.q, x.t = q, t
		x.left.Store(1)
		x.err.Store(nil)
		x.start()
		x.part(nil)
	}
	for _, l := range q.c.links {
		l.push(false)
	}
}

func (x *transfer) start() {
	c, t := x.q.c, x.t
	t.N, t.Err = 0, nil
	switch t.Op {
	case disk.Flush:
		if !c.config.ReadOnly && !c.fua {
			x.left.Add(1)
			c.flusher.add(x.request(c.newRequest(proto.CmdFlush, 0, 0, nil)))
		}
	case disk.Trim:
		x.trim()
	case disk.Write:
		if err := c.writable("write", t.Off, int64(len(t.Buf))); err != nil {
			x.fail(err)
			return
		}
		for n := 0; n < len(t.Buf); {
			k := min(len(t.Buf)-n, c.maxBlock)
			x.submit(c.newWrite(t.Buf[n:n+k], t.Off+int64(n)))
			n += k
		}
	case disk.Read:
		x.read()
	}
}

func (x *transfer) read() {
	c, t := x.q.c, x.t
	p := t.Buf
	if rest := c.Size() - t.Off; t.Off < 0 || rest < int64(len(p)) {
		x.fail(fmt.Errorf("nbd: read of %d bytes at %d of %d: %w", len(p), t.Off, c.Size(), unix.EIO))
		return
	}
	if (t.Off|int64(len(p)))%int64(c.minBlock) != 0 {
		x.fail(fmt.Errorf("nbd: read of %d bytes at %d: %w", len(p), t.Off, unix.EINVAL))
		return
	}
	for n := 0; n < len(p); {
		k := min(len(p)-n, c.maxBlock)
		x.submit(c.newRequest(proto.CmdRead, t.Off+int64(n), k, p[n:n+k]))
		n += k
	}
}

func (x *transfer) trim() {
	c, t := x.q.c, x.t
	if err := c.writable("trim", t.Off, t.Len); err != nil {
		x.fail(err)
		return
	}
	if !c.canTrim.Load() {
		x.fail(unix.EOPNOTSUPP)
		return
	}
	for off, n := t.Off, t.Len; n > 0; {
		k := min(n, maxTrim)
		x.submit(c.newRequest(proto.CmdTrim, off, int(k), nil))
		off, n = off+k, n-k
	}
}

func (x *transfer) request(r *request) *request {
	r.owner, r.done = x, partDone
	return r
}

func (x *transfer) submit(r *request) {
	x.left.Add(1)
	x.q.c.submit(x.request(r), false)
}

func partDone(r *request) {
	x := r.owner.(*transfer)
	var err error
	if r.err != nil {
		err = r.failure(r.err)
	}
	r.release()
	x.part(err)
}

func (x *transfer) fail(err error) { x.err.Store(&err) }

// part is told that a request is done, or Submit.
func (x *transfer) part(err error) {
	if err != nil {
		x.fail(err)
	}
	if x.left.Add(-1) > 0 {
		return
	}
	q, t := x.q, x.t
	if e := x.err.Load(); e != nil {
		t.Err = *e
	} else {
		t.N = len(t.Buf)
	}
	x.q, x.t = nil, nil
	transfers.Put(x)
	q.complete(t)
}

func (q *queue) complete(t *disk.Transfer) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.finished = append(q.finished, t); len(q.finished) == 1 {
		signal(q.event) // under the lock: after Close the eventfd may be another's
	}
	if q.flying--; q.flying == 0 {
		q.none.Broadcast()
	}
}

func (q *queue) Finished(dst []*disk.Transfer) []*disk.Transfer {
	q.mu.Lock()
	defer q.mu.Unlock()
	dst = append(dst, q.finished...)
	clear(q.finished)
	q.finished = q.finished[:0]
	return dst
}

// Close waits for what is under way, at most as long as Config.Outage.
func (q *queue) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.flying > 0 {
		q.none.Wait()
	}
	return nil
}

var one = []byte{1, 0, 0, 0, 0, 0, 0, 0}

func signal(event int) {
	for {
		if _, err := unix.Write(event, one); err != unix.EINTR {
			return
		}
	}
}
