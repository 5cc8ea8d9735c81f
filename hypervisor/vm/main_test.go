package vm

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/uvbond/uvbond/hypervisor/keeper"
)

// TestMain lets the test binary stand in for the daemon's program: as the helper that
// becomes QEMU, as a keeper, and as a daemon that starts a VM and dies.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "confine":
			os.Exit(ConfineMain())
		case "keeper":
			os.Exit(keeper.Main(os.Args[2:]))
		case "launch-and-die":
			os.Exit(launchAndDie())
		}
	}
	os.Exit(m.Run())
}

// launchAndDie reads a Config and a LaunchSpec, launches, writes the Record and ends
// without letting go of anything.
func launchAndDie() int {
	var in struct {
		Config Config
		Spec   LaunchSpec
	}
	if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	i, err := Launch(context.Background(), in.Config, in.Spec)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := json.NewEncoder(os.Stdout).Encode(i.Record()); err != nil {
		return 1
	}
	return 0
}

const testID = "00112233445566778899aabbccddeeff"

// testUIDBase is far from what a system uses.
const testUIDBase = 787000

// testConfig has a run directory whose path is short enough for sockets.
func testConfig(t *testing.T) Config {
	t.Helper()
	if _, err := os.Stat(DefaultBinary); err != nil {
		t.Fatalf("QEMU is missing: %s", fixQEMU)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "uvbond-vm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return Config{
		RunDir:  filepath.Join(dir, "run"),
		Accel:   AccelTCG,
		Self:    self,
		UIDBase: testUIDBase,
		Logger:  slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
}

// testSpec is a small VM with one disk for each name:bus, served by real NBD servers.
func testSpec(t *testing.T, cfg Config, machine, firmware string, disks ...Disk) LaunchSpec {
	t.Helper()
	dir, err := Prepare(cfg, testID, 3)
	if err != nil {
		t.Fatal(err)
	}
	spec := LaunchSpec{
		ID: testID, Slot: 3, MemoryBytes: 64 << 20, VCPUs: 1,
		Machine: machine, Firmware: firmware, Disks: disks,
		DiskSockets: map[string]string{},
	}
	for _, d := range disks {
		spec.DiskSockets[d.Name] = serveNBD(t, cfg, dir, d)
	}
	return spec
}

// serveNBD starts qemu-nbd on an image that begins with bootSector.
func serveNBD(t *testing.T, cfg Config, dir string, d Disk) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), d.Name)
	if err := os.WriteFile(image, bootSector(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 8<<20); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, d.Name+".sock")
	args := []string{"--persistent", "--shared=4", "--format=raw", "--export-name=" + d.Name, "--socket=" + socket}
	if d.ReadOnly {
		args = append(args, "--read-only")
	}
	runNBD(t, cfg, socket, append(args, image))
	return socket
}

// runNBD starts a server and returns what ends it.
func runNBD(t *testing.T, cfg Config, socket string, args []string) (end func()) {
	t.Helper()
	cmd := exec.Command("qemu-nbd", args...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v: apt install qemu-utils", err)
	}
	end = func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	t.Cleanup(end)
	eventually(t, "the NBD server", func() bool { _, err := os.Stat(socket); return err == nil })
	giveToVM(t, cfg, socket)
	return end
}

func giveToVM(t *testing.T, cfg Config, socket string) {
	t.Helper()
	if !isRoot() {
		return
	}
	uid := int(cfg.UID(3))
	if err := os.Chown(socket, uid, uid); err != nil {
		t.Fatal(err)
	}
}

// bootSector is an MBR that sends "UV" to the first serial port, waits for a "q" from
// there, and then switches the machine off through ACPI.
func bootSector() []byte {
	b := make([]byte, 512)
	copy(b, []byte{
		0xba, 0xf8, 0x03, // mov dx, 3f8h
		0xb0, 'U', 0xee, // mov al, 'U'; out dx, al
		0xb0, 'V', 0xee, // mov al, 'V'; out dx, al
		0xba, 0xfd, 0x03, // wait: mov dx, 3fdh
		0xec,       // in al, dx
		0xa8, 0x01, // test al, 1
		0x74, 0xf8, // jz wait
		0xba, 0xf8, 0x03, // mov dx, 3f8h
		0xec,      // in al, dx
		0x3c, 'q', // cmp al, 'q'
		0x75, 0xf0, // jne wait
		0xba, 0x04, 0x06, // mov dx, 604h: PM1a control
		0xb8, 0x00, 0x20, // mov ax, 2000h: sleep enable, S5
		0xef,       // out dx, ax
		0xeb, 0xe7, // jmp wait
	})
	b[510], b[511] = 0x55, 0xaa
	return b
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("waited in vain for %s", what)
}

// start launches and sees to it that nothing survives the test.
func start(t *testing.T, cfg Config, spec LaunchSpec) *Instance {
	t.Helper()
	i, err := Launch(t.Context(), cfg, spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		i.Kill()
		waitDone(t, i)
	})
	return i
}

func waitDone(t *testing.T, i *Instance) ExitInfo {
	t.Helper()
	select {
	case <-i.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("the VM does not end")
	}
	return i.Exit()
}

func execute(t *testing.T, i *Instance, command string) {
	t.Helper()
	if _, err := i.Execute(t.Context(), command, nil); err != nil {
		t.Fatal(err)
	}
}

func wantStatus(t *testing.T, i *Instance, want string) {
	t.Helper()
	var have Status
	eventually(t, "state "+want, func() bool {
		var err error
		if have, err = i.Status(t.Context()); err != nil {
			t.Fatal(err)
		}
		return have.Status == want
	})
}

// nothingLeft checks what must be gone after the end of an instance.
func nothingLeft(t *testing.T, cfg Config, rec Record) {
	t.Helper()
	if start, running, err := processTime(rec.PID); err == nil && running && start == rec.StartTime {
		t.Errorf("process %d still runs", rec.PID)
	}
	dir := filepath.Join(cfg.RunDir, rec.ID)
	for _, name := range []string{filepath.Join(monitorName, qmpName), varsName} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s is left behind", name)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), cfg.RunDir) {
		t.Error("a mount is left behind")
	}
	if err := Cleanup(cfg, rec.ID); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(dir); err == nil {
		t.Error("Cleanup left the directory")
	}
}

func procFile(t *testing.T, pid int, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
