package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/uvbond/uvbond/hypervisor/netns"
)

var channelMAC = [6]byte{0x52, 0x54, 0, 0xc0, 0xff, 0xee}

// channelSpec is a VM with all that channels need, in a network namespace from outside.
func channelSpec(t *testing.T, cfg Config, machine, firmware string, disks ...Disk) LaunchSpec {
	t.Helper()
	spec := testSpec(t, cfg, machine, firmware, disks...)
	spec.Screen, spec.ChannelMAC = true, channelMAC
	if !isRoot() {
		return spec
	}
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	spec.Network = ns
	return spec
}

// addScreen adds a viewer and brings RFB (RFC 6143) to the point where the server has
// told the size of the screen.
func addScreen(t *testing.T, i *Instance, shared bool) (conn net.Conn, width, height int) {
	t.Helper()
	f, err := i.AddScreen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if conn, err = net.FileConn(f); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	exchange := func(want, send string) {
		t.Helper()
		have := make([]byte, len(want))
		if _, err := io.ReadFull(conn, have); err != nil || string(have) != want {
			t.Fatalf("the display said %q, want %q (%v)", have, want, err)
		}
		if _, err := io.WriteString(conn, send); err != nil {
			t.Fatal(err)
		}
	}
	exchange("RFB 003.008\n", "RFB 003.008\n")
	exchange("\x01\x01", "\x01") // one type of security: none
	exchange("\x00\x00\x00\x00", map[bool]string{true: "\x01", false: "\x00"}[shared])
	var init [24]byte
	if _, err := io.ReadFull(conn, init[:]); err != nil {
		t.Fatal(err)
	}
	name := make([]byte, int(init[23])) // short
	if _, err := io.ReadFull(conn, name); err != nil || !bytes.Contains(name, []byte("uvbond-"+testID)) {
		t.Fatalf("the display is called %q (%v)", name, err)
	}
	return conn, int(init[0])<<8 | int(init[1]), int(init[2])<<8 | int(init[3])
}

// alive tells whether a viewer still gets pictures.
func alive(conn net.Conn) error {
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	// FramebufferUpdateRequest, not incremental, of one pixel.
	if _, err := conn.Write([]byte{3, 0, 0, 0, 0, 0, 0, 1, 0, 1}); err != nil {
		return err
	}
	kind := make([]byte, 1)
	_, err := io.ReadFull(conn, kind)
	return err
}

// TestScreen: viewers come by the monitor only, several at once, none throws another
// out, and there is an end to how many; also for an adopted VM.
func TestScreen(t *testing.T) {
	for _, machine := range []string{MachinePC, MachineQ35} {
		for _, firmware := range []string{FirmwareBIOS, FirmwareUEFI} {
			t.Run(machine+" "+firmware, func(t *testing.T) {
				cfg := testConfig(t)
				i := start(t, cfg, channelSpec(t, cfg, machine, firmware, bootDisk))
				first, w, h := addScreen(t, i, true)
				if w < 320 || h < 200 {
					t.Errorf("the screen has %d by %d pixels", w, h)
				}
				// This one wants the screen for itself.
				second, _, _ := addScreen(t, i, false)
				for n, c := range []net.Conn{first, second} {
					if err := alive(c); err != nil {
						t.Errorf("viewer %d: %v", n, err)
					}
				}
			})
		}
	}
}

