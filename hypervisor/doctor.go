package hypervisor

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/hypervisor/machine"
	"github.com/uvbond/uvbond/hypervisor/storage"
	"github.com/uvbond/uvbond/hypervisor/vm"
)

// Finding is one thing that the doctor looked at.
type Finding struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"` // a command that mends it
}

// Doctor looks for what the daemon needs on this host.
func Doctor(c Config) []Finding {
	var out []Finding
	add := func(name string, ok bool, detail, fix string) {
		if ok {
			fix = ""
		}
		out = append(out, Finding{Name: name, OK: ok, Detail: detail, Fix: fix})
	}
	add("root", os.Geteuid() == 0, fmt.Sprintf("running as uid %d; only root separates the domains", os.Geteuid()), "sudo uvbond-hypervisor doctor")
	add("build", !withC(), "keepers confine themselves fully only in a program built without cgo", "make build   (or CGO_ENABLED=0 go build ./cmd/uvbond-hypervisor)")
	_, err := c.gateUIDs()
	add("gate users", err == nil, describe(err, fmt.Sprint(c.GateUsers)), "useradd --system --home-dir /var/lib/uvbond-server --shell /usr/sbin/nologin uvbond-server")
	for _, d := range []struct{ name, path string }{{"state folder", c.StateDir}, {"run folder", c.RunDir}} {
		err := writable(d.path)
		add(d.name, err == nil, describe(err, d.path), "install -d -m 0700 "+d.path)
	}
	err = onTmpfs(c.RunDir)
	add("run folder in memory", err == nil, describe(err, c.RunDir), "install -d -m 0700 "+c.RunDir+" && mount -t tmpfs -o mode=0700 tmpfs "+c.RunDir)
	for _, name := range slices.Sorted(maps.Keys(c.Storage)) {
		detail, err := lookAt(name, c.Storage[name])
		add("storage "+name, err == nil, describe(err, detail), "edit [storage."+name+"] in the configuration, or start its server")
	}
	for _, f := range vm.Check(vm.Config{BinaryPath: c.QEMU, RunDir: filepath.Join(c.RunDir, "vm"), FirmwareDir: c.FirmwareDir, UIDBase: c.UIDBase}) {
		add(f.Name, f.OK, f.Detail, f.Fix)
	}
	add("virtio disks", true, virtioDisks(c), "")
	return out
}

// virtioDisks tells how disks on bus virtio will be served.
func virtioDisks(c Config) string {
	accel := c.Accel
	if accel == vm.AccelAuto {
		accel, _ = vm.DetectAccel()
	}
	boot, data := machine.ByVhostUser(c.Disks.Virtio, accel)
	switch {
	case boot && data:
		return "served by vhost-user"
	case data:
		return "served by vhost-user, but for the one that a VM boots from: by NBD, because guests are emulated"
	case c.Disks.Virtio == machine.VirtioNBD:
		return "served by NBD, as the configuration says"
	}
	return "served by NBD, because guests are emulated"
}

// lookAt tells whether a storage can be reached.
func lookAt(name string, c storage.Config) (string, error) {
	s, err := storage.New(name, c)
	if err != nil {
		return "", err
	}
	return c.URI + " answers", s.Check(context.Background())
}

// withC tells whether the program is linked with C code. Then it has threads
// that the Go runtime cannot reach, and what a keeper gives up it would keep there.
func withC() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.ContainsFunc(info.Settings, func(s debug.BuildSetting) bool {
		return s.Key == "CGO_ENABLED" && s.Value == "1"
	})
}

func describe(err error, fine string) string {
	if err != nil {
		return err.Error()
	}
	return fine
}

// writable tells whether the folder, or the nearest one above it that exists,
// can be written.
func writable(path string) error {
	for {
		err := unix.Access(path, unix.W_OK|unix.X_OK)
		if err != unix.ENOENT || path == "/" {
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			return nil
		}
		path = filepath.Dir(path)
	}
}

// onTmpfs checks that what is written to the run folder stays in memory: the
// console's output is there in the clear.
func onTmpfs(path string) error {
	for {
		var st unix.Statfs_t
		err := unix.Statfs(path, &st)
		if err == unix.ENOENT && path != "/" {
			path = filepath.Dir(path)
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if st.Type != unix.TMPFS_MAGIC && st.Type != unix.RAMFS_MAGIC {
			return fmt.Errorf("%s is on a disk: console output would be written there in the clear", path)
		}
		return nil
	}
}
