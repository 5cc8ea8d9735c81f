package nbd

import "sync/atomic"

// Stats are counters since the server was made.
type Stats struct {
	Open, Accepted, Refused          uint64 // connections
	Reads, Writes, Flushes, Discards uint64 // requests; Discards are trim and write-zeroes
	ReadBytes, WrittenBytes          uint64
	Errors                           uint64 // requests answered with an error
}

type counters struct {
	accepted, refused, reads, writes, flushes, discards, readBytes, writtenBytes, errors atomic.Uint64
}

// Stats returns the counters; each is exact, together they are not a snapshot.
func (s *Server) Stats() Stats {
	c := &s.stats
	return Stats{
		Open: uint64(s.open.Load()), Accepted: c.accepted.Load(), Refused: c.refused.Load(),
		Reads: c.reads.Load(), Writes: c.writes.Load(), Flushes: c.flushes.Load(), Discards: c.discards.Load(),
		ReadBytes: c.readBytes.Load(), WrittenBytes: c.writtenBytes.Load(), Errors: c.errors.Load(),
	}
}

func (c *counters) count(r *job) {
	if r.errno != 0 {
		c.errors.Add(1)
		return
	}
	switch r.command {
	case cmdRead:
		c.reads.Add(1)
		c.readBytes.Add(uint64(r.length))
	case cmdWrite:
		c.writes.Add(1)
		c.writtenBytes.Add(uint64(r.length))
	case cmdFlush:
		c.flushes.Add(1)
	case cmdTrim, cmdWriteZeroes:
		c.discards.Add(1)
	}
}