// TestScreenIsSilent: a viewer that asks for sound (an extension of QEMU's) has QEMU load
// none of the host's sound drivers.
func TestScreenIsSilent(t *testing.T) {
	cfg := testConfig(t)
	i := start(t, cfg, channelSpec(t, cfg, MachineQ35, FirmwareBIOS, bootDisk))
	viewer, _, _ := addScreen(t, i, true)
	const encoding = "\xff\xff\xfe\xfd"
	if _, err := io.WriteString(viewer, "\x02\x00\x00\x01"+encoding); err != nil { // SetEncodings
		t.Fatal(err)
	}
	offer := make([]byte, 16) // an update with one rectangle that says: there is sound
	if _, err := io.ReadFull(viewer, offer); err != nil || string(offer[12:]) != encoding {
		t.Fatalf("the display answered %x (%v)", offer, err)
	}
	// 16 bits, stereo, 44,100 Hz; begin.
	if _, err := io.WriteString(viewer, "\xff\x01\x00\x02\x03\x02\x00\x00\xac\x44\xff\x01\x00\x00"); err != nil {
		t.Fatal(err)
	}
	if err := alive(viewer); err != nil { // QEMU has dealt with what came before
		t.Fatal(err)
	}
	for line := range strings.Lines(procFile(t, i.PID(), "maps")) {
		if strings.Contains(line, "/audio-") {
			t.Errorf("QEMU loaded %s", line)
		}
	}
}

func TestScreensAreBounded(t *testing.T) {
	cfg := testConfig(t)
	i, err := Launch(t.Context(), cfg, channelSpec(t, cfg, MachineQ35, FirmwareBIOS, bootDisk))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.Kill() })
	var viewers []net.Conn
	for range MaxScreens {
		c, _, _ := addScreen(t, i, true)
		viewers = append(viewers, c)
	}
	if _, err := i.AddScreen(t.Context()); !errors.Is(err, ErrTooManyScreens) {
		t.Fatalf("one more viewer: %v", err)
	}
	again := adoptAgain(t, cfg, i)
	if _, err := again.AddScreen(t.Context()); !errors.Is(err, ErrTooManyScreens) {
		t.Fatalf("one more viewer after a restart: %v", err)
	}
	viewers[0].Close()
	eventually(t, "QEMU to miss the viewer", func() bool {
		n, err := again.countScreens(t.Context())
		return err == nil && n < MaxScreens
	})
	addScreen(t, again, true)
	if err := alive(viewers[1]); err != nil {
		t.Error(err)
	}
}

// TestNothingListens: a VM with all that channels need has no listening socket but its
// monitor's, and its display and card are reached by nobody who does not ask for it.
func TestNothingListens(t *testing.T) {
	if !isRoot() {
		t.Skip("without root the network is the host's")
	}
	cfg := testConfig(t)
	i := start(t, cfg, channelSpec(t, cfg, MachineQ35, FirmwareBIOS, bootDisk))
	for _, table := range []string{"net/tcp", "net/tcp6", "net/udp", "net/udp6"} {
		if lines := strings.Split(strings.TrimSpace(procFile(t, i.PID(), table)), "\n"); len(lines) != 1 {
			t.Errorf("%s: %q", table, lines[1:])
		}
	}
	checkDescriptors(t, i.PID())
	if routes := strings.Split(strings.TrimSpace(procFile(t, i.PID(), "net/route")), "\n"); len(routes) != 1 {
		t.Errorf("routes: %q", routes)
	}
}

// adoptAgain does what a restart of the daemon does.
func adoptAgain(t *testing.T, cfg Config, i *Instance) *Instance {
	t.Helper()
	rec := i.Record()
	i.Close()
	again, err := Adopt(t.Context(), cfg, rec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { again.Kill(); waitDone(t, again) })
	return again
}

func TestWithoutScreen(t *testing.T) {
	cfg := testConfig(t)
	i := start(t, cfg, testSpec(t, cfg, MachinePC, FirmwareBIOS, bootDisk))
	if f, err := i.AddScreen(t.Context()); err == nil {
		f.Close()
		t.Error("a VM without a display got a viewer")
	}
	if address, err := i.Forward(t.Context(), 22); err == nil {
		t.Errorf("a VM without a card for channels forwards a port at %s", address)
	}
}

// dial connects in the VM's network namespace.
func dial(spec *LaunchSpec, address string) (conn net.Conn, err error) {
	d := func() error {
		conn, err = (&net.Dialer{Timeout: 10 * time.Second}).Dial("tcp", address)
		return err
	}
	if spec.Network == nil {
		return conn, d()
	}
	return conn, netns.Do(spec.Network, d)
}

