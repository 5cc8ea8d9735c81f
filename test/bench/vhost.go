package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/uvbond/uvbond/disk/vhostuser"
	"github.com/uvbond/uvbond/test/vhostfront"
)

// vhostTest is one pattern of access.
type vhostTest struct {
	name   string
	queues int
	load   vhostfront.Load
}

var vhostTests = []vhostTest{
	{"4 KiB random read, depth 32", 1, vhostfront.Load{Block: 4096, Depth: 32}},
	{"4 KiB random write, depth 32", 1, vhostfront.Load{Block: 4096, Depth: 32, WritePart: 100}},
	{"4 KiB random read, depth 1", 1, vhostfront.Load{Block: 4096, Depth: 1}},
	{"128 KiB sequential read, depth 8", 1, vhostfront.Load{Block: 128 << 10, Depth: 8, Sequential: true}},
	{"4 KiB random read, two queues, depth 32 each", 2, vhostfront.Load{Block: 4096, Depth: 32}},
	{"4 KiB random write, two queues, depth 32 each", 2, vhostfront.Load{Block: 4096, Depth: 32, WritePart: 100}},
}

const (
	vhostDaemon = "storage-daemon"
	vhostLUKS   = "storage-daemon LUKS"
)

func runVhost(ctx context.Context, o *options) (*report, error) {
	r := &report{
		title: "vhost-user-blk",
		intro: "The load generator is `test/vhostfront`, a front end of our own that costs little; 512 MiB in tmpfs for each peer. The storage-daemon is QEMU's, with its default of " +
			"threads for a file, and with io_uring. CPU is what the back end used. With two queues, both cores have a queue of the back end and one of the load to share.\n\n" +
			"    qemu-storage-daemon --blockdev driver=file,… [--blockdev driver=luks,…] --export type=vhost-user-blk,num-queues=2,writable=on,…",
		metrics: []metric{{"IOPS", "IOPS", "%.0f", 1}, {"bandwidth", "MB/s", "%.0f", 1e-6}, {"latency", "median latency, µs", "%.1f", 1e6},
			{"CPU", "CPU, µs per request", "%.2f", 1e6}, {"efficiency", "requests per CPU second", "%.0f", 1}},
		promises: []promise{
			{test: vhostTests[0].name, metric: "IOPS", peer: vhostDaemon, least: 1},
			{test: vhostTests[1].name, metric: "IOPS", peer: vhostDaemon, least: 1},
			{test: vhostTests[0].name, metric: "IOPS", peer: vhostLUKS, least: 3},
			{test: vhostTests[1].name, metric: "IOPS", peer: vhostLUKS, least: 3},
			{test: vhostTests[0].name, metric: "efficiency", peer: vhostDaemon, least: 1},
			{test: vhostTests[1].name, metric: "efficiency", peer: vhostDaemon, least: 1},
			{test: vhostTests[4].name, test2: vhostTests[0].name, metric: "IOPS", peer: "UVBond", least: 1.5},
			{test: vhostTests[5].name, test2: vhostTests[1].name, metric: "IOPS", peer: "UVBond", least: 1.5},
		},
	}
	peers, err := vhostPeers(ctx, o)
	for _, p := range peers {
		defer p.stop()
	}
	if err != nil {
		return nil, err
	}
	p := newProgress(o.rounds * len(vhostTests) * len(peers))
	defer p.done()
	for range o.rounds {
		for _, t := range vhostTests {
			for _, peer := range peers {
				if err := ctx.Err(); err != nil {
					return nil, err
				}
				p.step("vhost: " + t.name + ", " + peer.name)
				s, err := t.measure(o, peer)
				if err != nil {
					return nil, fmt.Errorf("%s, %s: %w", t.name, peer.name, err)
				}
				r.add(t.name, peer.name, s)
			}
		}
	}
	return r, nil
}

func vhostPeers(ctx context.Context, o *options) (peers []*peer, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	secret := filepath.Join(o.dir, "secret")
	if err := os.WriteFile(secret, []byte("bench"), 0o600); err != nil {
		return nil, err
	}
	export := []string{"--export", "type=vhost-user-blk,id=e,node-name=top,addr.type=unix,addr.path=SOCKET,num-queues=2,writable=on"}
	for _, s := range []struct {
		name string
		luks bool
		argv []string
	}{
		{"UVBond", false, []string{self, "serve-vhost", "FILE", "SOCKET", "2"}},
		{vhostDaemon, false, append([]string{"qemu-storage-daemon", "--blockdev", "driver=file,node-name=top,filename=FILE"}, export...)},
		{vhostDaemon + " io_uring", false, append([]string{"qemu-storage-daemon", "--blockdev", "driver=file,node-name=top,filename=FILE,aio=io_uring"}, export...)},
		{vhostLUKS, true, append([]string{"qemu-storage-daemon", "--object", "secret,id=s,file=" + secret, "--blockdev", "driver=file,node-name=low,filename=FILE",
			"--blockdev", "driver=luks,node-name=top,file=low,key-secret=s"}, export...)},
	} {
		path, err := dataFile(ctx, o, "vhost "+s.name, s.luks, secret)
		if err != nil {
			return peers, err
		}
		p, err := start(o, "vhost "+s.name, nil, replaceAll(s.argv, "FILE", path)...)
		if err != nil {
			return peers, err
		}
		p.name = s.name
		peers = append(peers, p)
	}
	return peers, nil
}

func (t *vhostTest) measure(o *options, p *peer) (sample, error) {
	l := t.load
	l.Duration, l.PID, l.Seed = time.Duration(o.seconds*float64(time.Second)), p.cmd.Process.Pid, 1
	// The load sleeps like a guest's driver does: it would take the cores away from the
	// back end's queues if it looked all the time.
	l.Spin = 0
	f, err := vhostfront.Dial(p.socket, vhostfront.Options{Queues: t.queues, QueueSize: 256, Memory: t.queues * l.Depth * (l.Block + 4096)})
	if err != nil {
		return nil, err
	}
	defer f.Close()
	res, err := f.Run(l)
	if err != nil {
		return nil, err
	}
	if res.Errors > 0 {
		return nil, fmt.Errorf("%d of %d requests failed", res.Errors, res.Requests)
	}
	return sample{"IOPS": res.IOPS(), "bandwidth": res.IOPS() * float64(l.Block), "latency": res.Latency.Percentile(50).Seconds(),
		"CPU": res.CPUPerRequest().Seconds(), "efficiency": float64(res.Requests) / max(res.CPU.Seconds(), 1e-3)}, nil
}

func serveVhost(args []string) error {
	if len(args) != 3 {
		return errors.New("usage: bench serve-vhost FILE SOCKET QUEUES")
	}
	queues, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	d, err := open(args[0])
	if err != nil {
		return err
	}
	defer d.Close()
	l, err := net.Listen("unix", args[1])
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return (&vhostuser.Server{Device: d, Serial: "vhost", Queues: queues, Poll: vhostuser.DefaultPoll}).Serve(ctx, l)
}
