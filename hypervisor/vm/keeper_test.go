package vm

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/disk/xts"
	"github.com/uvbond/uvbond/hypervisor/keeper"
)

const (
	cipherOffset = 1 << 20
	cipherLength = 8 << 20
	sectorSize   = 4096
)

// cipherDisk is an encrypted disk that begins with bootSector.
func cipherDisk(t *testing.T, key *bond.Secret) *os.File {
	t.Helper()
	plain := make([]byte, cipherLength)
	copy(plain, bootSector())
	c, err := xts.New(key.Bytes(), sectorSize, sectorSize/512)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.EncryptSectors(plain, plain, 0); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(t.TempDir(), "disk"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.WriteAt(plain, cipherOffset); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestWithKeeper boots from an encrypted disk that a real keeper serves to this one
// process, and reads the console from the keeper's ring.
func TestWithKeeper(t *testing.T) {
	cfg := testConfig(t)
	sockets, err := Prepare(cfg, testID, 3)
	if err != nil {
		t.Fatal(err)
	}
	control := filepath.Join(cfg.RunDir, testID, "keeper")
	if err := os.Mkdir(control, 0o700); err != nil {
		t.Fatal(err)
	}
	ring, err := keeper.CreateRing(filepath.Join(control, "console"), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer ring.Close()
	key := bond.RandomSecret(64)
	defer key.Wipe()
	uid := cfg.UID(3)
	k, err := keeper.Start(t.Context(), keeper.Options{
		UID: uid + 1, GID: uid + 1, Dir: control, SocketDir: sockets, Ring: ring, Stderr: os.Stderr,
		Disks: map[string]*os.File{"root": cipherDisk(t, key)},
		Config: keeper.Config{VM: testID, QEMUUID: qemuUID(cfg), Disks: []keeper.DiskConfig{{
			Name: "root", Key: key, SectorSize: sectorSize, DataOffset: cipherOffset, Length: cipherLength,
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Kill()
	i := start(t, cfg, LaunchSpec{
		ID: testID, Slot: 3, MemoryBytes: 64 << 20, VCPUs: 1, Machine: MachinePC, Firmware: FirmwareBIOS,
		Disks:         []Disk{bootDisk},
		DiskSockets:   map[string]string{"root": k.DiskPath("root")},
		ConsoleSocket: k.ConsolePath(),
		OnStarted: func(pid int) {
			if err := k.AllowPeer(t.Context(), pid); err != nil {
				t.Error(err)
			}
		},
	})
	execute(t, i, "cont")
	eventually(t, "the guest's output in the ring", func() bool {
		data, _, _, err := k.Console(0, 4096)
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Contains(data, []byte("UV"))
	})
	execute(t, i, "quit")
	if e := waitDone(t, i); e.Reason != ExitQuit {
		t.Errorf("exit %+v", e)
	}
}

// qemuUID is who connects to the keeper: without root there is only one user.
func qemuUID(cfg Config) uint32 {
	if isRoot() {
		return cfg.UID(3)
	}
	return uint32(os.Geteuid())
}
