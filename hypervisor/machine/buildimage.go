package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/disk/build"
	"github.com/uvbond/uvbond/disk/nbdclient"
	"github.com/uvbond/uvbond/hypervisor/gate"
	"github.com/uvbond/uvbond/qmp"
)

// buildOutage is how long a step waits for a storage that does not answer. Nothing is
// lost when it fails: the owner has it gone on with.
var buildOutage = 20 * time.Second

// buildImage is what a disk is made in.
type buildImage interface {
	build.Image
	io.ReaderAt
	io.Closer
	// giveUp makes what waits for storage fail when ctx ends, where that can be,
	// until stop is called.
	giveUp(ctx context.Context) (stop func() bool)
}

// fileImage is a file or block device. The kernel cannot be made to give up.
type fileImage struct{ *os.File }

func (fileImage) giveUp(context.Context) func() bool { return func() bool { return true } }

// exportImage is on a storage.
type exportImage struct{ *nbdclient.Client }

func (e exportImage) giveUp(ctx context.Context) func() bool {
	return context.AfterFunc(ctx, func() { e.Close() })
}

// imagePlace is where an image is: a file, or an export of a storage.
type imagePlace struct {
	inode           [2]uint64
	storage, export string
}

// failed says for people why an image cannot be used.
func (p imagePlace) failed(err error) string {
	if p.storage == "" {
		return err.Error()
	}
	return fmt.Sprintf("export %q of storage %s: %v", p.export, p.storage, err)
}

// openImage checks what was handed over, and opens the image if it is on a storage.
func (m *Machine) openImage(ctx context.Context, j *job, g gate.Build) error {
	d := j.disk
	reading := *d
	reading.ReadOnly = true
	base, err := checkFile(&reading, j.base)
	if err != nil {
		return diskError(d.Name, "its base image is not open for reading, or is neither a file nor a block device")
	}
	if g.Place != nil {
		if err := checkBaseSize(d, j.base); err != nil {
			return err
		}
		return m.openExport(ctx, j, g.Place)
	}
	writable := *d
	writable.ReadOnly = false
	inode, err := checkFile(&writable, g.Image)
	if err != nil {
		return err
	}
	if base == inode {
		return diskError(d.Name, "its base image and its image are the same file")
	}
	if err := checkBaseSize(d, j.base); err != nil {
		return err
	}
	size, err := fileSize(g.Image)
	if err != nil {
		return diskError(d.Name, err.Error())
	}
	j.place = imagePlace{inode: inode}
	return checkRoom(d, size)
}

// checkBaseSize refuses a base image that is not as long as its owner registered.
func checkBaseSize(d *bond.Disk, base *os.File) error {
	size, err := fileSize(base)
	switch {
	case err != nil:
		return diskError(d.Name, "its base image: "+err.Error())
	case uint64(size) != d.Base.Size:
		return diskError(d.Name, fmt.Sprintf("the base image has %d bytes, its owner registered %d", size, d.Base.Size))
	}
	return nil
}

func checkRoom(d *bond.Disk, size int64) error {
	if need := d.DataOffset + d.Length; uint64(size) < need {
		return diskError(d.Name, fmt.Sprintf("its image has %d bytes, the registration needs %d", size, need))
	}
	return nil
}

// openExport opens an image that is on a storage.
func (m *Machine) openExport(ctx context.Context, j *job, p *qmp.Place) error {
	on, err := m.manager.findExports([]qmp.DiskExport{{Name: j.disk.Name, Storage: p.Storage, Export: p.Export}})
	if err != nil {
		return err
	}
	x := on[j.disk.Name]
	j.place = imagePlace{storage: x.Storage, export: x.Export}
	log := m.log.With("disk", x.Disk, "storage", x.Storage, "export", x.Export)
	c, err := x.storage.Write(ctx, x.Export, int(j.disk.SectorSize), buildOutage, log)
	if err != nil {
		log.Error("a disk cannot be made on its storage", "err", err)
		if errors.Is(err, nbdclient.ErrRefused) {
			return diskError(j.disk.Name, j.place.failed(err))
		}
		return &qmp.Error{Class: qmp.ClassUnavailable, Desc: fmt.Sprintf("UVBond: disk %s: storage %s cannot be reached, or has no export %q; the hypervisor's log has the reason", j.disk.Name, x.Storage, x.Export)}
	}
	j.image = exportImage{c}
	return checkRoom(j.disk, c.Size())
}

