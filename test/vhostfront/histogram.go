package vhostfront

import (
	"math/bits"
	"time"
)

// Histogram counts durations in steps of a sixteenth of a power of two.
type Histogram struct {
	counts [64 * 16]uint64
	total  uint64
}

// Record counts d.
func (h *Histogram) Record(d time.Duration) {
	n := uint64(max(d, 0)) | 16
	e := bits.Len64(n) - 5
	h.counts[e*16+int(n>>e)&15]++
	h.total++
}

// Add counts what o counted.
func (h *Histogram) Add(o *Histogram) {
	for i, n := range o.counts {
		h.counts[i] += n
	}
	h.total += o.total
}

// Percentile returns what so many per cent of the durations do not exceed.
func (h *Histogram) Percentile(p float64) time.Duration {
	rank := uint64(float64(h.total) * p / 100)
	var seen uint64
	for i, n := range h.counts {
		if seen += n; n > 0 && seen >= rank {
			return time.Duration(uint64(i%16+17) << (i / 16))
		}
	}
	return 0
}
