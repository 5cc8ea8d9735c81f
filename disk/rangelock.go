package disk

import "sync"

// rangeLock hands out ranges of sectors: shared to readers, alone to writers.
// Requests that conflict are served in the order in which they came, so none
// waits for ever. A request holds one range at a time, so none waits for itself.
type rangeLock struct {
	mu sync.Mutex
	// queue holds all spans, served or waiting, in the order of arrival. Guarded
	// by mu. It is as long as there are requests under way, a few dozen.
	queue []*span
}

// span is a wish for the sectors from first up to, not including, end.
type span struct {
	first, end int64
	write      bool
	blockers   int // conflicting spans that came before; guarded by rangeLock.mu
	request    *Request
	owner      interface{ granted(*Request) } // told when it can go on
}

func (s *span) conflicts(o *span) bool {
	return (s.write || o.write) && s.first < o.end && o.first < s.end
}

// lock asks for the range of s, which the caller has filled in, and reports
// whether it was free. If not, the owner is told when it is.
func (l *rangeLock) lock(s *span) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.blockers = 0
	for _, o := range l.queue {
		if s.conflicts(o) {
			s.blockers++
		}
	}
	l.queue = append(l.queue, s)
	return s.blockers == 0
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
			o.owner.granted(o.request)
		}
	}
	if at < 0 {
		panic("disk: a range was given back twice")
	}
	copy(l.queue[at:], l.queue[at+1:])
	l.queue[len(l.queue)-1] = nil
	l.queue = l.queue[:len(l.queue)-1]
}
