package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"github.com/uvbond/uvbond/hypervisor/gate"
	"github.com/uvbond/uvbond/hypervisor/machine"
	"github.com/uvbond/uvbond/hypervisor/state"
	"github.com/uvbond/uvbond/hypervisor/vm"
)

// Version is the hypervisor's; uvbond-query-host tells it.
const Version = "0.1.0"

// Serve runs the daemon until ctx ends. VMs run on when it ends; the next
// daemon finds them again.
func Serve(ctx context.Context, c Config, log *slog.Logger) error {
	uids, err := c.gateUIDs()
	if err != nil {
		return err
	}
	storages, err := c.storages()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("own program: %w", err)
	}
	if os.Geteuid() != 0 {
		log.Warn("not root: VMs, keepers and daemon share one uid, and the domains are not separated")
	}
	// Before the run folder, which may share a parent with it that others must
	// be able to pass.
	if err := os.MkdirAll(filepath.Dir(c.Gate), 0o755); err != nil {
		return fmt.Errorf("gate: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(c.StateDir), 0o755); err != nil {
		return fmt.Errorf("state folder: %w", err)
	}
	store, err := state.Open(c.StateDir, state.Options{Clock: c.Clock})
	if err != nil {
		return err
	}
	defer store.Close()
	m, err := machine.New(ctx, machine.Config{
		VM: vm.Config{
			BinaryPath: c.QEMU, RunDir: filepath.Join(c.RunDir, "vm"), Accel: c.Accel, Self: self,
			UIDBase: c.UIDBase, FirmwareDir: c.FirmwareDir, Logger: log,
		},
		RunDir: c.RunDir, Version: Version, MaxVMs: c.MaxVMs, Limits: c.Disks.Limits.limits(), Virtio: c.Disks.Virtio, DirectIO: c.Disks.DirectIO, Storages: storages, Clock: c.Clock, Log: log,
	}, store)
	if err != nil {
		return err
	}
	defer m.Close()
	l, err := listen(c.Gate)
	if err != nil {
		return err
	}
	host := store.HostKey().Public()
	log.Info("gate is open", "socket", c.Gate, "host", host.ID().String(), "fingerprint", host.Fingerprint())
	return gate.New(m, func(uid uint32) bool { return uids[uid] }, log).Serve(ctx, l)
}

// listen makes the gate's socket. Who may speak is decided by the kernel's
// credentials of every message, so the file itself is open to all.
func listen(path string) (*net.UnixListener, error) {
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() != os.ModeSocket {
		return nil, fmt.Errorf("gate: %s is in the way: it is not a socket; move it or name another path", path)
	}
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return nil, fmt.Errorf("gate: another daemon listens on %s; stop it first", path)
	} else if errors.Is(err, syscall.ECONNREFUSED) {
		os.Remove(path) // left by a daemon that was killed
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("gate: %w", err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		l.Close()
		return nil, fmt.Errorf("gate: %w", err)
	}
	return l, nil
}

// Fingerprint opens the store for long enough to read the host's identity.
func Fingerprint(c Config) (id, fingerprint string, err error) {
	store, err := state.Open(c.StateDir, state.Options{})
	if err != nil {
		return "", "", err
	}
	defer store.Close()
	pub := store.HostKey().Public()
	return pub.ID().String(), pub.Fingerprint(), nil
}
