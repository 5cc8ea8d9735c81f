package main

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/disk/luks"
	"github.com/uvbond/uvbond/hypervisor/machine/machinetest"
	"github.com/uvbond/uvbond/qmp"
)

// Bytes of the base images here, and of the disks made from them.
const (
	baseBytes  = 1<<20 + 512
	madeLength = 2 << 20
)

// based is a VM whose disk is to be made from a base image.
type based struct {
	*machine
	base    string
	content []byte
}

// based registers one. Its image is blank.
func (w *world) based(name string) (*based, error) {
	b := &based{base: filepath.Join(w.disks(), name+".raw"), content: make([]byte, baseBytes)}
	rand.Read(b.content)
	m := &machine{w: w, name: name, disk: filepath.Join(w.disks(), name+".luks")}
	if err := asTest(func(t *tb) {
		m.sealed, m.bond = machinetest.Register(t, w.host, "", machinetest.NewBase(t, name, b.content, madeLength))
	}); err != nil {
		return nil, err
	}
	for path, content := range map[string][]byte{b.base: b.content, m.disk: nil} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return nil, err
		}
	}
	if err := os.Truncate(m.disk, luks.DataOffset+madeLength); err != nil {
		return nil, err
	}
	if err := w.give(b.base); err != nil {
		return nil, err
	}
	var err error
	b.machine, err = w.register(m)
	return b, err
}

// files are those that belong to the VM.
func (b *based) files() []file { return []file{{b.base, unix.O_RDONLY}, {b.disk, readWrite}} }

// blank tells whether nothing was ever written to the image.
func (b *based) blank() string {
	raw, err := os.ReadFile(b.disk)
	if err == nil && len(bytes.Trim(raw, "\x00")) == 0 {
		return ""
	}
	return fmt.Sprintf("something was written to the image: %v", err)
}

// tryBases gives other images than the owner named, other files than it must, without
// a ticket, again, and for VMs that have no part in it.
func tryBases(t *trial) error {
	a, err := t.attacker()
	if err != nil {
		return err
	}
	m, err := t.based("made")
	if err != nil {
		return err
	}
	other, err := t.based("also")
	if err != nil {
		return err
	}
	plain, err := t.machine("plain", "")
	if err != nil {
		return err
	}
	if err := plain.start(a); err != nil {
		return err
	}
	for _, try := range []func(a *process, m, other *based, plain *machine) error{t.unticketed, t.wrongBuildFiles, t.wrongBases, t.madeOnce} {
		if err := try(a, m, other, plain); err != nil {
			return err
		}
	}
	return nil
}

// unticketed builds as an operator, under another VM's ticket, under one of another
// command, and starts a VM that is not made.
func (t *trial) unticketed(a *process, m, other *based, plain *machine) error {
	line := request(qmp.CmdBuild, qmp.BuildArgs{Disk: m.name})
	o, err := a.one(line, m.files()...)
	if err != nil {
		return err
	}
	t.must("without a session", o, qmp.ClassDenied, inHost())
	for _, c := range []struct {
		name   string
		ticket []byte
		class  string
		owed   int
	}{
		{"without a ticket", nil, qmp.ClassDenied, 2}, {"under a ticket for status", m.ticket("status"), qmp.ClassRefused, 1},
	} {
		out, err := a.run(move{Line: m.open(c.ticket)}, move{Line: line, Files: m.files()}, move{Line: request(qmp.CmdClose, nil)}, move{Do: doClose})
		if err != nil {
			return err
		}
		m.owe(c.owed)
		t.refused(c.name, differs(out[1], c.class))
	}
	if err := t.present(a, "another VM's ticket", m.machine, other.ticket("build"), qmp.ClassRedirected, in(m.machine, other.machine)); err != nil {
		return err
	}
	used := m.ticket("build")
	out, err := a.run(move{Line: m.open(used)}, move{Line: request(qmp.CmdClose, nil)}, move{Do: doClose})
	if err != nil {
		return err
	}
	if !out[0].ok() {
		return fmt.Errorf("an honest build: %s", out[0])
	}
	if err := t.present(a, "a ticket that was used", m.machine, used, qmp.ClassReplayed, in(m.machine)); err != nil {
		return err
	}
	if err := t.build(a, plain, qmp.BuildArgs{Disk: plain.name}, "of a disk that its owner encrypted", m.files(), qmp.ClassInvalid, 1); err != nil {
		return err
	}
	if err := t.build(a, m.machine, qmp.BuildArgs{Disk: "data"}, "of a disk that there is not", m.files(), qmp.ClassInvalid, 1); err != nil {
		return err
	}
	for _, v := range []*based{m, other} {
		if err := t.launchWith(a, v.machine, "a blank image", []file{{v.disk, readWrite}}, []qmp.DiskFile{{Name: v.name}}, qmp.ClassNotBuilt); err != nil {
			return err
		}
	}
	t.refused("nothing of that wrote anything", m.blank())
	return nil
}

