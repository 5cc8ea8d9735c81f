package machine

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk/luks"
	"github.com/uvbond/uvbond/hypervisor/gate"
	"github.com/uvbond/uvbond/hypervisor/machine/machinetest"
	"github.com/uvbond/uvbond/qmp"
)

// refused launches with files and expects a refusal that says want and leaves nothing.
func (b *bonded) refused(name string, files map[string]*os.File, want string) {
	b.w.t.Helper()
	err := b.launch(files)
	if classOf(err) != qmp.ClassInvalid || !strings.Contains(err.Error(), want) {
		b.w.t.Errorf("%s: %v, want a refusal that says %q", name, err, want)
		if err == nil {
			b.machine().Kill(b.machine().Current().Number, "test")
		}
	}
	b.nothingLeft()
}

func open(t *testing.T, path string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestWrongFiles(t *testing.T) {
	w := newWorld(t)
	b, other := w.bonded("root", "data"), w.bonded("root", "data")
	with := func(name string, f *os.File) map[string]*os.File {
		files := b.files()
		files[name].Close()
		if files[name] = f; f == nil {
			delete(files, name)
		}
		return files
	}
	pipe, pipeWrite, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pipeWrite.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[1])
	root := b.paths["root"]
	short := filepath.Join(t.TempDir(), "short")
	machinetest.CopyDisk(t, root, short)
	if err := os.Truncate(short, luks.DataOffset+machinetest.DiskBytes-4096); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const mode = "not open for reading and writing"
	for name, c := range map[string]struct {
		files map[string]*os.File
		want  string
	}{
		"pipe":            {with("root", pipe), "neither a file nor a block device"},
		"socket":          {with("root", os.NewFile(uintptr(pair[0]), "socket")), "neither a file nor a block device"},
		"folder":          {with("root", open(t, t.TempDir(), os.O_RDONLY)), "neither a file nor a block device"},
		"character":       {with("root", open(t, "/dev/zero", os.O_RDWR)), "neither a file nor a block device"},
		"read-only":       {with("root", open(t, root, os.O_RDONLY)), mode},
		"write-only":      {with("root", open(t, root, os.O_WRONLY)), mode},
		"append":          {with("root", open(t, root, os.O_RDWR|os.O_APPEND)), mode},
		"path only":       {with("root", open(t, root, unix.O_PATH)), mode},
		"same file twice": {with("data", open(t, root, os.O_RDWR)), "it is the same file as disk root"},
		"too short":       {with("root", open(t, short, os.O_RDWR)), "bytes, the registration needs"},
		"empty":           {with("root", open(t, empty, os.O_RDWR)), "it has 0 bytes"},
		"missing":         {with("data", nil), "disk data: it was not handed over"},
		"none":            {nil, "disk root: it was not handed over"},
		"other tenant's":  {with("root", open(t, other.paths["root"], os.O_RDWR)), "it is not the registered disk"},
		"swapped": {map[string]*os.File{"root": open(t, b.paths["data"], os.O_RDWR), "data": open(t, root, os.O_RDWR)},
			"disk root: it is not the registered disk"},
	} {
		b.refused(name, c.files, c.want)
	}
	more := b.files()
	more["more"] = open(t, other.paths["data"], os.O_RDWR)
	b.refused("surplus", more, `no disk "more"`)
	strange := b.files()
	strange["../root"] = strange["data"]
	delete(strange, "data")
	b.refused("strange name", strange, "disk data: it was not handed over")

	taps := []*os.File{open(t, os.DevNull, os.O_RDWR)}
	err = b.machine().Launch(t.Context(), gate.Launch{Disks: b.files(), Taps: taps}, [32]byte{1})
	if classOf(err) != qmp.ClassInvalid || !strings.Contains(err.Error(), "tap") {
		t.Errorf("a tap too many: %v", err)
	}
	if err := taps[0].Close(); err == nil {
		t.Error("the tap was not taken over")
	}
	if err := b.launch(b.files()); err != nil {
		t.Errorf("the registered disks: %v", err)
	}
	b.exec(qmp.CmdQuit)
}

func TestReadOnlyDisk(t *testing.T) {
	w := newWorld(t)
	b := &bonded{w: w, paths: map[string]string{}}
	for _, n := range []string{"root", "cd"} {
		path, d := machinetest.NewDisk(t, t.TempDir(), n)
		d.ReadOnly = n == "cd"
		b.disks, b.paths[n] = append(b.disks, d), path
	}
	b.register()
	files := b.files()
	files["cd"].Close()
	files["cd"] = open(t, b.paths["cd"], syscall.O_RDONLY)
	if err := b.launch(files); err != nil {
		t.Errorf("a read-only disk on a descriptor that is read-only: %v", err)
	}
	b.exec(qmp.CmdQuit)
}

