package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/uvbond/uvbond/test/guest"
	"github.com/uvbond/uvbond/test/lab"
)

// TestInterrupt presses Ctrl-C in the middle of everything that takes time.
// Each time nothing half-made may stay, and the command works afterwards.
func TestInterrupt(t *testing.T) {
	w := newWorld(t)
	u := w.user("alice")
	u.disk(image(t, guest.Options{Secret: secret}), "web.luks")
	for _, step := range []struct {
		name string
		run  func(*user)
	}{
		{"encrypt", (*user).interruptEncrypt},
		{"push", (*user).interruptPush},
		{"create", (*user).interruptCreate},
		{"start", (*user).interruptStart},
		{"shutdown", (*user).interruptShutdown},
		{"server stopped during shutdown", (*user).stoppedDuringShutdown},
	} {
		t.Run(step.name, func(t *testing.T) { step.run(&user{&world{t, w.lab}, u.tenant}) })
	}
}

// interrupt runs uvbond and presses Ctrl-C once ready says so, or after a time.
func (u *user) interrupt(ready func() bool, args ...string) lab.Result {
	u.Helper()
	cmd, wait := u.background(args...)
	if !eventually(60*time.Second, ready) {
		_ = cmd.Process.Kill()
		u.Fatalf("never ready for Ctrl-C: %s", wait())
	}
	_ = cmd.Process.Signal(os.Interrupt)
	began := time.Now()
	r := wait()
	if took := time.Since(began); took > 10*time.Second {
		u.Errorf("it took %s to end: %s", took, r)
	}
	return r
}

// within is ready after a while, for a Ctrl-C at any moment.
func within(d time.Duration) func() bool {
	return func() bool { time.Sleep(d); return true }
}

func (u *user) interruptEncrypt() {
	if err := u.tenant.Write("big", nil); err != nil {
		u.Fatal(err)
	}
	if err := os.Truncate(u.path("big"), 4<<30); err != nil {
		u.Fatal(err)
	}
	growing := func() bool {
		parts, _ := filepath.Glob(u.path(".big.luks.*"))
		return len(parts) > 0
	}
	for name, ready := range map[string]func() bool{"key derivation": within(150 * time.Millisecond), "data": growing} {
		r := u.interrupt(ready, "disk", "encrypt", "big", "big.luks", "--passphrase-file", "passphrase")
		if r.Code != exitInterrupted {
			u.Errorf("%s: %s", name, r)
		}
		if left, _ := filepath.Glob(u.path("*big.luks*")); len(left) > 0 {
			u.Errorf("%s: left behind: %v", name, left)
		}
		if left, _ := filepath.Glob(u.path(".big.luks*")); len(left) > 0 {
			u.Errorf("%s: left behind: %v", name, left)
		}
	}
	if err := u.tenant.Write("big", make([]byte, 1<<20)); err != nil {
		u.Fatal(err)
	}
	u.run(exitDone, append([]string{"disk", "encrypt", "big", "big.luks", "--passphrase-file", "passphrase"}, cheap...)...)
}

func (u *user) interruptPush() {
	net, url := u.cable()
	net.set(10*time.Millisecond, 0)
	u.run(exitDone, "host", "add", "slow", url, "--token-file", "token", "--yes")
	r := u.interrupt(func() bool { return u.images()["web.luks"].Offset > 0 }, "disk", "push", "web.luks", "--host", "slow")
	if r.Code != exitInterrupted {
		u.Error(r)
	}
	if i := u.images()["web.luks"]; i.State != "uploading" {
		u.Errorf("%+v", i)
	}
	r = u.interrupt(within(300*time.Millisecond), "vm", "create", "web1", "--host", "slow", "--disk", "web.luks", "--passphrase-file", "passphrase")
	if r.Code != exitInterrupted {
		u.Errorf("create while it pushes: %s", r)
	}
	u.says(exitDone, "[]", "vm", "list", "--offline", "--json")
	u.run(exitDone, "disk", "push", "web.luks", "--host", "lab")
	u.stored("web.luks")
}

