package hypervisor_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/hypervisor/machine/machinetest"
	"github.com/uvbond/uvbond/qmp"
)

func TestMain(m *testing.M) {
	if machinetest.IsStub() {
		os.Exit(machinetest.StubMain())
	}
	code := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// built is the program under test, built once.
var built struct {
	once sync.Once
	dir  string
	err  error
}

func program(t testing.TB) string {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "uvh"); built.err != nil {
			return
		}
		// Keepers of other uids execute it.
		if built.err = os.Chmod(built.dir, 0o755); built.err != nil {
			return
		}
		out, err := exec.Command("go", "build", "-o", built.dir, "github.com/uvbond/uvbond/cmd/uvbond-hypervisor").CombinedOutput()
		if err != nil {
			built.err = fmt.Errorf("go build: %w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return filepath.Join(built.dir, "uvbond-hypervisor")
}

// gateUID is who speaks to the gate: the management domain. Root may not.
func gateUID() int {
	if uid := os.Geteuid(); uid != 0 {
		return uid
	}
	return 65534
}

// daemon is a real one in a folder of its own.
type daemon struct {
	t      testing.TB
	dir    string
	config string
	gate   string
	cmd    *exec.Cmd
	log    string // a file: keepers inherit it, so a pipe would not end with the daemon
	host   *bond.HostPublic
}

func newDaemon(t testing.TB, extra string) *daemon {
	t.Helper()
	dir, err := os.MkdirTemp("", "uvd") // short: sockets live there
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	d := &daemon{t: t, dir: dir, gate: filepath.Join(dir, "gate", "gate.sock"), config: filepath.Join(dir, "hypervisor.toml")}
	text := fmt.Sprintf("state_dir = %q\nrun_dir = %q\ngate = %q\ngate_users = [\"%d\"]\naccel = \"tcg\"\nuid_base = 720000\n%s\n",
		filepath.Join(dir, "state"), filepath.Join(dir, "run"), d.gate, gateUID(), extra)
	if err := os.WriteFile(d.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.stop()
		os.RemoveAll(dir)
	})
	return d
}

func (d *daemon) start() {
	d.t.Helper()
	d.log = filepath.Join(d.dir, "log")
	log, err := os.OpenFile(d.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer log.Close()
	d.cmd = exec.Command(program(d.t), "serve", "--config", d.config)
	d.cmd.Stderr = log
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	err = d.session(func(c *qmp.Client) error {
		var h qmp.QueryHostResult
		if err := c.Execute(context.Background(), qmp.CmdQueryHost, nil, &h); err != nil {
			return err
		}
		var err error
		d.host, err = bond.ParseHostPublic(h.PublicKey)
		return err
	})
	if err != nil {
		d.stop()
		d.t.Fatalf("daemon: %v\n%s", err, d.logged())
	}
}

func (d *daemon) logged() string {
	b, _ := os.ReadFile(d.log)
	return string(b)
}

// stop ends the daemon in order.
func (d *daemon) stop() {
	if d.cmd == nil || d.cmd.ProcessState != nil {
		return
	}
	_ = d.cmd.Process.Signal(unix.SIGTERM)
	_ = d.cmd.Wait()
}

// kill ends it as a power cut would.
func (d *daemon) kill() {
	_ = d.cmd.Process.Kill()
	_ = d.cmd.Wait()
}

// session runs f with a connection of the management domain. One thread does it
// all, with the gate user's uid: the kernel attests threads.
func (d *daemon) session(f func(*qmp.Client) error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its uid
		if os.Geteuid() == 0 {
			id := uintptr(gateUID())
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, id, id, id); errno != 0 {
				done <- errno
				return
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
		defer cancel()
		var c *qmp.Client
		var err error
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			if c, err = qmp.Dial(ctx, d.gate); err == nil {
				break
			}
		}
		if err == nil {
			err = f(c)
			c.Close()
		}
		done <- err
	}()
	return <-done
}

// ticket seals one for a shipped command that needs no descriptor.
func ticket(owner *bond.Bond, command string, change func(*bond.Ticket)) ([]byte, error) {
	text, err := automata.Native(command)
	if err != nil {
		return nil, err
	}
	now := time.Now().Unix()
	k := &bond.Ticket{Nonce: bond.NewNonce(), Command: command, Automaton: text, NotBefore: now - 60, NotAfter: now + 600, DeadlineSeconds: 60}
	if change != nil {
		change(k)
	}
	return bond.Seal(owner, k)
}

// status is what the native toolstack does for a status.
func status(c *qmp.Client, owner *bond.Bond, sealed []byte) (*bond.Receipt, error) {
	ctx := context.Background()
	if err := c.Execute(ctx, qmp.CmdOpen, qmp.OpenArgs{VM: owner.VM().String(), Ticket: sealed}, nil); err != nil {
		return nil, err
	}
	if err := c.Execute(ctx, qmp.CmdQueryStatus, nil, nil); err != nil {
		return nil, err
	}
	return closed(c, owner)
}

func closed(c *qmp.Client, owner *bond.Bond) (*bond.Receipt, error) {
	var res qmp.CloseResult
	if err := c.Execute(context.Background(), qmp.CmdClose, nil, &res); err != nil {
		return nil, err
	}
	var r bond.Receipt
	if err := bond.Open(owner, res.Receipt, &r); err != nil {
		return nil, err
	}
	if r.Verdict != bond.VerdictDone {
		return &r, fmt.Errorf("%s: %s %s", r.Verdict, r.Class, r.Reason)
	}
	return &r, nil
}

// start boots a VM.
func start(c *qmp.Client, owner *bond.Bond, disk *os.File) error {
	ctx := context.Background()
	text, err := automata.Native("start")
	if err != nil {
		return err
	}
	now := time.Now().Unix()
	sealed, err := bond.Seal(owner, &bond.BootTicket{Nonce: bond.NewNonce(), Command: "start", Automaton: text, NotBefore: now - 60, NotAfter: now + 600, DeadlineSeconds: 60})
	if err != nil {
		return err
	}
	if err := c.Execute(ctx, qmp.CmdOpen, qmp.OpenArgs{VM: owner.VM().String(), Ticket: sealed}, nil); err != nil {
		return err
	}
	if err := c.Execute(ctx, qmp.CmdLaunch, qmp.LaunchArgs{Disks: []qmp.DiskFile{{Name: "root"}}}, nil, disk); err != nil {
		return err
	}
	if err := c.Execute(ctx, qmp.CmdCont, nil, nil); err != nil {
		return err
	}
	_, err = closed(c, owner)
	return err
}

// run executes the program and returns its exit code and what it wrote.
func run(t testing.TB, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	cmd := exec.Command(program(t), args...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}