func TestForwards(t *testing.T) {
	cfg := testConfig(t)
	spec := channelSpec(t, cfg, MachinePC, FirmwareBIOS, bootDisk)
	i, err := Launch(t.Context(), cfg, spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.Kill() })
	forward := func(port uint16) string {
		t.Helper()
		address, err := i.Forward(t.Context(), port)
		if err != nil {
			t.Fatal(err)
		}
		c, err := dial(&spec, address)
		if err != nil {
			t.Fatalf("port %d: %v", port, err)
		}
		c.Close()
		return address
	}
	refused := func(address string) {
		t.Helper()
		if c, err := dial(&spec, address); err == nil {
			c.Close()
			t.Errorf("%s is still forwarded", address)
		}
	}
	at22 := forward(22)
	if again := forward(22); again != at22 {
		t.Errorf("port 22 is at %s and at %s", at22, again)
	}
	if other := forward(65535); other == at22 {
		t.Errorf("two ports at %s", other)
	}
	if _, err := i.Forward(t.Context(), 0); err == nil {
		t.Error("port 0 is forwarded")
	}
	for port := range uint16(MaxForwards - 2) {
		forward(1000 + port)
	}
	forward(22) // used again: 65535 goes first
	gone, err := i.Forward(t.Context(), 2000)
	if err != nil {
		t.Fatal(err)
	}
	last, _ := i.listForwards(t.Context())
	if len(last) != MaxForwards || slices.Contains(last, 65535) || !slices.Contains(last, 22) {
		t.Errorf("forwarded are %v", last)
	}
	refused(i.forwardAddress(65535))

	// The next daemon finds them, and counts them.
	again := adoptAgain(t, cfg, i)
	i = again
	if a := forward(22); a != at22 {
		t.Errorf("port 22 was at %s and is at %s", at22, a)
	}
	if a := forward(2000); a != gone {
		t.Errorf("port 2000 was at %s and is at %s", gone, a)
	}
	forward(3000)
	if last, _ = i.listForwards(t.Context()); len(last) != MaxForwards || !slices.Contains(last, 22) || !slices.Contains(last, 2000) {
		t.Errorf("forwarded are %v", last)
	}
	if isRoot() {
		if c, err := net.DialTimeout("tcp", at22, time.Second); err == nil {
			c.Close()
			t.Error("a guest's port is reached from outside of the VM's network")
		}
	}
}

// TestOneNetwork: QEMU is in the namespace that it was given, and an adopted one is
// found in it.
func TestOneNetwork(t *testing.T) {
	if !isRoot() {
		t.Skip("namespaces need root")
	}
	cfg := testConfig(t)
	spec := channelSpec(t, cfg, MachineQ35, FirmwareBIOS, bootDisk)
	i := start(t, cfg, spec)
	want, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", spec.Network.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	tasks, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(i.PID()), "task"))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		if have, err := os.Readlink("/proc/" + task.Name() + "/ns/net"); err != nil || have != want {
			t.Errorf("thread %s is in %s, want %s (%v)", task.Name(), have, want, err)
		}
	}
	ns, err := i.Network()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if have, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", ns.Fd())); have != want {
		t.Errorf("found in %s, want %s", have, want)
	}
	i.Kill()
	waitDone(t, i)
	if ns, err := i.Network(); err == nil {
		ns.Close()
		t.Error("a process that has ended has a network")
	}
}

func TestParseForwards(t *testing.T) {
	const table = `Hub -1 (channel):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[HOST_FORWARD] 1012      127.1.0.22 20003   198.19.255.15    22     0     0
  TCP[HOST_FORWARD]   8    127.1.255.255 20003   198.19.255.15 65535     0     0
  TCP[HOST_FORWARD]   9       127.1.0.23 20003   198.19.255.15    22     0     0
  TCP[HOST_FORWARD]  10        127.0.0.1    22   198.19.255.15    22     0     0
  TCP[HOST_FORWARD]  11       127.1.0.24 20003   198.19.255.16    24     0     0
  TCP[HOST_FORWARD]  12       127.1.0.25 20003   198.19.255.15 65561     0     0
  TCP[ESTABLISHED]   13       127.1.0.26 20003   198.19.255.15    26     0     0
  TCP[HOST_FORWARD]  14       127.1.0.27 20003   198.19.255.15    27     0
  UDP[236 sec]       15                *    68   198.19.255.15    68     0     0
`
	if have := parseForwards(table); !slices.Equal(have, []uint16{22, 65535}) {
		t.Errorf("%v", have)
	}
}