// build sends one hypercall under the owner's ticket. recorded is how many entries the
// audit log then has of it beside the session's own.
func (t *trial) build(a *process, m *machine, args qmp.BuildArgs, name string, files []file, class string, recorded int) error {
	out, err := a.run(move{Line: m.open(m.ticket("build"))}, move{Line: request(qmp.CmdBuild, args), Files: files},
		move{Line: request(qmp.CmdClose, nil)}, move{Do: doClose})
	if err != nil {
		return err
	}
	m.owe(recorded)
	why, want := differs(out[1], class), bond.VerdictDone
	if class != "" {
		want = bond.VerdictRefused
	}
	if r, err := m.receipt(out[2].Return); why == "" && (err != nil || r.Verdict != want) {
		why = fmt.Sprintf("its receipt: %+v, %v", r, err)
	}
	t.note("build "+name, why, class != "")
	return nil
}

func (t *trial) wrongBuildFiles(a *process, m, other *based, plain *machine) error {
	base, image := m.files()[0], m.files()[1]
	long := filepath.Join(t.disks(), "long")
	if err := os.WriteFile(long, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(long, luks.DataOffset+madeLength-1); err != nil {
		return err
	}
	if err := t.give(long); err != nil {
		return err
	}
	// An image that is long enough, and a disk of a VM that runs.
	if err := os.Truncate(plain.disk, luks.DataOffset+madeLength); err != nil {
		return err
	}
	for _, c := range []struct {
		name  string
		files []file
		owed  int
	}{
		{"with nothing", nil, 0}, {"with the base only", []file{base}, 0}, {"with one file more", []file{base, image, image}, 0},
		{"with the two exchanged", []file{image, base}, 1}, {"into the base", []file{base, {m.base, readWrite}}, 1}, {"from the image", []file{image, image}, 1},
		{"into a file to read", []file{base, {m.disk, unix.O_RDONLY}}, 1}, {"into a file to append to", []file{base, {m.disk, readWrite | unix.O_APPEND}}, 1},
		{"from a file to write", []file{{m.base, unix.O_WRONLY}, image}, 1}, {"into a short file", []file{base, {long, readWrite}}, 1},
		{"into a running VM's disk", []file{base, {plain.disk, readWrite}}, 1}, {"from a place only", []file{{m.base, unix.O_PATH}, image}, 1},
		{"from zeros without end", []file{{"/dev/zero", unix.O_RDONLY}, image}, 1}, {"from a file of the kernel", []file{{"/proc/self/environ", unix.O_RDONLY}, image}, 1},
		{"from a folder", []file{{t.disks(), unix.O_RDONLY | unix.O_DIRECTORY}, image}, 1},
	} {
		if err := t.build(a, m.machine, qmp.BuildArgs{Disk: m.name}, c.name, c.files, qmp.ClassInvalid, c.owed); err != nil {
			return err
		}
	}
	for _, kind := range []string{ofPipe, ofSocket, ofMemory, ofEvent, ofEpoll, ofPidfd, ofTimer, ofProcess} {
		if err := t.build(a, m.machine, qmp.BuildArgs{Disk: m.name}, "from "+kind, []file{{kind, 0}, image}, qmp.ClassInvalid, 1); err != nil {
			return err
		}
		if kind == ofMemory {
			continue // a file like any other, and long enough
		}
		if err := t.build(a, m.machine, qmp.BuildArgs{Disk: m.name}, "into "+kind, []file{base, {kind, 0}}, qmp.ClassInvalid, 1); err != nil {
			return err
		}
	}
	for _, c := range []struct {
		name  string
		place qmp.Place
		files []file
		class string
	}{
		{"into a storage that there is not", qmp.Place{Storage: "san", Export: "x"}, []file{base}, qmp.ClassInvalid}, {"into an address", qmp.Place{Storage: "nbd://127.0.0.1", Export: "x"}, []file{base}, qmp.ClassRefused},
		{"into a socket's path", qmp.Place{Storage: "san", Export: "x?socket=/run/x"}, []file{base}, qmp.ClassRefused}, {"into nowhere", qmp.Place{}, []file{base}, qmp.ClassRefused},
		{"from the image into a storage", qmp.Place{Storage: "san", Export: "x"}, []file{image}, qmp.ClassInvalid},
	} {
		if err := t.build(a, m.machine, qmp.BuildArgs{Disk: m.name, Place: &c.place}, c.name, c.files, c.class, 1); err != nil {
			return err
		}
	}
	for name, files := range map[string][]file{"into a file and a storage": m.files(), "into a storage without a base": nil} {
		if err := t.build(a, m.machine, qmp.BuildArgs{Disk: m.name, Place: &qmp.Place{Storage: "san", Export: "x"}}, name, files, qmp.ClassInvalid, 0); err != nil {
			return err
		}
	}
	t.refused("nothing of that wrote anything either", m.blank())
	return nil
}

// wrongBases gives other images of the right size, at once and after the right one
// was checked.
func (t *trial) wrongBases(a *process, m, other *based, _ *machine) error {
	path := filepath.Join(t.disks(), "evil.raw")
	evil := func(content []byte) (file, error) {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return file{}, err
		}
		return file{path, unix.O_RDONLY}, t.give(path)
	}
	image := m.files()[1]
	give := func(name string, content []byte) error {
		f, err := evil(content)
		if err != nil {
			return err
		}
		return t.build(a, m.machine, qmp.BuildArgs{Disk: m.name}, name, []file{f, image}, qmp.ClassInvalid, 1)
	}
	changed := func(at int) []byte {
		c := bytes.Clone(m.content)
		c[at] ^= 1
		return c
	}
	for name, content := range map[string][]byte{
		"another VM's base": other.content, "zeros": make([]byte, baseBytes), "a base whose first bit is changed": changed(0), "a base whose last bit is changed": changed(baseBytes - 1),
		"a base cut short": m.content[:baseBytes-1], "a base with one byte more": append(bytes.Clone(m.content), 0), "an empty base": nil,
	} {
		if err := give("from "+name, content); err != nil {
			return err
		}
	}
	t.refused("no wrong base was ever enciphered", m.blank())
	if err := t.build(a, m.machine, qmp.BuildArgs{Disk: m.name}, "from the right base, checked", m.files(), "", 0); err != nil {
		return err
	}
	if err := give("from another base than was checked", changed(7)); err != nil {
		return err
	}
	t.refused("nothing of it was enciphered", m.blank())
	if err := give("from one whose second piece is another", changed(1<<20+5)); err != nil {
		return err
	}
	return nil
}

// madeOnce makes the disk as its owner wants it, and then again.
func (t *trial) madeOnce(a *process, m, _ *based, _ *machine) error {
	if err := t.build(a, m.machine, qmp.BuildArgs{Disk: m.name}, "from the right base", m.files(), "", 0); err != nil {
		return err
	}
	if err := m.start(a); err != nil {
		t.accepted("the VM starts from it", err.Error())
		return nil
	}
	t.accepted("the VM starts from it", "")
	before, err := os.ReadFile(m.disk)
	if err != nil {
		return err
	}
	// It changes nothing, and says that it is done, whatever comes along.
	if err := t.build(a, m.machine, qmp.BuildArgs{Disk: m.name}, "of a disk that is made", m.files(), "", 0); err != nil {
		return err
	}
	after, err := os.ReadFile(m.disk)
	why := orNil(err)
	if !bytes.Equal(before, after) {
		why = "the disk was written to"
	}
	t.refused("a disk that is made stays as it is", why)
	return nil
}
