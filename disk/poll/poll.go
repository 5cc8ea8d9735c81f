// Package poll looks for work for a short while before its owner goes to sleep:
// being woken costs more than the while, for who works and for who brings the work.
// It learns from what it finds, and from how long the owner slept, whether that
// pays; an owner that nobody brings work to sleeps at once.
package poll

import "time"

// least is where looking begins.
const least = 4 * time.Microsecond

// A look that finds something makes up for one in vain. When mostVain more were in
// vain, the owner does not look the next rest times: maybe who brings the work waits
// for the very core that is used up by looking.
const (
	mostVain = 4
	rest     = 64
)

// Poller decides how long to look. As long as work comes within Most, looking for it
// costs less than being woken; when it does not, the owner does not look at all the
// next time. So an idle owner costs nothing, and one with work now and then Most at
// the most before each sleep. Only one goroutine may use it.
type Poller struct {
	Most time.Duration // 0: never look

	now  time.Duration
	vain int // looks in vain, less those that found something
	rest int // how many times not to look
}

// Look calls found until it returns true or it is time to sleep.
func (p *Poller) Look(found func() bool) bool {
	if p.now <= 0 {
		return false
	}
	for began := time.Now(); ; {
		if found() {
			p.vain = max(p.vain-1, 0)
			return true
		}
		if time.Since(began) > p.now {
			if p.vain++; p.vain > mostVain {
				p.vain, p.rest = 0, rest
			}
			return false
		}
	}
}

// Slept tells how long it took, looking and sleeping, until there was work.
func (p *Poller) Slept(d time.Duration) {
	if p.rest > 0 {
		p.rest--
		p.now = 0
		return
	}
	switch {
	case d > p.Most:
		p.now = 0
	case d > p.now:
		p.now = min(max(2*p.now, least), p.Most)
	}
}
