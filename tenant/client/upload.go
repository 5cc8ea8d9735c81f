package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Chunk sizes of an upload, bytes. The server says which it prefers.
const (
	maxChunk     = 8 << 20
	defaultChunk = 4 << 20
	minChunk     = 4 << 10
)

// Upload limits: how often a chunk is tried again without any progress in
// between, and the longest pause between two tries.
const (
	uploadTries = 12
	longPause   = 10 * time.Second
	// verifyTimeout is how long the server may take to hash a stored file.
	verifyTimeout = time.Hour
)

// Upload describes a file to be stored.
type Upload struct {
	Name   string
	Size   int64
	SHA256 string // hex, of the whole file
	Data   io.ReaderAt

	Progress func(done int64)                    // optional; called after each chunk
	Retry    func(err error, wait time.Duration) // optional; called before a pause
	Backoff  func(attempt int) (d time.Duration) // optional; default doubles from 250 ms to 10 s
}

// Push stores a file and returns its record once the server has all of it. It
// goes on where an earlier upload of the same file broke off, and tries again
// with growing pauses when the connection drops or the server restarts.
func (c *Client) Push(ctx context.Context, u Upload) (*Image, error) {
	p := &pushing{client: c, upload: u}
	for {
		img, err := p.run(ctx)
		if err == nil {
			return img, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if !retryable(err) || p.failures >= uploadTries {
			return nil, err
		}
		wait := p.backoff()
		p.failures++
		if u.Retry != nil {
			u.Retry(err, wait)
		}
		if err := pause(ctx, wait); err != nil {
			return nil, err
		}
	}
}

type pushing struct {
	client   *Client
	upload   Upload
	failures int // tries since the last progress
	best     int64
}

func (p *pushing) backoff() time.Duration {
	if p.upload.Backoff != nil {
		return p.upload.Backoff(p.failures)
	}
	return min(250*time.Millisecond<<min(p.failures, 10), longPause)
}

// run announces the file and sends chunks from the offset that the server has.
func (p *pushing) run(ctx context.Context) (*Image, error) {
	img, err := p.client.NewImage(ctx, p.upload.Name, p.upload.Size, p.upload.SHA256)
	if err != nil {
		return nil, err
	}
	id := img.ID
	if id == "" {
		return nil, fmt.Errorf("%w: an image without an id", ErrGarbage)
	}
	if img.State == ImageFailed {
		// An earlier upload arrived damaged: what is stored is worth nothing.
		if err := p.client.RemoveImage(ctx, id); err != nil {
			return nil, err
		}
		return nil, &SentError{Err: errors.New("an earlier upload arrived damaged")}
	}
	size := chunkSize(img.ChunkSize)
	buf := make([]byte, size)
	offset := img.Offset
	for img.State != ImageReady {
		if offset < 0 || offset > p.upload.Size {
			return nil, fmt.Errorf("%w: it claims to have %d of %d bytes", ErrGarbage, offset, p.upload.Size)
		}
		p.moved(offset)
		if offset == p.upload.Size {
			return p.finished(ctx, id)
		}
		img, err = p.chunk(ctx, id, offset, buf)
		if err != nil {
			return nil, err
		}
		offset = img.Offset
	}
	p.moved(p.upload.Size)
	img.ID = id
	return img, nil
}

// chunk sends the bytes at an offset. A 409 with another offset means that an
// earlier answer got lost; the upload goes on from there.
func (p *pushing) chunk(ctx context.Context, id string, offset int64, buf []byte) (*Image, error) {
	n := min(int64(len(buf)), p.upload.Size-offset)
	if _, err := p.upload.Data.ReadAt(buf[:n], offset); err != nil && !errors.Is(err, io.EOF) {
		return nil, &readError{err}
	}
	img, err := p.client.PutImage(ctx, id, offset, buf[:n])
	var api *APIError
	if errors.As(err, &api) && api.Status == http.StatusConflict && api.Offset >= 0 && api.Offset != offset {
		if p.failures++; p.failures > uploadTries {
			return nil, fmt.Errorf("%w: its offset moves back and forth", ErrGarbage)
		}
		return &Image{ID: id, Offset: api.Offset, State: ImageUploading}, nil
	}
	if err == nil && img.State != ImageReady && img.Offset <= offset {
		return nil, fmt.Errorf("%w: a chunk was taken but the offset stays at %d", ErrGarbage, img.Offset)
	}
	return img, err
}

// finished waits until the server has checked the whole file.
func (p *pushing) finished(ctx context.Context, id string) (*Image, error) {
	for deadline := time.Now().Add(verifyTimeout); time.Now().Before(deadline); {
		img, err := p.client.Image(ctx, id)
		if err != nil {
			return nil, err
		}
		if img.State == ImageReady {
			img.ID = id
			return img, nil
		}
		if img.State == ImageFailed {
			return nil, &SentError{Err: fmt.Errorf("it arrived damaged (%s)", Printable(img.Reason))}
		}
		if img.Offset != p.upload.Size {
			return nil, &SentError{Err: fmt.Errorf("the server went back to byte %d", img.Offset)}
		}
		if err := pause(ctx, 300*time.Millisecond); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: all bytes are stored but the image does not become ready", ErrGarbage)
}

func (p *pushing) moved(offset int64) {
	if offset > p.best {
		p.best, p.failures = offset, 0
	}
	if p.upload.Progress != nil {
		p.upload.Progress(offset)
	}
}

func chunkSize(offered int64) int64 {
	if offered < minChunk {
		return defaultChunk
	}
	return min(offered, maxChunk)
}

type readError struct{ err error }

func (e *readError) Error() string { return "reading the local file: " + e.err.Error() }
func (e *readError) Unwrap() error { return e.err }

// retryable tells whether trying again can help: not when the server said no,
// showed another key or talks nonsense, and not when the local file fails.
func retryable(err error) bool {
	var api *APIError
	if errors.As(err, &api) {
		return api.Status >= 500 && api.Status != http.StatusInsufficientStorage && api.Status != http.StatusNotImplemented ||
			api.Status == http.StatusTooManyRequests || api.Status == http.StatusRequestTimeout
	}
	var local *readError
	return !errors.Is(err, ErrTLSPin) && !errors.Is(err, ErrGarbage) && !errors.Is(err, ErrTooLarge) && !errors.As(err, &local)
}
