package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/hypervisor/netns"
)

// stderrTail is how much of QEMU's last words is kept, in bytes.
const stderrTail = 8 << 10

// namespaces are what a confined QEMU does not share with the daemon.
const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS

// launch is what a start needs until it has succeeded.
type launch struct {
	cfg     Config
	spec    *LaunchSpec
	binary  string
	accel   string
	isolate bool

	files  []*os.File // that QEMU inherits, the first as confineFD+1
	own    []*os.File // of those, the ones to close here
	line   commandLine
	orders confinement
	stderr *tail

	listening bool // the monitor's socket is this launch's, so what goes with it is too
}

// Launch starts QEMU for one instance, stopped before the guest's first instruction,
// and returns when its monitor answers. ctx bounds the start only. On failure nothing
// remains but directories that Cleanup removes, and the error ends with what QEMU wrote
// to its standard error.
//
// As root QEMU is confined or not started at all. Another user cannot make uids and
// namespaces: then QEMU runs with its own sandbox only, which Record.Confined tells and
// the log says.
func Launch(ctx context.Context, cfg Config, spec LaunchSpec) (*Instance, error) {
	l := &launch{cfg: cfg, spec: &spec, isolate: isRoot(), stderr: &tail{max: stderrTail}}
	if err := l.prepare(); err != nil {
		l.abandon()
		return nil, fmt.Errorf("start vm: %w", err)
	}
	i, err := l.start(ctx)
	if err != nil {
		l.abandon()
		return nil, fmt.Errorf("start vm %s: %w", spec.ID, err)
	}
	return i, nil
}

// abandon removes what a failed start made. If another QEMU was found to be running for
// the same VM, its files are left alone.
func (l *launch) abandon() {
	l.closeFiles()
	if l.listening {
		cleanupOwn(l.cfg, l.spec.ID)
	}
}

// prepare does all that needs no process: it checks, makes directories, opens files and
// renders the orders.
func (l *launch) prepare() error {
	if err := l.spec.validate(); err != nil {
		return err
	}
	if l.isolate && l.cfg.UID(l.spec.Slot) < 1000 {
		return fmt.Errorf("uid %d for the VM would be one of the system's: set a uid base of 1000 or more", l.cfg.UID(l.spec.Slot))
	}
	accel, why, err := l.cfg.accel()
	if err != nil {
		return err
	}
	l.accel = accel
	if l.binary, err = filepath.EvalSymlinks(l.cfg.binary()); err != nil {
		return fmt.Errorf("QEMU's program: %w (apt install qemu-system-x86)", err)
	}
	if _, err := Prepare(l.cfg, l.spec.ID, l.spec.Slot); err != nil {
		return err
	}
	log := l.cfg.logger().With("vm", l.spec.ID)
	if accel == AccelTCG {
		log.Debug("guest is emulated", "reason", why)
	}
	if !l.isolate {
		log.Warn("QEMU is not confined: the daemon does not run as root, so QEMU shares its uid and namespaces; only QEMU's own sandbox applies")
	}
	l.line = commandLine{
		binary:  l.binary,
		id:      l.spec.ID,
		accel:   accel,
		machine: l.spec.Machine,
		memory:  l.spec.MemoryBytes,
		vcpus:   l.spec.VCPUs,
		screen:  l.spec.Screen,
		channel: l.spec.ChannelMAC,
	}
	if err := l.openFiles(); err != nil {
		return err
	}
	l.giveOrders()
	return nil
}

func (l *launch) openFiles() error {
	monitor, err := listenMonitor(l.cfg, l.spec.ID)
	if err != nil {
		return err
	}
	l.listening = true
	l.line.monitorFD = l.inherit(monitor, true)
	if l.spec.Firmware == FirmwareUEFI {
		code, err := os.Open(filepath.Join(l.cfg.firmwareDir(), codeFile))
		if err != nil {
			return fmt.Errorf("UEFI firmware: %w (apt install ovmf)", err)
		}
		l.line.codeFD = l.inherit(code, true)
		vars, err := copyVars(l.cfg, l.spec.ID)
		if err != nil {
			return err
		}
		l.line.varsFD = l.inherit(vars, true)
	}
	for i, nic := range l.spec.NICs {
		n := nicLine{NIC: nic}
		if i < len(l.spec.TapFiles) && l.spec.TapFiles[i] != nil {
			n.tapFD = l.inherit(l.spec.TapFiles[i], false)
		}
		l.line.nics = append(l.line.nics, n)
	}
	return nil
}

// inherit returns the number that a file will have in QEMU.
func (l *launch) inherit(f *os.File, own bool) int {
	l.files = append(l.files, f)
	if own {
		l.own = append(l.own, f)
	}
	return confineFD + len(l.files)
}

func (l *launch) closeFiles() {
	for _, f := range l.own {
		f.Close()
	}
	l.own = nil
}

// giveOrders translates the sockets' paths to QEMU's root and renders everything.
func (l *launch) giveOrders() {
	o := &l.orders
	o.Isolate = l.isolate
	o.KeepFDs = len(l.files)
	o.Env = []string{"PATH=/usr/bin:/bin", "HOME=/", "LC_ALL=C"}
	translate := func(path string) string { return path }
	if l.isolate {
		uid := int(l.cfg.UID(l.spec.Slot))
		o.UID, o.GID = uid, uid
		o.Hostname = "uvbond"
		o.Root = filepath.Join(l.cfg.RunDir, l.spec.ID, rootName)
		o.KVM = l.accel == AccelKVM
		o.Binds, o.Links = rootBinds(l.binary)
		translate = l.bindSocket
	}
	for _, d := range l.spec.Disks {
		l.line.disks = append(l.line.disks, diskLine{Disk: d, socket: translate(l.spec.DiskSockets[d.Name])})
	}
	if l.spec.ConsoleSocket != "" {
		l.line.console = translate(l.spec.ConsoleSocket)
	}
	o.Args, o.Memory = l.line.args(), l.line.ownMemory()
}

