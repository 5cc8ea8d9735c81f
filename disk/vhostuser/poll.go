package vhostuser

import "time"

// DefaultPoll is a good value for Server.Poll where cores are free now and then.
const DefaultPoll = 32 * time.Microsecond

// leastPoll is where looking begins.
const leastPoll = 4 * time.Microsecond

// poller decides how long a worker looks for work before it sleeps. As long as
// work comes within max, looking for it costs less than being woken; when it does
// not, the worker does not look at all the next time. So an idle queue costs
// nothing, and one with work now and then max at the most before each sleep.
type poller struct {
	max time.Duration // 0: never look
	now time.Duration
}

// slept tells how long it took until there was something to do.
func (p *poller) slept(d time.Duration) {
	switch {
	case d > p.max:
		p.now = 0
	case d > p.now:
		p.now = min(max(2*p.now, leastPoll), p.max)
	}
}
