package machine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/uvbond/uvbond/disk/nbdclient"
	"github.com/uvbond/uvbond/disk/nbdclient/nbdtest"
	"github.com/uvbond/uvbond/hypervisor/gate"
	"github.com/uvbond/uvbond/hypervisor/storage"
	"github.com/uvbond/uvbond/qmp"
)

// stored is a VM whose disks are on a storage named ceph1.
func stored(t *testing.T, names ...string) (*world, *bonded, *nbdtest.Server) {
	t.Helper()
	w := newWorld(t)
	b := w.bonded(names...)
	// The files of a folder, each as an export of its name.
	k := nbdtest.Nbdkit(t, "file", "dir="+filepath.Dir(b.paths[names[0]]))
	t.Cleanup(func() { // before the storage ends, without which a keeper cannot stop in order
		if inst := b.machine().live(); inst != nil {
			b.machine().Kill(b.machine().Current().Number, "test over")
			<-inst.ended
		}
	})
	s, err := storage.New("ceph1", storage.Config{URI: "nbd+unix:///?socket=" + k.Path, Connections: 2})
	if err != nil {
		t.Fatal(err)
	}
	w.cfg.Storages = map[string]*storage.Storage{"ceph1": s}
	w.restart(nil)
	return w, b, k
}

func (b *bonded) export(name string) qmp.DiskExport {
	return qmp.DiskExport{Name: name, Storage: "ceph1", Export: filepath.Base(b.paths[name])}
}

func (b *bonded) launchFrom(l gate.Launch) error {
	b.w.t.Helper()
	return b.machine().Launch(b.w.t.Context(), l, [32]byte{1})
}

// storageStats are the keeper's, of its first disk; zero while there is no keeper.
func (b *bonded) storageStats() nbdclient.Stats {
	inst := b.machine().live()
	if inst == nil || inst.currentKeeper() == nil {
		return nbdclient.Stats{}
	}
	st, err := inst.currentKeeper().Stats(b.w.t.Context())
	if err != nil || len(st.Disks) == 0 || st.Disks[0].Storage == nil {
		return nbdclient.Stats{}
	}
	return *st.Disks[0].Storage
}

func (b *bonded) connected(what string) {
	b.w.t.Helper()
	eventually(b.w.t, what, func() bool { return b.storageStats().Up == 2 })
}

func TestStorage(t *testing.T) {
	w, b, k := stored(t, "root", "data")
	if err := b.launchFrom(gate.Launch{Exports: []qmp.DiskExport{b.export("root"), b.export("data")}}); err != nil {
		t.Fatal(err)
	}
	b.exec(qmp.CmdCont)
	b.connected("connected at the launch")

	// The server is killed and started again.
	k.Kill()
	eventually(t, "the loss is noticed", func() bool { return b.storageStats().Up == 0 })
	k.Start()
	b.connected("connected after the server was restarted")

	// Connections outlive the daemon, and the next one makes others.
	_, keep := b.pids()
	before := b.storageStats().Connects
	w.restart(nil)
	if _, again := b.pids(); again != keep {
		t.Fatal("another keeper")
	}
	if st := b.storageStats(); st.Up != 2 || st.Connects != before {
		t.Fatalf("the daemon's restart cost connections: %+v", st)
	}
	k.Kill()
	k.Start()
	b.connected("connected by the new daemon")

	// A keeper that dies comes back without the management domain.
	_, keep = b.pids()
	kill(t, keep)
	eventually(t, "another keeper", func() bool {
		_, again := b.pids()
		return again != 0 && again != keep
	})
	b.connected("connected by another keeper")

	// So it does when the daemon was killed as well.
	_, keep = b.pids()
	w.restart(func() { kill(t, keep) })
	if needs := b.machine().live().needsDisks(); needs != nil {
		t.Fatalf("needs %v", needs)
	}
	b.connected("connected by another daemon's keeper")
	qemu, keep := b.pids()
	b.exec(qmp.CmdQuit)
	b.nothingLeft(qemu, keep)
}