// TestTamperedHeaders edits what the registration speaks of in a disk's header,
// with checksums that are right. disk/luks has the cases that no registration
// could match; here is what only the comparison with it finds, and a few of those
// to see them refused at the launch.
func TestTamperedHeaders(t *testing.T) {
	w := newWorld(t)
	b := w.bonded("root")
	good := b.paths["root"]
	bad := filepath.Join(t.TempDir(), "bad")
	const grown = `"keyslots_size":"16744448"`
	both := []int{0, 1}
	for name, c := range map[string]struct {
		old, new string
		copies   []int
		want     string
	}{
		"null cipher":            {`"encryption":"aes-xts-plain64","iv`, `"encryption":"cipher_null-ecb","iv`, both, "null cipher stores plain text"},
		"shifted offset":         {`"offset":"16777216"`, `"offset":"16781312"`, both, "offset"},
		"shifted and grown":      {`"size":"dynamic"`, `"size":"4096"`, both, "length"},
		"re-encryption":          {grown, grown + `,"requirements":{"mandatory":["online-reencrypt"]}`, both, "resume-only"},
		"unknown requirement":    {grown, grown + `,"requirements":{"mandatory":["future"]}`, both, `needs "future"`},
		"smaller sectors":        {`"sector_size":4096`, `"sector_size":512`, both, "sector"},
		"iv_tweak":               {`"iv_tweak":"0"`, `"iv_tweak":"8"`, both, "tweak"},
		"digest iterations":      {`"iterations":100000`, `"iterations":100001`, both, "digest"},
		"digest salt":            {`"salt":"`, `"salt":"AAAA`, both, ""},
		"second segment":         {`"segments":{"0":`, `"segments":{"1":{},"0":`, both, "2 segments"},
		"json_size":              {`"json_size":"12288"`, `"json_size":"104857600"`, both, "json_size"},
		"nested":                 {`"tokens":{}`, `"tokens":{"0":` + strings.Repeat(`{"a":`, 400) + "1" + strings.Repeat("}", 400) + "}", both, "nested"},
		"copies differ":          {`"tokens":{}`, `"tokens":{ }`, []int{1}, "the two copies"},
		"first copy differs":     {`"offset":"16777216"`, `"offset":"16781312"`, []int{0}, "the two copies"},
		"fixed size, the same":   {`"size":"dynamic"`, `"size":"1048576"`, both, "accepted"},
		"keyslot of other bytes": {`"key_size":64,"type":"luks2"`, `"key_size":32,"type":"luks2"`, both, "key"},
	} {
		machinetest.CopyDisk(t, good, bad)
		machinetest.EditHeader(t, bad, c.old, c.new, c.copies...)
		files := map[string]*os.File{"root": open(t, bad, os.O_RDWR)}
		if c.want == "accepted" {
			if err := b.launch(files); err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			b.exec(qmp.CmdQuit)
			continue
		}
		b.refused(name, files, c.want)
	}
	for name, change := range map[string]func(f *os.File) error{
		"JSON of 100 MB":      func(f *os.File) error { return put(f, 8, 0, 0, 0, 0, 6, 0x40, 0, 0) },
		"both copies damaged": func(f *os.File) error { _ = put(f, 4096, 'x'); return put(f, 16384+4096, 'x') },
		"truncated header":    func(f *os.File) error { return put(f, 16384, make([]byte, 16384)...) },
		"no LUKS at all":      func(f *os.File) error { return put(f, 0, make([]byte, 32768)...) },
		"other uuid": func(f *os.File) error {
			for _, at := range []int64{0, 16384} {
				b := make([]byte, 16384)
				if _, err := f.ReadAt(b, at); err != nil {
					return err
				}
				if b[168] == 'a' {
					b[168] = 'b'
				} else {
					b[168] = 'a'
				}
				machinetest.Reseal(b)
				if err := put(f, at, b...); err != nil {
					return err
				}
			}
			return nil
		},
	} {
		machinetest.CopyDisk(t, good, bad)
		f := open(t, bad, os.O_RDWR)
		if err := change(f); err != nil {
			t.Fatal(err)
		}
		b.refused(name, map[string]*os.File{"root": f}, map[string]string{
			"JSON of 100 MB": "hdr_size", "both copies damaged": "checksum", "truncated header": "missing",
			"no LUKS at all": "not a LUKS disk", "other uuid": "uuid",
		}[name])
	}
}

func put(f *os.File, at int64, b ...byte) error {
	_, err := f.WriteAt(b, at)
	return err
}
