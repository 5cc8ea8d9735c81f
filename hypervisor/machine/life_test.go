package machine

import (
	"errors"
	"math"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/channel/console"
	"github.com/uvbond/uvbond/hypervisor/gate"
	"github.com/uvbond/uvbond/hypervisor/machine/machinetest"
	"github.com/uvbond/uvbond/hypervisor/state"
	"github.com/uvbond/uvbond/qmp"
)

func TestLaunchAndEnds(t *testing.T) {
	w := newWorld(t)
	b := w.bonded("root")
	for n, end := range []struct {
		name  string
		do    func()
		state string
		audit string
	}{
		{"quit", func() { b.exec(qmp.CmdQuit) }, qmp.StateStopped, "powered off"},
		{"kill", func() { b.machine().Kill(b.machine().Current().Number, "its boot was not completed") }, qmp.StateStopped, "not completed"},
		{"guest", func() { b.exec(machinetest.PowerOff) }, qmp.StateStopped, "the guest shut down"},
		{"crash", func() {
			_, _ = b.machine().Execute(t.Context(), b.machine().Current().Number, machinetest.Crash, nil, nil)
		}, qmp.StateCrashed, "QEMU ended by itself"},
	} {
		b.up()
		if st := b.machine().State(); st != qmp.StateRunning {
			t.Errorf("%s: state %s", end.name, st)
		}
		if cur := b.machine().Current(); cur.Number != uint64(n+1) || !cur.Live || cur.Descriptor.Instance != cur.Number {
			t.Errorf("%s: %+v", end.name, cur)
		}
		if got := classOf(b.launch(b.files())); got != qmp.ClassRunning {
			t.Errorf("second launch: %s", got)
		}
		qemu, keep := b.pids()
		end.do()
		eventually(t, end.name, func() bool { return !b.machine().Current().Live })
		b.nothingLeft(qemu, keep)
		if st := b.machine().State(); st != end.state {
			t.Errorf("%s: state afterwards %s, want %s", end.name, st, end.state)
		}
		if !b.recorded("exit", end.audit) {
			t.Errorf("%s: the audit does not say %q: %+v", end.name, end.audit, b.audit())
		}
		if _, err := b.machine().Execute(t.Context(), uint64(n+1), qmp.CmdStop, nil, nil); !errors.Is(err, gate.ErrNotRunning) {
			t.Errorf("%s: hypercall afterwards: %v", end.name, err)
		}
	}
	w.restart(nil)
	if st := b.machine().State(); st != qmp.StateCrashed {
		t.Errorf("after a restart the crash is forgotten: %s", st)
	}
}

// TestEndsWhileKeeperIsReplaced: QEMU may end when a new keeper has just started and
// nobody has told it of QEMU yet.
func TestEndsWhileKeeperIsReplaced(t *testing.T) {
	w := newWorld(t)
	b := w.bonded("root")
	b.up()
	inst := b.machine().live()
	qemu, keep := b.pids()
	inst.keepers.Lock() // the daemon's own attempt waits
	kill(t, keep)
	eventually(t, "the end of the keeper", func() bool { return inst.currentKeeper() == nil })
	rec, err := b.machine().store.Bond(b.id)
	if err != nil {
		t.Fatal(err)
	}
	defer rec.Wipe()
	k, err := inst.startKeeper(t.Context(), &rec.Spec)
	if err != nil {
		t.Fatal(err)
	}
	inst.dismantle(console.End{Why: console.InstanceCrashed})
	if inst.introduce(t.Context(), k) {
		t.Error("a keeper was introduced to an instance that is no more")
	}
	<-k.Done()
	if inst.report() {
		t.Error("reports are taken, and nobody waits for them any more")
	}
	inst.keepers.Unlock()
	kill(t, qemu)
	<-inst.ended
	if b.recorded("restart", "keeper of the disks was started again") {
		t.Error("the keeper is in the audit log")
	}
	b.up()
}

