package channel

import (
	"sync"
	"time"
)

// deadline is a time that can be waited for and changed meanwhile.
type deadline struct {
	mu    sync.Mutex // guards what follows
	over  chan struct{}
	isset uint64 // counts the calls of set
	timer *time.Timer
}

func (d *deadline) init() { d.over = make(chan struct{}) }

// set changes the deadline; zero is none.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.isset++
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	passed := isClosed(d.over)
	left := time.Until(t)
	if !t.IsZero() && left <= 0 {
		if !passed {
			close(d.over)
		}
		return
	}
	if passed {
		d.over = make(chan struct{})
	}
	if t.IsZero() {
		return
	}
	mine := d.isset
	d.timer = time.AfterFunc(left, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.isset == mine {
			close(d.over)
		}
	})
}

// wait returns a channel that is closed when the deadline has passed.
func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.over
}

func (d *deadline) passed() bool { return isClosed(d.wait()) }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
