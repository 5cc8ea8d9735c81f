package machine

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/disk/build"
	"github.com/uvbond/uvbond/disk/luks"
	"github.com/uvbond/uvbond/disk/xts"
	"github.com/uvbond/uvbond/hypervisor/gate"
	"github.com/uvbond/uvbond/hypervisor/machine/machinetest"
	"github.com/uvbond/uvbond/hypervisor/state"
	"github.com/uvbond/uvbond/qmp"
)

// built is a VM whose one disk is to be made from a base image.
type built struct {
	*bonded
	content     []byte     // of the base that the owner means
	base, image string     // paths
	place       *qmp.Place // nil: the image is handed over
}

const builtBytes = 3<<20 + 512 // of a base: four pieces

// built registers one. Steps are one piece long.
func (w *world) built() *built {
	w.t.Helper()
	small := stepBudget
	stepBudget = build.Budget{Bytes: 1, Time: time.Hour}
	w.t.Cleanup(func() { stepBudget = small })
	b := &built{bonded: &bonded{w: w, paths: map[string]string{}}, content: make([]byte, builtBytes)}
	rand.Read(b.content)
	dir := w.t.TempDir()
	b.base, b.image = filepath.Join(dir, "base.raw"), filepath.Join(dir, "image")
	b.write(b.base, b.content)
	b.write(b.image, nil)
	b.resize(b.image, luks.DataOffset+4<<20)
	d := machinetest.NewBase(w.t, "disk0", b.content, 4<<20)
	b.disks, b.paths["disk0"] = []bond.Disk{d}, b.image
	b.register()
	return b
}

func (b *built) write(path string, content []byte) {
	b.w.t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		b.w.t.Fatal(err)
	}
}

func (b *built) resize(path string, size int64) {
	b.w.t.Helper()
	if err := os.Truncate(path, size); err != nil {
		b.w.t.Fatal(err)
	}
}

// step is one uvbond-build, with files as the server opens them.
func (b *built) step() (*qmp.BuildState, error) {
	b.w.t.Helper()
	if b.place != nil {
		return b.machine().Build(b.w.t.Context(), gate.Build{Disk: "disk0", Base: b.open(b.base, os.O_RDONLY), Place: b.place})
	}
	return b.stepWith(b.base, b.image, os.O_RDONLY, os.O_RDWR)
}

func (b *built) stepWith(base, image string, baseMode, imageMode int) (*qmp.BuildState, error) {
	b.w.t.Helper()
	return b.machine().Build(b.w.t.Context(), gate.Build{Disk: "disk0", Base: b.open(base, baseMode), Image: b.open(image, imageMode)})
}

func (b *built) open(path string, mode int) *os.File {
	b.w.t.Helper()
	f, err := os.OpenFile(path, mode, 0)
	if err != nil {
		b.w.t.Fatal(err)
	}
	return f
}

// mustStep expects a step to end at a place.
func (b *built) mustStep(phase string, done uint64) {
	b.w.t.Helper()
	st, err := b.step()
	if err != nil {
		b.w.t.Fatal(err)
	}
	if want := (qmp.BuildState{Disk: "disk0", Phase: phase, Done: done, Total: builtBytes}); *st != want {
		b.w.t.Fatalf("%+v, want %+v", *st, want)
	}
}

// rest goes on until the disk is made.
func (b *built) rest() {
	b.w.t.Helper()
	for range 20 {
		st, err := b.step()
		if err != nil {
			b.w.t.Fatal(err)
		}
		if st.Phase == qmp.BuildDone {
			return
		}
	}
	b.w.t.Fatal("the disk is not made")
}

// holds checks what the image has.
func (b *built) holds(content []byte) {
	b.w.t.Helper()
	raw, err := os.ReadFile(b.image)
	if err != nil {
		b.w.t.Fatal(err)
	}
	d := &b.disks[0]
	h, err := luks.ReadHeader(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		b.w.t.Fatal(err)
	}
	key, err := h.Unlock([]byte(machinetest.Passphrase))
	if err != nil || !bytes.Equal(key, d.VolumeKey.Bytes()) {
		b.w.t.Fatalf("the owner's passphrase does not open the disk: %v", err)
	}
	c, err := xts.New(key, int(d.SectorSize), uint64(d.SectorSize)/512)
	if err != nil {
		b.w.t.Fatal(err)
	}
	data := raw[luks.DataOffset:]
	if err := c.DecryptSectors(data, data, 0); err != nil {
		b.w.t.Fatal(err)
	}
	if !bytes.Equal(data[:len(content)], content) {
		b.w.t.Fatal("the disk does not hold the base image")
	}
}

