package guest

import (
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// builderVersion changes when the same options give another disk.
const builderVersion = 2

type builder struct {
	Options
	cache, work string
}

func (b *builder) logf(format string, args ...any) {
	if b.Log != nil {
		fmt.Fprintf(b.Log, "guest: "+format+"\n", args...)
	}
}

func (b *builder) build(ctx context.Context) (string, error) {
	begin := time.Now()
	boot, err := b.bootFiles(ctx)
	if err != nil {
		return "", err
	}
	root, err := b.rootTree(ctx, boot.busybox, boot.modules)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(b.work, "root")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	if err := root.write(dir); err != nil {
		return "", err
	}
	disk, err := b.assemble(ctx, boot, dir, root.size()*11/10/mib+rootSpare)
	if err != nil {
		return "", err
	}
	b.logf("built a guest disk in %.1f s", time.Since(begin).Seconds())
	return disk, nil
}

// bootFiles are what a disk boots with, whatever system is on it.
type bootFiles struct {
	kernel    string // path
	modules   *modules
	busybox   []byte
	initramfs []byte
}

func (b *builder) bootFiles(ctx context.Context) (*bootFiles, error) {
	pkg := "linux-image-cloud-amd64"
	if b.Kernel == Generic {
		pkg = "linux-image-amd64"
	}
	kernel, err := b.unpacked(ctx, pkg)
	if err != nil {
		return nil, err
	}
	images, err := filepath.Glob(filepath.Join(kernel, "boot", "vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return nil, fmt.Errorf("%d kernels in %s", len(images), kernel)
	}
	f := &bootFiles{kernel: images[0]}
	if f.modules, err = loadModules(kernel); err != nil {
		return nil, err
	}
	if f.busybox, err = b.busybox(ctx); err != nil {
		return nil, err
	}
	f.initramfs, err = bootTree(f.busybox, f.modules)
	return f, err
}

// busybox returns a static busybox: the system's, or the package's.
func (b *builder) busybox(ctx context.Context) ([]byte, error) {
	for _, path := range []string{"/usr/bin/busybox", "/bin/busybox"} {
		if f, err := elf.Open(path); err == nil {
			static := true
			for _, p := range f.Progs {
				static = static && p.Type != elf.PT_INTERP
			}
			_ = f.Close()
			if static {
				return os.ReadFile(path)
			}
		}
	}
	dir, err := b.unpacked(ctx, "busybox-static")
	if err != nil {
		return nil, err
	}
	for _, path := range []string{"bin/busybox", "usr/bin/busybox"} {
		if data, err := os.ReadFile(filepath.Join(dir, path)); err == nil {
			return data, nil
		}
	}
	return nil, fmt.Errorf("package busybox-static lacks busybox")
}

// bootTree is the initramfs: just enough to find the root file system.
func bootTree(busybox []byte, mods *modules) ([]byte, error) {
	t := newTree()
	t.file("bin/busybox", 0o755, busybox)
	t.file("init", 0o755, file("initramfs-init"))
	t.put("dev/console", node{mode: fs.ModeDevice | fs.ModeCharDevice | 0o600, major: 5, minor: 1})
	if err := mods.add(t, "modules", bootDrivers); err != nil {
		return nil, err
	}
	return t.initramfs()
}

func (b *builder) rootTree(ctx context.Context, busybox []byte, mods *modules) (*tree, error) {
	t := newTree()
	for _, d := range []string{"proc", "sys", "dev", "run", "tmp", "var", "mnt", "root"} {
		t.dir(d)
	}
	t.file("bin/busybox", 0o755, busybox)
	out, err := exec.CommandContext(ctx, lookTool("busybox"), "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("busybox --list: %w", err)
	}
	for name := range strings.FieldsSeq(string(out)) {
		if name != "busybox" {
			t.link("bin/"+name, "busybox")
		}
	}
	t.file("init", 0o755, file("init"))
	for _, name := range []string{"driver", "network", "terminal"} {
		t.file("bin/"+name, 0o755, file(name))
	}
	t.file("var/www/index.html", 0o644, []byte("UVBond guest\n"))
	t.file("etc/acpi/PWRF/00000080", 0o755, file("power-button"))
	t.file("secret", 0o600, []byte(b.Secret+"\n"))
	if b.Script != "" {
		t.file("script", 0o755, []byte(b.Script+"\n"))
	}
	names := []string{"seed", "power", "net", "pointer"}
	if b.Cryptsetup {
		names = append(names, "dm-crypt")
		if err := addProgram(ctx, t, "cryptsetup"); err != nil {
			return nil, err
		}
	}
	if b.Fio {
		if err := addProgram(ctx, t, "fio"); err != nil {
			return nil, err
		}
	}
	return t, mods.add(t, "lib/modules", names)
}

// addProgram copies a program of this machine with its shared libraries.
func addProgram(ctx context.Context, t *tree, name string) error {
	path := lookTool(name)
	if path == "" {
		return fmt.Errorf("%s is not installed: hack/install-deps.sh all", name)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	t.file("bin/"+name, 0o755, data)
	out, err := exec.CommandContext(ctx, "ldd", path).Output()
	if err != nil {
		return fmt.Errorf("ldd %s: %w", path, err)
	}
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		// "	libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)" or "	/lib64/ld-linux-x86-64.so.2 (0x…)"
		fields := strings.Fields(lines.Text())
		i := 0
		if len(fields) > 2 && fields[1] == "=>" {
			i = 2
		}
		if len(fields) <= i || !strings.HasPrefix(fields[i], "/") {
			continue
		}
		data, err := os.ReadFile(fields[i])
		if err != nil {
			return err
		}
		t.file(fields[i], 0o755, data)
	}
	return lines.Err()
}