// takeUp holds the image against what is recorded of it. When it is not what was
// written to so far, writing begins again.
//
// The management domain names exports, and may have no right to what is in them: in
// one that is not empty no disk is made, unless this build wrote what is there. That
// is why it is on record before the first write. The check begins with a look as well,
// so that an owner need not wait for its end to hear of it.
func (m *Machine) takeUp(j *job) error {
	known := j.place == j.was
	switch {
	case j.before.Phase != build.Write && j.before.Done > 0:
		return nil
	case j.before.Phase != build.Write:
		return j.mustBeEmpty(false)
	case known:
		holds, err := build.Holds(j.plan, j.before, j.base, j.image)
		var base *build.BaseError
		if errors.As(err, &base) {
			return err
		}
		if err != nil {
			return unreadable(err)
		}
		if holds {
			return nil
		}
	}
	if err := j.mustBeEmpty(known); err != nil {
		return err
	}
	j.before.Done, j.before.Hash, j.before.Last = 0, nil, nil
	j.was = j.place
	if j.place.storage == "" {
		return nil
	}
	j.after = j.before
	return m.putBuild(j)
}

// mustBeEmpty is about exports. lost: something was written there.
func (j *job) mustBeEmpty(lost bool) error {
	if j.place.storage == "" {
		return nil
	}
	empty, err := build.Empty(j.image, int64(j.disk.DataOffset+j.disk.Length))
	switch {
	case err != nil:
		return unreadable(err)
	case empty:
		return nil
	case lost:
		return diskError(j.disk.Name, j.place.failed(errors.New("what was written is there no more, and it is not empty: writing begins again where the first 17 MiB read as zeros")))
	}
	return diskError(j.disk.Name, j.place.failed(errors.New("it is not empty: a disk is made where the first 17 MiB read as zeros")))
}

// unreadable is for an image whose content is not told.
func unreadable(err error) error {
	return &build.ImageError{Err: fmt.Errorf("what is in it cannot be read: %w", err)}
}

// claimImage refuses an image that is another VM's, or that a step still works on.
func (m *Manager) claimImage(j *job) error {
	for _, mc := range m.list() {
		if inst := mc.live(); inst != nil && inst.uses(j.place) {
			return diskError(j.disk.Name, "its image is the "+j.place.kind()+" of a disk of a VM that runs")
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.images[j.place] || j.build.busy {
		return &qmp.Error{Class: qmp.ClassUnavailable, Desc: fmt.Sprintf("UVBond: disk %s: a step on it, or on its image, still waits for its storage", j.disk.Name)}
	}
	m.images[j.place], j.build.busy = true, true
	return nil
}

func (p imagePlace) kind() string {
	if p.storage != "" {
		return "export"
	}
	return "file"
}

// uses tells whether a disk of the instance is there.
func (i *instance) uses(p imagePlace) bool {
	for _, x := range i.exports {
		if p.storage != "" && x.Storage == p.storage && x.Export == p.export {
			return true
		}
	}
	for _, f := range i.currentFiles() {
		var st unix.Stat_t
		if p.storage == "" && unix.Fstat(int(f.Fd()), &st) == nil && inodeOf(&st) == p.inode {
			return true
		}
	}
	return false
}

func (m *Manager) freeImage(j *job) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.images, j.place)
	j.build.busy = false
}
