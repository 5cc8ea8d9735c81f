// Package poll looks for work for a short while before its owner goes to sleep:
// being woken costs more than the while, for who works and for who brings the work.
// It learns from how long the owner slept whether that pays, and an owner that
// nobody brings work to sleeps at once.
package poll

import "time"

// least is where looking begins.
const least = 4 * time.Microsecond

// Poller decides how long to look. As long as work comes within Most, looking for it
// costs less than being woken; when it does not, the owner does not look at all the
// next time. So an idle owner costs nothing, and one with work now and then Most at
// the most before each sleep. Only one goroutine may use it.
type Poller struct {
	Most time.Duration // 0: never look

	now time.Duration
}

// Look calls found until it returns true or it is time to sleep.
func (p *Poller) Look(found func() bool) bool {
	if p.now <= 0 {
		return false
	}
	for began := time.Now(); ; {
		if found() {
			return true
		}
		if time.Since(began) > p.now {
			return false
		}
	}
}

// Slept tells how long it took, looking and sleeping, until there was work.
func (p *Poller) Slept(d time.Duration) {
	switch {
	case d > p.Most:
		p.now = 0
	case d > p.now:
		p.now = min(max(2*p.now, least), p.Most)
	}
}