// FuzzParseForwards: whatever a QEMU says that the guest took over, each port is one
// whose address is its own.
func FuzzParseForwards(f *testing.F) {
	f.Add("  TCP[HOST_FORWARD]   8       127.1.0.22 20003   198.19.255.15    22     0     0\n")
	f.Add("TCP[HOST_FORWARD] 8 ::ffff:127.1.0.22 1 198.19.255.15 22 0 0\nTCP[HOST_FORWARD]")
	f.Fuzz(func(t *testing.T, text string) {
		for _, port := range parseForwards(text) {
			if port == 0 || !strings.Contains(text, fmt.Sprintf("127.1.%d.%d", port>>8, port&255)) {
				t.Errorf("port %d in %q", port, text)
			}
		}
	})
}

// TestFirmwareOnSerial: what the firmware says stands before what the disk says, and
// nothing is missing at its beginning, with a display and without.
func TestFirmwareOnSerial(t *testing.T) {
	for _, machine := range []string{MachinePC, MachineQ35} {
		for _, screen := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s screen %v", machine, screen), func(t *testing.T) {
				cfg := testConfig(t)
				spec := testSpec(t, cfg, machine, FirmwareBIOS, bootDisk)
				spec.Screen = screen
				console := listenConsole(t, cfg, &spec)
				i := start(t, cfg, spec)
				execute(t, i, "cont")
				if err := console.read("UV"); err != nil {
					t.Fatal(err)
				}
				// The first thing that SeaBIOS does to its console is a reset of the terminal.
				if !strings.HasPrefix(console.text, "\x1bc") || !strings.Contains(console.text, "SeaBIOS (version") {
					t.Errorf("the console begins with %q", console.text)
				}
			})
		}
	}
}

func TestFirmwareOnSerialUEFI(t *testing.T) {
	for _, screen := range []bool{false, true} {
		cfg := testConfig(t)
		spec := testSpec(t, cfg, MachineQ35, FirmwareUEFI, bootDisk)
		spec.Screen = screen
		console := listenConsole(t, cfg, &spec)
		i := start(t, cfg, spec)
		execute(t, i, "cont")
		if err := console.read("BdsDxe"); err != nil {
			t.Errorf("screen %v: %v", screen, err)
		}
	}
}

func TestConsoleConnected(t *testing.T) {
	for text, want := range map[string]bool{
		`[{"label":"monitor","filename":"x"},{"label":"console","filename":"unix:/sockets/0/console.sock"}]`:              true,
		`[{"label":"console","filename":"disconnected:unix:/sockets/0/console.sock"},{"label":"monitor","filename":"x"}]`: false,
	} {
		if have, err := consoleConnected([]byte(text)); err != nil || have != want {
			t.Errorf("%s: %v, %v", text, have, err)
		}
	}
	for _, text := range []string{`[]`, `{}`, ``} {
		if _, err := consoleConnected([]byte(text)); err == nil {
			t.Errorf("%q is believed", text)
		}
	}
}

// TestConsoleThatNobodyServes: the VM starts nevertheless.
func TestConsoleThatNobodyServes(t *testing.T) {
	defer func(d time.Duration) { consoleTime = d }(consoleTime)
	consoleTime = 50 * time.Millisecond
	cfg := testConfig(t)
	spec := testSpec(t, cfg, MachinePC, FirmwareBIOS, bootDisk)
	spec.ConsoleSocket = filepath.Join(SocketDir(cfg, testID), "nobody.sock")
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
	defer cancel()
	i, err := Launch(ctx, cfg, spec)
	if err != nil {
		t.Fatal(err)
	}
	i.Kill()
	waitDone(t, i)
}
