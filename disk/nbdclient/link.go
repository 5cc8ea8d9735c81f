package nbdclient

import (
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/uvbond/uvbond/disk/nbd/proto"
)

const (
	// depth is how many requests one connection has unanswered at most.
	depth = 256

	dialTimeout  = 30 * time.Second
	firstBackoff = 50 * time.Millisecond
	mostBackoff  = 5 * time.Second
	extraBackoff = time.Minute      // while there is another connection
	steady       = 10 * time.Second // a connection that held so long was a good one
)

// link is one connection to the server, and its successors.
type link struct {
	c        *Client
	index    int
	up       atomic.Bool  // as session != nil, to look without locking
	load     atomic.Int32 // requests held
	answered atomic.Bool  // this connection has answered a request
	tried    atomic.Bool  // the log has that it failed while others did not
	kick     chan struct{}
	onUp     func() // called once, when it is up for the first time

	mu      sync.Mutex
	session *session        // nil: down; guarded by mu, as all below
	slots   [depth]*request // unanswered, by the cookie's lowest bits
	free    []uint16        // slots
	serial  uint64          // of cookies
	queue   []*request      // to be sent
	spare   []*request      // memory for queue
	unsent  int             // bytes of the requests held, as the socket counts them
	writing bool            // somebody is sending
	idle    *sync.Cond      // writing became false
	scratch sendBuffer      // whoever is writing has it
	dirty   bool            // acknowledged writes since its last flush; guarded by ledger.mu
}

func newLink(c *Client, index int) *link {
	l := &link{c: c, index: index, kick: make(chan struct{}, 1)}
	l.idle = sync.NewCond(&l.mu)
	return l
}

// run keeps the link connected until the Client is closed. s is its first
// session, or nil.
func (l *link) run(s *session) {
	failures := 0
	for {
		if s == nil {
			if s = l.connect(&failures); s == nil {
				return
			}
		}
		began := time.Now()
		err := l.serve(s)
		s = nil
		l.c.broken(l, err)
		if l.answered.Load() || time.Since(began) > steady {
			failures = 0
		} else {
			failures++
		}
	}
}

// connect tries until there is a session; nil means that the Client is closed.
func (l *link) connect(failures *int) *session {
	for {
		most := mostBackoff
		if l.c.best() != nil {
			most = extraBackoff
		}
		if *failures > 0 && !l.c.pause(backoff(*failures, most)) {
			return nil
		}
		s, err := l.c.open(l.c.ctx, l.index)
		if l.c.ctx.Err() != nil {
			if s != nil {
				s.nc.Close()
			}
			return nil
		}
		if err == nil {
			return s
		}
		*failures++
		l.c.failed(l, err)
	}
}

// backoff is how long to wait after n failures: doubling up to most, and jittered
// so that many clients of one server do not come back together.
func backoff(n int, most time.Duration) time.Duration {
	d := min(firstBackoff<<min(n-1, 16), most)
	return d/2 + rand.N(d)
}

// serve uses s until it breaks, and returns why. No request is held afterwards.
func (l *link) serve(s *session) error {
	l.mu.Lock()
	l.session = s
	l.free = l.free[:0]
	for i := range depth {
		l.free = append(l.free, uint16(depth-1-i))
	}
	l.mu.Unlock()
	l.answered.Store(false)
	l.up.Store(true)
	l.c.connected(l)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		l.writer(stop)
	}()
	err := l.receive(s)
	// In this order: nothing is acknowledged here any more, and nobody can flush
	// over a newer connection before the ledger knows.
	l.c.ledger.lost()
	l.up.Store(false)
	s.nc.Close()
	close(stop)
	<-stopped
	l.c.takeBack(l.empty())
	return err
}

// empty ends the session and returns the requests that were not answered.
func (l *link) empty() []*request {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.session = nil
	for l.writing {
		l.idle.Wait()
	}
	var rest []*request
	for i, r := range l.slots {
		if r != nil {
			rest = append(rest, r)
			l.slots[i] = nil
		}
	}
	clear(l.queue)
	l.queue = l.queue[:0]
	l.unsent = 0
	l.load.Store(0)
	return rest
}

// put takes r over to be sent, unless the link is down or full.
func (l *link) put(r *request) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.session == nil || l.fullLocked() && !r.once || len(l.free) == 0 {
		return false
	}
	slot := l.free[len(l.free)-1]
	l.free = l.free[:len(l.free)-1]
	l.serial++
	r.reset()
	r.cookie = l.serial<<16 | uint64(slot)
	l.slots[slot] = r
	l.queue = append(l.queue, r)
	l.unsent += r.weight()
	l.load.Add(1)
	return true
}

func (l *link) full() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.session != nil && l.fullLocked()
}

// fullLocked leaves one slot for a flush, of which there is one at a time.
func (l *link) fullLocked() bool { return len(l.free) <= 1 }

// dropLocked forgets r, which is answered.
func (l *link) dropLocked(r *request) {
	slot := uint16(r.cookie)
	l.slots[slot] = nil
	l.free = append(l.free, slot)
	l.unsent -= r.weight()
	l.load.Add(-1)
}

// find returns the request that a cookie stands for.
func (l *link) find(cookie uint64) (*request, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if slot := cookie & 0xffff; slot < depth {
		if r := l.slots[slot]; r != nil && r.cookie == cookie && r.state != queued && !r.answered {
			return r, nil
		}
	}
	return nil, violated("an answer to what was not asked")
}

// answer completes r, at once or when its memory is not needed for sending any
// more.
func (l *link) answer(r *request, err error) {
	if !l.answered.Load() {
		l.answered.Store(true)
	}
	l.mu.Lock()
	r.err = err
	if r.state == sending {
		r.answered = true
		l.mu.Unlock()
		return
	}
	l.dropLocked(r)
	l.mu.Unlock()
	l.c.finished(l, r)
}

// breakIf closes the connection if a request on it is older than since.
func (l *link) breakIf(since time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.slots {
		if r != nil && l.session != nil && r.started.Before(since) {
			l.session.nc.Close()
			return true
		}
	}
	return false
}

// hangUp ends the connection; politely, if nothing is under way.
func (l *link) hangUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.session == nil {
		return
	}
	if !l.writing && l.load.Load() == 0 {
		l.session.nc.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		_, _ = l.session.nc.Write(appendRequest(nil, proto.CmdDisconnect, 0, 0, 0, 0))
	}
	l.session.nc.Close()
}

// errShutdown: the server said that it is going down.
var errShutdown = errors.New("nbd: the server is shutting down")
