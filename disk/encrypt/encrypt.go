// Package encrypt makes an owner's LUKS2 disk out of a plain one. It is kept
// apart from package disk because only the tenant needs it: the trusted program
// does not carry it.
package encrypt

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/uvbond/uvbond/disk"
	"github.com/uvbond/uvbond/disk/aligned"
	"github.com/uvbond/uvbond/disk/luks"
)

// Options says what File makes.
type Options struct {
	Format  luks.FormatOptions // DataSize is set by File
	Force   bool               // replace an existing file
	Workers int                // parallel workers; 0: one for each CPU
}

const encryptStep = 1 << 20 // bytes a worker takes at a time

// File makes the LUKS2 disk dst out of the first size bytes of src, rounded up
// to whole sectors of 512 bytes with zeros. src is only read, by several workers
// at once. Every sector is written, also those of zeros, so that storage
// does not see which parts of the disk are in use.
//
// dst appears when it is complete and on stable storage; until then, and after
// an error or when ctx ends, there is nothing under its name (a process that is
// killed leaves a file .NAME.*.part behind). An existing file is
// replaced only with Force.
//
// progress, which may be nil, is called with bytes of src, never backwards and
// by one worker at a time; it should be quick.
func File(ctx context.Context, src io.ReaderAt, size int64, dst string, opts Options, progress func(done, total int64)) error {
	if size <= 0 || size > 1<<62 {
		return fmt.Errorf("disk: encrypt: the source has %d bytes", size)
	}
	if progress == nil {
		progress = func(int64, int64) {}
	}
	opts.Format.DataSize = (uint64(size) + 511) / 512 * 512
	if opts.Format.VolumeKey == nil {
		key := make([]byte, 64)
		defer clear(key)
		rand.Read(key) // never fails: the program ends instead
		opts.Format.VolumeKey = key
	}
	out, err := newPartFile(dst, opts.Force, src)
	if err != nil {
		return err
	}
	defer out.remove()
	if err := out.reserve(luks.DataOffset + int64(opts.Format.DataSize)); err != nil {
		return err
	}
	h, err := luks.Format(out.f, opts.Format)
	if err != nil {
		return err
	}
	if err := copyData(ctx, src, size, out.f, h, opts, progress); err != nil {
		return err
	}
	return out.finish()
}

func copyData(ctx context.Context, src io.ReaderAt, size int64, f *os.File, h *luks.Header, opts Options, progress func(done, total int64)) error {
	b, err := disk.FileBackend(f)
	if err != nil {
		return err
	}
	s := h.Segment
	d, err := disk.NewDevice(unowned{b}, disk.Params{Key: opts.Format.VolumeKey, SectorSize: s.SectorSize, DataOffset: s.Offset, Length: s.Length, IVTweak: s.IVTweak})
	if err != nil {
		return err
	}
	c := &copier{src: src, size: size, dst: d, progress: progress}
	progress(0, size)
	workers := opts.Workers
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	g, ctx := errgroup.WithContext(ctx)
	for range workers {
		g.Go(func() error { return c.work(ctx) })
	}
	if err := g.Wait(); err != nil {
		return errors.Join(err, d.Close())
	}
	return d.Close()
}

// unowned is a disk.Backend that stays open.
type unowned struct{ disk.Backend }

func (unowned) Close() error { return nil }

type copier struct {
	src      io.ReaderAt
	size     int64
	dst      *disk.Device
	next     atomic.Int64 // the first byte that no worker has taken yet
	mu       sync.Mutex
	done     int64                   // guarded by mu
	progress func(done, total int64) // called with mu held
}

// work enciphers steps until none is left.
func (c *copier) work(ctx context.Context) error {
	mem := aligned.Make(encryptStep)
	defer clear(mem)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		off := c.next.Add(encryptStep) - encryptStep
		if off >= c.size {
			return nil
		}
		n := min(encryptStep, c.size-off)
		if err := c.step(mem, off, n); err != nil {
			return err
		}
		c.mu.Lock()
		c.done += n
		c.progress(c.done, c.size)
		c.mu.Unlock()
	}
}

func (c *copier) step(mem []byte, off, n int64) error {
	got, err := c.src.ReadAt(mem[:n], off)
	if int64(got) < n {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("disk: encrypt: reading %d bytes at %d of the source: %w", n, off, err)
	}
	padded := (n + 511) / 512 * 512
	clear(mem[n:padded])
	_, err = c.dst.WriteAt(mem[:padded], off)
	return err
}