// interruptCreate comes before, during and after the registration is sent.
func (u *user) interruptCreate() {
	interrupted := 0
	for n := range 8 {
		name := "try" + string(rune('a'+n))
		u.take(u.path("big.luks"), name+".luks") // an image is one VM's
		u.run(exitDone, "disk", "push", name+".luks", "--host", "lab")
		args := []string{"vm", "create", name, "--host", "lab", "--disk", name + ".luks", "--passphrase-file", "passphrase"}
		r := u.interrupt(within(time.Duration(10+15*n)*time.Millisecond), args...)
		switch {
		case r.Code == exitDone: // Ctrl-C came too late
		case r.Code != exitInterrupted:
			u.Errorf("after %d ms: %s", 10+15*n, r)
			continue
		case contains(r.Stderr, "--resume"):
			interrupted++
			// The server may still be at work on it.
			r, err := u.tenant.Run(u.Context(), "vm", "create", name, "--resume")
			if err != nil {
				u.Fatal(err)
			}
			if r.Code != exitDone { // it had not arrived
				u.run(exitDone, args...)
			}
		default:
			interrupted++
			u.run(exitDone, args...)
		}
		u.says(exitDone, "stopped", "vm", "status", name)
		u.run(exitDone, "vm", "delete", name, "--yes")
		u.run(exitDone, "disk", "remove", name+".luks", "--host", "lab", "--yes")
	}
	if interrupted == 0 {
		u.Error("Ctrl-C never came in time")
	}
	u.says(exitDone, "[]", "vm", "list", "--offline", "--json")
}

// stoppedDuringShutdown: a server that is stopped in order ends its sessions in
// order, and a guest that was asked in vain is not said to have shut down.
func (u *user) stoppedDuringShutdown() {
	u.run(exitDone, "vm", "start", "web1")
	u.run(exitDone, "vm", "pause", "web1")
	_, wait := u.background("vm", "shutdown", "web1")
	if !eventually(60*time.Second, func() bool { return u.asked("web1") }) {
		u.Fatal("the guest was never asked to shut down")
	}
	u.lab.StopServer(syscall.SIGTERM)
	if r := wait(); r.Code != exitRefused || !contains(r.Stderr, "paused") {
		u.Errorf("a guest that is still paused: %s", r)
	}
	if err := u.lab.StartServer(u.Context()); err != nil {
		u.Fatal(err)
	}
	u.says(exitDone, "stopped", "vm", "poweroff", "web1")
	u.nothingLeft()
}

// asked tells whether the guest of the newest instance was asked to shut down.
func (u *user) asked(name string) bool {
	u.Helper()
	out := u.run(exitDone, "audit", name).Stdout
	return strings.LastIndex(out, "system_powerdown accepted") > strings.LastIndex(out, "launched")
}

// interruptStart: either nothing runs afterwards, or what runs has an owner
// who can command it.
func (u *user) interruptStart() {
	u.create("web1", "web.luks")
	interrupted := 0
	for n := range 8 {
		r := u.interrupt(within(time.Duration(20+60*n)*time.Millisecond), "vm", "start", "web1")
		if r.Code == exitInterrupted {
			interrupted++
		} else if r.Code != exitDone {
			u.Errorf("after %d ms: %s", 20+60*n, r)
		}
		if !eventually(30*time.Second, func() bool {
			s := u.run(exitDone, "vm", "status", "web1", "--json")
			return contains(s.Stdout, `"state": "running"`) || contains(s.Stdout, `"state": "stopped"`)
		}) {
			u.Fatal("neither running nor stopped")
		}
		if contains(u.run(exitDone, "vm", "status", "web1", "--json").Stdout, `"state": "stopped"`) {
			// The ticket may still be on its way: then it runs in a moment.
			time.Sleep(500 * time.Millisecond)
		}
		if contains(u.run(exitDone, "vm", "status", "web1", "--json").Stdout, `"state": "running"`) {
			u.says(exitDone, "paused", "vm", "pause", "web1")
			u.says(exitDone, "stopped", "vm", "poweroff", "web1")
		}
		u.nothingLeft()
	}
	if interrupted == 0 {
		u.Error("Ctrl-C never came in time")
	}
	u.audit("web1")
}

// interruptShutdown: the guest was asked and is left alone; another command
// does not wait for a session that nobody listens to.
func (u *user) interruptShutdown() {
	u.run(exitDone, "vm", "start", "web1")
	u.await("web1", "tick 1")
	u.run(exitDone, "vm", "pause", "web1")
	r := u.interrupt(func() bool {
		return strings.Contains(u.run(exitDone, "audit", "web1").Stdout, "session for shutdown opened")
	}, "vm", "shutdown", "web1")
	if r.Code != exitInterrupted {
		u.Error(r)
	}
	u.run(exitDone, "vm", "resume", "web1")
	u.await("web1", "UVBOND-POWER-BUTTON")
	u.state("web1", "stopped")
	u.nothingLeft()
	u.audit("web1", "the guest shut down")
}
