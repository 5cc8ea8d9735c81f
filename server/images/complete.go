package images

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/uvbond/uvbond/server/store"
)

// complete ends an upload. The hash that ran along decides at once; without it
// the file is read again in the background.
func (m *Manager) complete(ctx context.Context, img *store.Image, sum *running) error {
	if sum.h == nil {
		if err := m.store.SetImageState(ctx, img.ID, store.ImageUploading, store.ImageVerifying, ""); err != nil {
			return err
		}
		m.background.Go(func() { m.verify(*img) })
		return nil
	}
	return m.judge(ctx, img, store.ImageUploading, [32]byte(sum.h.Sum(nil)))
}

// judge compares the hash of the whole file with the announced one.
func (m *Manager) judge(ctx context.Context, img *store.Image, from string, got [32]byte) error {
	if got == img.SHA256 {
		return m.store.SetImageState(ctx, img.ID, from, store.ImageReady, "")
	}
	reason := fmt.Sprintf("the data has SHA-256 %x, announced was %x; upload it again", got, img.SHA256)
	if err := m.store.SetImageState(ctx, img.ID, from, store.ImageFailed, reason); err != nil {
		return err
	}
	return m.unlink(img.ID)
}

// verify reads a whole file again. It is interrupted by Close and begun anew
// at the next start.
func (m *Manager) verify(img store.Image) {
	unlock, err := m.lock.acquire(m.ctx, img.ID)
	if err != nil {
		return
	}
	defer unlock()
	sum, err := m.hashFile(img.ID)
	if err == nil {
		err = m.judge(m.ctx, &img, store.ImageVerifying, sum)
	}
	if err != nil && m.ctx.Err() == nil {
		m.opts.Log.Error("image check failed", "image", img.ID, "error", err)
	}
}

func (m *Manager) hashFile(id string) (sum [32]byte, err error) {
	f, err := os.Open(m.path(id))
	if err != nil {
		return sum, err
	}
	defer f.Close()
	h, buf := sha256.New(), make([]byte, 1<<20)
	for {
		if err := m.ctx.Err(); err != nil {
			return sum, err
		}
		n, err := f.Read(buf)
		h.Write(buf[:n])
		if errors.Is(err, io.EOF) {
			return [32]byte(h.Sum(nil)), nil
		} else if err != nil {
			return sum, err
		}
	}
}

// recover makes files and records agree after any end of the last run.
func (m *Manager) recover(ctx context.Context) error {
	all, err := m.store.ImagesInState(ctx, time.Now().Add(time.Hour), store.ImageUploading, store.ImageVerifying, store.ImageFailed, store.ImageDeleting)
	if err != nil {
		return fmt.Errorf("images: %w", err)
	}
	for i := range all {
		if err := m.recoverImage(ctx, &all[i]); err != nil {
			return fmt.Errorf("image %s: %w", all[i].ID, err)
		}
	}
	return nil
}

func (m *Manager) recoverImage(ctx context.Context, img *store.Image) error {
	switch img.State {
	case store.ImageDeleting:
		return m.remove(ctx, img)
	case store.ImageFailed:
		return m.unlink(img.ID)
	case store.ImageVerifying:
		m.background.Go(func() { m.verify(*img) })
		return nil
	}
	size := int64(0)
	info, err := os.Stat(m.path(img.ID))
	if err == nil {
		size = info.Size()
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if size > img.Offset {
		return os.Truncate(m.path(img.ID), img.Offset)
	}
	if size < img.Offset {
		// A lost tail means a file system that broke its promise: go on from what is there.
		m.opts.Log.Warn("an upload's file is shorter than its record", "image", img.ID, "record", img.Offset, "file", size)
		return m.store.SetImageOffset(ctx, img.ID, size)
	}
	if img.Offset == img.Size {
		return m.complete(ctx, img, resume(img))
	}
	return nil
}

func (m *Manager) expireLoop(every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-tick.C:
			if err := m.Expire(m.ctx); err != nil && m.ctx.Err() == nil {
				m.opts.Log.Error("expired uploads stay", "error", err)
			}
		}
	}
}

// Expire removes uploads without progress and failed images that are older
// than the expiry.
func (m *Manager) Expire(ctx context.Context) error {
	before := time.Now().Add(-m.opts.Expiry)
	old, err := m.store.ImagesInState(ctx, before, store.ImageUploading, store.ImageFailed)
	if err != nil {
		return err
	}
	for i := range old {
		if err := m.expire(ctx, &old[i], before); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manager) expire(ctx context.Context, img *store.Image, before time.Time) error {
	unlock, err := m.lock.acquire(ctx, img.ID)
	if err != nil {
		return err
	}
	defer unlock()
	// It may have moved on while the lock was waited for.
	now, err := m.store.ImagesInState(ctx, before, store.ImageUploading, store.ImageFailed)
	if err != nil {
		return err
	}
	for i := range now {
		if now[i].ID == img.ID {
			m.opts.Log.Info("upload expired", "image", img.ID, "state", img.State, "offset", img.Offset)
			return m.remove(ctx, img)
		}
	}
	return nil
}
