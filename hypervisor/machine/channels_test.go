package machine

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/hypervisor/gate"
	"github.com/uvbond/uvbond/qmp"
)

// TestScreenAndForward: what was registered is there, also after a restart of the
// daemon, and nothing else is.
func TestScreenAndForward(t *testing.T) {
	w := newWorld(t)
	b := w.registered(func(s *bond.Spec) {
		s.Screen, s.ChannelMAC = true, [6]byte{2, 0, 0, 0, 0, 1}
	}, "root")
	plain := w.bonded("root")
	use := func(b *bonded, n uint64) (screen, forward error) {
		f, err := b.machine().Screen(t.Context(), n)
		if err == nil {
			f.Close()
		}
		_, err2 := b.machine().Forward(t.Context(), n, 22)
		return err, err2
	}
	if s, f := use(b, 0); !errors.Is(s, gate.ErrNotRunning) || !errors.Is(f, gate.ErrNotRunning) {
		t.Errorf("before the launch: %v, %v", s, f)
	}
	b.up()
	plain.up()
	if line := b.cmdline(); !strings.Contains(line, "VGA") || !strings.Contains(line, "02:00:00:00:00:01") {
		t.Errorf("QEMU was started as\n%s", line)
	}
	if s, f := use(plain, 1); classOf(s) != qmp.ClassUnavailable || classOf(f) != qmp.ClassUnavailable {
		t.Errorf("not registered: %v, %v", s, f)
	}
	for range 2 {
		if s, f := use(b, 1); s != nil || f != nil {
			t.Errorf("%v, %v", s, f)
		}
		if s, f := use(b, 2); !errors.Is(s, gate.ErrNotRunning) || !errors.Is(f, gate.ErrNotRunning) {
			t.Errorf("another instance: %v, %v", s, f)
		}
		if _, err := b.machine().Forward(t.Context(), 1, 0); classOf(err) != qmp.ClassInvalid {
			t.Errorf("port 0: %v", err)
		}
		w.restart(nil)
	}
	b.exec(qmp.CmdQuit)
	if s, f := use(b, 1); !errors.Is(s, gate.ErrNotRunning) || !errors.Is(f, gate.ErrNotRunning) {
		t.Errorf("after its end: %v, %v", s, f)
	}
}

// TestOneNetwork: QEMU and each keeper of a VM are in one network namespace that is
// nobody else's, whoever starts them.
func TestOneNetwork(t *testing.T) {
	if unix.Geteuid() != 0 {
		t.Skip("namespaces need root")
	}
	w := newWorld(t)
	b, other := w.bonded("root"), w.bonded("root")
	b.up()
	other.up()
	network := func(pid int) string {
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err != nil {
			t.Fatal(err)
		}
		return ns
	}
	qemu, keep := b.pids()
	want := network(qemu)
	own, others := network(os.Getpid()), 0
	others, _ = other.pids()
	if want == own || want == network(others) {
		t.Fatalf("the network of QEMU is %s, the daemon's %s, another VM's %s", want, own, network(others))
	}
	check := func(when string) {
		t.Helper()
		var again int
		eventually(t, "a keeper "+when, func() bool {
			_, again = b.pids()
			return again != 0 && alive(again)
		})
		if have := network(again); have != want {
			t.Errorf("%s the keeper is in %s, QEMU in %s", when, have, want)
		}
	}
	check("at the launch")
	kill(t, keep)
	eventually(t, "another keeper", func() bool { _, again := b.pids(); return again != 0 && again != keep })
	check("after its death")
	w.restart(nil)
	check("after the daemon's restart")
	_, keep = b.pids()
	kill(t, keep)
	eventually(t, "another keeper", func() bool { _, again := b.pids(); return again != 0 && again != keep })
	check("after both")
}
