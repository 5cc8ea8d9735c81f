package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// MaxScreens is how many viewers one VM's display has at the same time.
const MaxScreens = 8

// ErrTooManyScreens says that MaxScreens viewers are there already.
var ErrTooManyScreens = fmt.Errorf("the display has %d viewers already", MaxScreens)

// screenFD is the name under which QEMU takes over a viewer's socket, for a moment.
const screenFD = "screen"

// addScreen adds the display. Every firmware, boot loader and kernel knows this one,
// in text and in graphics. `-vnc none` is a VNC server that listens nowhere: its
// viewers come by add_client. What they ask about sharing is ignored: none can throw
// the others out. A viewer that asks for sound hears silence: without a backend QEMU
// would go and load the host's sound drivers for it, one after the other.
func (c *commandLine) addScreen(a *argList) {
	if !c.screen {
		return
	}
	a.add("-audiodev", "none,id=silence")
	a.add("-vnc", "none,share=ignore,audiodev=silence")
	a.object("-device", options{{"driver", "VGA"}, {"id", "screen"}})
	// Absolute positions, without which a viewer's pointer and the guest's part. Guests
	// without a driver for it use the PS/2 mouse that each machine has, as the keyboard.
	a.object("-device", options{{"driver", "virtio-tablet-pci"}, {"id", "pointer"}})
}

// AddScreen connects one more viewer to the display and returns the viewer's end of
// the connection, a unix stream socket that speaks RFB (RFC 6143) without
// authentication. ErrTooManyScreens when there are MaxScreens; QEMU counts them, so
// that it holds also for an adopted instance.
func (i *Instance) AddScreen(ctx context.Context) (*os.File, error) {
	i.adding.Lock()
	defer i.adding.Unlock()
	n, err := i.countScreens(ctx)
	if err != nil {
		return nil, err
	}
	if n >= MaxScreens {
		return nil, ErrTooManyScreens
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket pair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "screen"), os.NewFile(uintptr(pair[1]), "screen")
	defer theirs.Close()
	// getfd replaces what an earlier daemon may have left under the name.
	if _, err = i.execute(ctx, "getfd", map[string]any{"fdname": screenFD}, theirs); err == nil {
		_, err = i.execute(ctx, "add_client", map[string]any{"protocol": "vnc", "fdname": screenFD, "skipauth": true})
	}
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("add a viewer of the display: %w", err)
	}
	return ours, nil
}

// countScreens asks QEMU how many viewers its one VNC server has.
func (i *Instance) countScreens(ctx context.Context) (int, error) {
	text, err := i.execute(ctx, "query-vnc-servers", nil)
	if err != nil {
		return 0, err
	}
	var servers []struct {
		Clients []struct{} `json:"clients"`
	}
	if err := json.Unmarshal(text, &servers); err != nil {
		return 0, fmt.Errorf("query-vnc-servers: %w", err)
	}
	if len(servers) != 1 {
		return 0, errors.New("the VM has no display")
	}
	return len(servers[0].Clients), nil
}
