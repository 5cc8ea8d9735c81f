package cli

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/tenant/firstboot"
)

// TestPipes: Ctrl-C ends a command that reads a pipe into which nobody writes.
func TestPipes(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	interrupted := errors.New("Ctrl-C")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(interrupted)
	for name, read := range map[string]func() error{
		"first boot": func() error { _, err := readCapped(ctx, "--ssh-key", pipe, firstboot.MaxKeyFile); return err },
		"passphrase": func() error { _, err := (&keyFlags{passphraseFile: pipe}).read(ctx); return err },
		"digests":    func() error { _, err := (&baseFlags{name: "x", sha256: pipe}).disk(ctx, "virtio"); return err },
	} {
		if err := read(); !errors.Is(err, interrupted) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
