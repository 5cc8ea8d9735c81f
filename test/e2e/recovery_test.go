package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/test/guest"
)

// TestRecovery kills one process after another under a guest that writes to
// its disk all the time. Its steps share the guest and come in this order.
func TestRecovery(t *testing.T) {
	t.Parallel() // it waits for ticks most of the time
	w := newWorld(t)
	u := w.user("alice")
	u.running("web1", image(t, guest.Options{Secret: secret}))
	for _, step := range []struct {
		name string
		run  func(*user)
	}{
		{"daemon killed", (*user).daemonKilled},
		{"keeper killed", (*user).keeperKilled},
		{"keeper killed while the daemon is down", (*user).keeperKilledWithoutDaemon},
		{"daemon and server stopped in order", (*user).stoppedInOrder},
		{"what was written is there after a reset", (*user).counterSurvives},
		{"guest shuts down", (*user).guestShutsDown},
		{"QEMU crashed", (*user).qemuCrashed},
		{"QEMU killed while the daemon is down", (*user).qemuKilledWithoutDaemon},
	} {
		ok := t.Run(step.name, func(t *testing.T) {
			step.run(&user{&world{t, w.lab}, u.tenant})
		})
		if !ok {
			return
		}
	}
}

// restart starts the daemon again and waits until the server has found it.
func (u *user) restart() {
	u.Helper()
	if err := u.lab.StartHypervisor(u.Context()); err != nil {
		u.Fatal(err)
	}
	u.state("web1", qmp.StateRunning)
}

// daemonKilled: the guest, its descriptor and its disk live on; a session that
// was open is reported.
func (u *user) daemonKilled() {
	vm, b := u.bond("web1")
	b.Wipe()
	ticket := u.ticket("web1", "pause", vm.Descriptor)
	hangUp := u.stay(speech{VM: u.id("web1"), Ticket: ticket})
	u.lab.KillHypervisor()
	hangUp()
	r := u.run(exitConnection, "vm", "status", "web1")
	if strings.Contains(r.Stdout, "running") {
		u.Errorf("a state without a receipt: %s", r)
	}
	u.restart()
	u.ticksOn("web1")
	if h := u.speak(speech{VM: u.id("web1"), Ticket: ticket, Commands: []string{"stop"}}); h.Class != qmp.ClassReplayed {
		u.Errorf("the ticket was burnt before the restart: %+v", h)
	}
	u.says(exitDone, "paused", "vm", "pause", "web1")
	before := u.ticks("web1")
	u.says(exitDone, "running", "vm", "resume", "web1")
	u.ticksOn("web1")
	if after, _ := u.bond("web1"); string(after.Descriptor) != string(vm.Descriptor) || before == 0 {
		u.Error("the descriptor is another one after the restart")
	}
	u.audit("web1", "pause: incomplete: the daemon was restarted during the session", "the daemon was restarted; the instance runs on", "ticket for pause was presented again")
}

// keeperKilled: the daemon starts another and the guest notices a pause only.
func (u *user) keeperKilled() {
	old := u.one("keeper", u.lab.Keepers)
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		u.Fatal(err)
	}
	u.ticksOn("web1")
	if u.one("keeper", u.lab.Keepers) == old {
		u.Error("the keeper is still the one that was killed")
	}
	u.audit("web1", "keeper of the disks was started again")
}

// keeperKilledWithoutDaemon: nobody holds the ciphertext any more, so the
// server offers it again.
func (u *user) keeperKilledWithoutDaemon() {
	keeper := u.one("keeper", u.lab.Keepers)
	u.lab.KillHypervisor()
	if err := syscall.Kill(keeper, syscall.SIGKILL); err != nil {
		u.Fatal(err)
	}
	u.restart()
	u.ticksOn("web1")
	u.audit("web1", "disks handed over again", "keeper=gone")
}

// stoppedInOrder: SIGTERM ends daemon and server with exit code 0 and no harm.
func (u *user) stoppedInOrder() {
	if code := u.lab.StopHypervisor(syscall.SIGTERM); code != 0 {
		u.Errorf("the daemon ended with %d after SIGTERM:\n%s", code, u.lab.Log("hypervisor"))
	}
	u.one("QEMU", u.lab.QEMUs)
	u.one("keeper", u.lab.Keepers)
	u.restart()
	u.lab.StopServer(syscall.SIGTERM)
	if code := u.lab.ServerExit(); code != 0 {
		u.Errorf("the server ended with %d after SIGTERM:\n%s", code, u.lab.Log("server"))
	}
	if err := u.lab.StartServer(u.Context()); err != nil {
		u.Fatal(err)
	}
	u.ticksOn("web1")
}

