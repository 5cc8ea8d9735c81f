package vhostuser

import "sync/atomic"

// Stats are counters since the Server was made. What the disk does is counted by
// the Device.
type Stats struct {
	Open              uint64 // connections now: one at most
	Accepted, Refused uint64 // connections
	Requests, Errors  uint64 // requests of the guest; Errors were answered with an error
	Resumed           uint64 // requests that a Server before this one had begun
	Calls, Sleeps     uint64 // notifications of the guest; times that a worker went to sleep
	Broken            uint64 // queues that were ended because the guest or front end was out of order
}

type counters struct {
	accepted, refused, requests, errors, resumed, calls, sleeps, broken atomic.Uint64
}

// Stats returns the counters; each is exact, together they are not a snapshot.
func (s *Server) Stats() Stats {
	c := &s.counts
	s.current.Lock()
	var open uint64
	if s.current.session != nil {
		open = 1
	}
	s.current.Unlock()
	return Stats{
		Open:     open,
		Accepted: c.accepted.Load(), Refused: c.refused.Load(), Requests: c.requests.Load(), Errors: c.errors.Load(),
		Resumed: c.resumed.Load(), Calls: c.calls.Load(), Sleeps: c.sleeps.Load(), Broken: c.broken.Load(),
	}
}
