package vm

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// console is the keeper's end of the first serial port.
type console struct {
	accepted chan net.Conn
	conn     net.Conn
	text     string // all that the guest has written so far
}

func listenConsole(t *testing.T, cfg Config, spec *LaunchSpec) *console {
	t.Helper()
	spec.ConsoleSocket = filepath.Join(SocketDir(cfg, testID), "console.sock")
	l, err := net.Listen("unix", spec.ConsoleSocket)
	if err != nil {
		t.Fatal(err)
	}
	giveToVM(t, cfg, spec.ConsoleSocket)
	c := &console{accepted: make(chan net.Conn, 1)}
	go func() {
		defer l.Close()
		if conn, err := l.Accept(); err == nil {
			c.accepted <- conn
		}
	}()
	t.Cleanup(func() {
		l.Close()
		if c.conn != nil {
			c.conn.Close()
		}
	})
	return c
}

// read waits until the guest has written want.
func (c *console) read(want string) error {
	if c.conn == nil {
		select {
		case c.conn = <-c.accepted:
		case <-time.After(20 * time.Second):
			return errors.New("the console is not connected")
		}
	}
	c.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	for !strings.Contains(c.text, want) {
		b := make([]byte, 512)
		n, err := c.conn.Read(b)
		if err != nil {
			return fmt.Errorf("after %q: %w", c.text, err)
		}
		c.text += string(b[:n])
	}
	return nil
}

// TestGuestPowersOff: QEMU stays, stopped in state shutdown, until it is asked to quit.
func TestGuestPowersOff(t *testing.T) {
	cfg := testConfig(t)
	spec := testSpec(t, cfg, MachineQ35, FirmwareBIOS, bootDisk)
	console := listenConsole(t, cfg, &spec)
	i := start(t, cfg, spec)
	execute(t, i, "cont")
	if err := console.read("UV"); err != nil {
		t.Fatal(err)
	}
	if _, err := console.conn.Write([]byte("q")); err != nil {
		t.Fatal(err)
	}
	wantEvent(t, i, "SHUTDOWN")
	wantStatus(t, i, "shutdown")
	execute(t, i, "quit")
	if e := waitDone(t, i); e.Reason != ExitQuit {
		t.Errorf("exit %+v", e)
	}
}

// TestServerComesBack replaces the NBD server, with a new socket of the same name, before
// the guest reads: QEMU must wait and connect again.
func TestServerComesBack(t *testing.T) {
	cfg := testConfig(t)
	spec := testSpec(t, cfg, MachinePC, FirmwareBIOS)
	image := filepath.Join(t.TempDir(), "root")
	if err := os.WriteFile(image, append(bootSector(), make([]byte, 8<<20)...), 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(SocketDir(cfg, testID), "root.sock")
	args := []string{"--persistent", "--format=raw", "--export-name=root", "--socket=" + socket, image}
	spec.Disks, spec.DiskSockets["root"] = []Disk{bootDisk}, socket
	end := runNBD(t, cfg, socket, args)
	console := listenConsole(t, cfg, &spec)
	i := start(t, cfg, spec)
	end()
	os.Remove(socket)
	execute(t, i, "cont")
	time.Sleep(300 * time.Millisecond) // long enough for the firmware to want the disk
	wantStatus(t, i, "running")
	runNBD(t, cfg, socket, args)
	if err := console.read("UV"); err != nil {
		t.Fatal(err)
	}
}

// TestKVMDevice runs firmware with KVM, or what passes for it: that a guest's kernel
// would not get far on an emulation of it does not matter to the confinement.
func TestKVMDevice(t *testing.T) {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no KVM on this host: %v", err)
	}
	f.Close()
	cfg := testConfig(t)
	cfg.Accel = AccelKVM
	spec := testSpec(t, cfg, MachinePC, FirmwareBIOS, bootDisk)
	console := listenConsole(t, cfg, &spec)
	i, err := Launch(t.Context(), cfg, spec)
	if err != nil {
		// An emulated KVM may lack what `-cpu host` needs. QEMU noticing that shows
		// that it could open the device.
		if accel, why := DetectAccel(); accel == AccelKVM || !strings.Contains(err.Error(), "MSR") {
			t.Fatalf("%v (%s)", err, why)
		}
		return
	}
	t.Cleanup(func() {
		i.Kill()
		waitDone(t, i)
	})
	execute(t, i, "cont")
	if err := console.read("UV"); err != nil {
		t.Error(err)
	}
	if i.Record().Accel != AccelKVM {
		t.Errorf("record %+v", i.Record())
	}
	if !isRoot() {
		return
	}
	var names []string
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/root/dev", i.PID()))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if err != nil || !slices.Equal(names, []string{"kvm", "null", "urandom", "zero"}) {
		t.Errorf("/dev holds %q, %v", names, err)
	}
}

// TestTap hands over a real tap device and looks for the guest's card on it.
func TestTap(t *testing.T) {
	if !isRoot() {
		t.Skip("making a tap device needs root")
	}
	cfg := testConfig(t)
	spec := testSpec(t, cfg, MachineQ35, FirmwareBIOS)
	tap := openTap(t, "uvbondtest0")
	spec.NICs = []NIC{{MAC: [6]byte{0x52, 0x54, 0, 0, 0, 1}, Model: ModelE1000}, {MAC: [6]byte{0x52, 0x54, 0, 0, 0, 2}, Model: ModelVirtio}}
	spec.TapFiles = []*os.File{nil, tap}
	i := start(t, cfg, spec)
	execute(t, i, "cont")
	wantStatus(t, i, "running")
	if _, err := tap.Stat(); err != nil {
		t.Errorf("the caller's descriptor was closed: %v", err)
	}
	answer, err := i.Execute(t.Context(), "query-rx-filter", map[string]any{"name": "nic1"})
	if err != nil || !strings.Contains(string(answer), "52:54:00:00:00:02") {
		t.Errorf("%s, %v", answer, err)
	}
}

func openTap(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("this host makes no tap devices: %v", err)
	}
	t.Cleanup(func() { f.Close() })
	request, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(int(f.Fd()), unix.TUNSETIFF, request); err != nil {
		t.Skipf("this host makes no tap devices: %v", err)
	}
	return f
}
