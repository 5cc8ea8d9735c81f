package channel

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"testing"
)

// BenchmarkBulk is one way over unix sockets, with the bare socket to compare with.
func BenchmarkBulk(b *testing.B) {
	for _, size := range []int{1, 1 << 10, 32 << 10, 256 << 10} {
		run := func(name string, from io.WriteCloser, to io.Reader) {
			b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
				b.SetBytes(int64(size))
				b.ReportAllocs()
				data, buf := make([]byte, size), make([]byte, 64<<10)
				done := make(chan struct{})
				b.ResetTimer()
				go func() {
					defer close(done)
					for left := size * b.N; left > 0; {
						n, err := to.Read(buf)
						if err != nil {
							b.Error(err)
							return
						}
						left -= n
					}
				}()
				for range b.N {
					if _, err := from.Write(data); err != nil {
						b.Fatal(err)
					}
				}
				<-done
			})
		}
		x, y := sockets(b)
		run("socket", x, y)
		x.Close()
		y.Close()
		x, y = sockets(b)
		tenant, host := opened(b, x, y)
		run("channel", tenant, host)
		tenant.Close()
		host.Close()
	}
}

// BenchmarkRoundTrip is a key press and its echo.
func BenchmarkRoundTrip(b *testing.B) {
	run := func(name string, here, there net.Conn) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			buf := make([]byte, 1)
			for range b.N {
				here.Write(buf)
				if _, err := here.Read(buf); err != nil {
					b.Fatal(err)
				}
			}
		})
		here.Close()
		there.Close()
	}
	echo := func(c net.Conn) {
		buf := make([]byte, 1)
		for {
			if _, err := c.Read(buf); err != nil {
				return
			}
			c.Write(buf)
		}
	}
	x, y := sockets(b)
	go echo(y)
	run("socket", x, y)
	x, y = sockets(b)
	tenant, host := opened(b, x, y)
	go echo(host)
	run("channel", tenant, host)
}

// BenchmarkIdle says what a channel costs that rests.
func BenchmarkIdle(b *testing.B) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	goroutines := runtime.NumGoroutine()
	var all []*Conn
	for range b.N {
		x, y := sockets(b)
		tenant, host := opened(b, x, y)
		if err := readOne(tenant, host); err != nil {
			b.Fatal(err)
		}
		all = append(all, tenant, host)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	n := float64(len(all))
	b.ReportMetric(float64(after.HeapInuse-before.HeapInuse+after.StackInuse-before.StackInuse)/n, "B/end")
	b.ReportMetric(float64(runtime.NumGoroutine()-goroutines)/n, "goroutines/end")
	for _, c := range all {
		c.Close()
	}
}