// TestBuild makes a disk and launches the VM from it, and from nothing before that.
func TestBuild(t *testing.T) {
	w := newWorld(t)
	b := w.built()
	refused := func(want string) {
		t.Helper()
		if err := b.launch(b.files()); classOf(err) != qmp.ClassNotBuilt || !strings.Contains(err.Error(), want) {
			t.Errorf("launch: %v, want %q", err, want)
		}
	}
	refused("it is to be made from its base image first")
	for _, at := range []uint64{1 << 20, 2 << 20, 3 << 20} {
		b.mustStep(qmp.BuildCheck, at)
	}
	refused("check: 3145728 of 3146240 bytes")
	b.mustStep(qmp.BuildWrite, 0)
	b.mustStep(qmp.BuildWrite, 1<<20)
	refused("write: 1048576 of 3146240 bytes")
	if _, err := b.machine().Grow(t.Context(), gate.Grow{Disk: "disk0", Size: 8 << 20}); classOf(err) != qmp.ClassNotBuilt {
		t.Errorf("grow: %v", err)
	}
	if vms := w.m.QueryVMs().VMs; len(vms) != 1 || len(vms[0].Builds) != 1 || vms[0].Builds[0].Done != 1<<20 {
		t.Errorf("the server is told %+v", vms)
	}
	b.rest()
	b.holds(b.content)
	if vms := w.m.QueryVMs().VMs; vms[0].Builds != nil {
		t.Errorf("the server is still told %+v", vms[0].Builds)
	}
	for _, text := range []string{"disk disk0: a base image of 3146240 bytes is being checked", fmt.Sprintf("disk disk0 was made from the base image with SHA-256 %x", sha256.Sum256(b.content))} {
		if !b.recorded("build", text) {
			t.Errorf("not in the audit log: %s", text)
		}
	}
	b.up()
	// Made is made: what the guest wrote is not overwritten, whoever asks.
	f := b.open(b.image, os.O_RDWR)
	defer f.Close()
	for range 2 {
		if _, err := f.WriteAt([]byte("what the guest wrote"), luks.DataOffset); err != nil {
			t.Fatal(err)
		}
		b.mustStep(qmp.BuildDone, builtBytes)
		got := make([]byte, 20)
		if _, err := f.ReadAt(got, luks.DataOffset); err != nil || string(got) != "what the guest wrote" {
			t.Errorf("%q, %v", got, err)
		}
		w.restart(nil)
	}
}

// TestBuildAfterKill: a daemon that ended anywhere is followed by one that goes on.
func TestBuildAfterKill(t *testing.T) {
	w := newWorld(t)
	b := w.built()
	b.mustStep(qmp.BuildCheck, 1<<20)
	w.restart(nil)
	if vms := w.m.QueryVMs().VMs; len(vms[0].Builds) != 1 || vms[0].Builds[0].Done != 1<<20 {
		t.Errorf("the server is told %+v", vms)
	}
	b.mustStep(qmp.BuildCheck, 2<<20)
	b.mustStep(qmp.BuildCheck, 3<<20)
	b.mustStep(qmp.BuildWrite, 0)
	w.restart(nil)
	b.mustStep(qmp.BuildWrite, 1<<20)
	w.restart(nil)
	b.mustStep(qmp.BuildWrite, 2<<20)
	b.rest()
	w.restart(nil)
	b.holds(b.content)
	b.up()
}

// TestWrongBase: another image than the owner's is refused at its end, nothing of
// it is written, the VM does not start, and the right one may come later.
func TestWrongBase(t *testing.T) {
	w := newWorld(t)
	b := w.built()
	wrong := bytes.Clone(b.content)
	wrong[len(wrong)-1] ^= 1
	b.write(b.base, wrong)
	before, err := os.ReadFile(b.image)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err = b.step(); err != nil {
			t.Fatal(err)
		}
	}
	_, err = b.step()
	sum := fmt.Sprintf("%x", sha256.Sum256(wrong))
	if classOf(err) != qmp.ClassInvalid || !strings.Contains(err.Error(), sum) || !strings.Contains(err.Error(), "nothing was written") {
		t.Fatalf("%v", err)
	}
	if !b.recorded("refused", sum) {
		t.Error("not in the audit log")
	}
	for range 2 {
		if err := b.launch(b.files()); classOf(err) != qmp.ClassNotBuilt || !strings.Contains(err.Error(), "another SHA-256 than its owner's ("+sum) {
			t.Errorf("launch: %v", err)
		}
		w.restart(nil)
	}
	if after, err := os.ReadFile(b.image); err != nil || !bytes.Equal(before, after) {
		t.Errorf("something was written: %v", err)
	}
	b.write(b.base, b.content)
	b.mustStep(qmp.BuildCheck, 1<<20)
	b.rest()
	b.holds(b.content)
	b.up()
}

