package netns

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root makes namespaces")
	}
}

// inode tells namespaces apart.
func inode(t *testing.T, f *os.File) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func make1(t *testing.T) *os.File {
	t.Helper()
	ns, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

func TestOnlyLoopback(t *testing.T) {
	needRoot(t)
	ns := make1(t)
	out := run(t, ns, "cat", "/proc/net/dev")
	devices := strings.Split(strings.TrimSpace(out), "\n")[2:]
	if len(devices) != 1 || !strings.Contains(devices[0], "lo:") {
		t.Errorf("devices:\n%s", out)
	}
	var l net.Listener
	err := Do(ns, func() (err error) {
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return err
		}
		c, err := net.Dial("tcp", l.Addr().String())
		if err == nil {
			c.Close()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
		c.Close()
		t.Error("what listens inside is reached from outside")
	}
	outside, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	err = Do(ns, func() error {
		c, err := net.Dial("tcp", outside.Addr().String())
		if err == nil {
			c.Close()
		}
		return err
	})
	if err == nil {
		t.Error("what listens outside is reached from inside")
	}
}

func run(t *testing.T, ns *os.File, name string, args ...string) string {
	t.Helper()
	var out strings.Builder
	cmd := exec.Command(name, args...)
	cmd.Stdout = &out
	if err := Do(ns, cmd.Start); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// TestNothingElseRunsThere: whatever is started outside of Do stays outside, on every
// thread, and the process is shown in its own namespace.
func TestNothingElseRunsThere(t *testing.T) {
	needRoot(t)
	before, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	ns := make1(t)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			inside := run(t, ns, "readlink", "/proc/self/ns/net")
			if strings.TrimSpace(inside) == before {
				t.Error("a process was started outside")
			}
			outside, err := exec.Command("readlink", "/proc/self/ns/net").Output()
			if err != nil || strings.TrimSpace(string(outside)) != before {
				t.Errorf("a process was started in %s: %v", outside, err)
			}
		})
	}
	wg.Wait()
	if after, err := os.Readlink("/proc/self/ns/net"); err != nil || after != before {
		t.Errorf("the process was in %s and is in %s, %v", before, after, err)
	}
}

// TestThreadsLive: a process that is to end with its parent does not end with a thread
// of its parent's.
func TestThreadsLive(t *testing.T) {
	needRoot(t)
	var children []*exec.Cmd
	for range 20 {
		cmd := exec.Command("sleep", "60")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		children = append(children, cmd)
		make1(t)
	}
	for _, cmd := range children {
		// SIGKILL would have come from the kernel.
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		state, err := cmd.Process.Wait()
		if err != nil {
			t.Fatal(err)
		}
		if s := state.Sys().(syscall.WaitStatus); !s.Signaled() || s.Signal() != syscall.SIGTERM {
			t.Errorf("ended before: %v", state)
		}
	}
}

func TestOf(t *testing.T) {
	needRoot(t)
	ns := make1(t)
	cmd := exec.Command("sleep", "60")
	if err := Do(ns, cmd.Start); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	of, err := Of(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer of.Close()
	if inode(t, of) != inode(t, ns) {
		t.Error("not the namespace that it was started in")
	}
	if inode(t, ns) == inode(t, make1(t)) {
		t.Error("two new namespaces are one")
	}
	if _, err := Of(1 << 30); err == nil {
		t.Error("a process that does not exist has a namespace")
	}
}

// TestNotANamespace: the error is told and nothing is called.
func TestNotANamespace(t *testing.T) {
	needRoot(t)
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	called := false
	if err := Do(f, func() error { called = true; return nil }); err == nil || called {
		t.Errorf("%v, called %v", err, called)
	}
}
