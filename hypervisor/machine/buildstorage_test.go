package machine

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/uvbond/uvbond/disk/luks"
	"github.com/uvbond/uvbond/disk/nbdclient/nbdtest"
	"github.com/uvbond/uvbond/hypervisor/gate"
	"github.com/uvbond/uvbond/hypervisor/storage"
	"github.com/uvbond/uvbond/qmp"
)

// builtThere is built, on a storage named ceph1 whose exports are the files of a folder.
// args are further ones of nbdkit.
func (w *world) builtThere(args ...string) (*built, *nbdtest.Server) {
	w.t.Helper()
	b := w.built()
	k := nbdtest.Nbdkit(w.t, append(args, "dir="+filepath.Dir(b.image))...)
	b.lieOn(storage.Config{URI: "nbd+unix:///?socket=" + k.Path})
	return b, k
}

// lieOn says that the image is on a storage named ceph1.
func (b *built) lieOn(c storage.Config) {
	w := b.w
	w.t.Helper()
	w.t.Cleanup(func() { // before the storage ends, without which a keeper cannot stop in order
		if inst := b.machine().live(); inst != nil {
			b.machine().Kill(b.machine().Current().Number, "test over")
			<-inst.ended
		}
	})
	s, err := storage.New("ceph1", c)
	if err != nil {
		w.t.Fatal(err)
	}
	w.cfg.Storages = map[string]*storage.Storage{"ceph1": s}
	w.restart(nil)
	b.place = &qmp.Place{Storage: "ceph1", Export: filepath.Base(b.image)}
}

func (b *built) upThere() {
	b.w.t.Helper()
	x := qmp.DiskExport{Name: "disk0", Storage: b.place.Storage, Export: b.place.Export}
	if err := b.machine().Launch(b.w.t.Context(), gate.Launch{Exports: []qmp.DiskExport{x}}, [32]byte{1}); err != nil {
		b.w.t.Fatal(err)
	}
}

// cannot expects the next step to fail.
func (b *built) cannot(class, want string) {
	b.w.t.Helper()
	st, err := b.step()
	if classOf(err) != class || !strings.Contains(err.Error(), want) {
		b.w.t.Errorf("%+v, %v, want %s %q", st, err, class, want)
	}
}

// TestBuildThere makes a disk on an NBD server, which loses on the way what was not
// flushed, and launches the VM from there.
func TestBuildThere(t *testing.T) {
	w := newWorld(t)
	b, k := w.builtThere("--filter=cache", "file")
	lose := func() { k.Kill(); k.Start() }
	for _, at := range []uint64{1 << 20, 2 << 20, 3 << 20} {
		b.mustStep(qmp.BuildCheck, at)
	}
	b.mustStep(qmp.BuildWrite, 0)
	if raw, err := os.ReadFile(b.image); err != nil || len(bytes.Trim(raw, "\x00")) != 0 {
		t.Fatalf("something was written while it was checked: %v", err)
	}
	for _, at := range []uint64{1 << 20, 2 << 20, 3 << 20} {
		b.mustStep(qmp.BuildWrite, at)
		lose()
		w.restart(nil)
	}
	err := b.machine().Launch(t.Context(), gate.Launch{Exports: []qmp.DiskExport{{Name: "disk0", Storage: "ceph1", Export: b.place.Export}}}, [32]byte{1})
	if classOf(err) != qmp.ClassNotBuilt {
		t.Errorf("launched before it was made: %v", err)
	}
	b.mustStep(qmp.BuildDone, builtBytes)
	lose()
	b.holds(b.content)
	b.upThere()
	b.mustStep(qmp.BuildDone, builtBytes)
}

// TestBuildThereInBlocks does so where the server takes whole blocks only.
func TestBuildThereInBlocks(t *testing.T) {
	w := newWorld(t)
	b, _ := w.builtThere("--filter=blocksize-policy", "file", "blocksize-minimum=512", "blocksize-maximum=65536", "blocksize-error-policy=error")
	b.rest()
	b.holds(b.content)
}

// TestBuildByQEMU does so on QEMU's server, and TestBuildByTLS where both ends have to
// show who they are.
func TestBuildByQEMU(t *testing.T) {
	w := newWorld(t)
	b := w.built()
	q := nbdtest.Start(t, "qemu-utils", "qemu-nbd", "--persistent", "--socket=SOCKET", "--format=raw", "--export-name=image", b.image)
	b.lieOn(storage.Config{URI: "nbd+unix:///?socket=" + q.Path})
	b.rest()
	b.holds(b.content)
	b.upThere()
}