// bindSocket makes the directory of a socket visible to QEMU and returns the socket's
// path there. The directory is bound, not the socket, so that a restarted keeper can
// put a new socket in its place.
func (l *launch) bindSocket(path string) string {
	dir, name := filepath.Split(path)
	dir = filepath.Clean(dir)
	sockets := 0
	for _, b := range l.orders.Binds {
		if b.Source == dir {
			return filepath.Join(b.Target, name)
		}
		if filepath.Dir(b.Target) == "/sockets" {
			sockets++
		}
	}
	target := fmt.Sprintf("/sockets/%d", sockets)
	l.orders.Binds = append(l.orders.Binds, bind{Source: dir, Target: target})
	return filepath.Join(target, name)
}

// start runs the process and waits for its monitor. Whatever it started has ended when
// it returns an error.
func (l *launch) start(ctx context.Context) (*Instance, error) {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.startTimeout())
	defer cancel()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	cmd, orders, output, err := l.spawn()
	if err != nil {
		return nil, err
	}
	defer orders.Close()
	i, err := newInstance(l.cfg, l.record(), l.stderr)
	if err == nil {
		err = i.watchChild(cmd, output)
	}
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		output.Close()
		return nil, err
	}
	if err := l.finish(ctx, i, orders); err != nil {
		if ctx.Err() == nil {
			// A broken connection is noticed before the end of the process, whose
			// own reason is the better one.
			select {
			case <-i.life.Done():
			case <-time.After(drainTime):
			}
		}
		i.Kill()
		<-i.Done()
		return nil, l.explain(ctx, i, err)
	}
	return i, nil
}

func (l *launch) record() Record {
	return Record{
		ID:       l.spec.ID,
		Slot:     l.spec.Slot,
		QMPPath:  monitorPath(l.cfg, l.spec.ID),
		Accel:    l.accel,
		Confined: l.isolate,
	}
}

// spawn starts the helper, which waits for its orders on the returned pipe.
func (l *launch) spawn() (cmd *exec.Cmd, orders, output *os.File, err error) {
	ordersRead, orders, err := os.Pipe()
	if err != nil {
		return nil, nil, nil, err
	}
	defer ordersRead.Close()
	output, outputWrite, err := os.Pipe()
	if err != nil {
		orders.Close()
		return nil, nil, nil, err
	}
	defer outputWrite.Close()
	cmd = exec.Command(l.cfg.self(), "confine")
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = outputWrite, outputWrite
	cmd.ExtraFiles = append([]*os.File{ordersRead}, l.files...)
	// An own session: neither a terminal nor the daemon's end takes QEMU along.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	start := cmd.Start
	if l.isolate {
		cmd.SysProcAttr.Cloneflags = namespaces
	}
	if l.spec.Network != nil {
		cmd.SysProcAttr.Cloneflags &^= unix.CLONE_NEWNET
		start = func() error { return netns.Do(l.spec.Network, cmd.Start) }
	}
	if err := start(); err != nil {
		orders.Close()
		output.Close()
		return nil, nil, nil, fmt.Errorf("start %s confine: %w", l.cfg.self(), err)
	}
	return cmd, orders, output, nil
}

// finish tells who must know the process, lets it become QEMU and waits for the monitor.
func (l *launch) finish(ctx context.Context, i *Instance, orders *os.File) error {
	// From here on only the process holds the monitor's listener: if it ends, connecting
	// fails at once.
	l.closeFiles()
	if l.spec.OnStarted != nil {
		l.spec.OnStarted(i.PID())
	}
	text, err := json.Marshal(&l.orders)
	if err != nil {
		return err
	}
	if err := orders.SetWriteDeadline(time.Now().Add(l.cfg.startTimeout())); err != nil {
		return err
	}
	if _, err := orders.Write(text); err != nil {
		return fmt.Errorf("give orders: %w", err)
	}
	orders.Close()
	if err := i.connect(ctx); err != nil {
		return err
	}
	s, err := i.Status(ctx)
	if err != nil {
		return err
	}
	if s.Running || s.Status != "prelaunch" {
		return fmt.Errorf("QEMU is in state %q, not prelaunch: it was to start stopped", s.Status)
	}
	if l.spec.ConsoleSocket != "" {
		return i.awaitConsole(ctx)
	}
	return nil
}

// explain adds the reason that QEMU gave.
func (l *launch) explain(ctx context.Context, i *Instance, err error) error {
	switch e := i.Exit(); {
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	case e.Reason != ExitKilled:
		err = fmt.Errorf("%w: %s", errEnded, e.text())
	case ctx.Err() != nil:
		err = fmt.Errorf("the monitor did not answer in time: %w", ctx.Err())
	}
	if said := l.stderr.String(); said != "" {
		return fmt.Errorf("%w; QEMU said: %s", err, said)
	}
	return err
}

// drain copies what QEMU writes until it has closed its end.
func drain(to *tail, from io.ReadCloser) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer from.Close()
		io.Copy(to, from)
	}()
	return done
}
