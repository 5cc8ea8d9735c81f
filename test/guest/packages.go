package guest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// unpacked returns the folder of a Debian package's content, from the cache or
// by apt. A newer version of the package does not replace what is cached.
func (b *builder) unpacked(ctx context.Context, pkg string) (string, error) {
	dir := filepath.Join(b.cache, "packages", pkg)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	real, err := resolve(ctx, pkg)
	if err != nil {
		return "", err
	}
	b.logf("fetching the Debian package %s", real)
	tmp, err := os.MkdirTemp(b.work, "deb-*")
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "apt-get", "-q", "download", real)
	cmd.Dir = tmp
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("apt-get download %s: %w: %s; are the package lists there (apt-get update)?", real, err, strings.TrimSpace(string(out)))
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(debs) != 1 {
		return "", fmt.Errorf("apt-get download %s left %d files", real, len(debs))
	}
	out := filepath.Join(tmp, "content")
	if err := run(ctx, "dpkg", "-x", debs[0], out); err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	if err := os.Rename(out, dir); err != nil {
		return "", err
	}
	return dir, nil
}

var kernelPackage = regexp.MustCompile(`(?m)^\s*Depends: (linux-image-[0-9][^\s]*)$`)

// resolve follows a kernel's metapackage to the package that has the files.
func resolve(ctx context.Context, pkg string) (string, error) {
	if !strings.HasPrefix(pkg, "linux-image-") {
		return pkg, nil
	}
	out, err := exec.CommandContext(ctx, "apt-cache", "depends", pkg).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("apt-cache depends %s: %w: %s; are the package lists there (apt-get update)?", pkg, err, strings.TrimSpace(string(out)))
	}
	m := kernelPackage.FindSubmatch(out)
	if m == nil {
		return "", fmt.Errorf("apt knows no kernel behind %s: are Debian's package lists there (apt-get update)?", pkg)
	}
	return string(m[1]), nil
}

// fromPackage returns the path of a package's file: the installed one, or else
// one from the package itself.
func (b *builder) fromPackage(ctx context.Context, pkg, path string) (string, error) {
	if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() {
		return path, nil
	}
	dir, err := b.unpacked(ctx, pkg)
	if err != nil {
		return "", err
	}
	p := filepath.Join(dir, path)
	if _, err := os.Stat(p); err != nil {
		return "", fmt.Errorf("package %s lacks %s", pkg, path)
	}
	return p, nil
}