// TestBaseThatChanges: it is truncated in the middle, or exchanged after it was
// checked. The step is refused, and the right one goes on from there.
func TestBaseThatChanges(t *testing.T) {
	w := newWorld(t)
	b := w.built()
	b.mustStep(qmp.BuildCheck, 1<<20)
	b.resize(b.base, 1<<20+5)
	if _, err := b.step(); classOf(err) != qmp.ClassInvalid || !strings.Contains(err.Error(), "the base image has 1048581 bytes, its owner registered 3146240") {
		t.Errorf("truncated: %v", err)
	}
	if !b.recorded("refused", "the base image has 1048581 bytes") {
		t.Error("not in the audit log")
	}
	b.resize(b.base, builtBytes+1)
	if _, err := b.step(); classOf(err) != qmp.ClassInvalid {
		t.Errorf("longer: %v", err)
	}
	b.write(b.base, b.content)
	b.mustStep(qmp.BuildCheck, 2<<20)
	b.mustStep(qmp.BuildCheck, 3<<20)
	b.mustStep(qmp.BuildWrite, 0)
	b.write(b.base, bytes.Repeat([]byte("malware "), builtBytes/8))
	if _, err := b.step(); classOf(err) != qmp.ClassInvalid || !strings.Contains(err.Error(), "it changed between 0 and 1048576") {
		t.Errorf("changed: %v", err)
	}
	if !b.recorded("refused", "it changed between") {
		t.Error("not in the audit log")
	}
	b.write(b.base, b.content)
	b.mustStep(qmp.BuildWrite, 1<<20)
	b.rest()
	b.holds(b.content)
}

// TestSparseBase: holes are zeros.
func TestSparseBase(t *testing.T) {
	w := newWorld(t)
	b := w.built()
	b.content = make([]byte, builtBytes)
	b.content[2<<20] = 1
	b.disks[0] = machinetest.NewBase(t, "disk0", b.content, 4<<20)
	b.register()
	b.resize(b.base, 0)
	b.resize(b.base, builtBytes)
	f := b.open(b.base, os.O_RDWR)
	defer f.Close()
	if _, err := f.WriteAt([]byte{1}, 2<<20); err != nil {
		t.Fatal(err)
	}
	b.rest()
	b.holds(b.content)
}

// TestAnotherImage: when the file that is written to is another one, writing begins
// again; checking does not.
func TestAnotherImage(t *testing.T) {
	w := newWorld(t)
	b := w.built()
	for range 6 {
		if _, err := b.step(); err != nil {
			t.Fatal(err)
		}
	}
	b.image += "2"
	b.write(b.image, nil)
	b.resize(b.image, luks.DataOffset+4<<20)
	b.mustStep(qmp.BuildWrite, 1<<20)
	b.rest()
	b.holds(b.content)
}

