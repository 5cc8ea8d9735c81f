package qmp

import (
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	k := KindStats{Count: 100, Nanoseconds: 100_000, Latency: []uint64{50, 48, 0, 1, 1}}
	for q, want := range map[float64]time.Duration{0: 1, 0.5: 1, 0.51: 2, 0.98: 2, 0.99: 8, 1: 16} {
		if got := k.Quantile(q); got != want*time.Microsecond {
			t.Errorf("%v: %s", q, got)
		}
	}
	if k.Mean() != time.Microsecond {
		t.Error(k.Mean())
	}
	var none KindStats
	if none.Quantile(0.5) != 0 || none.Mean() != 0 {
		t.Error("something of nothing")
	}
}

func TestDiskLimits(t *testing.T) {
	for text, l := range map[string]DiskLimits{
		"none": {Burst: 7}, "100 requests/s, burst 1 s": {IOPS: 100}, "4194304 bytes/s, burst 60 s": {Bytes: 4 << 20, Burst: 60},
	} {
		if l.String() != text || l.Validate() != nil {
			t.Errorf("%s: %s, %v", text, l, l.Validate())
		}
	}
	for _, l := range []DiskLimits{{IOPS: 1}, {IOPS: 99}, {Bytes: 4<<20 - 1}, {Burst: 61}} {
		if l.Validate() == nil {
			t.Errorf("%+v passes", l)
		}
	}
}
