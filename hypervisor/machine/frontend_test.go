package machine

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/hypervisor/keeper"
	"github.com/uvbond/uvbond/hypervisor/vm"
)

// TestVhostUserChoice: a guest whose code is translated never boots from memory
// that the keeper writes.
func TestVhostUserChoice(t *testing.T) {
	boot, data := bond.Disk{Name: "root", Bus: vm.BusVirtio, Boot: true}, bond.Disk{Name: "data", Bus: vm.BusVirtio}
	for _, c := range []struct {
		virtio, accel string
		boot, data    bool
	}{
		{VirtioAuto, vm.AccelKVM, true, true}, {VirtioAuto, vm.AccelTCG, false, false}, {"", vm.AccelTCG, false, false},
		{VirtioNBD, vm.AccelKVM, false, false}, {VirtioNBD, vm.AccelTCG, false, false},
		{VirtioVhostUser, vm.AccelKVM, true, true}, {VirtioVhostUser, vm.AccelTCG, false, true},
	} {
		w := &world{cfg: Config{Virtio: c.virtio, VM: vm.Config{Accel: c.accel}}}
		i := &instance{machine: &Machine{manager: &Manager{cfg: w.cfg}, log: slog.New(slog.DiscardHandler)}}
		if i.vhostUser(&boot) != c.boot || i.vhostUser(&data) != c.data {
			t.Errorf("%+v: %t %t", c, i.vhostUser(&boot), i.vhostUser(&data))
		}
		for _, bus := range []string{vm.BusIDE, vm.BusSATA, vm.BusNVMe} {
			if i.vhostUser(&bond.Disk{Name: "data", Bus: bus}) {
				t.Errorf("%+v: vhost-user on %s", c, bus)
			}
		}
	}
}

// TestVhostUserStays: what QEMU was started for holds for the instance, for every
// later keeper and daemon, whatever the configuration says by then.
func TestVhostUserStays(t *testing.T) {
	w := newWorld(t)
	w.stop()
	w.cfg.Virtio = VirtioVhostUser
	w.start()
	b := w.bonded("root", "data")
	b.up()
	check := func(when string) {
		t.Helper()
		if r, d := b.diskState("root"), b.diskState("data"); r.FrontEnd != keeper.FrontEndNBD || d.FrontEnd != keeper.FrontEndVhostUser {
			t.Errorf("%s: %s and %s", when, r.FrontEnd, d.FrontEnd)
		}
		sockets := filepath.Join(w.cfg.VM.RunDir, b.id.String(), "sockets")
		for _, name := range []string{"root.nbd", "data.vhost"} {
			if _, err := os.Stat(filepath.Join(sockets, name)); err != nil {
				t.Errorf("%s: %v", when, err)
			}
		}
	}
	check("launched")
	w.stop()
	w.cfg.Virtio = VirtioNBD
	w.start()
	check("with a new daemon")
	_, keep := b.pids()
	kill(t, keep)
	eventually(t, "a new keeper", func() bool { _, k := b.pids(); return k != 0 && k != keep })
	check("with a new keeper")
	_, keep = b.pids()
	w.restart(func() { kill(t, keep); eventually(t, "end", func() bool { return !alive(keep) }) })
	if err := w.m.Attach(t.Context(), b.id, b.files(), "test"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the keeper after attach", func() bool { _, k := b.pids(); return k != 0 })
	check("with new daemon and keeper")
	b.exec("quit")
}
