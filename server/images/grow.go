package images

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/server/problem"
	"github.com/uvbond/uvbond/server/store"
)

// Grow makes the file of an image that a VM uses longer, to size bytes. The record
// is first, so that the quota covers what a crash in between leaves to be done by
// the next attempt. What is added is a hole: it takes room as it is written to.
// An image is never made shorter. Of one that is on a storage only the record is.
func (m *Manager) Grow(ctx context.Context, t *store.Tenant, id string, size int64) error {
	img, err := m.Get(ctx, t, id)
	if err != nil {
		return err
	}
	if size < img.Size || size > MaxSize {
		return problem.New(http.StatusUnprocessableEntity, problem.ClassInvalid, "image %s has %d bytes: it can grow to 64 TiB, and not shrink to %d", id, img.Size, size)
	}
	unlock, err := m.lock.acquire(ctx, id)
	if err != nil {
		return busy(id)
	}
	defer unlock()
	free, err := m.free()
	if err != nil {
		return problem.Internal(err)
	}
	if img.Storage == "" && size-img.Size > free-m.opts.FreeSpace {
		return noSpace("the server's disk has room for %d more bytes, the image is to grow by %d", max(free-m.opts.FreeSpace, 0), size-img.Size)
	}
	ctx = context.WithoutCancel(ctx)
	if err := m.store.GrowImage(ctx, t.ID, id, size); errors.Is(err, store.ErrNotFound) {
		return problem.New(http.StatusConflict, problem.ClassConflict, "image %s is %s, not ready", id, img.State)
	} else if err != nil {
		return createProblem(err)
	}
	if img.Storage != "" {
		return nil // the provider makes the export longer, before
	}
	if err := m.extend(id, size); err != nil {
		return writeProblem(err)
	}
	return nil
}

// extend makes a file at least size bytes long, durably.
func (m *Manager) extend(id string, size int64) error {
	f, err := os.OpenFile(m.path(id), os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("image file: %w", err)
	}
	info, err := f.Stat()
	if err == nil && info.Size() < size {
		if err = f.Truncate(size); err == nil {
			err = f.Sync()
		}
	}
	return errors.Join(err, f.Close())
}
