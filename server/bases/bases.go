// Package bases keeps the public base images that a provider offers to tenants.
//
// They are plain files that anybody may know. Nobody has to believe what the server
// says of them: tenants name the SHA-256 themselves, and the hypervisor holds the
// content against it.
package bases

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/server/store"
)

// MaxSize is the size of the largest base, in bytes: the hypervisor takes no larger ones.
const MaxSize = 1 << 40

var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$`)

// CheckName says why a base cannot have a name.
func CheckName(name string) error {
	if !namePattern.MatchString(name) {
		return fmt.Errorf("name %q: 1 to 128 letters, digits, '.', '_', '+' and '-' are needed, a letter or digit first", name)
	}
	return nil
}

// Store has the records in the database and the files in a folder of their own.
type Store struct {
	Dir       string
	Records   *store.Store
	FreeSpace int64 // bytes to keep free on the file system
}

// containers are what must not be offered as if it were a raw disk, by how it begins.
var containers = []struct{ magic, name, hint string }{
	{"QFI\xfb", "a qcow2 image", "convert it first: qemu-img convert -O raw IN OUT"},
	{"KDMV", "a VMDK image", "convert it first: qemu-img convert -O raw IN OUT"},
	{"vhdxfile", "a VHDX image", "convert it first: qemu-img convert -O raw IN OUT"},
	{"conectix", "a VHD image", "convert it first: qemu-img convert -O raw IN OUT"},
	{"LUKS\xba\xbe", "encrypted", "a base image is plain, and public"},
	{"\x1f\x8b", "compressed (gzip)", "unpack it first"},
	{"\xfd7zXZ", "compressed (xz)", "unpack it first"},
	{"\x28\xb5\x2f\xfd", "compressed (zstd)", "unpack it first"},
}

// Add copies a raw disk image and offers it under a name. progress may be nil.
func (s *Store) Add(ctx context.Context, name string, src *os.File, progress func(done, total int64)) (*store.Base, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	if _, err := s.Records.Base(ctx, name); err == nil {
		return nil, fmt.Errorf("there is a base image %s already; remove it first, or give another --name", name)
	} else if !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	size, err := s.check(src)
	if err != nil {
		return nil, err
	}
	if err := s.clean(ctx); err != nil {
		return nil, err
	}
	f, err := s.create()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := &store.Base{Name: name, Size: size, File: filepath.Base(f.Name())}
	if b.SHA256, err = copyHashed(ctx, f, src, size, progress); err == nil {
		err = errors.Join(f.Chmod(0o400), f.Sync(), syncDir(s.Dir))
	}
	if err == nil {
		err = s.Records.AddBase(ctx, b)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("base image %s: %w", name, err), os.Remove(f.Name()))
	}
	return b, nil
}

// check looks at what is to be offered, and whether there is room for it.
func (s *Store) check(src *os.File) (size int64, err error) {
	if size, err = src.Seek(0, io.SeekEnd); err != nil {
		return 0, fmt.Errorf("%s: a file or a block device is needed: %w", src.Name(), err)
	}
	if size < 1 || size > MaxSize {
		return 0, fmt.Errorf("%s has %d bytes; a base image has 1 byte to 1 TiB", src.Name(), size)
	}
	head := make([]byte, 16)
	n, err := src.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	for _, c := range containers {
		if bytes.HasPrefix(head[:n], []byte(c.magic)) {
			return 0, fmt.Errorf("%s is %s, no raw disk image; %s", src.Name(), c.name, c.hint)
		}
	}
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return 0, fmt.Errorf("folder of the base images: %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(s.Dir, &st); err != nil {
		return 0, err
	}
	if free := int64(st.Bavail)*st.Bsize - s.FreeSpace; size > free { //nolint:gosec // a file system's size fits
		return 0, fmt.Errorf("%s has %d bytes, and the server's disk has room for %d more", src.Name(), size, max(free, 0))
	}
	return size, nil
}

// create makes a file that clean leaves alone while it is open. Another process that
// cleans may be faster than the lock; then it makes another.
func (s *Store) create() (*os.File, error) {
	for {
		f, err := s.createLocked()
		if err != nil {
			return nil, err
		}
		var mine, there unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &mine); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if unix.Lstat(f.Name(), &there) == nil && there.Dev == mine.Dev && there.Ino == mine.Ino {
			return f, nil
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
}

func (s *Store) createLocked() (*os.File, error) {
	var raw [16]byte
	rand.Read(raw[:])
	f, err := os.OpenFile(filepath.Join(s.Dir, hex.EncodeToString(raw[:])), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	return f, nil
}

// copyStep is copied at once, in bytes. A step of zeros becomes a hole.
const copyStep = 1 << 20

func copyHashed(ctx context.Context, dst, src *os.File, size int64, progress func(done, total int64)) (sum [32]byte, err error) {
	h, buf, zeros := sha256.New(), make([]byte, copyStep), make([]byte, copyStep)
	for off := int64(0); off < size; {
		if err := ctx.Err(); err != nil {
			return sum, err
		}
		b := buf[:min(copyStep, size-off)]
		if n, err := src.ReadAt(b, off); n < len(b) {
			if err == nil || errors.Is(err, io.EOF) {
				err = fmt.Errorf("%s became shorter while it was read: %w", src.Name(), io.ErrUnexpectedEOF)
			}
			return sum, err
		}
		h.Write(b)
		if !bytes.Equal(b, zeros[:len(b)]) {
			if _, err := dst.WriteAt(b, off); err != nil {
				return sum, err
			}
		}
		off += int64(len(b))
		if progress != nil {
			progress(off, size)
		}
	}
	return [32]byte(h.Sum(nil)), dst.Truncate(size)
}

// clean removes files that no record has, unless they are being made.
func (s *Store) clean(ctx context.Context) error {
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := s.cleanFile(ctx, filepath.Join(s.Dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) cleanFile(ctx context.Context, path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return nil // it is being made
	}
	known, err := s.Records.Bases(ctx)
	if err != nil || slices.ContainsFunc(known, func(b store.Base) bool { return b.File == filepath.Base(path) }) {
		return err
	}
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil // another process was faster
}

// Open opens a base for reading. store.ErrNotFound says that it is not offered.
func (s *Store) Open(ctx context.Context, name string) (*os.File, error) {
	b, err := s.Records.Base(ctx, name)
	if err != nil {
		return nil, err
	}
	return os.OpenFile(filepath.Join(s.Dir, b.File), os.O_RDONLY|unix.O_NOFOLLOW, 0)
}

// Remove offers a base no more, and removes its file. What is being made from it
// just now goes on with the file that is open.
func (s *Store) Remove(ctx context.Context, name string) error {
	b, err := s.Records.Base(ctx, name)
	if err != nil {
		return err
	}
	if err := s.Records.RemoveBase(ctx, name); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(s.Dir, b.File)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