// counterSurvives: the guest counted on while its keepers were killed, and what
// it synced then is on the disk.
func (u *user) counterSurvives() {
	before := u.ticks("web1")
	u.says(exitDone, "running", "vm", "reset", "web1")
	out := u.awaitMatch("web1", `UVBOND-BOOTS 2 root \S+ counter \d+`)
	counter := after(out, "UVBOND-BOOTS 2 root /dev/vda2 counter ")
	if counter < before {
		u.Errorf("%d ticks were seen, the disk has %d", before, counter)
	}
	if !eventually(bootLimit, func() bool {
		return strings.Count(u.run(exitDone, "vm", "log", "web1").Stdout, "UVBOND-READY") == 2
	}) {
		u.Fatal("the guest is not ready again after the reset")
	}
}

func (u *user) guestShutsDown() {
	u.says(exitDone, "has shut down", "vm", "shutdown", "web1")
	u.state("web1", qmp.StateStopped)
	u.nothingLeft()
	u.audit("web1", "the guest shut down")
}

// qemuCrashed: a crash is told and recorded, nothing stays behind, and the old
// instance's descriptor is worth nothing.
func (u *user) qemuCrashed() {
	u.run(exitDone, "vm", "start", "web1")
	u.await("web1", "tick 1")
	old, b := u.bond("web1")
	b.Wipe()
	if err := syscall.Kill(u.one("QEMU", u.lab.QEMUs), syscall.SIGSEGV); err != nil {
		u.Fatal(err)
	}
	u.state("web1", qmp.StateCrashed)
	u.nothingLeft()
	u.says(exitRefused, qmp.ClassNotRunning, "vm", "pause", "web1")
	u.audit("web1", "QEMU ended by itself")

	u.run(exitDone, "vm", "start", "web1")
	h := u.speak(speech{VM: u.id("web1"), Ticket: u.ticket("web1", "pause", old.Descriptor), Commands: []string{"stop"}})
	if h.Class != qmp.ClassStale {
		u.Errorf("a ticket for the crashed instance: %+v", h)
	} else if r := u.opened("web1", h.Receipt); r.Verdict != bond.VerdictRefused || r.Class != qmp.ClassStale {
		u.Errorf("its receipt: %+v", r)
	}
	if vm, _ := u.bond("web1"); string(vm.Descriptor) == string(old.Descriptor) || vm.Instance <= old.Instance {
		u.Error("the new instance has the old descriptor")
	}
	u.await("web1", "tick 1")
}

// qemuKilledWithoutDaemon: the daemon finds that the instance has ended.
func (u *user) qemuKilledWithoutDaemon() {
	qemu := u.one("QEMU", u.lab.QEMUs)
	u.lab.KillHypervisor()
	if err := syscall.Kill(qemu, syscall.SIGKILL); err != nil {
		u.Fatal(err)
	}
	if err := u.lab.StartHypervisor(u.Context()); err != nil {
		u.Fatal(err)
	}
	u.state("web1", qmp.StateCrashed)
	u.nothingLeft()
	u.audit("web1", "ended while the daemon was down")
	u.run(exitDone, "vm", "start", "web1")
	u.await("web1", "UVBOND-GUEST-UP")
	u.says(exitDone, "stopped", "vm", "poweroff", "web1")
	u.nothingLeft()
	u.run(exitDone, "vm", "delete", "web1", "--yes")
	u.nothingLeft()
}

// nothingLeft: no process, socket or folder of an instance.
func (u *user) nothingLeft() {
	u.Helper()
	var left []string
	if !eventually(10*time.Second, func() bool { left = u.instances(); return len(left) == 0 }) {
		u.Errorf("processes are left: %v", left)
	}
	for _, pattern := range []string{"hv/vm/*", "hv/keeper/*"} {
		left, _ := filepath.Glob(filepath.Join(u.lab.Run, pattern))
		if len(left) > 0 {
			u.Errorf("left behind: %v", left)
		}
	}
}

// instances names the hypervisor's processes but for the daemon.
func (u *user) instances() (found []string) {
	for _, p := range u.lab.Leftovers() {
		daemon := fmt.Sprintf("uvbond-hypervisor (%d)", u.lab.HypervisorPID())
		if p != daemon && !strings.HasPrefix(p, "uvbond-server ") && !strings.HasPrefix(p, "operator ") {
			found = append(found, p)
		}
	}
	return found
}

// after is the number that follows a text, -1 when there is none.
func after(s, text string) int {
	_, rest, ok := strings.Cut(s, text)
	n, digits := 0, 0
	for ok && digits < len(rest) && rest[digits] >= '0' && rest[digits] <= '9' {
		n = n*10 + int(rest[digits]-'0')
		digits++
	}
	if digits == 0 {
		return -1
	}
	return n
}

// TestStateFolderIsPrivate: what survives a restart is the daemon's alone.
func TestStateFolderIsPrivate(t *testing.T) {
	w := newWorld(t)
	err := filepath.Walk(filepath.Join(w.lab.Dir, "hypervisor", "state"), func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
