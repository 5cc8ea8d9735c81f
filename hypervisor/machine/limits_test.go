package machine

import (
	"testing"

	"github.com/uvbond/uvbond/qmp"
)

// limits returns a disk's limits as the provider sees them, with what its
// keeper has in force.
func (b *bonded) diskState(name string) qmp.DiskState {
	b.w.t.Helper()
	r, err := b.w.m.QueryDisks(b.w.t.Context(), b.id)
	if err != nil {
		b.w.t.Fatal(err)
	}
	for _, d := range r.Disks {
		if d.Name == name {
			return d
		}
	}
	b.w.t.Fatalf("no disk %s in %+v", name, r)
	return qmp.DiskState{}
}

// TestLimits: the provider's limits are in force at once, are the owner's to
// see, and survive keeper and daemon, but not the instance.
func TestLimits(t *testing.T) {
	w := newWorld(t)
	w.stop()
	w.cfg.Limits = qmp.DiskLimits{IOPS: 5000}
	w.start()
	b := w.bonded("root", "data")
	want := qmp.DiskLimits{IOPS: 500, Bytes: 50 << 20, Burst: 2}
	if got := classOf(w.m.SetLimits(t.Context(), b.id, "root", want, "test")); got != "the VM has no running instance" {
		t.Errorf("without an instance: %s", got)
	}
	if r, err := w.m.QueryDisks(t.Context(), b.id); err != nil || len(r.Disks) != 0 {
		t.Errorf("without an instance: %+v, %v", r, err)
	}
	b.up()
	if d := b.diskState("root"); d.Limits != w.cfg.Limits || d.Stats == nil || len(d.Stats.Kinds) != 5 || d.Size == 0 || d.FrontEnd == "" {
		t.Errorf("%+v", d)
	}
	if err := w.m.SetLimits(t.Context(), b.id, "root", want, "operator"); err != nil {
		t.Fatal(err)
	}
	if got := classOf(w.m.SetLimits(t.Context(), b.id, "nodisk", want, "test")); got != qmp.ClassInvalid {
		t.Errorf("unknown disk: %s", got)
	}
	check := func(when string) {
		t.Helper()
		if d := b.diskState("root"); d.Limits != want {
			t.Errorf("%s: %+v", when, d)
		}
		if d := b.diskState("data"); d.Limits != w.cfg.Limits {
			t.Errorf("%s: the other disk has %+v", when, d.Limits)
		}
		if st := b.machine().public(); len(st.Limits) != 2 || st.Limits[0] != (qmp.VMLimits{Disk: "root", IOPS: 500, Bytes: 50 << 20, Burst: 2}) {
			t.Errorf("%s: public %+v", when, st)
		}
	}
	check("at once")
	if !b.recorded("limits", "limits of disk root changed: 500 requests/s, 52428800 bytes/s, burst 2 s") {
		t.Errorf("not in the audit: %+v", b.audit())
	}
	_, keep := b.pids()
	kill(t, keep)
	eventually(t, "a new keeper", func() bool { _, k := b.pids(); return k != 0 && k != keep })
	check("with a new keeper")
	w.restart(nil)
	check("with a new daemon")
	b.exec(qmp.CmdQuit)
	b.up()
	if d := b.diskState("root"); d.Limits != w.cfg.Limits {
		t.Errorf("the next instance begins with %+v", d.Limits)
	}
}
