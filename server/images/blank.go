package images

import (
	"context"
	"net/http"

	"github.com/uvbond/uvbond/server/problem"
	"github.com/uvbond/uvbond/server/store"
)

// CreateBlank makes an image of size bytes without content, which the hypervisor
// will make into a disk from a base image. It is a hole that takes room as it is
// written to, and is the tenant's from the beginning, quota included. The same again
// returns the one that no VM has yet.
func (m *Manager) CreateBlank(ctx context.Context, t *store.Tenant, name, base string, size int64) (*store.Image, error) {
	img, err := m.create(ctx, t, store.NewImage{Name: name, Size: size, Base: base})
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
	f, err := m.openForUpload(img)
	if err != nil {
		return nil, writeProblem(err)
	}
	f.Close()
	if err := m.extend(img.ID, size); err != nil {
		return nil, writeProblem(err)
	}
	if err := m.store.FinishBlank(ctx, img.ID); err != nil {
		return nil, storeProblem(err)
	}
	return m.Get(ctx, t, img.ID)
}
