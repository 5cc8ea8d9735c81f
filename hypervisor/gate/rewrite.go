package gate

import (
	"fmt"
	"os"

	"github.com/uvbond/uvbond/qmp"
)

// attached is what attachFiles makes of the arguments of uvbond-attach.
type attached struct {
	vm    string
	disks map[string]*os.File
}

// attachFiles puts open files in the place of their numbers. It takes over the
// files of the line.
func attachFiles(args any, files *[]*os.File) (any, *qmp.Error) {
	a := args.(qmp.AttachArgs)
	disks, _, qerr := pickFiles(a.Disks, nil, *files)
	if qerr != nil {
		return nil, qerr
	}
	*files = nil
	return attached{a.VM, disks}, nil
}

// launchFiles does the same for uvbond-launch.
func launchFiles(args any, files *[]*os.File) (any, *qmp.Error) {
	a := args.(qmp.LaunchArgs)
	disks, taps, qerr := pickFiles(a.Disks, a.Taps, *files)
	if qerr != nil {
		return nil, qerr
	}
	*files = nil
	return Launch{Disks: disks, Exports: a.Exports, Taps: taps, Expect: a.Expect}, nil
}

// growFile takes the one descriptor that may come with uvbond-grow.
func growFile(args any, files *[]*os.File) (any, *qmp.Error) {
	a := args.(qmp.GrowArgs)
	g := Grow{Disk: a.Disk, Size: a.Size}
	switch len(*files) {
	case 0:
	case 1:
		g.File = (*files)[0]
	default:
		return nil, &qmp.Error{Class: qmp.ClassInvalid, Desc: fmt.Sprintf("UVBond: %d descriptors came with the message, at most one can be the disk's", len(*files))}
	}
	*files = nil
	return g, nil
}

// buildFiles takes the descriptors that come with uvbond-build: of the base image,
// and of the disk's image unless that is on a storage.
func buildFiles(args any, files *[]*os.File) (any, *qmp.Error) {
	a := args.(qmp.BuildArgs)
	b := Build{Disk: a.Disk, Place: a.Place}
	want, what := 2, "two must: of the base image and of the disk's image"
	if a.Place != nil {
		want, what = 1, "one must where the disk's image is on a storage: of the base image"
	}
	if len(*files) != want {
		return nil, &qmp.Error{Class: qmp.ClassInvalid, Desc: fmt.Sprintf("UVBond: %d descriptors came with the message, %s", len(*files), what)}
	}
	b.Base = (*files)[0]
	if a.Place == nil {
		b.Image = (*files)[1]
	}
	*files = nil
	return b, nil
}

// pickFiles gives the descriptors of a line their names. Each must be named
// exactly once, so that none is left over.
func pickFiles(disks []qmp.DiskFile, taps []int, files []*os.File) (map[string]*os.File, []*os.File, *qmp.Error) {
	named := make(map[string]*os.File, len(disks))
	used := make(map[int]bool, len(files))
	take := func(i int) (*os.File, bool) {
		if i < 0 || i >= len(files) || used[i] {
			return nil, false
		}
		used[i] = true
		return files[i], true
	}
	for _, d := range disks {
		f, ok := take(d.FDIndex)
		if !ok || named[d.Name] != nil {
			return nil, nil, &qmp.Error{Class: qmp.ClassInvalid, Desc: fmt.Sprintf("UVBond: disk %s: descriptor %d is missing or named twice (%d came with the message)", printable(d.Name), d.FDIndex, len(files))}
		}
		named[d.Name] = f
	}
	var tapFiles []*os.File
	for n, i := range taps {
		f, ok := take(i)
		if !ok {
			return nil, nil, &qmp.Error{Class: qmp.ClassInvalid, Desc: fmt.Sprintf("UVBond: tap %d: descriptor %d is missing or named twice", n, i)}
		}
		tapFiles = append(tapFiles, f)
	}
	if len(used) != len(files) {
		return nil, nil, &qmp.Error{Class: qmp.ClassInvalid, Desc: fmt.Sprintf("UVBond: %d descriptors came with the message, %d are named", len(files), len(used))}
	}
	return named, tapFiles, nil
}
