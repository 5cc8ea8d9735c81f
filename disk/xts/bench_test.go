package xts

import (
	"fmt"
	"testing"
	"time"
)

// Benchmark times every path. Beside the mean, which other load on the machine
// spoils, it reports the best of short bursts.
func Benchmark(b *testing.B) {
	for _, p := range paths {
		for _, sector := range []int{512, 4096} {
			c, err := newCipher(key(1, 64), sector, uint64(sector/512), p)
			if err != nil {
				b.Fatal(err)
			}
			for _, n := range []int{4 << 10, 64 << 10, 1 << 20} {
				name := fmt.Sprintf("%v/sector=%d/call=%dK", p, sector, n>>10)
				b.Run(name+"/encrypt", func(b *testing.B) { bursts(b, n, c.EncryptSectors) })
				b.Run(name+"/decrypt", func(b *testing.B) { bursts(b, n, c.DecryptSectors) })
			}
		}
	}
}

func bursts(b *testing.B, n int, f func(dst, src []byte, first uint64) error) {
	buf := make([]byte, n)
	calls := max(1, 256<<10/n)
	best := time.Hour
	b.SetBytes(int64(calls * n))
	for b.Loop() {
		start := time.Now()
		for range calls {
			if err := f(buf, buf, 0); err != nil {
				b.Fatal(err)
			}
		}
		best = min(best, time.Since(start))
	}
	b.ReportMetric(float64(calls*n)/float64(best.Nanoseconds()), "best-GB/s")
}
