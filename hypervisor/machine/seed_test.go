package machine

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/hypervisor/machine/machinetest"
	"github.com/uvbond/uvbond/qmp"
)

const seedMarker = "marker of the owner's user data"

// seeded registers a VM with a first boot.
func (w *world) seeded(change func(*bond.Spec), names ...string) *bonded {
	w.t.Helper()
	return w.registered(func(s *bond.Spec) {
		s.Seed = &bond.Seed{UserData: bond.NewSecret([]byte("#cloud-config\n# " + seedMarker + "\n"))}
		change(s)
	}, names...)
}

// registered registers a VM whose specification was changed.
func (w *world) registered(change func(*bond.Spec), names ...string) *bonded {
	w.t.Helper()
	b := &bonded{w: w, paths: map[string]string{}}
	dir := w.t.TempDir()
	for _, n := range names {
		path, d := machinetest.NewDisk(w.t, dir, n)
		b.disks, b.paths[n] = append(b.disks, d), path
	}
	sealed, owner := machinetest.RegisterSpec(w.t, w.store.HostKey().Public(), "", change, b.disks...)
	b.id, b.owner = owner.VM(), owner
	if _, err := w.m.Register(w.t.Context(), sealed, "test"); err != nil {
		w.t.Fatal(err)
	}
	return b
}

func (b *bonded) cmdline() string {
	b.w.t.Helper()
	qemu, _ := b.pids()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", qemu))
	if err != nil {
		b.w.t.Fatal(err)
	}
	return strings.ReplaceAll(string(text), "\x00", "\n")
}

// TestSeed launches VMs with a first boot: one more disk, on the bus of the boot
// disk, that nothing boots from and that the management domain does not see.
func TestSeed(t *testing.T) {
	for _, c := range []struct {
		name, bus, machine string
		disks              int
		device             string // how QEMU has it
		readOnly           bool
	}{
		{"virtio", "virtio", "pc", 1, `"driver":"virtio-blk-pci"`, true},
		{"ide", "ide", "pc", 3, `"bus":"ide.1","unit":1`, false},
		{"ide is full", "ide", "pc", 4, `"driver":"virtio-blk-pci"`, true},
		{"sata", "sata", "q35", 6, `"bus":"ahci1.0"`, false},
		{"nvme", "nvme", "q35", 1, `"driver":"nvme"`, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			var names []string
			for i := range c.disks {
				names = append(names, fmt.Sprintf("d%d", i))
			}
			b := w.seeded(func(s *bond.Spec) {
				s.Machine = c.machine
				for i := range s.Disks {
					s.Disks[i].Bus = c.bus
				}
			}, names...)
			b.up()
			var device, blockdev string
			for line := range strings.Lines(b.cmdline()) {
				switch {
				case strings.Contains(line, `"id":"dev-cidata"`):
					device = line
				case strings.Contains(line, `"node-name":"disk-cidata"`):
					blockdev = line
				}
			}
			if !strings.Contains(device, c.device) || strings.Contains(device, "bootindex") {
				t.Errorf("device %s", device)
			}
			if !strings.Contains(blockdev, fmt.Sprintf(`"read-only":%t`, c.readOnly)) {
				t.Errorf("read-only should be %t: %s", c.readOnly, blockdev)
			}
			res, err := w.m.QueryDisks(t.Context(), b.id)
			if err != nil || len(res.Disks) != c.disks {
				t.Errorf("%d disks are told of: %v", len(res.Disks), err)
			}
			if err := w.m.SetLimits(t.Context(), b.id, bond.SeedDisk, qmp.DiskLimits{IOPS: 1}, "test"); classOf(err) != qmp.ClassInvalid {
				t.Errorf("limits of the first boot's disk: %v", err)
			}
		})
	}
}

// TestSeedSurvives: a keeper that died, and one that a new daemon has to start, serve
// the first boot again, and its content is in no file of the daemon's.
func TestSeedSurvives(t *testing.T) {
	w := newWorld(t)
	b := w.seeded(func(*bond.Spec) {}, "root")
	b.up()
	served := func() bool {
		inst := b.machine().live()
		if inst == nil {
			return false
		}
		k := inst.currentKeeper()
		return k != nil && alive(k.PID()) && k.Sockets().Disks[bond.SeedDisk] != nil
	}
	_, old := b.pids()
	kill(t, old)
	eventually(t, "no other keeper", func() bool {
		_, now := b.pids()
		return now != 0 && now != old && served()
	})
	w.restart(nil)
	if !served() {
		t.Error("the adopted keeper's seed is gone")
	}
	_, old = b.pids()
	kill(t, old)
	eventually(t, "no keeper of the new daemon", func() bool {
		_, now := b.pids()
		return now != 0 && now != old && served()
	})
	files := 0
	err := filepath.WalkDir(w.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		files++
		text, err := os.ReadFile(path)
		if bytes.Contains(text, []byte(seedMarker)) {
			t.Errorf("the marker is in %s", path)
		}
		return err
	})
	if err != nil || files < 3 {
		t.Errorf("%d files: %v", files, err)
	}
}