func TestDescriptorIsNew(t *testing.T) {
	w := newWorld(t)
	b := w.bonded("root")
	seen := map[[32]byte]bool{}
	for range 3 {
		b.up()
		d := b.machine().Current().Descriptor
		if seen[d.Value] || d.BootNonce != [32]byte{1} {
			t.Error("the descriptor is not new")
		}
		seen[d.Value] = true
		b.exec(qmp.CmdQuit)
	}
}

func TestRestart(t *testing.T) {
	w := newWorld(t)
	b := w.bonded("root", "data")
	b.up()
	before := b.machine().Current()
	qemu, keep := b.pids()

	// The daemon alone: everything runs on, the descriptor stays.
	w.restart(nil)
	if cur := b.machine().Current(); cur != before || b.machine().State() != qmp.StateRunning {
		t.Errorf("after a restart: %+v, %s", cur, b.machine().State())
	}
	if q, k := b.pids(); q != qemu || k != keep {
		t.Errorf("processes changed: %d %d", q, k)
	}

	// The keeper alone: it comes back on the ciphertext that the daemon holds.
	kill(t, keep)
	eventually(t, "a new keeper", func() bool { _, k := b.pids(); return k != 0 && k != keep })
	_, keep = b.pids()
	eventually(t, "the record of it", func() bool { return b.recorded("restart", "keeper of the disks was started again") })
	w.restart(nil)
	if _, k := b.pids(); k != keep {
		t.Errorf("the new keeper was not found: %d, want %d", k, keep)
	}

	// Daemon and keeper: the server must offer the disks again.
	w.restart(func() { kill(t, keep); eventually(t, "end", func() bool { return !alive(keep) }) })
	if st := b.machine().public(); len(st.NeedsDisks) != 2 || st.State != qmp.StateRunning {
		t.Errorf("public: %+v", st)
	}
	swapped := b.files()
	swapped["root"], swapped["data"] = swapped["data"], swapped["root"]
	if got := classOf(w.m.Attach(t.Context(), b.id, swapped, "test")); got != qmp.ClassInvalid {
		t.Errorf("swapped disks at attach: %s", got)
	}
	if err := w.m.Attach(t.Context(), b.id, b.files(), "test"); err != nil {
		t.Error(err)
	}
	eventually(t, "the keeper after attach", func() bool { _, k := b.pids(); return k != 0 })
	if got := classOf(w.m.Attach(t.Context(), b.id, b.files(), "test")); got != qmp.ClassInvalid {
		t.Errorf("attach that is not needed: %s", got)
	}
	if !b.recorded("refused", "disks offered again are refused") {
		t.Error("the audit lacks the swapped disks")
	}

	// Everything: recorded as a crash, nothing left.
	_, keep = b.pids()
	w.restart(func() {
		kill(t, qemu)
		kill(t, keep)
		eventually(t, "end", func() bool { return !alive(qemu) && !alive(keep) })
	})
	if b.machine().State() != qmp.StateCrashed || b.machine().Current().Live {
		t.Errorf("state %s", b.machine().State())
	}
	b.nothingLeft(qemu, keep)
	b.up()
	if n := b.machine().Current().Number; n != before.Number+1 {
		t.Errorf("instance %d", n)
	}
}

// TestQEMUDiesWhileDown: the keeper that is left must not stay.
func TestQEMUDiesWhileDown(t *testing.T) {
	w := newWorld(t)
	b := w.bonded("root")
	b.up()
	qemu, keep := b.pids()
	w.restart(func() { kill(t, qemu); eventually(t, "end", func() bool { return !alive(qemu) }) })
	b.nothingLeft(qemu, keep)
	if !b.recorded("exit", reasonUnseen) {
		t.Error("the audit does not have it")
	}
}

