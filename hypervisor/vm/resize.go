package vm

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// ErrNotResizable says that a device takes its size at the start only.
var ErrNotResizable = errors.New("the device learns its size at the start only")

// Resizes tells whether a disk on this bus can change its size under a guest.
func Resizes(bus string) bool { return bus != BusNVMe }

// ResizeNBD makes QEMU and the guest take over the new size of a disk that the
// keeper serves by NBD, after it hung up. QEMU asks for the size when it connects,
// and connects when it has a request; so it gets one, a read of the first
// sector (block/nbd.c of QEMU 7.2: a node cannot be resized beyond the size that it
// was told).
func (i *Instance) ResizeNBD(ctx context.Context, disk string, size uint64) error {
	node := "disk-" + disk
	if !validName.MatchString(disk) {
		return fmt.Errorf("disk name %q", disk)
	}
	line := map[string]string{"command-line": fmt.Sprintf(`qemu-io %s "read 0 512"`, node)}
	answer, err := i.Execute(ctx, "human-monitor-command", line)
	if err != nil {
		return fmt.Errorf("make QEMU connect again: %w", err)
	}
	if strings.Contains(string(answer), "failed") || strings.Contains(string(answer), "rror") {
		return fmt.Errorf("make QEMU connect again: it said %.200s", answer)
	}
	if _, err := i.Execute(ctx, "block_resize", map[string]any{"node-name": node, "size": size}); err != nil {
		return fmt.Errorf("resize %s: %w", node, err)
	}
	return nil
}
