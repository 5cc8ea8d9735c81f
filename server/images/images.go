// Package images stores the tenants' disks: ciphertext files that grow chunk
// by chunk and later are the live disks of VMs.
//
// A file's name is the image's random id and nothing that a tenant sent. The
// content is opaque. What an upload may rely on: an offset that the server
// answered is on stable storage, across kill -9 and a full disk.
package images

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/server/problem"
	"github.com/uvbond/uvbond/server/store"
)

// Limits of an upload, in bytes.
const (
	ChunkSize = 8 << 20  // largest body of one PUT
	MaxSize   = 64 << 40 // largest image
	maxName   = 128
)

// Options of a Manager.
type Options struct {
	Dir       string
	MaxImages int64
	FreeSpace int64         // bytes to keep free on the file system
	Expiry    time.Duration // of an upload without progress
	Exports   Exports       // of disks made from base images
	Log       *slog.Logger
}

// Manager owns the image files. There is one per data directory.
type Manager struct {
	opts  Options
	store *store.Store
	lock  keyed

	background sync.WaitGroup
	stop       context.CancelFunc
	ctx        context.Context

	writeAt func(f *os.File, b []byte, off int64) (int, error)
}

// NewManager opens the image folder and puts right what a crash left behind:
// files longer than their record, half-done removals, unfinished checks.
func NewManager(ctx context.Context, st *store.Store, opts Options) (*Manager, error) {
	if err := os.MkdirAll(opts.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("image folder: %w", err)
	}
	m := &Manager{opts: opts, store: st, writeAt: func(f *os.File, b []byte, off int64) (int, error) { return f.WriteAt(b, off) }}
	m.ctx, m.stop = context.WithCancel(context.WithoutCancel(ctx))
	if err := m.recover(ctx); err != nil {
		m.stop()
		return nil, err
	}
	every := max(opts.Expiry/20, time.Second)
	m.background.Go(func() { m.expireLoop(every) })
	return m, nil
}

// Close stops the background work; what it was doing goes on at the next start.
func (m *Manager) Close() {
	m.stop()
	m.background.Wait()
}

func (m *Manager) path(id string) string { return filepath.Join(m.opts.Dir, id) }

// Create starts an upload, or returns the one that is already there for the
// same name, size and hash.
func (m *Manager) Create(ctx context.Context, t *store.Tenant, name string, size int64, sum [32]byte) (*store.Image, error) {
	return m.create(ctx, t, store.NewImage{Name: name, Size: size, SHA256: sum})
}

func (m *Manager) create(ctx context.Context, t *store.Tenant, n store.NewImage) (*store.Image, error) {
	if err := checkName(n.Name); err != nil {
		return nil, err
	}
	size := n.Size
	if size < 1 || size > MaxSize {
		return nil, problem.New(http.StatusUnprocessableEntity, problem.ClassInvalid, "size %d: an image has 1 byte to 64 TiB", size)
	}
	var raw [16]byte
	rand.Read(raw[:])
	free, err := m.free()
	if err != nil {
		return nil, problem.Internal(err)
	}
	img, created, err := m.store.CreateImage(ctx, hex.EncodeToString(raw[:]), t, n, m.opts.MaxImages)
	if err != nil {
		return nil, createProblem(err)
	}
	if created && img.Storage == "" && size > free-m.opts.FreeSpace {
		// Only now: an upload that is already under way must be found even on a full disk.
		if err := m.remove(context.WithoutCancel(ctx), img); err != nil {
			return nil, problem.Internal(err)
		}
		return nil, noSpace("the server's disk has room for %d more bytes, the image has %d", max(free-m.opts.FreeSpace, 0), size)
	}
	return img, nil
}

func createProblem(err error) error {
	var q *store.QuotaError
	switch {
	case errors.As(err, &q) && q.What == "bytes":
		return problem.New(http.StatusRequestEntityTooLarge, problem.ClassQuota,
			"quota: %d of %d bytes are used, the image needs %d more; delete images or ask the operator for a larger quota", q.Used, q.Limit, q.Wanted)
	case errors.As(err, &q):
		return problem.New(http.StatusForbidden, problem.ClassQuota, "quota: all %d images are used; delete some", q.Limit)
	case errors.Is(err, store.ErrNoSpace):
		return noSpace("the server's disk is full").Because(err)
	}
	return problem.Internal(err)
}

func noSpace(format string, args ...any) *problem.Problem {
	return problem.New(http.StatusInsufficientStorage, problem.ClassNoSpace, format, args...)
}

func checkName(name string) error {
	bad := strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) })
	if name == "" || utf8.RuneCountInString(name) > maxName || !utf8.ValidString(name) || bad {
		return problem.New(http.StatusUnprocessableEntity, problem.ClassInvalid, "image name: 1 to %d printable characters are needed", maxName)
	}
	return nil
}

func (m *Manager) free() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(m.opts.Dir, &st); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", m.opts.Dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil //nolint:gosec // a file system's size fits
}

// Get returns a tenant's image.
func (m *Manager) Get(ctx context.Context, t *store.Tenant, id string) (*store.Image, error) {
	img, err := m.store.Image(ctx, t.ID, id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, problem.NotFound("image", id)
	} else if err != nil {
		return nil, problem.Internal(err)
	}
	return img, nil
}

// Delete removes a tenant's image and its data, unless a VM uses it.
func (m *Manager) Delete(ctx context.Context, t *store.Tenant, id string) error {
	img, err := m.Get(ctx, t, id)
	if err != nil {
		return err
	}
	unlock, err := m.lock.acquire(ctx, id)
	if err != nil {
		return busy(id)
	}
	defer unlock()
	// From here the client's going away must not leave half a removal.
	err = m.remove(context.WithoutCancel(ctx), img)
	switch {
	case errors.Is(err, store.ErrInUse):
		return problem.New(http.StatusConflict, problem.ClassConflict, "image %s is in use by VM %s; delete the VM first", id, img.VM)
	case errors.Is(err, store.ErrNotFound):
		return problem.NotFound("image", id)
	case err != nil:
		return problem.Internal(err)
	}
	return nil
}

// remove marks, unlinks and forgets, in this order: a crash in between is
// finished by recover. An export that cannot be removed is not waited for.
func (m *Manager) remove(ctx context.Context, img *store.Image) error {
	if err := m.store.MarkImageDeleting(ctx, img.ID); err != nil {
		return err
	}
	if err := m.unlink(img.ID); err != nil {
		return err
	}
	if err := m.opts.Exports.remove(ctx, img); err != nil {
		m.opts.Log.Error("the export of a removed image stays: remove it", "image", img.ID, "storage", img.Storage, "export", img.Export, "error", err)
	}
	return m.store.RemoveImage(ctx, img.ID)
}

func (m *Manager) unlink(id string) error {
	if err := os.Remove(m.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("image file: %w", err)
	}
	return nil
}

// Open opens an image's file for a VM. The caller closes it.
func (m *Manager) Open(id string) (*os.File, error) {
	if len(id) != 32 || strings.Trim(id, "0123456789abcdef") != "" {
		return nil, fmt.Errorf("image id %q is malformed", id)
	}
	return os.OpenFile(m.path(id), os.O_RDWR|unix.O_NOFOLLOW, 0)
}

func busy(id string) *problem.Problem {
	return problem.New(http.StatusConflict, problem.ClassBusy, "image %s is busy with another request; try again", id).With("Retry-After", "1")
}
