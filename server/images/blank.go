package images

import (
	"context"
	"net/http"

	"github.com/uvbond/uvbond/server/problem"
	"github.com/uvbond/uvbond/server/store"
)

// CreateBlank makes an image of size bytes without content, which the hypervisor
// will make into a disk from a base image. It is a hole that takes room as it is
// written to, or an export of a storage, and is the tenant's from the beginning, quota
// included. The same again returns the one that no VM has yet.
func (m *Manager) CreateBlank(ctx context.Context, t *store.Tenant, name, base string, size int64) (*store.Image, error) {
	img, err := m.create(ctx, t, store.NewImage{Name: name, Size: size, Base: base, Storage: m.opts.Exports.Storage})
	if err != nil || img.State == store.ImageReady {
		return img, err
	}
	unlock, err := m.lock.acquire(ctx, img.ID)
	if err != nil {
		return nil, busy(img.ID)
	}
	defer unlock()
	ctx = context.WithoutCancel(ctx)
	if img, err = m.Get(ctx, t, img.ID); err != nil || img.State == store.ImageReady {
		return img, err // another request was faster
	}
	if img.Offset != 0 {
		return nil, problem.New(http.StatusConflict, problem.ClassConflict, "data was stored in image %s; remove it", img.ID)
	}
	if err := m.makeRoom(ctx, img); err != nil {
		return nil, err
	}
	if err := m.store.FinishBlank(ctx, img.ID); err != nil {
		return nil, storeProblem(err)
	}
	return m.Get(ctx, t, img.ID)
}

// makeRoom makes a blank image's export or file.
func (m *Manager) makeRoom(ctx context.Context, img *store.Image) error {
	if img.Storage != "" {
		if err := m.opts.Exports.make(ctx, img); err != nil {
			return problem.New(http.StatusServiceUnavailable, problem.ClassUnavailable, "storage %s has no room for the disk just now; try again, then tell the provider, whose log has the reason", img.Storage).Because(err)
		}
		return nil
	}
	f, err := m.openForUpload(img)
	if err != nil {
		return writeProblem(err)
	}
	f.Close()
	if err := m.extend(img.ID, img.Size); err != nil {
		return writeProblem(err)
	}
	return nil
}
