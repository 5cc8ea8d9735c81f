package channel

import (
	"sync"
	"sync/atomic"
	"time"
)

// When a side speaks, and when it gives up: protocol, both ends count on it.
const (
	pingEvery = 15 * time.Second // after this long without sending, a ping is sent
	deadAfter = 45 * time.Second // nothing came, or nothing was taken, for this long
)

// keepAlive sends pings and finds out that the other end is dead. It costs one timer, which
// fires every 15 s at most; traffic does not touch it.
type keepAlive struct {
	conn  *Conn
	began time.Time

	reads  atomic.Int64 // since when the next sealed part is awaited, on the clock of now; 0: none is
	writes atomic.Int64 // since when raw is being written to; 0: it is not
	sent   atomic.Int64 // when the last write ended

	mu      sync.Mutex // guards what follows
	timer   *time.Timer
	stopped bool
}

func (k *keepAlive) start(c *Conn) {
	k.conn, k.began = c, time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.timer = time.AfterFunc(pingEvery, k.tick)
}

func (k *keepAlive) stop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stopped = true
	k.timer.Stop()
}

// now is never 0, and not the wall clock: a clock that is set kills no channel.
func (k *keepAlive) now() int64 { return int64(time.Since(k.began)) + 1 }

func (k *keepAlive) waitsToRead()  { k.reads.Store(k.now()) }
func (k *keepAlive) hasRead()      { k.reads.Store(0) }
func (k *keepAlive) waitsToWrite() { k.writes.Store(k.now()) }

func (k *keepAlive) hasWritten() {
	k.writes.Store(0)
	k.sent.Store(k.now())
}

// tick looks at the channel and plans the next look.
func (k *keepAlive) tick() {
	now, c := k.now(), k.conn
	reads, writes := k.reads.Load(), k.writes.Load()
	if writes != 0 && now-writes >= int64(deadAfter) {
		// A reason could not be written either.
		if c.finish(&Error{Why: TimedOut, Reason: "the other end took nothing for 45 s"}) {
			c.raw.Close()
		}
		return
	}
	if reads != 0 && now-reads >= int64(deadAfter) {
		c.fail(&Error{Why: TimedOut, Reason: "nothing came from the other end for 45 s"})
		return
	}
	next := k.sent.Load() + int64(pingEvery)
	ping := now >= next
	if ping {
		next = now + int64(pingEvery)
	}
	for _, since := range []int64{reads, writes} {
		if since != 0 {
			next = min(next, since+int64(deadAfter))
		}
	}
	k.again(time.Duration(next - now))
	if ping {
		c.ping()
	}
}

func (k *keepAlive) again(after time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.stopped {
		k.timer.Reset(after)
	}
}

// ping sends a ping, unless somebody is writing just now.
func (c *Conn) ping() {
	select {
	case c.writing <- struct{}{}:
		if c.Cause() == nil {
			c.sendRecord(kindPing, "")
		}
		<-c.writing
	default:
	}
}
