package store

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// maxDigests bounds the cache.
const maxDigests = 256

// Digests remembers the SHA-256 of large local files, so that `vm create` after
// `disk push` does not read them twice. A changed size, modification or change
// time, or another inode, makes an entry useless. It is a cache of public facts:
// losing it costs time only, and so a damaged one is ignored.
type digests map[string]string

func (s *Store) digestsPath() string { return filepath.Join(s.dir, "digests.json") }

func fileKey(f *os.File) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d:%d:%d:%d.%09d:%d.%09d", st.Dev, st.Ino, st.Size, st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec, st.Ctim.Nsec), nil
}

// Digest returns the remembered SHA-256 (hex) of a file and the key under which
// PutDigest saves one.
func (s *Store) Digest(f *os.File) (sum, key string) {
	key, err := fileKey(f)
	if err != nil {
		return "", ""
	}
	d := digests{}
	if readJSON(s.digestsPath(), &d) != nil {
		return "", key
	}
	return d[key], key
}

// PutDigest remembers a digest if the file still has the key it had before it
// was read.
func (s *Store) PutDigest(ctx context.Context, f *os.File, key, sum string) error {
	if now, err := fileKey(f); err != nil || now != key {
		return nil
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	d := digests{}
	if readJSON(s.digestsPath(), &d) != nil || len(d) >= maxDigests {
		d = digests{}
	}
	d[key] = sum
	return writeJSON(s.digestsPath(), d)
}