// TestGuestShutsDownWhileDown: a guest that switched itself off meanwhile is no crash.
func TestGuestShutsDownWhileDown(t *testing.T) {
	w := newWorld(t)
	b := w.bonded("root")
	b.up()
	inst := b.machine().live()
	w.m.Close() // lets go, so that nobody sees the event
	rec := inst.qemu.Record()
	c, err := qmp.Dial(t.Context(), rec.QMPPath)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Execute(t.Context(), machinetest.PowerOff, nil, nil); err != nil {
		t.Fatal(err)
	}
	c.Close()
	w.store.Close()
	w.start()
	eventually(t, "reaped", func() bool { return !b.machine().Current().Live })
	if st := b.machine().State(); st != qmp.StateStopped {
		t.Errorf("state %s", st)
	}
}

// TestOrphans: what a daemon started and did not live to record is ended by the next.
func TestOrphans(t *testing.T) {
	w := newWorld(t)
	kept, lost := w.bonded("root"), w.bonded("root")
	kept.up()
	lost.up()
	qemu, keep := lost.pids()
	keptQEMU, keptKeeper := kept.pids()
	w.stop()
	store, err := state.Open(w.dir+"/state", state.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.EndInstance(lost.id, "not recorded"); err != nil {
		t.Fatal(err)
	}
	store.Close()
	w.start()
	eventually(t, "orphans end", func() bool { return !alive(qemu) && !alive(keep) })
	if q, k := kept.pids(); q != keptQEMU || k != keptKeeper || !alive(q) || !alive(k) {
		t.Errorf("the instance on record was hurt: %d %d", q, k)
	}
	lost.up()
}

func TestMonitorThatDoesNotAnswer(t *testing.T) {
	w := newWorld(t)
	w.cfg.VM.StartTimeout = time.Second
	b := w.bonded("root")
	b.up()
	qemu, keep := b.pids()
	b.exec(machinetest.Mute)
	w.restart(nil)
	if b.machine().Current().Live || !b.recorded("exit", reasonUnreached) {
		t.Errorf("state %s, audit %+v", b.machine().State(), b.audit())
	}
	b.nothingLeft(qemu, keep)
}

func TestLimitOfVMs(t *testing.T) {
	w := newWorld(t)
	w.m.cfg.MaxVMs = 1
	a, b := w.bonded("root"), w.bonded("root")
	a.up()
	if got := classOf(b.launch(b.files())); got != qmp.ClassUnavailable {
		t.Errorf("one VM too many: %s", got)
	}
	a.exec(qmp.CmdQuit)
	b.up()
}

func TestExpect(t *testing.T) {
	w := newWorld(t)
	b := w.bonded("root")
	for name, e := range map[string]*qmp.LaunchExpect{
		"memory": {Memory: 64 << 20}, "vcpus": {VCPUs: 2}, "firmware": {Firmware: "uefi"}, "machine": {Machine: "q35"},
	} {
		err := b.machine().Launch(t.Context(), gate.Launch{Disks: b.files(), Expect: e}, [32]byte{1})
		if classOf(err) != qmp.ClassInvalid || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	err := b.machine().Launch(t.Context(), gate.Launch{Disks: b.files(), Expect: &qmp.LaunchExpect{Memory: 32 << 20, VCPUs: 1, Firmware: "bios", Machine: "pc"}}, [32]byte{1})
	if err != nil {
		t.Error(err)
	}
	b.exec(qmp.CmdQuit)
}

// TestFailedLaunch: QEMU that does not start leaves nothing, and its reason stays
// in the hypervisor domain.
func TestFailedLaunch(t *testing.T) {
	w := newWorld(t)
	b := w.bonded("root")
	good := w.m.cfg.VM.BinaryPath
	for name, binary := range map[string]string{"missing": "/nonexistent/qemu", "ends at once": "/bin/false"} {
		w.m.cfg.VM.BinaryPath = binary
		err := b.launch(b.files())
		if classOf(err) != qmp.ClassGeneric || strings.Contains(err.Error(), "/") {
			t.Errorf("%s: %v", name, err)
		}
		b.nothingLeft()
		if b.machine().Current().Live {
			t.Errorf("%s: an instance stays", name)
		}
	}
	w.m.cfg.VM.BinaryPath = good
	b.up()
	if n := b.machine().Current().Number; n != 1 {
		t.Errorf("failed launches count as instances: %d", n)
	}
}

func TestNoDescriptorsLeak(t *testing.T) {
	w := newWorld(t)
	b := w.bonded("root")
	round := func() {
		b.up()
		b.exec(qmp.CmdQuit)
	}
	round()
	fds, routines := openFiles(t), runtime.NumGoroutine()
	for range 3 {
		round()
	}
	eventually(t, "descriptors or goroutines leak", func() bool {
		runtime.GC()
		return openFiles(t) <= fds && runtime.NumGoroutine() <= routines
	})
}

func openFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func TestDelete(t *testing.T) {
	w := newWorld(t)
	b := w.bonded("root")
	b.up()
	m := b.machine()
	if _, _, err := m.Delete(state.Entry{Kind: "close"}); classOf(err) != qmp.ClassRunning {
		t.Errorf("delete of a running VM: %v", err)
	}
	b.exec(qmp.CmdQuit)
	seq, head, err := m.Delete(state.Entry{Kind: "close", Text: "delete: done"})
	if err != nil || seq == 0 || head == [32]byte{} {
		t.Errorf("%d %x %v", seq, head, err)
	}
	if w.m.VM(b.id) != nil {
		t.Error("the bond is still there")
	}
	// Sessions that were open before it cannot do anything any more.
	if err := m.Launch(t.Context(), gate.Launch{Disks: b.files()}, [32]byte{2}); classOf(err) != qmp.ClassDeviceNotFound {
		t.Errorf("launch after delete: %v", err)
	}
	if _, _, err := m.Record(state.Entry{Kind: "call"}); !errors.Is(err, state.ErrUnknownVM) {
		t.Errorf("record after delete: %v", err)
	}
	if _, err := os.Stat(m.ringPath()); err == nil {
		t.Error("console output is left")
	}
}

func TestRegistrations(t *testing.T) {
	w := newWorld(t)
	_, d := machinetest.NewDisk(t, t.TempDir(), "root")
	sealed, owner := machinetest.Register(t, w.store.HostKey().Public(), "", d)
	res, err := w.m.Register(t.Context(), sealed, "test")
	if err != nil {
		t.Fatal(err)
	}
	var c bond.Confirmation
	if err := bond.Open(owner, res.Confirmation, &c); err != nil || c.Transcript != owner.Transcript() {
		t.Errorf("confirmation: %v", err)
	}
	if _, err := w.m.Register(t.Context(), sealed, "operator"); classOf(err) != qmp.ClassReplayed {
		t.Errorf("replayed registration: %v", err)
	}
	b := &bonded{w: w, id: owner.VM()}
	w.restart(nil)
	if _, err := w.m.Register(t.Context(), sealed, "operator"); classOf(err) != qmp.ClassReplayed {
		t.Errorf("replayed after a restart: %v", err)
	}
	if !b.recorded("refused", "registration was refused") {
		t.Error("the owner's audit lacks the replay")
	}
	other, err := bond.GenerateHostKey()
	if err != nil {
		t.Fatal(err)
	}
	foreign, _ := machinetest.Register(t, other.Public(), "", d)
	if _, err := w.m.Register(t.Context(), foreign, "operator"); classOf(err) != qmp.ClassInvalid {
		t.Errorf("another host's registration: %v", err)
	}
	if _, err := w.m.Register(t.Context(), []byte("garbage"), "operator"); classOf(err) != qmp.ClassInvalid {
		t.Errorf("garbage: %v", err)
	}
	bad, _ := machinetest.Register(t, w.store.HostKey().Public(), "automaton p = screendump ;", d)
	if _, err := w.m.Register(t.Context(), bad, "operator"); classOf(err) != qmp.ClassInvalid {
		t.Errorf("impossible policy: %v", err)
	}
	if err := w.store.Flush(); err != nil {
		t.Fatal(err)
	}
	p, err := w.store.ReadAudit(state.HostLog, 0, chunkBytes)
	if err != nil || len(p.Records) < 2 {
		t.Errorf("the host's log has %d records: %v", len(p.Records), err)
	}
}

// TestTickets: burnt nonces stay burnt, and a refusal is sealed only of a ticket
// that certainly never ran.
func TestTickets(t *testing.T) {
	w := newWorld(t)
	b := w.bonded("root")
	now := time.Now().Unix()
	e := state.Entry{Kind: "open"}
	if err := b.machine().UseTicket([32]byte{1}, now+60, e); err != nil {
		t.Fatal(err)
	}
	w.restart(nil)
	m := b.machine()
	if err := m.UseTicket([32]byte{1}, now+60, e); !errors.Is(err, gate.ErrReplayed) {
		t.Errorf("used twice: %v", err)
	}
	if err := m.RefuseTicket([32]byte{1}, now+60, e); !errors.Is(err, gate.ErrReplayed) {
		t.Errorf("refused after it ran: %v", err)
	}
	if err := m.RefuseTicket([32]byte{2}, now-60, e); err != nil {
		t.Errorf("expired and never seen: %v", err)
	}
	if err := m.RefuseTicket([32]byte{2}, now-60, e); !errors.Is(err, gate.ErrReplayed) && !errors.Is(err, state.ErrExpired) {
		t.Errorf("refused twice: %v", err)
	}
	// Pruning forgets it; from then on nothing of its age is vouched for.
	if err := m.UseTicket([32]byte{3}, now+60, e); err != nil {
		t.Fatal(err)
	}
	if err := m.RefuseTicket([32]byte{4}, now-60, e); !errors.Is(err, state.ErrExpired) {
		t.Errorf("as old as what was forgotten: %v", err)
	}
}

func TestSessionsCutOff(t *testing.T) {
	w := newWorld(t)
	b := w.bonded("root")
	_, _, err := b.machine().Record(
		state.Entry{Kind: "open", Fields: map[string]string{"session": "7", "command": "pause"}},
		state.Entry{Kind: "open", Fields: map[string]string{"session": "8", "command": "log"}},
		state.Entry{Kind: "close", Fields: map[string]string{"session": "8"}})
	if err != nil {
		t.Fatal(err)
	}
	w.restart(nil)
	w.restart(nil)
	n := 0
	for _, r := range b.audit() {
		if r.Kind == "close" && r.Fields["verdict"] == "incomplete" {
			n++
			if r.Fields["session"] != "7" {
				t.Errorf("session %s was reported", r.Fields["session"])
			}
		}
	}
	if n != 1 {
		t.Errorf("%d sessions were reported, want 1", n)
	}
}

// TestConsoleBehindItsEnd: whoever asks for output that there is not gets none,
// in a chunk that can be sealed.
func TestConsoleBehindItsEnd(t *testing.T) {
	w := newWorld(t)
	b := w.bonded("root")
	read := func() {
		t.Helper()
		for _, offset := range []uint64{0, 1, 1 << 53, math.MaxUint64} {
			c, err := b.machine().ReadConsole(offset)
			if err != nil {
				t.Fatal(err)
			}
			c.Nonce = bond.NewNonce()
			if _, err := bond.Seal(b.machine().Bond(), c); err != nil || c.Offset != c.End || len(c.Data) != 0 {
				t.Errorf("from %d: %+v, %v", offset, c, err)
			}
		}
	}
	read() // it never ran
	b.up() // it said nothing
	read()
}