// TestBuildRefusals: nothing but what fits is worked on, and every refusal is in
// the audit log.
func TestBuildRefusals(t *testing.T) {
	w := newWorld(t)
	b := w.built()
	dir := t.TempDir()
	short := filepath.Join(dir, "short")
	b.write(short, nil)
	b.resize(short, luks.DataOffset+4<<20-1)
	link := filepath.Join(dir, "link")
	if err := os.Link(b.image, link); err != nil {
		t.Fatal(err)
	}
	other := w.bonded("disk0")
	other.up()
	b.resize(other.paths["disk0"], luks.DataOffset+4<<20)
	for name, c := range map[string]struct {
		base, image         string
		baseMode, imageMode int
		want                string
	}{
		"image read-only":       {b.base, b.image, os.O_RDONLY, os.O_RDONLY, "not open for reading and writing"},
		"image append-only":     {b.base, b.image, os.O_RDONLY, os.O_RDWR | os.O_APPEND, "not open for reading and writing"},
		"image too small":       {b.base, short, os.O_RDONLY, os.O_RDWR, "its image has 20971519 bytes, the registration needs 20971520"},
		"image is a folder":     {b.base, dir, os.O_RDONLY, os.O_RDONLY, "neither a file nor a block device"},
		"image is a device":     {b.base, os.DevNull, os.O_RDONLY, os.O_RDWR, "neither a file nor a block device"},
		"base write-only":       {b.base, b.image, os.O_WRONLY, os.O_RDWR, "not open for reading"},
		"base is a folder":      {dir, b.image, os.O_RDONLY, os.O_RDWR, "not open for reading"},
		"base is endless":       {"/dev/zero", b.image, os.O_RDONLY, os.O_RDWR, "not open for reading"},
		"base is the image":     {b.image, b.image, os.O_RDONLY, os.O_RDWR, "are the same file"},
		"base links to image":   {link, b.image, os.O_RDONLY, os.O_RDWR, "are the same file"},
		"base is empty":         {short + "0", b.image, os.O_RDONLY, os.O_RDWR, "the base image has 0 bytes"},
		"image of another VM":   {b.base, other.paths["disk0"], os.O_RDONLY, os.O_RDWR, "a disk of a VM that runs"},
		"image and base change": {b.image, b.base, os.O_RDONLY, os.O_RDWR, "the base image has 20971520 bytes"},
	} {
		b.write(short+"0", nil)
		_, err := b.stepWith(c.base, c.image, c.baseMode, c.imageMode)
		if classOf(err) != qmp.ClassInvalid || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if !b.recorded("refused", c.want) {
			t.Errorf("%s: not in the audit log", name)
		}
	}
	if st := b.machine().unbuilt(); len(st) != 1 || st[0].Done != 0 {
		t.Errorf("%+v", st)
	}
	for _, disk := range []string{"", "disk1", "../disk0", strings.Repeat("x", 5000)} {
		_, err := b.machine().Build(t.Context(), gate.Build{Disk: disk, Base: b.open(b.base, os.O_RDONLY), Image: b.open(b.image, os.O_RDWR)})
		if classOf(err) != qmp.ClassInvalid || len(err.Error()) > 2000 {
			t.Errorf("disk %.10q: %v", disk, err)
		}
	}
	_, err := other.machine().Build(t.Context(), gate.Build{Disk: "disk0", Base: b.open(b.base, os.O_RDONLY), Image: b.open(b.image, os.O_RDWR)})
	if classOf(err) != qmp.ClassInvalid || !strings.Contains(err.Error(), "no disk \"disk0\" that is made from a base image") {
		t.Errorf("a disk that its owner encrypted: %v", err)
	}
	b.rest()
	b.holds(b.content)
}

