package vm

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/uvbond/uvbond/hypervisor/netns"
	"github.com/uvbond/uvbond/test/guest"
)

// pointerScript makes the guest's command "pt", which needs no shift key to be typed: it
// tells the serial port that it was called from the screen, and what the pointer that it
// finds said.
const pointerScript = `cat >/bin/pt <<'EOF'
#!/bin/sh
tty >/dev/ttyS0
driver pointer
for d in /sys/class/input/event*; do
	grep -q -i tablet $d/device/name || continue
	[ -e /dev/input/${d##*/} ] || mknod /dev/input/${d##*/} c $(tr : ' ' <$d/dev)
	echo "the pointer is ${d##*/}" >/dev/ttyS0
	head -c 24 /dev/input/${d##*/} | wc -c | sed 's/^/the pointer said bytes: /' >/dev/ttyS0
done
EOF
chmod 755 /bin/pt`

// TestRealGuest boots Linux with all that channels need: the firmware stands on the
// console before the kernel, keys and pointer of a viewer reach the guest, and its
// ports are reached through the card for channels, on which it finds no way out.
func TestRealGuest(t *testing.T) {
	image, err := guest.Build(t.Context(), guest.Options{Script: pointerScript + "\nwhile [ ! -e /run/lease ]; do usleep 100000; done; ip route\n" +
		"for a in " + channelHost + " 127.0.0.1 10.0.2.2; do nc -w 2 $a 4711 </dev/null && echo UVBOND-OUTSIDE $a; done; true"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ machine, firmware, says string }{
		{MachinePC, FirmwareBIOS, "SeaBIOS (version"},
		{MachineQ35, FirmwareUEFI, "BdsDxe: starting"},
	} {
		t.Run(c.machine+" "+c.firmware, func(t *testing.T) {
			cfg := testConfig(t)
			spec := channelSpec(t, cfg, c.machine, c.firmware)
			spec.MemoryBytes = 256 << 20
			serveImage(t, cfg, &spec, image)
			console := listenConsole(t, cfg, &spec)
			reached := listenBeside(t, &spec)
			i := start(t, cfg, spec)
			execute(t, i, "cont")
			for _, want := range []string{"UVBOND-GUEST-UP", "UVBOND-NETWORK inet " + channelGuest + "/24 on eth0, router none, name server none", "UVBOND-SCRIPT-DONE 0"} {
				if err := console.read(want); err != nil {
					t.Fatal(err)
				}
			}
			if before, _, _ := strings.Cut(console.text, "UVBOND-GUEST-UP"); !strings.Contains(before, c.says) {
				t.Errorf("before the guest the console said %q", before)
			}
			if strings.Contains(console.text, "default via") || strings.Contains(console.text, "UVBOND-OUTSIDE") || reached() {
				t.Errorf("the guest was given a way out: %q", console.text)
			}
			talk(t, i, &spec, 7, "all comes back\n", "all comes back\n")
			talk(t, i, &spec, 80, "GET / HTTP/1.0\r\n\r\n", "UVBond guest\n")
			silent(t, i, &spec)
			viewer, _, _ := addScreen(t, i, true)
			go io.Copy(io.Discard, viewer)
			typeKeys(t, viewer, "\rpt\r")
			if err := console.read("/dev/tty1"); err != nil {
				t.Fatal(err)
			}
			if err := console.read("the pointer is event"); err != nil {
				t.Fatal(err)
			}
			stop := movePointer(viewer)
			defer stop()
			if err := console.read("the pointer said bytes: 24"); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// listenBeside listens on port 4711 of the loopback device that QEMU has, which a guest
// on a network of QEMU's would reach if it were not for restrict=on.
func listenBeside(t *testing.T, spec *LaunchSpec) (reached func() bool) {
	t.Helper()
	var l net.Listener
	listen := func() (err error) {
		l, err = net.Listen("tcp", "127.0.0.1:4711")
		return err
	}
	err := error(nil)
	if spec.Network == nil {
		err = listen()
	} else {
		err = netns.Do(spec.Network, listen)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	var n atomic.Int32
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n.Add(1)
			c.Close()
		}
	}()
	return func() bool { return n.Load() > 0 }
}

// serveImage serves a copy of a disk image as the VM's boot disk.
func serveImage(t *testing.T, cfg Config, spec *LaunchSpec, image string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "root")
	if err := guest.Copy(t.Context(), image, path); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(SocketDir(cfg, testID), "root.sock")
	runNBD(t, cfg, socket, []string{"--persistent", "--shared=4", "--format=raw", "--export-name=root", "--socket=" + socket, path})
	spec.Disks, spec.DiskSockets["root"] = []Disk{bootDisk}, socket
}

// talk sends to a port of the guest and wants an answer that ends with a text.
func talk(t *testing.T, i *Instance, spec *LaunchSpec, port uint16, send, want string) {
	t.Helper()
	address, err := i.Forward(t.Context(), port)
	if err != nil {
		t.Fatal(err)
	}
	c, err := dial(spec, address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, send); err != nil {
		t.Fatal(err)
	}
	var have strings.Builder
	for b := make([]byte, 512); !strings.HasSuffix(have.String(), want); {
		n, err := c.Read(b)
		have.Write(b[:n])
		if err != nil {
			t.Fatalf("port %d said %q, then %v", port, have.String(), err)
		}
	}
}

// silent: a port on which the guest does not listen ends the connection.
func silent(t *testing.T, i *Instance, spec *LaunchSpec) {
	t.Helper()
	address, err := i.Forward(t.Context(), 9)
	if err != nil {
		t.Fatal(err)
	}
	c, err := dial(spec, address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if n, err := c.Read(make([]byte, 1)); n != 0 || os.IsTimeout(err) {
		t.Errorf("a port that nobody listens on: %d bytes, %v", n, err)
	}
}

// typeKeys sends KeyEvent messages (RFC 6143, 7.5.4), a little apart, as a person does.
func typeKeys(t *testing.T, viewer net.Conn, text string) {
	t.Helper()
	viewer.SetDeadline(time.Time{})
	for _, r := range text {
		sym := []byte{0, 0, 0, byte(r)}
		if r == '\r' {
			sym = []byte{0, 0, 0xff, 0x0d} // XK_Return
		}
		for _, down := range []byte{1, 0} {
			if _, err := viewer.Write(append([]byte{4, down, 0, 0}, sym...)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(30 * time.Millisecond)
		}
	}
}

// movePointer sends PointerEvent messages (RFC 6143, 7.5.5) until it is told to stop.
func movePointer(viewer net.Conn) (stop func()) {
	ended := make(chan struct{})
	go func() {
		for n := byte(1); ; n++ {
			if _, err := viewer.Write([]byte{5, 0, 0, n, 0, n}); err != nil {
				return
			}
			select {
			case <-ended:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	return func() { close(ended) }
}
