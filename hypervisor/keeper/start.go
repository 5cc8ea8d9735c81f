package keeper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/hypervisor/netns"
)

// startTimeout bounds a start whose context has no deadline.
const startTimeout = 30 * time.Second

// Options says how to start a keeper.
type Options struct {
	Self      string              // the uvbond-hypervisor binary; "" means the running one, even if it was replaced on disk
	Args      []string            // its arguments; nil means the hidden subcommand, "keeper", and Dir
	UID, GID  uint32              // the keeper's own; not 0 and not QEMU's when the daemon is root, ignored otherwise
	Dir       string              // folder of the control socket; exists, the daemon's only
	SocketDir string              // folder of the disks' and the console's sockets; made if missing
	Sockets   *Sockets            // the listeners of a keeper that died, or nil to make new ones
	Config    Config              // the keys stay the caller's
	Disks     map[string]*os.File // ciphertext by disk name; stay the caller's
	Ring      *os.File            // from CreateRing; stays the caller's
	Stderr    *os.File            // where the keeper logs; nil discards
	// Network is the network namespace in which the keeper runs, from package netns, so
	// that it reaches what the VM's QEMU listens on; stays the caller's. Nil: a new one
	// with nothing in it. Without root it is ignored: there is the host's.
	Network *os.File
}

func (o *Options) validate() error {
	if err := o.Config.validate(); err != nil {
		return err
	}
	if os.Geteuid() == 0 && (o.UID == 0 || o.GID == 0 || o.Config.QEMUUID == 0 || o.UID == o.Config.QEMUUID) {
		return fmt.Errorf("keeper uid %d gid %d and QEMU uid %d must be different and not 0", o.UID, o.GID, o.Config.QEMUUID)
	}
	if o.Ring == nil {
		return errors.New("no console ring file")
	}
	for i := range o.Config.Disks {
		if name := o.Config.Disks[i].Name; o.Disks[name] == nil {
			return fmt.Errorf("no file for disk %q", name)
		}
	}
	if o.Sockets != nil {
		for i := range o.Config.Disks {
			if name := o.Config.Disks[i].Name; o.Sockets.Disks[name] == nil {
				return fmt.Errorf("no listener for disk %q", name)
			}
		}
		if o.Config.Seed != nil && o.Sockets.Disks[bond.SeedDisk] == nil {
			return errors.New("no listener for the seed")
		}
	}
	return nil
}

// Start starts a keeper and returns when it serves.  On an error nothing is left
// running, and o.Sockets is still usable.  On success the Process owns o.Sockets.
func Start(ctx context.Context, o Options) (p *Process, err error) {
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("start keeper: %w", err)
	}
	if _, limited := ctx.Deadline(); !limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, startTimeout)
		defer cancel()
	}
	s := o.Sockets
	if s == nil {
		if s, err = newSockets(o.SocketDir, &o.Config); err != nil {
			return nil, fmt.Errorf("start keeper: %w", err)
		}
		defer func() {
			if err != nil {
				s.Close()
			}
		}()
	}
	ring, err := dup(o.Ring)
	if err != nil {
		return nil, fmt.Errorf("start keeper: console ring: %w", err)
	}
	p = &Process{control: filepath.Join(o.Dir, controlName), sockets: s, ring: ring, done: make(chan struct{})}
	if err := p.launch(ctx, &o); err != nil {
		ring.Close()
		return nil, fmt.Errorf("start keeper: %w", err)
	}
	return p, nil
}

func (p *Process) launch(ctx context.Context, o *Options) error {
	control, err := listen(p.control, unix.SOCK_SEQPACKET, 0)
	if err != nil {
		return err
	}
	defer control.Close()
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	defer ours.Close()
	defer theirs.Close()
	files := []*os.File{control, o.Ring, theirs, p.sockets.Console}
	for i := range o.Config.Disks {
		name := o.Config.Disks[i].Name
		files = append(files, p.sockets.Disks[name], o.Disks[name])
	}
	if o.Config.Seed != nil {
		files = append(files, p.sockets.Disks[bond.SeedDisk])
	}
	cmd := command(o, files)
	start := cmd.Start
	if o.Network != nil && os.Geteuid() == 0 {
		start = func() error { return netns.Do(o.Network, cmd.Start) }
	}
	if err := start(); err != nil {
		return err
	}
	theirs.Close() // so that a keeper that dies ends the conversation
	p.pid = cmd.Process.Pid
	go func() {
		_ = cmd.Wait() // how it ended is in its log; that it ended is what matters
		close(p.done)
	}()
	err = p.configure(ctx, o, ours)
	if err != nil {
		_ = cmd.Process.Kill()
		<-p.done
		return err
	}
	return nil
}

// command describes the process; see the package comment for the descriptors.
func command(o *Options, files []*os.File) *exec.Cmd {
	self, args := o.Self, o.Args
	if self == "" {
		self = "/proc/self/exe"
	}
	if args == nil {
		args = []string{"keeper", o.Dir}
	}
	cmd := exec.Command(self, args...)
	cmd.Args[0] = "uvbond-hypervisor"
	cmd.Env = []string{} // not nil: nothing of the daemon's environment
	cmd.Dir = "/"
	cmd.ExtraFiles = files
	if o.Stderr != nil {
		cmd.Stderr = o.Stderr
	}
	// A session of its own: what is sent to the daemon's terminal or process
	// group does not reach it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: o.UID, Gid: o.GID, Groups: []uint32{}}
		cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
		if o.Network == nil {
			cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWNET
		}
	}
	return cmd
}

// configure sends the configuration and waits until the keeper serves.
func (p *Process) configure(ctx context.Context, o *Options, c *net.UnixConn) error {
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	b, err := encodeConfig(&o.Config, p.sockets.Dir)
	if err != nil {
		return errors.New("configuration cannot be encoded") // the cause could quote it
	}
	// Room for a configuration with a seed; as much as the system allows, which is
	// more by default.
	_ = c.SetWriteBuffer(2 * maxConfig)
	err = sendBytes(c, b)
	bond.Wipe(b)
	if err != nil {
		return fmt.Errorf("send the configuration: %w", err)
	}
	var r response
	files, err := receive(c, &r)
	closeAll(files)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("keeper is not ready: %w", ctx.Err())
	case err != nil:
		return fmt.Errorf("keeper ended before it was ready: %w", err)
	case r.Error != "":
		return errors.New(r.Error)
	}
	if p.start, err = startTime(p.pid); err != nil {
		return err
	}
	p.proc, err = openProcess(p.pid, p.start)
	return err
}

func socketPair() (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair: %w", err)
	}
	theirs = os.NewFile(uintptr(fds[1]), "configuration")
	ours, err = fileConn(os.NewFile(uintptr(fds[0]), "configuration"))
	if err != nil {
		theirs.Close()
	}
	return ours, theirs, err
}

// fileConn makes a connection of a socket's file, which it closes.
func fileConn(f *os.File) (*net.UnixConn, error) {
	defer f.Close()
	nc, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	c, ok := nc.(*net.UnixConn)
	if !ok {
		nc.Close()
		return nil, errors.New("not a unix socket")
	}
	return c, nil
}

func dup(f *os.File) (*os.File, error) {
	fd, err := descriptor(f)
	if err != nil {
		return nil, err
	}
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(n), f.Name()), nil
}
