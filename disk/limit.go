package disk

import (
	"fmt"
	"sync"
	"time"
)

// Limits bound what a Device does in a second, over all of its Queues. Zero is
// no limit.
type Limits struct {
	IOPS  uint64 // requests per second; flushes are free
	Bytes uint64 // bytes per second, read and written
	// Burst is for how many seconds' worth of unused IOPS and Bytes are saved up
	// and may be spent at once; 0 means one.
	Burst float64
}

// mostBurst is an hour: more than that is no limit.
const mostBurst = 3600

// minBytes is the least limit in bytes per second: below it a guest's own
// timeouts would strike.
const minBytes = 4096

// Validate says what is wrong with l.
func (l Limits) Validate() error {
	switch {
	case l.Burst < 0 || l.Burst > mostBurst || l.Burst != l.Burst:
		return fmt.Errorf("disk: burst of %v seconds, must be from 0 to %d", l.Burst, mostBurst)
	case l.Bytes > 0 && l.Bytes < minBytes:
		return fmt.Errorf("disk: limit of %d bytes per second, must be 0 or at least %d", l.Bytes, minBytes)
	}
	return nil
}

// limiter is Limits at work: two buckets that fill steadily. A request passes
// when neither is empty, and may take more than there is: the next ones wait for
// it. So requests of any size pass, and the rate holds.
type limiter struct {
	mu         sync.Mutex
	limits     Limits
	last       time.Time // guarded by mu, like the rest
	ops, bytes float64   // what may be spent; negative is owed
}

func newLimiter(l Limits) *limiter {
	if l.Burst == 0 {
		l.Burst = 1
	}
	m := &limiter{limits: l, last: time.Now()}
	m.ops, m.bytes = m.most()
	return m
}

// most is what can be saved up: one request at the least.
func (m *limiter) most() (ops, bytes float64) {
	return max(1, float64(m.limits.IOPS)*m.limits.Burst), float64(m.limits.Bytes) * m.limits.Burst
}

// longestNap bounds a wait, so that a new limit takes effect soon.
const longestNap = 100 * time.Millisecond

// take pays for a request of n bytes, or returns how long to wait before asking
// again.
func (m *limiter) take(n int64) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	passed := now.Sub(m.last).Seconds()
	m.last = now
	mostOps, mostBytes := m.most()
	m.ops = min(mostOps, m.ops+passed*float64(m.limits.IOPS))
	m.bytes = min(mostBytes, m.bytes+passed*float64(m.limits.Bytes))
	var wait float64
	if m.limits.IOPS > 0 && m.ops < 1 {
		wait = (1 - m.ops) / float64(m.limits.IOPS)
	}
	if m.limits.Bytes > 0 && m.bytes <= 0 {
		wait = max(wait, (1-m.bytes)/float64(m.limits.Bytes))
	}
	if wait > 0 {
		return max(10*time.Microsecond, min(longestNap, time.Duration(wait*float64(time.Second))))
	}
	m.ops--
	m.bytes -= float64(n)
	return 0
}

// SetLimits puts new limits into force, for requests that wait too. It fails only
// when Limits.Validate does.
func (d *Device) SetLimits(l Limits) error {
	if err := l.Validate(); err != nil {
		return err
	}
	if l.IOPS == 0 && l.Bytes == 0 {
		d.limit.Store(nil)
		return nil
	}
	d.limit.Store(newLimiter(l))
	return nil
}

// Limits returns the limits in force.
func (d *Device) Limits() Limits {
	if m := d.limit.Load(); m != nil {
		return m.limits
	}
	return Limits{}
}
