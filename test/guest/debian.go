package guest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// DebianOptions of Debian. The zero value is enough.
type DebianOptions struct {
	Packages []string  // further packages; one that is only "provided" by another is not found
	Log      io.Writer // progress, may be nil
}

// debianVersion changes when the same options give another disk.
const debianVersion = 1

const debianSuite = "bookworm"

// debianPackages are what the guest has beside the packages that every Debian needs.
var debianPackages = []string{
	"systemd-sysv", "udev", "kmod", "iproute2", "cloud-init", "python3-cffi-backend", "openssh-server", "sudo", "rsync", "git",
}

// debianModules are what the guest loads at its start, or when it is asked for.
var debianModules = []string{"net", "filesystem", "seed", "power", "virtio", "ide", "nvme"}

// Debian returns the path of a raw disk in the cache with Debian 12, its
// cloud-init and its sshd: as debootstrap makes it of Debian's packages, started by the same
// boot loaders, kernel and initramfs as the other guests. It knows no user, no
// password and no ssh key: all that comes from the first boot. It takes a minute
// to build and needs root. Copy it to boot from it.
func Debian(ctx context.Context, o DebianOptions) (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%d %s %q %q %q\n", debianVersion, debianSuite, debianPackages, debianModules, o.Packages)
	for _, name := range []string{"initramfs-init", "debian-setup"} {
		fmt.Fprintf(h, "%s\n", file(name))
	}
	name := fmt.Sprintf("debian-%x.raw", h.Sum(nil)[:10])
	return cached(name, Options{Kernel: Cloud, Log: o.Log}, func(b *builder) (string, error) { return b.debian(ctx, o.Packages) })
}

func (b *builder) debian(ctx context.Context, packages []string) (string, error) {
	if os.Geteuid() != 0 {
		return "", errors.New("debootstrap needs root: packages are configured in a chroot")
	}
	begin := time.Now()
	boot, err := b.bootFiles(ctx)
	if err != nil {
		return "", err
	}
	root := filepath.Join(b.work, "root")
	if err := b.debootstrap(ctx, root, append(debianPackages, packages...)); err != nil {
		return "", err
	}
	if err := installModules(root, boot); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(root, "setup"), file("debian-setup"), 0o700); err != nil {
		return "", err
	}
	if err := run(ctx, "chroot", root, "/bin/sh", "-e", "/setup"); err != nil {
		return "", err
	}
	size, err := folderSize(root)
	if err != nil {
		return "", err
	}
	disk, err := b.assemble(ctx, boot, root, size*11/10/mib+debianSpare)
	if err != nil {
		return "", err
	}
	b.logf("built a Debian disk in %.1f s", time.Since(begin).Seconds())
	return disk, nil
}

// debianSpare is free room in the root file system, in MiB.
const debianSpare = 96

func (b *builder) debootstrap(ctx context.Context, root string, packages []string) error {
	debs := filepath.Join(b.cache, "debs")
	if err := os.MkdirAll(debs, 0o755); err != nil {
		return err
	}
	b.logf("debootstrap of %s", debianSuite)
	args := []string{"--variant=minbase", "--cache-dir=" + debs, "--include=" + strings.Join(packages, ","), debianSuite, root}
	return run(ctx, "debootstrap", append(args, aptMirror(ctx)...)...)
}

// aptMirror is where this machine's apt gets the same packages, or nothing: then
// debootstrap knows a mirror itself.
func aptMirror(ctx context.Context) []string {
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT)", "Created-By: Packages").Output()
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) == 3 && f[1] == debianSuite && f[2] == "main" && strings.HasPrefix(f[0], "http") {
			return []string{strings.TrimSuffix(f[0], "/")}
		}
	}
	return nil
}

// installModules puts the modules where modprobe finds them; debian-setup indexes them.
func installModules(root string, boot *bootFiles) error {
	version := strings.TrimPrefix(filepath.Base(boot.kernel), "vmlinuz-")
	t := newTree()
	dir := filepath.Join("usr/lib/modules", version)
	if err := boot.modules.add(t, filepath.Join(dir, "kernel"), debianModules); err != nil {
		return err
	}
	for _, name := range []string{"modules.builtin", "modules.builtin.modinfo", "modules.order"} {
		text, err := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(boot.kernel)), "lib/modules", version, name))
		if err != nil {
			return err
		}
		t.file(filepath.Join(dir, name), 0o644, text)
	}
	return t.write(root)
}

// folderSize is what the content of a folder needs on ext4, in bytes, roughly.
func folderSize(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err == nil {
			n += (fi.Size()+4095)&^4095 + 512
		}
		return err
	})
	return n, err
}
