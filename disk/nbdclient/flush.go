package nbdclient

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk/nbd/proto"
)

// flusher carries out flushes, one after the other: all that wait for one share
// the next.
type flusher struct {
	c    *Client
	kick chan struct{}
	end  chan struct{}
	done sync.WaitGroup

	mu      sync.Mutex
	waiting []*request // guarded by mu
	ended   bool       // guarded by mu
	failed  error      // of an early flush that nobody has heard of; the goroutine's
}

var errWritesLost = fmt.Errorf("the server lost writes that it had acknowledged: %w", unix.EIO)

func (f *flusher) start(c *Client) {
	f.c, f.kick, f.end = c, make(chan struct{}, 1), make(chan struct{})
	f.done.Go(f.run)
}

// add makes r, a flush, wait for the next one.
func (f *flusher) add(r *request) {
	f.mu.Lock()
	ended := f.ended
	if !ended {
		f.waiting = append(f.waiting, r)
	}
	f.mu.Unlock()
	if ended {
		r.err = ErrClosed
		r.done(r)
		return
	}
	f.early()
}

// early asks for a flush soon that nobody waits for.
func (f *flusher) early() {
	select {
	case f.kick <- struct{}{}:
	default:
	}
}

func (f *flusher) stop() {
	f.mu.Lock()
	f.ended = true
	f.mu.Unlock()
	close(f.end)
	f.done.Wait()
}

func (f *flusher) run() {
	for {
		select {
		case <-f.end:
			f.round()
			return
		case <-f.kick:
			f.round()
		}
	}
}

func (f *flusher) round() {
	f.mu.Lock()
	rs := f.waiting
	f.waiting = nil
	f.mu.Unlock()
	err := f.c.flush()
	f.c.stats.flushes.Add(1)
	if err == nil {
		err = f.failed
	}
	f.failed = err
	if len(rs) > 0 {
		f.failed = nil
	}
	for _, r := range rs {
		r.err = err
		r.done(r)
	}
}

// flush makes everything that was acknowledged before durable. It goes to every
// link that took a write since its last flush: what a flush on one connection
// means for another is the server's word, and may be another server's.
func (c *Client) flush() error {
	began := time.Now()
	for {
		if time.Since(began) > c.config.Outage {
			return errOutage
		}
		if err := c.recover(); err != nil {
			return err
		}
		links, ok := c.ledger.beginFlush(c.links)
		if !ok {
			continue
		}
		lost, err := c.flushLinks(links)
		if lost || err != nil {
			c.ledger.lost()
		}
		c.reenter(c.ledger.endFlush())
		if err != nil || !lost {
			return err
		}
	}
}

// flushLinks sends a flush to each of links, or to any if there are none: it may
// be another process's writes that are to be flushed.
func (c *Client) flushLinks(links []*link) (lost bool, err error) {
	var rs []*request
	if len(links) == 0 {
		r := c.newRequest(proto.CmdFlush, 0, 0, nil)
		c.submit(r, true)
		rs = append(rs, r)
	}
	for _, l := range links {
		r := c.newRequest(proto.CmdFlush, 0, 0, nil)
		r.once = true
		if !c.submitTo(l, r) {
			r.release()
			lost = true
			continue
		}
		rs = append(rs, r)
	}
	for _, r := range rs {
		<-r.wake
		switch {
		case r.err == errLost:
			lost = true
		case r.err != nil:
			err = r.err
		}
		r.release()
	}
	return lost, err
}

// recover reads back what may have been lost. See the package comment.
func (c *Client) recover() error {
	if !c.ledger.on {
		return nil
	}
	for {
		suspects := c.ledger.suspects()
		if len(suspects) == 0 {
			break
		}
		<-c.ledger.hold()
		err := c.restore(c.ledger.suspects())
		c.reenter(c.ledger.release())
		if err != nil {
			return err
		}
	}
	if c.ledger.mustReport() {
		c.stats.lostWrites.Add(1)
		c.config.Log.Error("nbd: the storage lost writes that it had acknowledged; the disk's user is told so by an I/O error")
		return errWritesLost
	}
	return nil
}

// restore takes sectors, ascending, in runs.
func (c *Client) restore(sectors []int64) error {
	sector := c.ledger.sector
	most := max(int64(min(c.maxBlock, 1<<20))/sector, 1)
	buf := make([]byte, most*sector)
	for len(sectors) > 0 {
		n := int64(1)
		for n < most && n < int64(len(sectors)) && sectors[n] == sectors[0]+n {
			n++
		}
		if err := c.restoreRun(sectors[0], buf[:n*sector]); err != nil {
			return err
		}
		sectors = sectors[n:]
	}
	return nil
}

func (c *Client) restoreRun(first int64, buf []byte) error {
	sector := c.ledger.sector
	if err := c.raw(proto.CmdRead, first*sector, buf); err != nil {
		return err
	}
	for len(buf) > 0 {
		same, other := c.ledger.verify(first, buf)
		if same > 0 {
			if err := c.raw(proto.CmdWrite, first*sector, buf[:same*sector]); err != nil {
				return err
			}
			c.stats.rewritten.Add(uint64(same * sector))
		}
		first += same + other
		buf = buf[(same+other)*sector:]
	}
	return nil
}

// raw is a request of the recovery itself.
func (c *Client) raw(command uint16, off int64, buf []byte) error {
	r := c.newRequest(command, off, len(buf), buf)
	defer r.release()
	r.raw = true
	if command == proto.CmdWrite {
		r.hashes = c.ledger.hash(r.hashes, buf)
	}
	c.submit(r, true)
	<-r.wake
	if r.err != nil {
		return r.failure(r.err)
	}
	return nil
}

// reenter goes on with writes that had to wait.
func (c *Client) reenter(rs []*request) {
	for _, r := range rs {
		c.enter(r, true)
	}
}
