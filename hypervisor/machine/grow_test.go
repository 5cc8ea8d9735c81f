package machine

import (
	"os"
	"strings"
	"testing"

	"github.com/uvbond/uvbond/disk/luks"
	"github.com/uvbond/uvbond/hypervisor/gate"
	"github.com/uvbond/uvbond/hypervisor/machine/machinetest"
	"github.com/uvbond/uvbond/qmp"
)

// storage makes a disk's file longer, as the server does, for a size of data.
func (b *bonded) storage(name string, size int64) {
	b.w.t.Helper()
	if err := os.Truncate(b.paths[name], luks.DataOffset+size); err != nil {
		b.w.t.Fatal(err)
	}
}

func (b *bonded) grow(name string, size uint64) (*qmp.GrowResult, error) {
	b.w.t.Helper()
	path, ok := b.paths[name]
	if !ok {
		path = b.paths["root"]
	}
	return b.machine().Grow(b.w.t.Context(), gate.Grow{Disk: name, Size: size, File: machinetest.Open(b.w.t, path)})
}

// length is the registered length of a disk.
func (b *bonded) length(name string) uint64 {
	b.w.t.Helper()
	rec, err := b.w.store.Bond(b.id)
	if err != nil {
		b.w.t.Fatal(err)
	}
	defer rec.Wipe()
	for _, d := range rec.Spec.Disks {
		if d.Name == name {
			return d.Length
		}
	}
	return 0
}

// TestGrow: running or not, what the owner authorised is the length from then on.
func TestGrow(t *testing.T) {
	w := newWorld(t)
	b := w.bonded("root", "data")
	const first = machinetest.DiskBytes
	refused := func(what, name string, size uint64, want string) {
		t.Helper()
		before := b.length("root")
		r, err := b.grow(name, size)
		if classOf(err) != qmp.ClassInvalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v, %v", what, r, err)
		}
		if b.length("root") != before {
			t.Errorf("%s: the registered length changed", what)
		}
	}
	refused("storage that did not grow", "root", 2*first, "the registration needs")
	b.storage("root", 4*first)
	refused("shrink", "root", first-4096, "a disk cannot shrink")
	refused("part of a sector", "root", 2*first+512, "multiple of the sector size")
	refused("no such disk", "root2", 2*first, "root2")
	if r, err := b.machine().Grow(t.Context(), gate.Grow{Disk: "root", Size: 2 * first}); classOf(err) != qmp.ClassInvalid {
		t.Errorf("without a file: %+v, %v", r, err)
	}

	// A VM that does not run.
	if r, err := b.grow("root", 2*first); err != nil || *r != (qmp.GrowResult{Old: first, New: 2 * first, Guest: qmp.GuestNextStart}) {
		t.Fatalf("%+v, %v", r, err)
	}
	if !b.recorded("grow", "disk root grew from 1048576 to 2097152 bytes") {
		t.Errorf("not in the audit: %+v", b.audit())
	}
	b.up() // also shows that a file that is longer than registered is no other disk
	if d := b.diskState("root"); d.Size != 2*first {
		t.Errorf("started with %d bytes", d.Size)
	}

	// A VM that runs.
	r, err := b.grow("root", 3*first)
	if err != nil || *r != (qmp.GrowResult{Old: 2 * first, New: 3 * first, Guest: qmp.GuestTold}) {
		t.Fatalf("%+v, %v", r, err)
	}
	if d := b.diskState("root"); d.Size != 3*first {
		t.Errorf("the keeper has %d bytes", d.Size)
	}
	if said, err := b.machine().Execute(t.Context(), b.machine().Current().Number, machinetest.Resized, nil, nil); err != nil || !strings.Contains(string(said), "block_resize") {
		t.Errorf("QEMU was told %s, %v", said, err)
	}
	if d := b.diskState("data"); d.Size != first {
		t.Errorf("the other disk has %d bytes", d.Size)
	}
	refused("beyond the storage", "root", 5*first, "the registration needs")
	if r, err := b.grow("root", 3*first); err != nil || r.Old != 3*first || r.New != 3*first {
		t.Errorf("the same size again: %+v, %v", r, err)
	}

	// The length survives keeper and daemon.
	_, keep := b.pids()
	kill(t, keep)
	eventually(t, "a new keeper", func() bool { _, k := b.pids(); return k != 0 && k != keep })
	w.restart(nil)
	if d := b.diskState("root"); d.Size != 3*first || b.length("root") != 3*first {
		t.Errorf("afterwards: %+v", d)
	}
	b.exec(qmp.CmdQuit)
	b.storage("root", 2*first)
	b.refused("storage that shrank", b.files(), "the registration needs")
}