func TestBuildByTLS(t *testing.T) {
	w := newWorld(t)
	b := w.built()
	certs := nbdtest.Certificates(t)
	k := nbdtest.Nbdkit(t, "--tls=require", "--tls-verify-peer", "--tls-certificates="+certs, "file", "dir="+filepath.Dir(b.image))
	c := storage.Config{URI: "nbds+unix:///?socket=" + k.Path + "&tls-hostname=server.example", CA: filepath.Join(certs, "ca-cert.pem")}
	b.lieOn(c)
	b.cannot(qmp.ClassUnavailable, "storage ceph1 cannot be reached")
	c.Cert, c.Key = filepath.Join(certs, "client-cert.pem"), filepath.Join(certs, "client-key.pem")
	b.lieOn(c)
	b.rest()
	b.holds(b.content)
	b.upThere()
}

// TestStorageGoes: it is away between steps, in the middle of one, or answers no more.
// The step ends with what is wrong, holds nothing, and the next one goes on.
func TestStorageGoes(t *testing.T) {
	w := newWorld(t)
	b, k := w.builtThere("file")
	outage := buildOutage
	t.Cleanup(func() { buildOutage = outage })
	b.mustStep(qmp.BuildCheck, 1<<20)
	before := descriptors(t)
	k.Kill()
	b.cannot(qmp.ClassUnavailable, "storage ceph1 cannot be reached")
	k.Start()
	for range 4 {
		if _, err := b.step(); err != nil {
			t.Fatal(err)
		}
	}
	b.mustStep(qmp.BuildWrite, 2<<20)

	// It stops to answer behind the handshake: the step fails after a while.
	buildOutage = 200 * time.Millisecond
	b.during(t.Context(), func() { k.Stop() }, qmp.ClassUnavailable, "storage ceph1: the image cannot be written: ")
	buildOutage = time.Hour

	// Nor does it answer when the session ends: the step ends with that.
	k.Continue()
	ctx, cancel := context.WithCancel(t.Context())
	b.during(ctx, func() { k.Stop(); cancel() }, qmp.ClassUnavailable, "the session ended during a step")
	k.Continue()

	// It is killed in the middle, and there again: the step does not notice.
	b.during(t.Context(), func() { k.Kill(); k.Start() }, "", "")
	b.rest()
	b.holds(b.content)
	eventually(t, "descriptors are left", func() bool { return descriptors(t) <= before })
	b.upThere()
}

// during does one step whose base is read only after act.
func (b *built) during(ctx context.Context, act func(), class, want string) {
	b.w.t.Helper()
	mc := b.machine()
	g := gate.Build{Disk: "disk0", Base: b.open(b.base, os.O_RDONLY), Place: b.place}
	j, err := mc.newJob(ctx, mc.builds["disk0"], g)
	if err != nil {
		b.w.t.Fatal(err)
	}
	j.image = &actingImage{exportImage: j.image.(exportImage), act: act}
	_, err = mc.doJob(ctx, j)
	if classOf(err) != class || err != nil && !strings.Contains(err.Error(), want) {
		b.w.t.Errorf("%v, want %s %q", err, class, want)
	}
}

// actingImage does something before the first write to it.
type actingImage struct {
	exportImage
	act func()
}

func (a *actingImage) WriteAt(p []byte, off int64) (int, error) {
	if a.act != nil {
		a.act()
		a.act = nil
	}
	return a.exportImage.WriteAt(p, off)
}

// TestExportMadeAnew: an export that was lost and made again is begun with again. One
// that holds something else by then is not overwritten.
func TestExportMadeAnew(t *testing.T) {
	w := newWorld(t)
	b, _ := w.builtThere("file")
	for range 6 {
		if _, err := b.step(); err != nil {
			t.Fatal(err)
		}
	}
	anew := func() {
		b.write(b.image, nil)
		b.resize(b.image, luks.DataOffset+4<<20)
	}
	anew()
	b.mustStep(qmp.BuildWrite, 1<<20)
	anew()
	f := b.open(b.image, os.O_RDWR)
	defer f.Close()
	other := []byte("somebody's data")
	if _, err := f.WriteAt(other, 4096); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		b.cannot(qmp.ClassInvalid, "what was written is there no more, and it is not empty")
		w.restart(nil)
	}
	got := make([]byte, len(other))
	if _, err := f.ReadAt(got, 4096); err != nil || !bytes.Equal(got, other) {
		t.Errorf("it was overwritten: %q, %v", got, err)
	}
	anew()
	b.rest()
	b.holds(b.content)
}

