// Package poll looks for work for a short while before its owner goes to sleep:
// waking up costs more than the while, for who works and for who brings the work.
// It learns whether that pays, and an owner that nobody brings work to sleeps.
package poll

import "time"

// Poller decides how long to look. Only one goroutine may use it.
type Poller struct {
	// Most is how long one look takes at most. Zero: it never looks.
	Most time.Duration

	score   int // up to best: how well looking has paid
	skipped int // sleeps without a look since the last one
}

const (
	best = 8
	// probe is how many sleeps there are between two looks when looking did not pay:
	// it bounds what useless looks cost, to Most/probe for each piece of work.
	probe = 16
)

// Look calls found until it returns true or it is time to sleep. The owner calls it
// each time it has nothing to do, once, before it sleeps.
func (p *Poller) Look(found func() bool) bool {
	if p.Most <= 0 {
		return false
	}
	if p.score == 0 {
		if p.skipped++; p.skipped < probe {
			return false
		}
	}
	p.skipped = 0
	end := time.Now().Add(p.Most)
	for {
		if found() {
			p.score = min(best, p.score+2)
			return true
		}
		if !time.Now().Before(end) {
			p.score = max(0, p.score-1)
			return false
		}
	}
}
