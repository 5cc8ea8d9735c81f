package machine

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/hypervisor/gate"
	"github.com/uvbond/uvbond/hypervisor/keeper"
	"github.com/uvbond/uvbond/hypervisor/machine/machinetest"
	"github.com/uvbond/uvbond/hypervisor/state"
	"github.com/uvbond/uvbond/hypervisor/vm"
	"github.com/uvbond/uvbond/qmp"
)

// TestMain lets the test binary be keeper, confine helper and QEMU.
func TestMain(m *testing.M) {
	if machinetest.IsStub() {
		os.Exit(machinetest.StubMain())
	}
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "confine":
			os.Exit(vm.ConfineMain())
		case "keeper":
			os.Exit(keeper.Main(os.Args[2:]))
		}
	}
	os.Exit(m.Run())
}

// world is a host: a store, a run folder and the manager of one daemon's life.
type world struct {
	t     *testing.T
	dir   string
	cfg   Config
	store *state.Store
	m     *Manager
}

func newWorld(t *testing.T) *world {
	t.Helper()
	// Not t.TempDir: the paths of sockets must stay short.
	dir, err := os.MkdirTemp("", "uvm")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: dir}
	run := filepath.Join(dir, "run")
	w.cfg = Config{
		VM: vm.Config{BinaryPath: machinetest.CopyStub(t), RunDir: filepath.Join(run, "vm"), Accel: vm.AccelTCG, UIDBase: 710000,
			StartTimeout: 20 * time.Second, Logger: slog.New(slog.DiscardHandler)},
		RunDir: run, Version: "test", MaxVMs: 4, Log: slog.New(slog.DiscardHandler),
	}
	w.start()
	t.Cleanup(func() {
		for _, mc := range w.m.list() {
			mc.Kill(mc.Current().Number, "test over")
		}
		w.stop()
		os.RemoveAll(dir)
	})
	return w
}

// start is a daemon's start, stop its orderly end.
func (w *world) start() {
	w.t.Helper()
	store, err := state.Open(filepath.Join(w.dir, "state"), state.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.store = store
	if w.m, err = New(context.Background(), w.cfg, store); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) stop() {
	w.m.Close()
	w.store.Close()
}

func (w *world) restart(between func()) {
	w.t.Helper()
	w.stop()
	if between != nil {
		between()
	}
	w.start()
}

// bonded is a VM with its disks, as its owner has it.
type bonded struct {
	w     *world
	id    bond.VMID
	owner *bond.Bond
	disks []bond.Disk
	paths map[string]string
}

// bonded registers a VM with disks of these names.
func (w *world) bonded(names ...string) *bonded {
	w.t.Helper()
	return w.bondedIn(w.t.TempDir(), names...)
}

// bondedIn puts the disks into a folder.
func (w *world) bondedIn(dir string, names ...string) *bonded {
	w.t.Helper()
	b := &bonded{w: w, paths: map[string]string{}}
	for _, n := range names {
		path, d := machinetest.NewDisk(w.t, dir, n)
		b.disks, b.paths[n] = append(b.disks, d), path
	}
	b.register()
	return b
}

func (b *bonded) register() {
	b.w.t.Helper()
	sealed, owner := machinetest.Register(b.w.t, b.w.store.HostKey().Public(), "", b.disks...)
	b.id, b.owner = owner.VM(), owner
	res, err := b.w.m.Register(b.w.t.Context(), sealed, "test")
	if err != nil {
		b.w.t.Fatal(err)
	}
	if res.VM != b.id.String() {
		b.w.t.Fatalf("registered as %s", res.VM)
	}
}

func (b *bonded) machine() *Machine {
	mc, _ := b.w.m.VM(b.id).(*Machine)
	if mc == nil {
		b.w.t.Fatal("the bond is gone")
	}
	return mc
}

func (b *bonded) files() map[string]*os.File {
	files := map[string]*os.File{}
	for n, p := range b.paths {
		files[n] = machinetest.Open(b.w.t, p)
	}
	return files
}

func (b *bonded) launch(files map[string]*os.File) error {
	b.w.t.Helper()
	return b.machine().Launch(b.w.t.Context(), gate.Launch{Disks: files}, [32]byte{1})
}

// up launches and lets the guest run.
func (b *bonded) up() {
	b.w.t.Helper()
	if err := b.launch(b.files()); err != nil {
		b.w.t.Fatal(err)
	}
	b.exec(qmp.CmdCont)
}

func (b *bonded) exec(command string) {
	b.w.t.Helper()
	if _, err := b.machine().Execute(b.w.t.Context(), b.machine().Current().Number, command, nil, nil); err != nil {
		b.w.t.Fatalf("%s: %v", command, err)
	}
}

// audit returns the whole log, verified.
func (b *bonded) audit() []bond.AuditRecord {
	b.w.t.Helper()
	var out []bond.AuditRecord
	var head [32]byte
	for from := uint64(0); ; {
		c, err := b.machine().ReadAudit(from)
		if err != nil {
			b.w.t.Fatal(err)
		}
		recs, err := c.Verify(head)
		if err != nil {
			b.w.t.Fatal(err)
		}
		out, head, from = append(out, recs...), c.Head, c.Next
		if !c.More {
			return out
		}
	}
}

func (b *bonded) recorded(kind, text string) bool {
	b.w.t.Helper()
	for _, r := range b.audit() {
		if r.Kind == kind && strings.Contains(r.Text, text) {
			return true
		}
	}
	return false
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("timed out: %s", what)
}

func alive(pid int) bool { return unix.Kill(pid, 0) == nil }

// nothingLeft checks that an ended instance has left no process and no file.
func (b *bonded) nothingLeft(pids ...int) {
	b.w.t.Helper()
	for _, pid := range pids {
		eventually(b.w.t, "a process is left", func() bool { return !alive(pid) })
	}
	for _, p := range []string{filepath.Join(b.w.cfg.VM.RunDir, b.id.String()), b.w.m.keeperDir(b.id.String())} {
		if _, err := os.Stat(p); err == nil {
			b.w.t.Errorf("%s is left", p)
		}
	}
	b.w.m.mu.Lock()
	defer b.w.m.mu.Unlock()
	if n := len(b.w.m.slots); n != 0 {
		b.w.t.Errorf("%d slots are still taken", n)
	}
}

func (b *bonded) pids() (qemu, keep int) {
	inst := b.machine().live()
	if inst == nil {
		b.w.t.Fatal("no instance")
	}
	k := inst.currentKeeper()
	if k == nil {
		return inst.qemu.PID(), 0
	}
	return inst.qemu.PID(), k.PID()
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func classOf(err error) string {
	var q *qmp.Error
	if errors.As(err, &q) {
		return q.Class
	}
	if err != nil {
		return err.Error()
	}
	return ""
}
