// Package hypervisor is the trusted daemon: it puts the store, the machines and
// the gate together. Everything below this folder runs in the hypervisor
// domain; nothing outside of it is trusted. The parts, from the door inwards:
//
//	gate     the only door: senders, allow-list, sessions, receipts
//	machine  bonded VMs: launch, watch, recovery after a restart
//	vm       QEMU: command line, confinement, monitor
//	keeper   one process per VM: volume keys, disks over NBD, console
//	state    what survives: identity, bonds, nonces, audit
package hypervisor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/uvbond/uvbond/hypervisor/machine"
	"github.com/uvbond/uvbond/hypervisor/storage"
	"github.com/uvbond/uvbond/qmp"
)

// Config is the daemon's configuration file (TOML). Unknown keys are refused.
type Config struct {
	// StateDir holds the identity key, bonds, nonces and audit logs.
	StateDir string `toml:"state_dir"`
	// RunDir holds sockets and console rings; it should be a tmpfs.
	RunDir string `toml:"run_dir"`
	// Gate is the path of the gate's socket.
	Gate string `toml:"gate"`
	// GateUsers names the users (or uids) that may speak to the gate.
	GateUsers []string `toml:"gate_users"`
	// Accel is "auto", "kvm" or "tcg".
	Accel string `toml:"accel"`
	// UIDBase is the first of 2 × MaxVMs uids that belong to nobody else.
	UIDBase uint32 `toml:"uid_base"`
	// MaxVMs is how many VMs may run at once.
	MaxVMs int `toml:"max_vms"`
	// QEMU is the path of the QEMU binary.
	QEMU string `toml:"qemu"`
	// FirmwareDir holds the OVMF files.
	FirmwareDir string `toml:"firmware_dir"`
	// LogFormat is "text" or "json".
	LogFormat string `toml:"log_format"`
	// Disks says how disks are served.
	Disks DisksConfig `toml:"disks"`
	// Clock tells the time, nil: time.Now. No file sets it; the attack suite does.
	Clock func() time.Time `toml:"-"`
	// Storage names the NBD servers on which ciphertext may be.
	Storage map[string]storage.Config `toml:"storage"`
}

