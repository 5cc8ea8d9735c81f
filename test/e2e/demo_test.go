package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestDemo runs what `make demo` runs. It judges itself.
func TestDemo(t *testing.T) {
	t.Parallel() // with TestServerGone, which mostly waits
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "demo"))
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it leaves nothing behind then
	cmd.WaitDelay = 30 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("demo: %v\n%s", err, out)
	}
}