// TestUnbuildable: what could not be made is not registered.
func TestUnbuildable(t *testing.T) {
	w := newWorld(t)
	for name, change := range map[string]func(*bond.Disk){
		"offset":         func(d *bond.Disk) { d.DataOffset = 32 << 20 },
		"tweak":          func(d *bond.Disk) { d.IVTweak = 8 },
		"upper-case":     func(d *bond.Disk) { d.UUID = strings.ToUpper(d.UUID) },
		"digest's hash":  func(d *bond.Disk) { d.Digest.Hash = "whirlpool" },
		"digest's value": func(d *bond.Disk) { d.Digest.Value = d.Digest.Value[:20] },
		"2 TiB":          func(d *bond.Disk) { d.Base.Size, d.Length = 2<<40, 2<<40 },
	} {
		d := machinetest.NewBase(t, "disk0", []byte("x"), 4<<20)
		change(&d)
		sealed, _ := machinetest.Register(t, w.store.HostKey().Public(), "", d)
		if _, err := w.m.Register(t.Context(), sealed, "test"); classOf(err) != qmp.ClassInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestStuckStorage: storage that does not answer costs its VM the step, and others
// go on. When it answers at last, the VM goes on as well.
func TestStuckStorage(t *testing.T) {
	w := newWorld(t)
	b, other := w.built(), w.built()
	mc := b.machine()
	j, err := mc.newJob(t.Context(), mc.builds["disk0"], gate.Build{Disk: "disk0", Base: b.open(b.base, os.O_RDONLY), Image: b.open(b.image, os.O_RDWR)})
	if err != nil {
		t.Fatal(err)
	}
	if turn, err := mc.takeTurn(t.Context(), j); !turn || err != nil {
		t.Fatal(turn, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := wait(ctx, make(chan error)); err != errStuck {
		t.Fatal(err)
	}
	if err := mc.notBuilt(j, errStuck); classOf(err) != qmp.ClassUnavailable {
		t.Errorf("%v", err)
	}
	for range 2 {
		if _, err := b.step(); classOf(err) != qmp.ClassUnavailable || !strings.Contains(err.Error(), "still waits for its storage") {
			t.Errorf("%v", err)
		}
	}
	other.rest()
	other.holds(other.content)
	w.m.endTurn(j)
	b.rest()
	b.holds(b.content)
}

// TestSameImage: two VMs are made into one file at once by nobody.
func TestSameImage(t *testing.T) {
	w := newWorld(t)
	b, other := w.built(), w.built()
	mc := b.machine()
	j, err := mc.newJob(t.Context(), mc.builds["disk0"], gate.Build{Disk: "disk0", Base: b.open(b.base, os.O_RDONLY), Image: b.open(b.image, os.O_RDWR)})
	if err != nil {
		t.Fatal(err)
	}
	if turn, err := mc.takeTurn(t.Context(), j); !turn || err != nil {
		t.Fatal(turn, err)
	}
	if _, err := other.stepWith(other.base, b.image, os.O_RDONLY, os.O_RDWR); classOf(err) != qmp.ClassUnavailable {
		t.Errorf("%v", err)
	}
	w.m.endTurn(j)
	if _, err := other.stepWith(other.base, b.image, os.O_RDONLY, os.O_RDWR); err != nil {
		t.Errorf("%v", err)
	}
}

// TestManyBuilds: more builds than may run at once all come to their end, and no
// descriptor is left.
func TestManyBuilds(t *testing.T) {
	w := newWorld(t)
	var all []*built
	for range 5 {
		all = append(all, w.built())
	}
	before := descriptors(t)
	var wg sync.WaitGroup
	for _, b := range all {
		wg.Go(func() {
			for end := time.Now().Add(60 * time.Second); time.Now().Before(end); {
				base, err := os.Open(b.base)
				if err != nil {
					t.Error(err)
					return
				}
				image, err := os.OpenFile(b.image, os.O_RDWR, 0)
				if err != nil {
					t.Error(err)
					return
				}
				st, err := b.machine().Build(t.Context(), gate.Build{Disk: "disk0", Base: base, Image: image})
				if err != nil {
					t.Error(err)
					return
				}
				if st.Phase == qmp.BuildDone {
					return
				}
			}
			t.Error("not made in a minute")
		})
	}
	wg.Wait()
	for _, b := range all {
		b.holds(b.content)
	}
	eventually(t, "descriptors are left", func() bool { return descriptors(t) <= before })
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// TestBuildRunning: a VM that runs has nothing to be made, whatever the record says.
func TestBuildRunning(t *testing.T) {
	w := newWorld(t)
	b := w.built()
	b.rest()
	b.up()
	mc := b.machine()
	mc.builds["disk0"].put(build.State{}, [32]byte{}) // a fault elsewhere
	if _, err := b.step(); classOf(err) != qmp.ClassRunning {
		t.Errorf("%v", err)
	}
}

// TestBuildWithoutRoom: a full disk is a clear end, and room makes it go on.
func TestBuildWithoutRoom(t *testing.T) {
	if unix.Geteuid() != 0 {
		t.Skip("needs root: mounts a small file system")
	}
	w := newWorld(t)
	b := w.built()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Skip("cannot mount here:", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	b.image = filepath.Join(dir, "image")
	b.write(b.image, nil)
	b.resize(b.image, luks.DataOffset+4<<20)
	var err error
	for range 20 {
		if _, err = b.step(); err != nil {
			break
		}
	}
	if classOf(err) != qmp.ClassUnavailable || !strings.Contains(err.Error(), "the image cannot be written: ") || !strings.Contains(err.Error(), "no space left") {
		t.Fatalf("%v", err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	b.rest()
	b.holds(b.content)
}

// TestBuildsGoWithTheBond: a deleted VM leaves nothing.
func TestBuildsGoWithTheBond(t *testing.T) {
	w := newWorld(t)
	b := w.built()
	b.mustStep(qmp.BuildCheck, 1<<20)
	if _, _, err := b.machine().Delete(state.Entry{Kind: "close", Who: "owner", Text: "deleted"}); err != nil {
		t.Fatal(err)
	}
	if r, err := w.store.Build(b.id, "disk0"); r != nil || err != nil {
		t.Errorf("%+v, %v", r, err)
	}
}