// storages opens what Storage names.
func (c *Config) storages() (map[string]*storage.Storage, error) {
	out := make(map[string]*storage.Storage, len(c.Storage))
	for name, s := range c.Storage {
		var err error
		if out[name], err = storage.New(name, s); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// DisksConfig is the part [disks] of the configuration.
type DisksConfig struct {
	// Virtio is how disks on bus virtio are served: "auto", "nbd" or "vhost-user".
	Virtio string `toml:"virtio"`
	// DirectIO reads and writes ciphertext files without the kernel's page cache.
	DirectIO bool `toml:"direct_io"`
	// Limits are those of every disk when its VM starts.
	Limits LimitsConfig `toml:"limits"`
}

// LimitsConfig is the part [disks.limits]. Zero is no limit.
type LimitsConfig struct {
	IOPS         uint64 `toml:"iops"` // requests per second
	Bytes        uint64 `toml:"bytes_per_second"`
	BurstSeconds uint64 `toml:"burst_seconds"` // for how long unused service is saved up; 0: one second
}

func (l LimitsConfig) limits() qmp.DiskLimits {
	return qmp.DiskLimits{IOPS: l.IOPS, Bytes: l.Bytes, Burst: l.BurstSeconds}
}

// DefaultConfigPath is where the daemon looks when --config is not given.
const DefaultConfigPath = "/etc/uvbond/hypervisor.toml"

// maxUIDBase leaves room for the VMs below the largest uid.
const maxUIDBase = 1<<31 - 1

// maxRunDir leaves room for "/vm/ID/sockets/console.sock" in the 107 bytes that
// a socket's path may have.
const maxRunDir = 107 - len("/vm/00112233445566778899aabbccddeeff/sockets/console.sock")

// DefaultConfig is what holds where the file says nothing.
func DefaultConfig() Config {
	return Config{
		StateDir: "/var/lib/uvbond/hypervisor", RunDir: "/run/uvbond/hypervisor",
		Gate: "/run/uvbond/gate/gate.sock", GateUsers: []string{"uvbond-server"},
		Accel: "auto", UIDBase: 600000, MaxVMs: 256, LogFormat: "text",
		Storage: map[string]storage.Config{},
		Disks:   DisksConfig{Virtio: machine.VirtioAuto},
	}
}

// LoadConfig reads a file over the defaults. A missing file at the default
// path is an empty one.
func LoadConfig(path string) (Config, error) {
	c := DefaultConfig()
	meta, err := toml.DecodeFile(path, &c)
	if errors.Is(err, fs.ErrNotExist) && path == DefaultConfigPath {
		return c, c.check()
	}
	if err != nil {
		return c, fmt.Errorf("configuration %s: %w", path, err)
	}
	if left := meta.Undecoded(); len(left) > 0 {
		return c, fmt.Errorf("configuration %s: key %q is not known; docs/operating.md lists the keys", path, left[0])
	}
	if err := c.check(); err != nil {
		return c, fmt.Errorf("configuration %s: %w", path, err)
	}
	return c, nil
}

func (c *Config) check() error {
	for _, p := range []struct{ name, path string }{{"state_dir", c.StateDir}, {"run_dir", c.RunDir}, {"gate", c.Gate}} {
		if !filepath.IsAbs(p.path) {
			return fmt.Errorf("%s must be an absolute path, is %q", p.name, p.path)
		}
	}
	if len(c.Gate) > 107 {
		return fmt.Errorf("gate: the path has %d bytes, a socket's may have 107", len(c.Gate))
	}
	switch {
	case len(c.RunDir) > maxRunDir:
		return fmt.Errorf("run_dir: the path has %d bytes; with more than %d the paths of the sockets in it grow too long", len(c.RunDir), maxRunDir)
	case c.MaxVMs < 1 || c.MaxVMs > 4096:
		return fmt.Errorf("max_vms must be 1 to 4096, is %d", c.MaxVMs)
	case c.Accel != "auto" && c.Accel != "kvm" && c.Accel != "tcg":
		return fmt.Errorf("accel must be auto, kvm or tcg, is %q", c.Accel)
	case c.LogFormat != "text" && c.LogFormat != "json":
		return fmt.Errorf("log_format must be text or json, is %q", c.LogFormat)
	case c.UIDBase < 1000 || c.UIDBase > maxUIDBase:
		return fmt.Errorf("uid_base must be 1000 to %d, is %d", maxUIDBase, c.UIDBase)
	}
	if v := c.Disks.Virtio; v != machine.VirtioAuto && v != machine.VirtioNBD && v != machine.VirtioVhostUser {
		return fmt.Errorf("disks.virtio must be auto, nbd or vhost-user, is %q", v)
	}
	if err := c.Disks.Limits.limits().Validate(); err != nil {
		return fmt.Errorf("disks.limits: %w", err)
	}
	return nil
}

// gateUIDs resolves GateUsers. The daemon's own uid is always among them when
// the daemon is not root: then there is one uid only.
func (c *Config) gateUIDs() (map[uint32]bool, error) {
	uids := map[uint32]bool{}
	for _, name := range c.GateUsers {
		if n, err := strconv.ParseUint(name, 10, 32); err == nil {
			uids[uint32(n)] = true
			continue
		}
		u, err := user.Lookup(name)
		if err != nil {
			return nil, fmt.Errorf("gate_users: there is no user %q; create it (useradd --system %s) or name another", name, name)
		}
		n, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("gate_users: %q has uid %q", name, u.Uid)
		}
		uids[uint32(n)] = true
	}
	if own := os.Geteuid(); own != 0 {
		uids[uint32(own)] = true
	}
	if uids[0] {
		return nil, errors.New("gate_users: root is the hypervisor domain itself and cannot be a user of the gate")
	}
	if len(uids) == 0 {
		return nil, errors.New("gate_users is empty: nobody could use the gate")
	}
	return uids, nil
}