// The provider makes an export longer, then the owner the disk on it.
func TestStorageGrows(t *testing.T) {
	_, b, _ := stored(t, "root")
	if err := b.launchFrom(gate.Launch{Exports: []qmp.DiskExport{b.export("root")}}); err != nil {
		t.Fatal(err)
	}
	b.exec(qmp.CmdCont)
	b.connected("connected at the launch")
	size := b.disks[0].Length + 1<<20
	if _, err := b.machine().Grow(t.Context(), gate.Grow{Disk: "root", Size: size}); classOf(err) != qmp.ClassInvalid || !strings.Contains(err.Error(), "the registration needs") {
		t.Fatalf("grown before the export: %v", err)
	}
	if err := os.Truncate(b.paths["root"], int64(b.disks[0].DataOffset+size)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.machine().Grow(t.Context(), gate.Grow{Disk: "root", Size: size}); err != nil {
		t.Fatal(err)
	}
	st, err := b.machine().live().currentKeeper().Stats(t.Context())
	if err != nil || st.Disks[0].Size != size {
		t.Fatalf("%+v, %v", st, err)
	}
	b.connected("connected after it grew")
}

// One disk is a file, the other is not.
func TestStorageAndFile(t *testing.T) {
	w, b, _ := stored(t, "root", "data")
	files := b.files()
	files["data"].Close()
	delete(files, "data")
	if err := b.launchFrom(gate.Launch{Disks: files, Exports: []qmp.DiskExport{b.export("data")}}); err != nil {
		t.Fatal(err)
	}
	b.exec(qmp.CmdCont)
	_, keep := b.pids()
	w.restart(func() { kill(t, keep) })
	if needs := b.machine().live().needsDisks(); len(needs) != 1 || needs[0] != "root" {
		t.Fatalf("needs %v", needs)
	}
	files = b.files()
	files["data"].Close()
	delete(files, "data")
	if err := b.machine().attach(t.Context(), files, "test"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another keeper", func() bool { _, again := b.pids(); return again != 0 })
}

func TestStorageRefused(t *testing.T) {
	_, b, k := stored(t, "root", "data")
	root, data := b.export("root"), b.export("data")
	as := func(x qmp.DiskExport, change func(*qmp.DiskExport)) qmp.DiskExport { change(&x); return x }
	for name, x := range map[string]struct {
		exports []qmp.DiskExport
		want    string
	}{
		"unknown storage": {[]qmp.DiskExport{as(root, func(x *qmp.DiskExport) { x.Storage = "other" }), data}, `no storage "other"`},
		"address":         {[]qmp.DiskExport{as(root, func(x *qmp.DiskExport) { x.Storage = "nbd://10.0.0.1/x" }), data}, "no storage"},
		"no such export":  {[]qmp.DiskExport{as(root, func(x *qmp.DiskExport) { x.Export = "nothing" }), data}, "has no such export"},
		"export's name":   {[]qmp.DiskExport{as(root, func(x *qmp.DiskExport) { x.Export = "a\nb" }), data}, "cannot be named"},
		"swapped":         {[]qmp.DiskExport{as(root, func(x *qmp.DiskExport) { x.Export = data.Export }), as(data, func(x *qmp.DiskExport) { x.Export = root.Export })}, "not the registered disk"},
		"same export":     {[]qmp.DiskExport{root, as(data, func(x *qmp.DiskExport) { x.Export = root.Export })}, "same export"},
		"disk twice":      {[]qmp.DiskExport{root, as(data, func(x *qmp.DiskExport) { x.Name = "root" })}, "two exports"},
		"unknown disk":    {[]qmp.DiskExport{root, data, as(data, func(x *qmp.DiskExport) { x.Name, x.Export = "more", "x" })}, `no disk "more"`},
		"one missing":     {[]qmp.DiskExport{root}, "not handed over"},
	} {
		if err := b.launchFrom(gate.Launch{Exports: x.exports}); classOf(err) != qmp.ClassInvalid || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := b.launchFrom(gate.Launch{Disks: b.files(), Exports: []qmp.DiskExport{root}}); err == nil || !strings.Contains(err.Error(), "as well") {
		t.Errorf("both: %v", err)
	}
	k.Kill()
	began := time.Now()
	err := b.launchFrom(gate.Launch{Exports: []qmp.DiskExport{root, data}})
	if err == nil || !strings.Contains(err.Error(), "cannot be reached") || strings.Contains(err.Error(), k.Path) {
		t.Errorf("storage down: %v", err)
	}
	if time.Since(began) > 10*time.Second {
		t.Error("waited for a server that refuses connections")
	}
	b.nothingLeft()
}
