package keeper

import (
	"strings"
	"testing"
	"time"

	"github.com/uvbond/uvbond/disk"
)

// TestStats: what a client does is counted by kind, with its latency and depth.
func TestStats(t *testing.T) {
	x := newFixture(t)
	p := x.start(t)
	allowAny(t, p)
	output(t, qemuIO(t, p, "write -P 1 0 64k", "read 0 4k", "read 4k 4k", "flush", "discard 0 64k"))
	s, err := p.Stats(t.Context())
	if err != nil || len(s.Disks) != 1 {
		t.Fatal(s, err)
	}
	d := &s.Disks[0]
	if d.Name != "root" || d.FrontEnd != FrontEndNBD || d.Size != diskSize || d.NBD.Accepted == 0 {
		t.Errorf("%+v", d)
	}
	sum := func(v []uint64) (n uint64) {
		for _, x := range v {
			n += x
		}
		return n
	}
	var requests uint64
	for op, least := range map[disk.Op]uint64{disk.Read: 2, disk.Write: 1, disk.Flush: 1, disk.Trim: 1} {
		o := &d.Device.Ops[op]
		if o.Count < least || o.Errors != 0 || sum(o.Latency[:]) != o.Count {
			t.Errorf("%s: %+v", op, o)
		}
		requests += o.Count
	}
	if w := d.Device.Ops[disk.Write]; w.Bytes != 64<<10 {
		t.Errorf("%d bytes written", w.Bytes)
	}
	if sum(d.Device.Depth[:]) < requests || d.Device.Enciphered < 64<<10+8<<10 || d.Device.Pending != 0 {
		t.Errorf("%+v", d.Device)
	}
}

// TestLimits: limits come with the configuration or later; either way they hold.
// A bucket that is empty makes the rest wait: 2.5 times as many requests as a second has
// cannot be through in less than about 1.5 s.
func TestLimits(t *testing.T) {
	const iops = 100
	reads := make([]string, iops*5/2)
	for i := range reads {
		reads[i] = "read 0 512"
	}
	for name, limit := range map[string]func(*fixture) *Process{
		"at the start": func(x *fixture) *Process {
			x.Config.Disks[0].Limits = disk.Limits{IOPS: iops}
			return x.start(t)
		},
		"later": func(x *fixture) *Process {
			p := x.start(t)
			if err := p.SetLimits(t.Context(), "root", disk.Limits{IOPS: iops}); err != nil {
				t.Fatal(err)
			}
			return p
		},
	} {
		p := limit(newFixture(t))
		allowAny(t, p)
		begin := time.Now()
		if out := output(t, qemuIO(t, p, reads...)); strings.Contains(out, "failed") {
			t.Error(out)
		}
		if took := time.Since(begin); took < time.Second {
			t.Errorf("%s: %d reads in %s under a limit of %d a second", name, len(reads), took, iops)
		}
		if err := p.SetLimits(t.Context(), "root", disk.Limits{Bytes: 1}); err == nil {
			t.Errorf("%s: a limit that starves was taken", name)
		}
		if err := p.SetLimits(t.Context(), "other", disk.Limits{}); err == nil {
			t.Errorf("%s: limits of a disk that is not there", name)
		}
	}
}
