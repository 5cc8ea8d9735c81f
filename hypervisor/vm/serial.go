package vm

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// consoleTime is how long a start waits for the console's connection; tests shorten it.
var consoleTime = 5 * time.Second

// awaitConsole waits until QEMU has connected the serial port, which it does while it
// answers its monitor already: what a guest writes before is lost. A console that
// cannot be had is no reason not to start.
func (i *Instance) awaitConsole(ctx context.Context) error {
	for end := time.Now().Add(consoleTime); ; {
		text, err := i.Execute(ctx, "query-chardev", nil)
		if err != nil {
			return err
		}
		connected, err := consoleConnected(text)
		if err != nil || connected {
			return err
		}
		if time.Now().After(end) {
			i.cfg.logger().Warn("the console is not connected yet: the guest's first output will be missing", "vm", i.rec.ID)
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// consoleConnected reads the answer to query-chardev, where the name of a socket
// without a peer begins with "disconnected:" (chardev/char-socket.c of QEMU 7.2).
func consoleConnected(text json.RawMessage) (bool, error) {
	var devices []struct {
		Label    string `json:"label"`
		Filename string `json:"filename"`
	}
	if err := json.Unmarshal(text, &devices); err != nil {
		return false, fmt.Errorf("query-chardev: %w", err)
	}
	for _, d := range devices {
		if d.Label == "console" {
			return !strings.HasPrefix(d.Filename, "disconnected:"), nil
		}
	}
	return false, fmt.Errorf("query-chardev: QEMU has no console")
}
