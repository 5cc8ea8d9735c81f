package images

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/server/problem"
	"github.com/uvbond/uvbond/server/store"
)

// lockWait is how long a chunk waits for an earlier one of the same image. A
// dropped connection may hold it until its read time-out.
const lockWait = 45 * time.Second

// copyBuffer is the unit in which a body goes to the file, in bytes.
const copyBuffer = 256 << 10

// Write stores one chunk at an offset that must be the recorded one. digest,
// when not nil, is the SHA-256 that the chunk must have. The offset moves only
// after the data is on stable storage; on any failure it stays and the upload
// can go on from there.
func (m *Manager) Write(ctx context.Context, t *store.Tenant, id string, offset int64, digest *[32]byte, body io.Reader) (*store.Image, error) {
	if _, err := m.Get(ctx, t, id); err != nil {
		return nil, err
	}
	wait, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	unlock, err := m.lock.acquire(wait, id)
	if err != nil {
		return nil, busy(id)
	}
	defer unlock()
	img, err := m.Get(ctx, t, id)
	if err != nil {
		return nil, err
	}
	if img.State != store.ImageUploading || img.Offset != offset || img.Base != "" {
		return nil, wrongOffset(img)
	}
	n, sum, err := m.receive(img, body, digest)
	if err != nil {
		return nil, err
	}
	// The data is safe: a client that goes away now must not lose it.
	ctx = context.WithoutCancel(ctx)
	if err := m.store.AdvanceImage(ctx, id, offset, offset+n, sum.state()); err != nil {
		return nil, m.failed(img, storeProblem(err))
	}
	if offset+n == img.Size {
		if err := m.complete(ctx, img, sum); err != nil {
			return nil, problem.Internal(err)
		}
	}
	return m.Get(ctx, t, id)
}

func wrongOffset(img *store.Image) *problem.Problem {
	p := problem.New(http.StatusConflict, problem.ClassOffset, "the upload of image %s goes on at offset %d", img.ID, img.Offset)
	if img.State != store.ImageUploading {
		p = problem.New(http.StatusConflict, problem.ClassConflict, "image %s is %s; its offset is %d", img.ID, img.State, img.Offset)
	}
	return p.With("Upload-Offset", strconv.FormatInt(img.Offset, 10))
}

// receive writes the body behind the image's offset and makes it durable.
func (m *Manager) receive(img *store.Image, body io.Reader, digest *[32]byte) (n int64, sum *running, err error) {
	f, err := m.openForUpload(img)
	if err != nil {
		return 0, nil, problem.Internal(err)
	}
	defer f.Close()
	sum = resume(img)
	chunk := sha256.New()
	if n, err = m.copy(f, img, body, sum, chunk); err != nil {
		return 0, nil, m.failed(img, err)
	}
	if n == 0 {
		return 0, nil, problem.New(http.StatusBadRequest, problem.ClassInvalid, "the chunk is empty")
	}
	if digest != nil && !bytes.Equal(chunk.Sum(nil), digest[:]) {
		return 0, nil, m.failed(img, problem.New(http.StatusBadRequest, problem.ClassInvalid,
			"the chunk arrived damaged: its SHA-256 is not that of Content-Digest; send it again"))
	}
	if err := f.Sync(); err != nil {
		return 0, nil, m.failed(img, writeProblem(err))
	}
	return n, sum, nil
}

func (m *Manager) copy(f *os.File, img *store.Image, body io.Reader, sinks ...io.Writer) (n int64, err error) {
	room := min(img.Size-img.Offset, ChunkSize)
	buf := make([]byte, copyBuffer)
	for {
		k, readErr := fill(body, buf)
		if int64(k) > room-n {
			return 0, problem.New(http.StatusRequestEntityTooLarge, problem.ClassTooLarge,
				"the chunk is longer than the %d bytes that are allowed at offset %d", room, img.Offset)
		}
		if k > 0 {
			if _, err := m.writeAt(f, buf[:k], img.Offset+n); err != nil {
				return 0, writeProblem(err)
			}
			for _, w := range sinks {
				w.Write(buf[:k]) // hashes never fail
			}
			n += int64(k)
		}
		switch {
		case readErr == nil:
		case readErr == io.EOF: //nolint:errorlint // the plain end; an unexpected one is io.ErrUnexpectedEOF
			return n, nil
		default:
			return 0, readProblem(readErr)
		}
	}
}

// fill reads until buf is full or the body ends. Unlike io.ReadFull it keeps the
// body's own error, which tells a short last block from a dropped connection.
func fill(body io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var k int
		k, err = body.Read(buf[n:])
		n += k
	}
	if n == len(buf) {
		err = nil
	}
	return n, err
}

func readProblem(err error) error {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return problem.New(http.StatusRequestEntityTooLarge, problem.ClassTooLarge, "a chunk has at most %d bytes", tooLarge.Limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return problem.New(http.StatusRequestTimeout, problem.ClassTimeout, "no data came for too long; send the chunk again").Because(err)
	}
	return problem.New(http.StatusBadRequest, problem.ClassInvalid, "the chunk ended early; send it again").Because(err)
}

func writeProblem(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return noSpace("the server's disk is full; nothing is lost, go on when there is room").Because(err)
	}
	return problem.Internal(err)
}

func storeProblem(err error) error {
	if errors.Is(err, store.ErrNoSpace) {
		return noSpace("the server's disk is full; nothing is lost, go on when there is room").Because(err)
	}
	return problem.Internal(err)
}

// failed gives back the room of a chunk that did not make it.
func (m *Manager) failed(img *store.Image, err error) error {
	if terr := os.Truncate(m.path(img.ID), img.Offset); terr != nil {
		m.opts.Log.Warn("a failed chunk keeps its room", "image", img.ID, "error", terr)
	}
	return err
}

func (m *Manager) openForUpload(img *store.Image) (*os.File, error) {
	flags := os.O_RDWR | unix.O_NOFOLLOW
	if img.Offset == 0 {
		flags |= os.O_CREATE
	}
	f, err := os.OpenFile(m.path(img.ID), flags, 0o600)
	if err != nil {
		return nil, fmt.Errorf("image file: %w", err)
	}
	if img.Offset == 0 {
		if err := syncDir(filepath.Dir(f.Name())); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return f, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// running is the SHA-256 of the file up to the offset; h is nil when its state
// was lost and the whole file has to be read at the end.
type running struct{ h hash.Hash }

func resume(img *store.Image) *running {
	h := sha256.New()
	if img.Offset == 0 {
		return &running{h}
	}
	u, ok := h.(encoding.BinaryUnmarshaler)
	if !ok || len(img.Hashing) == 0 || u.UnmarshalBinary(img.Hashing) != nil {
		return &running{}
	}
	return &running{h}
}

func (r *running) Write(b []byte) (int, error) {
	if r.h == nil {
		return len(b), nil
	}
	return r.h.Write(b)
}

func (r *running) state() []byte {
	m, ok := r.h.(encoding.BinaryMarshaler)
	if !ok {
		return nil
	}
	b, err := m.MarshalBinary()
	if err != nil {
		return nil
	}
	return b
}