// TestWrongPlaces: exports that there are not, that cannot be written, or that hold
// something.
func TestWrongPlaces(t *testing.T) {
	w := newWorld(t)
	b, _ := w.builtThere("file")
	ro, err := storage.New("ro", storage.Config{URI: "nbd+unix:///?socket=" + nbdtest.Nbdkit(t, "--readonly", "memory", "64M").Path})
	if err != nil {
		t.Fatal(err)
	}
	w.cfg.Storages["ro"] = ro
	dir := filepath.Dir(b.image)
	size := int64(luks.DataOffset + 4<<20)
	put := func(name string, size int64, at int64, content string) {
		t.Helper()
		b.write(filepath.Join(dir, name), nil)
		b.resize(filepath.Join(dir, name), size)
		f := b.open(filepath.Join(dir, name), os.O_RDWR)
		defer f.Close()
		if _, err := f.WriteAt([]byte(content), at); err != nil {
			t.Fatal(err)
		}
	}
	put("short", size-512, 0, "")
	put("bootable", size, 510, "\x55\xaa")
	put("lvm", size, 512, "LABELONE")
	put("keyslots", size, luks.DataOffset-1, "x")
	put("half-made", size, luks.DataOffset, "x")
	for name, c := range map[string]struct {
		place qmp.Place
		class string
		want  string
	}{
		"no storage":     {qmp.Place{Storage: "ceph2", Export: "image"}, qmp.ClassInvalid, `no storage "ceph2"`},
		"address":        {qmp.Place{Storage: "nbd://10.0.0.1", Export: "image"}, qmp.ClassInvalid, "no storage"},
		"nothing":        {qmp.Place{}, qmp.ClassInvalid, "no storage"},
		"export's name":  {qmp.Place{Storage: "ceph1", Export: "a\nb"}, qmp.ClassInvalid, "cannot be named"},
		"no such export": {qmp.Place{Storage: "ceph1", Export: "nothing"}, qmp.ClassUnavailable, `has no export "nothing"`},
		"above":          {qmp.Place{Storage: "ceph1", Export: "../image"}, qmp.ClassUnavailable, "has no export"},
		"read-only":      {qmp.Place{Storage: "ro", Export: ""}, qmp.ClassInvalid, "read-only"},
		"short":          {qmp.Place{Storage: "ceph1", Export: "short"}, qmp.ClassInvalid, "the registration needs"},
		"partitions":     {qmp.Place{Storage: "ceph1", Export: "bootable"}, qmp.ClassInvalid, "it is not empty"},
		"volumes":        {qmp.Place{Storage: "ceph1", Export: "lvm"}, qmp.ClassInvalid, "it is not empty"},
		"keyslots":       {qmp.Place{Storage: "ceph1", Export: "keyslots"}, qmp.ClassInvalid, "it is not empty"},
		"half-made":      {qmp.Place{Storage: "ceph1", Export: "half-made"}, qmp.ClassInvalid, "it is not empty"},
	} {
		t.Log(name)
		x := *b
		x.place = &c.place
		x.cannot(c.class, c.want)
	}
	if b.machine().unbuilt()[0].Done != 0 {
		t.Error("something was done")
	}
	b.rest()
	b.holds(b.content)
}

// TestOthersExport: no disk is made over another VM's, whole, half-made, being made
// just now or running.
func TestOthersExport(t *testing.T) {
	w := newWorld(t)
	b, _ := w.builtThere("file")
	other := w.built()
	other.place = b.place
	for range 5 {
		if _, err := b.step(); err != nil {
			t.Fatal(err)
		}
	}
	other.cannot(qmp.ClassInvalid, "it is not empty")
	b.during(t.Context(), func() { other.cannot(qmp.ClassUnavailable, "still waits for its storage") }, "", "")
	b.rest()
	other.cannot(qmp.ClassInvalid, "it is not empty")
	b.upThere()
	other.cannot(qmp.ClassInvalid, "the export of a disk of a VM that runs")
	b.holds(b.content)
	if !other.recorded("refused", "it is not empty") {
		t.Error("not in the audit log")
	}
}

// TestOthersExportMeanwhile: that a disk was begun in an export, of which nothing was written
// as far as is known, is no reason to write over what another VM has there by now.
func TestOthersExportMeanwhile(t *testing.T) {
	w := newWorld(t)
	b, _ := w.builtThere("file")
	other := w.built()
	other.place = b.place
	for range 4 {
		if _, err := other.step(); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	other.during(ctx, cancel, qmp.ClassUnavailable, "the session ended during a step")
	b.write(b.image, nil)
	b.resize(b.image, luks.DataOffset+4<<20)
	for range 5 {
		if _, err := b.step(); err != nil {
			t.Fatal(err)
		}
	}
	other.cannot(qmp.ClassInvalid, "it is not empty") // half-made
	b.rest()
	other.cannot(qmp.ClassInvalid, "it is not empty") // made
	b.holds(b.content)
}

// TestMovedBuild goes on from a file to a storage and back: writing begins again.
func TestMovedBuild(t *testing.T) {
	w := newWorld(t)
	b, _ := w.builtThere("file")
	there := b.place
	first := b.image
	b.place, b.image = nil, first+"2"
	b.write(b.image, nil)
	b.resize(b.image, luks.DataOffset+4<<20)
	for range 6 {
		if _, err := b.step(); err != nil {
			t.Fatal(err)
		}
	}
	file := b.image
	b.place, b.image = there, first
	b.mustStep(qmp.BuildWrite, 1<<20)
	b.place, b.image = nil, file
	b.mustStep(qmp.BuildWrite, 1<<20)
	b.rest()
	b.holds(b.content)
}
