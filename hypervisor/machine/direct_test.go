package machine

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk"
	"github.com/uvbond/uvbond/disk/disktest"
	"github.com/uvbond/uvbond/hypervisor/machine/machinetest"
	"github.com/uvbond/uvbond/qmp"
)

// TestDirectIO: the keeper's file is open with O_DIRECT, the server's is not, and
// the daemon can still read headers from what a keeper gives back.
func TestDirectIO(t *testing.T) {
	w := newWorld(t)
	w.cfg.DirectIO = true
	w.restart(nil)
	b := w.bondedIn(disktest.DirectDir(t), "root")
	offered := b.files()
	again, err := disk.Direct(offered["root"], 4096)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	if err := b.launch(offered); err != nil {
		t.Fatal(err)
	}
	isDirect := func(fd uintptr) bool {
		t.Helper()
		flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
		if err != nil {
			t.Fatal(err)
		}
		return flags&unix.O_DIRECT != 0
	}
	check := func() {
		t.Helper()
		files, err := b.machine().live().currentKeeper().Files(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer closeFiles(files)
		if !isDirect(files["root"].Fd()) {
			t.Error("the keeper's file is not open for direct I/O")
		}
	}
	check()
	for _, f := range b.files() {
		if isDirect(f.Fd()) {
			t.Error("the server's file was changed")
		}
		f.Close()
	}
	w.restart(nil)
	b.storage("root", 2*machinetest.DiskBytes)
	if r, err := b.grow("root", 2*machinetest.DiskBytes); err != nil || r.Guest != qmp.GuestTold {
		t.Errorf("grow after a restart: %+v, %v", r, err)
	}
	check()
	b.exec(qmp.CmdQuit)
}
