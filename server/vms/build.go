package vms

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/server/problem"
	"github.com/uvbond/uvbond/server/store"
	"github.com/uvbond/uvbond/server/toolstack"
)

// openBuild opens what the hypervisor needs to make a disk from its base image: that,
// and the disk's image unless it is on a storage. They stay the caller's to close.
func (s *Service) openBuild(ctx context.Context, v *store.VM, disk string, cmd *toolstack.Command) error {
	i := slices.IndexFunc(v.Disks, func(d store.Disk) bool { return d.Name == disk })
	if i < 0 {
		return problem.New(http.StatusUnprocessableEntity, problem.ClassInvalid, "the VM has no disk %q", disk)
	}
	p, err := s.Store.PlaceOf(ctx, v.Disks[i].Image)
	if err != nil {
		return problem.Internal(err)
	}
	if p.Base == "" {
		return problem.New(http.StatusUnprocessableEntity, problem.ClassInvalid, "disk %s is not made from a base image", disk)
	}
	base, err := s.Bases.Open(ctx, p.Base)
	if errors.Is(err, store.ErrNotFound) {
		return problem.New(http.StatusNotFound, problem.ClassNotFound, "base image %s is not offered any more", p.Base)
	} else if err != nil {
		return problem.Internal(err)
	}
	if p.Storage != "" {
		cmd.Base, cmd.Exports = base, []qmp.DiskExport{{Name: disk, Storage: p.Storage, Export: p.Export}}
		return nil
	}
	image, err := s.Images.Open(p.Image)
	if err != nil {
		base.Close()
		return problem.Internal(err)
	}
	cmd.Base, cmd.Disks = base, []toolstack.File{{Name: disk, File: image}}
	return nil
}
