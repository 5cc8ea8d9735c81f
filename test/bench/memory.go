package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// runMemory measures what a disk costs: memory at depth 128, and wake-ups when
// nobody uses it.
func runMemory(ctx context.Context, o *options) (*report, error) {
	r := &report{
		title: "Memory, and a disk that nobody uses",
		intro: "One process serves 1 or 5 disks over NBD; fio keeps 128 requests under way on each for some seconds. Memory is the most that was resident (VmHWM), " +
			"and what each further disk added to it. Idle: five connected clients that send nothing; context switches of all threads of the server.",
		metrics: []metric{{"resident", "MiB resident", "%.1f", 1.0 / (1 << 20)}, {"each", "MiB for each disk", "%.2f", 1.0 / (1 << 20)},
			{"wakeups", "wake-ups per second, idle", "%.2f", 1}, {"idle", "% of a core, idle", "%.3f", 100}},
		limits: []limit{{"4 KiB random read, depth 128", "UVBond", "each", 8 << 20}, {"1 MiB sequential write, depth 128", "UVBond", "each", 8 << 20}},
	}
	tests := []nbdTest{{"4 KiB random read, depth 128", "randread", "4k", 128}, {"4 KiB random write, depth 128", "randwrite", "4k", 128},
		{"1 MiB sequential read, depth 128", "read", "1M", 128}, {"1 MiB sequential write, depth 128", "write", "1M", 128}}
	p := newProgress(o.rounds*len(tests) + 1)
	defer p.done()
	for range o.rounds {
		for _, t := range tests {
			p.step("memory: " + t.name)
			one, err := residentWith(ctx, o, t, 1)
			if err != nil {
				return nil, err
			}
			five, err := residentWith(ctx, o, t, 5)
			if err != nil {
				return nil, err
			}
			r.add(t.name, "UVBond", sample{"resident": five, "each": (five - one) / 4})
		}
	}
	p.step("memory: idle")
	s, err := idle(ctx, o)
	if err != nil {
		return nil, err
	}
	r.add("five clients that send nothing, 20 s", "UVBond", s)
	return r, nil
}

// manyDisks starts one server for n disks, and returns the sockets.
func manyDisks(o *options, n int) (*peer, []string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	argv := []string{self, "serve-many"}
	var sockets []string
	for i := range n {
		path, err := noise(o, fmt.Sprintf("many-%d", i), 64<<20)
		if err != nil {
			return nil, nil, err
		}
		sockets = append(sockets, filepath.Join(o.dir, fmt.Sprintf("many-%d.sock", i)))
		_ = os.Remove(sockets[i])
		argv = append(argv, path, sockets[i])
	}
	argv[len(argv)-1] = "SOCKET"
	p, err := start(o, "many", nil, argv...)
	if err != nil {
		return nil, nil, err
	}
	sockets[n-1] = p.socket
	return p, sockets, nil
}

func residentWith(ctx context.Context, o *options, t nbdTest, n int) (float64, error) {
	p, sockets, err := manyDisks(o, n)
	if err != nil {
		return 0, err
	}
	defer p.stop()
	failed := make(chan error, n)
	for _, s := range sockets {
		go func() {
			_, err := output(ctx, "fio", "--name=x", "--ioengine=nbd", "--uri=nbd+unix:///?socket="+s, "--rw="+t.rw, "--bs="+t.bs,
				"--iodepth="+strconv.Itoa(t.depth), "--size=64M", "--time_based", "--runtime=2")
			failed <- err
		}()
	}
	for range n {
		if e := <-failed; e != nil {
			err = e
		}
	}
	if err != nil {
		return 0, err
	}
	return status(p.cmd.Process.Pid, "VmHWM")
}

// status returns a size of /proc/PID/status in bytes.
func status(pid int, key string) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == key+":" {
			kib, err := strconv.ParseFloat(f[1], 64)
			return kib * 1024, err
		}
	}
	return 0, fmt.Errorf("no %s for process %d", key, pid)
}

// switches returns how often the threads of a process have gone to sleep.
func switches(pid int) (n float64, err error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(tasks) == 0 {
		return 0, fmt.Errorf("process %d has no threads: %w", pid, err)
	}
	for _, t := range tasks {
		b, err := os.ReadFile(t)
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) == 2 && strings.HasPrefix(f[0], "voluntary") {
				v, _ := strconv.ParseFloat(f[1], 64)
				n += v
			}
		}
	}
	return n, nil
}

// idle holds connections open with qemu-storage-daemon, which sends nothing.
func idle(ctx context.Context, o *options) (sample, error) {
	p, sockets, err := manyDisks(o, 5)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	argv := []string{"qemu-storage-daemon", "--nbd-server", "addr.type=unix,addr.path=SOCKET"}
	for i, s := range sockets {
		argv = append(argv, "--blockdev", fmt.Sprintf("driver=nbd,node-name=n%d,server.type=unix,server.path=%s", i, s))
	}
	c, err := start(o, "idle clients", nil, argv...)
	if err != nil {
		return nil, err
	}
	defer c.stop()
	const watch = 20 * time.Second
	select {
	case <-time.After(2 * time.Second): // it settles
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	before, err := switches(p.cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	cpu, err := p.cpu()
	if err != nil {
		return nil, err
	}
	select {
	case <-time.After(watch):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	after, err := switches(p.cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	end, err := p.cpu()
	return sample{"wakeups": (after - before) / watch.Seconds(), "idle": (end - cpu) / watch.Seconds()}, err
}
