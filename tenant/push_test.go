package tenant

import (
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/tenant/image"
)

// TestPipe: a pipe is no disk, and is not waited for.
func TestPipe(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, open := range map[string]func() error{
		"push":    func() error { _, _, err := openDisk(pipe); return err },
		"encrypt": func() error { _, err := image.OpenSource(pipe, image.Auto); return err },
		"inspect": func() error { _, err := image.Inspect(pipe); return err },
	} {
		if err := open(); err == nil || !strings.Contains(err.Error(), "cannot tell the size") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
