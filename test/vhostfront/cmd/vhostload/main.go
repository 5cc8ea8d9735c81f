// Command vhostload loads a vhost-user-blk back end and prints what it achieved.
//
//	vhostload -socket /tmp/blk.sock -pid 4711 -depth 32 -time 5s
package main

import (
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/uvbond/uvbond/test/vhostfront"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "vhostload:", err)
		os.Exit(1)
	}
}

func run() error {
	socket := flag.String("socket", "", "the back end's `path`")
	queues := flag.Int("queues", 1, "virtqueues")
	size := flag.Int("queue-size", 256, "entries of a ring")
	var l vhostfront.Load
	flag.IntVar(&l.Depth, "depth", 32, "requests at a time on each queue")
	flag.IntVar(&l.Block, "block", 4096, "`bytes` of a request")
	flag.IntVar(&l.WritePart, "write", 0, "`per cent` of the requests that write")
	flag.IntVar(&l.Flush, "flush", 0, "a flush after so many requests; 0 is none")
	flag.BoolVar(&l.Sequential, "sequential", false, "in order instead of at random")
	flag.BoolVar(&l.Verify, "verify", false, "check what is read; overwrites the disk if there are writes")
	flag.DurationVar(&l.Duration, "time", 2*time.Second, "how long")
	flag.DurationVar(&l.Spin, "spin", time.Millisecond, "how long to look at a queue before sleeping")
	flag.IntVar(&l.PID, "pid", 0, "the back end's process, for its CPU time")
	flag.Uint64Var(&l.Seed, "seed", 1, "of the random numbers")
	flag.Parse()
	f, err := vhostfront.Dial(*socket, vhostfront.Options{Queues: *queues, QueueSize: *size, Memory: *queues * l.Depth * (l.Block + 64)})
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := f.Run(l)
	if err != nil {
		return err
	}
	fmt.Printf("iops %.0f MB/s %.1f errors %d cpu/request %v iops/cpu-second %.0f kicks %d sleeps %d p50 %v p99 %v p99.9 %v\n",
		r.IOPS(), r.IOPS()*float64(l.Block)/1e6, r.Errors, r.CPUPerRequest(), float64(r.Requests)/max(r.CPU.Seconds(), 1e-9),
		r.Kicks, r.Sleeps, r.Latency.Percentile(50), r.Latency.Percentile(99), r.Latency.Percentile(99.9))
	return nil
}
