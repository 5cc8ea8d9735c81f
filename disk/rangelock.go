package disk

import "sync"

// rangeLock hands out ranges of sectors: shared to readers, alone to writers.
// Requests that conflict are served in the order in which they came, so none
// waits for ever. A request holds one range at a time, so none waits for itself.
type rangeLock struct {
	mu sync.Mutex
	// queue holds all requests, served or waiting, in the order of arrival.
	// Guarded by mu. It is as long as there are requests under way, a few dozen.
	queue []*span
}

// span is a request for the sectors from first up to, not including, end.
type span struct {
	first, end int64
	write      bool
	blockers   int           // conflicting requests that came before; guarded by rangeLock.mu
	ready      chan struct{} // closed when blockers gets to 0; nil if it always was
}

func (s *span) conflicts(o *span) bool {
	return (s.write || o.write) && s.first < o.end && o.first < s.end
}

// lock waits for the range of s, which the caller has filled in.
func (l *rangeLock) lock(s *span) {
	l.mu.Lock()
	for _, o := range l.queue {
		if s.conflicts(o) {
			s.blockers++
		}
	}
	if s.blockers > 0 {
		s.ready = make(chan struct{})
	}
	l.queue = append(l.queue, s)
	l.mu.Unlock()
	if s.ready != nil {
		<-s.ready
	}
}

// unlock gives the range of s back.
func (l *rangeLock) unlock(s *span) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := -1
	for i, o := range l.queue {
		if o == s {
			at = i
			continue
		}
		if at < 0 || !s.conflicts(o) {
			continue
		}
		if o.blockers--; o.blockers == 0 {
			close(o.ready)
		}
	}
	if at < 0 {
		panic("disk: a range was given back twice")
	}
	copy(l.queue[at:], l.queue[at+1:])
	l.queue[len(l.queue)-1] = nil
	l.queue = l.queue[:len(l.queue)-1]
}
