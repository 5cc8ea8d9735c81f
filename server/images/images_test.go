package images

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/server/problem"
	"github.com/uvbond/uvbond/server/store"
)

type rig struct {
	*Manager
	t      *testing.T
	st     *store.Store
	tenant *store.Tenant
}

func newRig(t *testing.T) *rig {
	t.Helper()
	st, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	token, err := st.CreateToken(t.Context(), "alice", "", 1<<40, 10)
	if err != nil {
		t.Fatal(err)
	}
	tenant, err := st.Authenticate(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, st: st, tenant: tenant}
	r.open(filepath.Join(t.TempDir(), "images"))
	return r
}

func (r *rig) open(dir string) {
	r.t.Helper()
	m, err := NewManager(r.t.Context(), r.st, Options{Dir: dir, MaxImages: 10, Expiry: time.Hour, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(m.Close)
	r.Manager = m
}

func (r *rig) restart() { r.t.Helper(); r.Close(); r.open(r.opts.Dir) }

func (r *rig) create(data []byte) string {
	r.t.Helper()
	img, err := r.Create(r.t.Context(), r.tenant, "disk", int64(len(data)), sha256.Sum256(data))
	if err != nil {
		r.t.Fatal(err)
	}
	return img.ID
}

func (r *rig) write(id string, off int64, b []byte) (*store.Image, error) {
	return r.Write(r.t.Context(), r.tenant, id, off, nil, bytes.NewReader(b))
}

func (r *rig) mustWrite(id string, off int64, b []byte) *store.Image {
	r.t.Helper()
	img, err := r.write(id, off, b)
	if err != nil {
		r.t.Fatal(err)
	}
	return img
}

func (r *rig) state(id, want string) *store.Image {
	r.t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		img, err := r.Get(r.t.Context(), r.tenant, id)
		if err != nil {
			r.t.Fatal(err)
		}
		if img.State == want {
			return img
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("state %s, want %s", img.State, want)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestFullDisk: 507, and the upload goes on where it was when there is room.
func TestFullDisk(t *testing.T) {
	r := newRig(t)
	data := bytes.Repeat([]byte("uvbond"), 200_000)
	id := r.create(data)
	r.mustWrite(id, 0, data[:1000])
	real := r.writeAt
	r.writeAt = func(f *os.File, b []byte, off int64) (int, error) {
		n, _ := real(f, b[:len(b)/2], off)
		return n, &os.PathError{Op: "write", Path: f.Name(), Err: unix.ENOSPC}
	}
	_, err := r.write(id, 1000, data[1000:])
	if p := problem.Of(err); p.Status != 507 || p.Class != problem.ClassNoSpace {
		t.Fatal(err)
	}
	if info, err := os.Stat(r.path(id)); err != nil || info.Size() != 1000 {
		t.Fatal("the failed chunk keeps its room", info.Size(), err)
	}
	r.writeAt = real
	if img := r.mustWrite(id, 1000, data[1000:]); img.State != store.ImageReady {
		t.Fatal(img.State)
	}
	big := r.opts
	big.FreeSpace = 1 << 60
	r.Manager.opts = big
	if _, err := r.Create(t.Context(), r.tenant, "big", 5, [32]byte{1}); problem.Of(err).Status != 507 {
		t.Fatal(err)
	}
	if list, _ := r.st.Images(t.Context(), r.tenant.ID); len(list) != 1 {
		t.Fatal("a record without room stays")
	}
}

// TestRecover: whatever stands in the file after a crash, the upload goes on
// from data that is there, and the end is checked.
func TestRecover(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 1000)
	cases := map[string]struct {
		damage func(path string) error
		offset int64
	}{
		"longer":  {func(p string) error { return os.Truncate(p, 9000) }, 8000},
		"equal":   {func(string) error { return nil }, 8000},
		"shorter": {func(p string) error { return os.Truncate(p, 5000) }, 5000},
		"gone":    {os.Remove, 0},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			id := r.create(data)
			r.mustWrite(id, 0, data[:8000])
			if err := c.damage(r.path(id)); err != nil {
				t.Fatal(err)
			}
			r.restart()
			if img := r.state(id, store.ImageUploading); img.Offset != c.offset {
				t.Fatalf("offset %d, want %d", img.Offset, c.offset)
			}
			r.mustWrite(id, c.offset, data[c.offset:])
			r.state(id, store.ImageReady)
			got, err := os.ReadFile(r.path(id))
			if err != nil || !bytes.Equal(got, data) {
				t.Fatal("the data differs", err)
			}
		})
	}
}

// TestLostHash: without the running hash the whole file is read, also when the
// server stops before it is done.
func TestLostHash(t *testing.T) {
	r := newRig(t)
	data := bytes.Repeat([]byte("x"), 5000)
	id := r.create(data)
	r.mustWrite(id, 0, data[:1000])
	if err := r.st.SetImageOffset(t.Context(), id, 1000); err != nil {
		t.Fatal(err)
	}
	r.mustWrite(id, 1000, data[1000:])
	r.state(id, store.ImageReady)
	if err := r.st.SetImageState(t.Context(), id, store.ImageReady, store.ImageVerifying, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.path(id), make([]byte, 5000), 0o600); err != nil {
		t.Fatal(err)
	}
	r.restart()
	r.state(id, store.ImageFailed)
	r.Close() // waits for the check, which removes the file last
	if _, err := os.Stat(r.path(id)); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("the failed file stays")
	}
}

func TestExpire(t *testing.T) {
	r := newRig(t)
	data := []byte("hello world")
	half := r.create(data)
	r.mustWrite(half, 0, data[:5])
	whole := r.create([]byte("whole"))
	r.mustWrite(whole, 0, []byte("whole"))
	if err := r.Expire(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.state(half, store.ImageUploading)
	r.opts.Expiry = -time.Minute
	if err := r.Expire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Get(t.Context(), r.tenant, half); problem.Of(err).Status != 404 {
		t.Fatal(err)
	}
	if _, err := os.Stat(r.path(half)); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("the expired file stays")
	}
	r.state(whole, store.ImageReady)
}

// TestHalfDelete: a removal that a crash cut off is finished.
func TestHalfDelete(t *testing.T) {
	r := newRig(t)
	id := r.create([]byte("data"))
	r.mustWrite(id, 0, []byte("data"))
	if err := r.st.MarkImageDeleting(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	r.restart()
	if _, err := os.Stat(r.path(id)); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("the file stays")
	}
	if list, err := r.st.ImagesInState(t.Context(), time.Now().Add(time.Hour), store.ImageDeleting); err != nil || len(list) != 0 {
		t.Fatal(list, err)
	}
}

type brokenReader struct{ n int }

func (b *brokenReader) Read(p []byte) (int, error) {
	if b.n == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n := min(b.n, len(p))
	b.n -= n
	return n, nil
}

func TestBrokenBody(t *testing.T) {
	r := newRig(t)
	id := r.create(make([]byte, 600_000))
	for _, n := range []int{0, 10, copyBuffer, copyBuffer + 1} {
		_, err := r.Write(t.Context(), r.tenant, id, 0, nil, &brokenReader{n})
		if problem.Of(err).Status != 400 {
			t.Fatal(n, err)
		}
	}
	if img := r.state(id, store.ImageUploading); img.Offset != 0 {
		t.Fatal(img.Offset)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	unlock, err := r.lock.acquire(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if _, err := r.lock.acquire(ctx, id); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if _, err := r.Open("../../etc/passwd"); err == nil {
		t.Fatal("opened a path")
	}
}
