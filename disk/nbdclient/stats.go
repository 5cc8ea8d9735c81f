package nbdclient

import (
	"sync/atomic"

	"github.com/uvbond/uvbond/disk/nbd/proto"
)

// Stats are counters since Open.
type Stats struct {
	Up                      int    // connections, now
	Connects, Lost          uint64 // connections made, and broken
	Failures                uint64 // attempts to connect that failed
	Violations              uint64 // connections ended because the server broke the protocol
	Stalls                  uint64 // connections ended because nothing was answered for too long
	Reads, Writes, Trims    uint64 // requests
	ReadBytes, WrittenBytes uint64
	Flushes                 uint64 // those that were shared or early counted once
	Errors                  uint64 // requests that failed
	Resent                  uint64 // requests sent again after a connection broke
	RewrittenBytes          uint64 // acknowledged writes made sure of after a connection broke
	LostWrites              uint64 // flushes that failed because the server had lost writes
}

type counters struct {
	connects, lost, failures, violations, stalls   atomic.Uint64
	reads, writes, trims, readBytes, writtenBytes  atomic.Uint64
	flushes, errors, resent, rewritten, lostWrites atomic.Uint64
}

// Stats returns the counters; each is exact, together they are not a snapshot.
func (c *Client) Stats() Stats {
	s := &c.stats
	up := 0
	for _, l := range c.links {
		if l.up.Load() {
			up++
		}
	}
	return Stats{
		Up: up, Connects: s.connects.Load(), Lost: s.lost.Load(), Failures: s.failures.Load(),
		Violations: s.violations.Load(), Stalls: s.stalls.Load(),
		Reads: s.reads.Load(), Writes: s.writes.Load(), Trims: s.trims.Load(),
		ReadBytes: s.readBytes.Load(), WrittenBytes: s.writtenBytes.Load(), Flushes: s.flushes.Load(),
		Errors: s.errors.Load(), Resent: s.resent.Load(), RewrittenBytes: s.rewritten.Load(), LostWrites: s.lostWrites.Load(),
	}
}

func (s *counters) count(r *request) {
	if r.err == errLost {
		return // tried again by whoever sent it
	}
	if r.err != nil {
		s.errors.Add(1)
		return
	}
	switch r.command {
	case proto.CmdRead:
		s.reads.Add(1)
		s.readBytes.Add(uint64(r.n))
	case proto.CmdWrite:
		s.writes.Add(1)
		s.writtenBytes.Add(uint64(r.n))
	case proto.CmdTrim:
		s.trims.Add(1)
	}
}
