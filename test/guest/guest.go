// Package guest builds small bootable disks for the tests and the demo: a real
// boot loader (BIOS and UEFI), a real Debian kernel, and a small system that
// says on its serial port that it is up and then reads and writes its disk.
//
// Nothing is mounted and no privilege is needed. Kernels and boot loaders come
// from Debian packages, fetched once with apt and kept in a cache, so a disk takes a
// few seconds. The packages' signatures are checked by apt; the cache is trusted
// like the rest of the builder's home.
//
// Lines of the guest on ttyS0 (115200n8), besides the boot loader's and the kernel's:
//
//	UVBOND-GUEST-UP <uuid>      another one at every boot
//	UVBOND-SECRET <text>        Options.Secret, read from the disk
//	UVBOND-BOOTS <n> root <device> counter <n>    boots of this disk so far, and
//	                            the last tick that reached it
//	UVBOND-READY                the power button works from here on
//	UVBOND-SCRIPT-DONE <code>   after Options.Script
//	UVBOND-NETWORK inet <address> on <card>, router <address>, name server <address>
//	                            the last network card got these by DHCP, or none:
//	                            port 7 (echo) and port 80 (HTTP) answer
//	UVBOND-TERMINAL <device>    Enter gives a root shell with the prompt "guest# ", on
//	                            ttyS0 and on the screen's tty1
//	tick <n>                    every 2 s, each with a write that is synced; not shown
//	                            while a shell runs on ttyS0
//	UVBOND-POWER-BUTTON, UVBOND-GUEST-DOWN    before it powers itself off
package guest

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed files
var files embed.FS

// Kernel names a flavour of Debian's kernel.
type Kernel string

const (
	Cloud   Kernel = "cloud"   // drives virtio, PIIX IDE and NVMe; boots fastest
	Generic Kernel = "generic" // AHCI as well
)

// Options of Build. The zero value is a Cloud guest with an empty secret.
type Options struct {
	Kernel     Kernel
	Secret     string    // printed as UVBOND-SECRET <text>; one line
	Script     string    // shell, run as root before the ticks; $1 is the root device
	Cryptsetup bool      // cryptsetup on the disk, and "driver dm-crypt"
	Fio        bool      // fio on the disk
	Cmdline    string    // added to the kernel's command line
	SizeMiB    int       // of the whole disk, 0: what the content needs
	Verbose    bool      // the kernel's log on the serial port
	Log        io.Writer `json:"-"` // progress, may be nil
}

// CacheDir is where packages and disks are kept: $UVBOND_CACHE or the user's
// cache folder.
func CacheDir() (string, error) {
	if dir := os.Getenv("UVBOND_CACHE"); dir != "" {
		return filepath.Join(dir, "guest"), nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("guest: no cache folder: %w; set UVBOND_CACHE", err)
	}
	return filepath.Join(dir, "uvbond", "guest"), nil
}

// Build returns the path of a raw disk with these options in the cache, and
// builds it if it is not there. The file is read-only: Copy it to boot from it.
// Concurrent builders, also in other processes, wait for each other.
func Build(ctx context.Context, o Options) (string, error) {
	if err := o.check(); err != nil {
		return "", err
	}
	name, err := o.name()
	if err != nil {
		return "", err
	}
	return cached(name, o, func(b *builder) (string, error) { return b.build(ctx) })
}

// cached returns the path of a disk in the cache, and makes it if it is not there.
func cached(name string, o Options, build func(*builder) (string, error)) (path string, err error) {
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("guest: %w", err)
	}
	unlock, err := lock(filepath.Join(cache, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	path = filepath.Join(cache, name)
	now := time.Now()
	if err := os.Chtimes(path, now, now); err == nil {
		return path, nil
	}
	prune(cache, now)
	b := &builder{Options: o, cache: cache}
	if b.work, err = os.MkdirTemp(cache, "build-*"); err != nil {
		return "", fmt.Errorf("guest: %w", err)
	}
	defer os.RemoveAll(b.work)
	disk, err := build(b)
	if err != nil {
		return "", fmt.Errorf("guest: %w", err)
	}
	if err := os.Chmod(disk, 0o444); err != nil {
		return "", fmt.Errorf("guest: %w", err)
	}
	if err := os.Rename(disk, path); err != nil {
		return "", fmt.Errorf("guest: %w", err)
	}
	return path, nil
}

// prune removes disks that nobody asked for in days, and what interrupted
// builders left.
func prune(cache string, now time.Time) {
	for pattern, age := range map[string]time.Duration{"*.raw": 72 * time.Hour, "build-*": 2 * time.Hour} {
		old, _ := filepath.Glob(filepath.Join(cache, pattern))
		for _, path := range old {
			if fi, err := os.Stat(path); err == nil && now.Sub(fi.ModTime()) > age {
				_ = os.RemoveAll(path)
			}
		}
	}
}

// Copy copies a built disk to a new, writable file; holes stay holes.
func Copy(ctx context.Context, src, dst string) error {
	if err := run(ctx, "cp", "--sparse=always", "--no-preserve=mode", "--", src, dst); err != nil {
		return fmt.Errorf("guest: %w", err)
	}
	return nil
}

// QCOW2 writes a built disk as a compressed qcow2 image.
func QCOW2(ctx context.Context, src, dst string) error {
	if err := run(ctx, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", src, dst); err != nil {
		return fmt.Errorf("guest: %w", err)
	}
	return nil
}

func (o *Options) check() error {
	switch o.Kernel {
	case "":
		o.Kernel = Cloud
	case Cloud, Generic:
	default:
		return fmt.Errorf("guest: no kernel %q: there are %s and %s", o.Kernel, Cloud, Generic)
	}
	if strings.ContainsAny(o.Secret+o.Cmdline, "\r\n\x00") {
		return fmt.Errorf("guest: secret and command line must be one line each")
	}
	return nil
}

// name is the cache's name for a disk: the same for the same options and builder.
func (o *Options) name() (string, error) {
	h := sha256.New()
	opts, err := json.Marshal(o)
	if err != nil {
		return "", fmt.Errorf("guest: %w", err)
	}
	fmt.Fprintf(h, "%d %s\n", builderVersion, opts)
	entries, err := files.ReadDir("files")
	if err != nil {
		return "", fmt.Errorf("guest: %w", err)
	}
	for _, e := range entries {
		fmt.Fprintf(h, "%s\n%s\n", e.Name(), file(e.Name()))
	}
	return fmt.Sprintf("%s-%x.raw", o.Kernel, h.Sum(nil)[:10]), nil
}

// file returns an embedded file.
func file(name string) []byte {
	b, err := files.ReadFile("files/" + name)
	if err != nil {
		panic(err) // embedded at build time
	}
	return b
}

func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("guest: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("guest: lock %s: %w", path, err)
	}
	return func() { _ = f.Close() }, nil
}

// run runs a tool and puts what it said into the error.
func run(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	// sfdisk and mke2fs live where a user's PATH does not always lead.
	cmd.Env = append(os.Environ(), "PATH="+toolPath(), "LC_ALL=C", "MTOOLS_SKIP_CHECK=1")
	if p := lookTool(name); p != "" {
		cmd.Path, cmd.Err = p, nil
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s; hack/install-deps.sh installs what is needed", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}

func toolPath() string { return os.Getenv("PATH") + ":/usr/sbin:/sbin:/usr/bin:/bin" }

func lookTool(name string) string {
	for _, dir := range filepath.SplitList(toolPath()) {
		p := filepath.Join(dir, name)
		if fi, err := os.Stat(p); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return p
		}
	}
	return ""
}
