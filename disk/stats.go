package disk

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// buckets of a Histogram of latencies: up to 2^n microseconds each, from 1 µs to
// 67 s, and one for all that took longer.
const buckets = 28

// depths of the histogram of queue depths: 1, 2, 4 ... 512 and more.
const depths = 11

// Stats are counters since the Device was opened.
type Stats struct {
	Ops        [ops]OpStats   // by Op
	Depth      [depths]uint64 // requests by how many were under way in their Queue, themselves included: up to 2^i
	Enciphered uint64         // bytes through the cipher, either way
	Pending    uint64         // requests under way
}

// OpStats counts the requests of one kind.
type OpStats struct {
	Count, Errors uint64
	Bytes         uint64          // without errors
	Nanoseconds   uint64          // sum of all latencies
	Latency       [buckets]uint64 // requests that took up to 2^i microseconds and longer than those before; the last: longer
}

// queueStats are the counters of one Queue. Only its owner writes, so no locked
// instruction is needed to add.
type queueStats struct {
	ops   [ops]opCounters
	depth [depths]counter
	bytes counter
	begun counter
	ended counter
}

type opCounters struct {
	count, errors, bytes, nanoseconds counter
	latency                           [buckets]counter
}

// counter has one writer and any number of readers.
type counter struct{ v atomic.Uint64 }

func (c *counter) add(n uint64) { c.v.Store(c.v.Load() + n) }

func (s *queueStats) started(depth int) {
	s.begun.add(1)
	s.depth[min(depths-1, bits.Len(uint(depth-1)))].add(1)
}

func (s *queueStats) completed(r *Request, nanoseconds int64) {
	s.ended.add(1)
	o := &s.ops[r.Op]
	o.count.add(1)
	if r.Err != nil {
		o.errors.add(1)
	} else {
		o.bytes.add(uint64(r.Len))
	}
	o.nanoseconds.add(uint64(nanoseconds))
	us := uint64(nanoseconds+999) / 1000
	i := 0
	if us > 1 {
		i = bits.Len64(us - 1)
	}
	o.latency[min(buckets-1, i)].add(1)
}

func (s *queueStats) enciphered(n int) { s.bytes.add(uint64(n)) }

// sum adds s to t.
func (s *queueStats) sum(t *Stats) {
	for i := range s.ops {
		o, to := &s.ops[i], &t.Ops[i]
		to.Count += o.count.v.Load()
		to.Errors += o.errors.v.Load()
		to.Bytes += o.bytes.v.Load()
		to.Nanoseconds += o.nanoseconds.v.Load()
		for j := range o.latency {
			to.Latency[j] += o.latency[j].v.Load()
		}
	}
	for i := range s.depth {
		t.Depth[i] += s.depth[i].v.Load()
	}
	t.Enciphered += s.bytes.v.Load()
	// Read in this order, so that the difference is not negative.
	ended := s.ended.v.Load()
	t.Pending += s.begun.v.Load() - ended
}

// deviceStats collects the counters of the Queues.
type deviceStats struct {
	mu     sync.Mutex
	queues map[*queueStats]struct{} // guarded by mu
	past   Stats                    // of Queues that are closed; guarded by mu
}

func (d *deviceStats) add(s *queueStats) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.queues == nil {
		d.queues = map[*queueStats]struct{}{}
	}
	d.queues[s] = struct{}{}
}

func (d *deviceStats) remove(s *queueStats) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.queues, s)
	s.sum(&d.past)
}

// Stats returns the counters of all Queues, past ones too.
func (d *Device) Stats() Stats {
	d.stats.mu.Lock()
	defer d.stats.mu.Unlock()
	s := d.stats.past
	for q := range d.stats.queues {
		q.sum(&s)
	}
	return s
}

// LatencyBound returns the upper end of a bucket of OpStats.Latency in seconds;
// the last one has none.
func LatencyBound(i int) float64 { return float64(uint64(1)<<i) / 1e6 }

// LatencyBuckets is how many buckets OpStats.Latency has.
const LatencyBuckets = buckets
