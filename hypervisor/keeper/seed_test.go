package keeper

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/disk/nocloud"
)

const seedMarker = "marker of the owner's user data"

// fullSeed is as long as a seed can be, which is also the longest configuration.
func fullSeed() *bond.Seed {
	text := bytes.Repeat([]byte(seedMarker), bond.MaxSeed/len(seedMarker)+1)
	return &bond.Seed{
		UserData: bond.NewSecret(text[:bond.MaxSeed-3000]), MetaData: bond.NewSecret(text[:1000]),
		VendorData: bond.NewSecret(text[:1000]), NetworkConfig: bond.NewSecret(text[:1000]),
	}
}

func (x *fixture) seedImage(t *testing.T) []byte {
	t.Helper()
	s := x.Config.Seed
	b, err := nocloud.Image(&nocloud.Files{UserData: s.UserData.Bytes(), MetaData: s.MetaData.Bytes(), VendorData: s.VendorData.Bytes(), NetworkConfig: s.NetworkConfig.Bytes()})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func seedURI(p *Process) string {
	return "nbd+unix:///" + bond.SeedDisk + "?socket=" + p.DiskPath(bond.SeedDisk)
}

// readSeed copies the disk as QEMU would read it.
func readSeed(t *testing.T, p *Process) []byte {
	t.Helper()
	allowAny(t, p)
	b, err := as(exec.Command(tool(t, "nbdcopy", "libnbd-bin"), seedURI(p), "-"), qemuUID).Output()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func seedIO(t *testing.T, p *Process, command string) string {
	t.Helper()
	b, _ := as(exec.Command(tool(t, "qemu-io", "qemu-utils"), "-f", "raw", seedURI(p), "-c", command), qemuUID).CombinedOutput()
	return string(b)
}

// TestSeed serves the files of a first boot, again after the keeper was replaced,
// and from a handle of another daemon.
func TestSeed(t *testing.T) {
	x := newFixture(t)
	x.Config.Seed, x.Config.SeedReadOnly = fullSeed(), true
	want := x.seedImage(t)
	p := x.start(t)
	if !bytes.Equal(readSeed(t, p), want) {
		t.Fatal("the disk is not what the files make")
	}
	if out := seedIO(t, p, "write -P 1 0 512"); !strings.Contains(out, "read-only") && !strings.Contains(out, "Operation not permitted") && !strings.Contains(out, "Permission denied") {
		t.Errorf("a write was taken: %s", out)
	}
	if s, err := p.Stats(t.Context()); err != nil || len(s.Disks) != 1 {
		t.Errorf("the seed is among the disks that are told of: %+v %v", s, err)
	}
	q, err := Adopt(x.Dir, p.PID(), p.StartTime())
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	files, err := q.Files(t.Context())
	if err != nil || len(files) != 1 {
		t.Fatalf("files %v, %v", files, err)
	}
	closeAll([]*os.File{files["root"]})
	if err := q.Kill(); err != nil {
		t.Fatal(err)
	}
	x.Sockets = q.Sockets()
	if x.Sockets.Disks[bond.SeedDisk] == nil {
		t.Fatal("the listener of the seed was not adopted")
	}
	if !bytes.Equal(readSeed(t, x.start(t)), want) {
		t.Error("the second keeper's disk is another")
	}
	// The files are the caller's, who still has them.
	if !bytes.Contains(x.Config.Seed.UserData.Bytes(), []byte(seedMarker)) {
		t.Error("the caller's files are gone")
	}
}

// TestSeedWrites: on a bus without read-only disks writes change the keeper's memory
// and nothing else.
func TestSeedWrites(t *testing.T) {
	x := newFixture(t)
	x.Config.Seed = &bond.Seed{UserData: bond.NewSecret([]byte("#cloud-config\n"))}
	want := x.seedImage(t)
	p := x.start(t)
	allowAny(t, p)
	if out := seedIO(t, p, "write -P 0x77 100k 3k"); strings.Contains(out, "ailed") {
		t.Fatal(out)
	}
	changed := bytes.Clone(want)
	copy(changed[100<<10:], bytes.Repeat([]byte{0x77}, 3<<10))
	if !bytes.Equal(readSeed(t, p), changed) {
		t.Error("the write is not there, or more than it")
	}
	if out := seedIO(t, p, "write -P 0x77 256k 512"); !strings.Contains(out, "ailed") {
		t.Errorf("a write behind the end: %s", out)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	x.Sockets = p.Sockets()
	if !bytes.Equal(readSeed(t, x.start(t)), want) {
		t.Error("a write outlived its keeper")
	}
}

// TestSeedStaysInside looks for the files where others could find them.
func TestSeedStaysInside(t *testing.T) {
	x := newFixture(t)
	log, err := os.Create(filepath.Join(filepath.Dir(x.path), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	x.Stderr = log
	x.Config.Seed = fullSeed()
	p := x.start(t)
	if !bytes.Contains(readSeed(t, p), []byte(seedMarker)) {
		t.Fatal("this test looks for something that is nowhere")
	}
	for _, name := range []string{"cmdline", "environ"} {
		if strings.Contains(procFile(t, p, name), seedMarker) {
			t.Errorf("the marker is in the keeper's %s", name)
		}
	}
	err = filepath.WalkDir(filepath.Dir(x.path), func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte(seedMarker)) {
			t.Errorf("the marker is in %s", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestSeedConfig(t *testing.T) {
	x := newFixture(t)
	x.Config.Seed = fullSeed()
	x.Config.Disks[0].Name = bond.SeedDisk
	if err := x.Config.validate(); err == nil {
		t.Error("another disk may have the seed's name")
	}
	x.Config.Disks[0].Name = "root"
	x.Config.Seed.MetaData = bond.NewSecret(make([]byte, 1001))
	if err := x.Config.validate(); err == nil {
		t.Error("a seed may be too long")
	}
}

// TestEncodeLeavesNoCopy: the buffer of the longest configuration does not grow, which would
// leave copies of its keys and of its seed in memory.
func TestEncodeLeavesNoCopy(t *testing.T) {
	x := newFixture(t)
	x.Config.Seed = fullSeed()
	for len(x.Config.Disks) < maxDisks {
		x.Config.Disks = append(x.Config.Disks, x.Config.Disks[0])
	}
	w := x.Config.wire("/run/uvbond/sockets")
	b, err := encode(w)
	if err != nil {
		t.Fatal(err)
	}
	if cap(b) != w.encodedSize() {
		t.Errorf("%d bytes in a buffer of %d that began with %d", len(b), cap(b), w.encodedSize())
	}
}
