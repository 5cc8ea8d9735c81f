package e2e

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/test/lab"
)

func TestMistakes(t *testing.T) {
	w := newWorld(t)
	u := w.user("alice")
	if err := u.tenant.Write("plain", make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := u.tenant.Write("wrong", []byte("another passphrase")); err != nil {
		t.Fatal(err)
	}
	u.run(exitDone, append([]string{"disk", "encrypt", "plain", "d.luks", "--passphrase-file", "passphrase"}, cheap...)...)
	u.says(exitError, "uvbond disk encrypt", "disk", "push", "plain", "--host", "lab")
	u.says(exitError, "passphrase", "vm", "create", "v", "--host", "lab", "--disk", "d.luks", "--passphrase-file", "wrong")
	u.says(exitDone, "[]", "vm", "list", "--json")
	u.create("v", "d.luks")
	u.says(exitRefused, "never started", "vm", "pause", "v")
	u.says(exitDone, "stopped", "vm", "status", "v")
	h := w.speak(speech{VM: u.id("v"), Ticket: u.ticket("v", "pause", make([]byte, 32))})
	if h.Class != qmp.ClassNotRunning || u.opened("v", h.Receipt).Verdict != bond.VerdictRefused {
		t.Errorf("a ticket for a VM without an instance: %+v", h)
	}
}

// TestClockOff: a ticket from an hour away is refused, and the refusal says
// what the hypervisor's time is.
func TestClockOff(t *testing.T) {
	w := newWorld(t)
	u := w.user("alice")
	u.smallVM("v")
	text, err := automata.Native("status")
	if err != nil {
		t.Fatal(err)
	}
	_, b := u.bond("v")
	defer b.Wipe()
	for name, off := range map[string]time.Duration{"behind": -time.Hour, "ahead": time.Hour} {
		now := time.Now().Add(off).Unix()
		sealed, err := bond.Seal(b, &bond.Ticket{Nonce: bond.NewNonce(), Command: "status", Automaton: text, NotBefore: now - 60, NotAfter: now + 300})
		if err != nil {
			t.Fatal(err)
		}
		h := w.speak(speech{VM: u.id("v"), Ticket: sealed, Commands: []string{"query-status"}})
		if h.Class != qmp.ClassExpired {
			t.Errorf("%s: %+v", name, h)
			continue
		}
		if r := u.opened("v", h.Receipt); time.Since(time.Unix(r.HostTime, 0)).Abs() > time.Minute {
			t.Errorf("%s: the receipt's time is %v", name, time.Unix(r.HostTime, 0))
		}
	}
}

// TestWithoutQEMU: the daemon serves what needs no QEMU, and a start leaves
// nothing.
func TestWithoutQEMU(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l, err := lab.New(t.Context(), lab.Options{Bin: bin, Operator: []string{self, "operator"}, Config: "qemu = \"/nonexistent/qemu\""})
	if err != nil {
		if !strings.Contains(err.Error(), "qemu") {
			t.Errorf("the daemon does not say what is missing: %v", err)
		}
		return
	}
	w := &world{t, l}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	u := w.user("alice")
	u.smallVM("v")
	u.says(exitRefused, "QEMU", "vm", "start", "v")
	u.says(exitDone, "stopped", "vm", "status", "v")
	u.nothingLeft()
	u.audit("v", "uvbond-launch accepted")
	if log := l.Log("hypervisor"); !strings.Contains(log, "/nonexistent") || !strings.Contains(log, "apt install qemu-system-x86") {
		t.Errorf("the daemon's log does not say what mends it:\n%s", log)
	}
}

// TestDaemonKilledDuringStart: whatever the moment, the next daemon either has
// the instance or leaves nothing of it.
func TestDaemonKilledDuringStart(t *testing.T) {
	w := newWorld(t)
	u := w.user("alice")
	u.smallVM("v") // it finds nothing to boot, and stays
	for n := range 10 {
		_, wait := u.background("vm", "start", "v")
		time.Sleep(time.Duration(20+12*n) * time.Millisecond)
		w.lab.KillHypervisor()
		r := wait()
		if err := w.lab.StartHypervisor(t.Context()); err != nil {
			t.Fatal(err)
		}
		s := u.run(exitDone, "vm", "status", "v", "--json").Stdout
		switch {
		case contains(s, `"state": "running"`):
			t.Logf("killed after %d ms, client exit %d: it runs", 20+12*n, r.Code)
			u.one("QEMU", w.lab.QEMUs)
			u.one("keeper", w.lab.Keepers)
		case contains(s, `"state": "prelaunch"`), contains(s, `"state": "paused"`):
			t.Errorf("killed after %d ms: half-made: %s", 20+12*n, s)
		default:
			t.Logf("killed after %d ms, client exit %d: it does not run", 20+12*n, r.Code)
			u.nothingLeft()
			u.run(exitDone, "vm", "start", "v")
		}
		u.says(exitDone, "paused", "vm", "pause", "v")
		u.says(exitDone, "stopped", "vm", "poweroff", "v")
		u.nothingLeft()
	}
	u.audit("v")
}
