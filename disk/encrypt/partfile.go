package encrypt

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// partFile is a file that gets its name when it is complete.
type partFile struct {
	f     *os.File
	dst   string
	force bool
	done  bool
}

func newPartFile(dst string, force bool, src io.ReaderAt) (*partFile, error) {
	if err := checkTarget(dst, force, src); err != nil {
		return nil, err
	}
	dir, base := filepath.Split(dst)
	if len(base) > 200 {
		return nil, fmt.Errorf("disk: encrypt: the name %.40s... is too long", base)
	}
	name := filepath.Join(dir, "."+base+"."+rand.Text()[:10]+".part")
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("disk: encrypt: %w", err)
	}
	return &partFile{f: f, dst: dst, force: force}, nil
}

// checkTarget fails early where finish would fail, or would take the source away.
func checkTarget(dst string, force bool, src io.ReaderAt) error {
	have, err := os.Lstat(dst)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("disk: encrypt: %w", err)
	}
	if !force {
		return fmt.Errorf("disk: encrypt: %s: %w: choose another name or force it to be replaced", dst, fs.ErrExist)
	}
	if !have.Mode().IsRegular() {
		return fmt.Errorf("disk: encrypt: %s is not a regular file and is not replaced", dst)
	}
	if s, ok := src.(interface{ Stat() (fs.FileInfo, error) }); ok {
		if info, err := s.Stat(); err == nil && os.SameFile(info, have) {
			return fmt.Errorf("disk: encrypt: %s is the source itself; choose another name", dst)
		}
	}
	return nil
}

// reserve takes n bytes of the file system at once, so that a full one is known
// before the work and not after hours.
func (p *partFile) reserve(n int64) error {
	dir := filepath.Dir(p.dst)
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) == nil {
		// Asked first: an allocation that fails takes all that is left for a moment.
		if free := st.Bavail * uint64(st.Bsize); uint64(n) > free {
			return fmt.Errorf("disk: encrypt: %d bytes are needed in %s, %d are free: %w", n, dir, free, unix.ENOSPC)
		}
	}
	err := unix.Fallocate(int(p.f.Fd()), 0, 0, n)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		err = p.f.Truncate(n)
	}
	if err != nil {
		return fmt.Errorf("disk: encrypt: %d bytes are needed in %s: %w", n, dir, err)
	}
	return nil
}

// finish brings the file to stable storage and gives it its name.
func (p *partFile) finish() error {
	if err := p.f.Sync(); err != nil {
		return fmt.Errorf("disk: encrypt: %w", err)
	}
	if err := p.rename(); err != nil {
		return fmt.Errorf("disk: encrypt: %w", err)
	}
	p.done = true
	dir, err := os.Open(filepath.Dir(p.dst))
	if err != nil {
		return fmt.Errorf("disk: encrypt: %w", err)
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("disk: encrypt: %w", err)
	}
	return nil
}

func (p *partFile) rename() error {
	if p.force {
		return os.Rename(p.f.Name(), p.dst)
	}
	err := unix.Renameat2(unix.AT_FDCWD, p.f.Name(), unix.AT_FDCWD, p.dst, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// This file system cannot; a hard link does not replace either.
		if err = os.Link(p.f.Name(), p.dst); err == nil {
			err = os.Remove(p.f.Name())
		}
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: p.f.Name(), New: p.dst, Err: err}
	}
	return nil
}

// remove closes the file, and deletes it unless it has its name.
func (p *partFile) remove() {
	if !p.done {
		os.Remove(p.f.Name())
	}
	p.f.Close()
}
