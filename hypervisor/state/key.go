package state

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/bond"
)

// KeySize is the length of the state key in bytes (AES-256).
const KeySize = 32

// ErrNoKey is what KeySource.Load says when no key was ever made.
var ErrNoKey = errors.New("state: no state key yet")

// KeySource keeps the state key outside of the database, so that the database
// alone is worth nothing.
type KeySource interface {
	// Load returns the key, or ErrNoKey when none was ever made.
	Load() (*bond.Secret, error)
	// Create makes a key; when it returns, the key is on stable storage. It
	// never replaces one that exists.
	Create() (*bond.Secret, error)
}

// FileKey keeps the key as KeySize raw bytes in a file that only its owner may read.
type FileKey string

// Load reads the key file. Wider permissions, another owner, a symbolic link
// or another length are refused.
func (k FileKey) Load() (*bond.Secret, error) {
	f, err := os.OpenFile(string(k), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoKey
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	defer f.Close()
	if err := private(f, string(k), 0o600); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	b := make([]byte, KeySize+1)
	defer bond.Wipe(b)
	n, err := io.ReadFull(f, b)
	if n != KeySize || !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("%w: %s is not %d bytes long: restore it from a backup", ErrKey, string(k), KeySize)
	}
	return bond.NewSecret(b[:KeySize]), nil
}

// Create writes a random key beside the final name and links it there, so that
// the name never shows half a key.
func (k FileKey) Create() (*bond.Secret, error) {
	key := bond.RandomSecret(KeySize)
	f, err := os.CreateTemp(filepath.Dir(string(k)), ".state.key.*") // 0600
	if err != nil {
		return nil, fmt.Errorf("state: create key: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.Write(key.Bytes()); err != nil {
		return nil, fmt.Errorf("state: write key: %w", err)
	}
	if err := f.Sync(); err != nil {
		return nil, fmt.Errorf("state: sync key: %w", err)
	}
	if err := os.Link(f.Name(), string(k)); err != nil { // fails when the name exists
		return nil, fmt.Errorf("state: create key: %w", err)
	}
	if err := syncDir(filepath.Dir(string(k))); err != nil {
		return nil, err
	}
	return key, nil
}

// private refuses what others may open: its permissions may be at most max.
func private(f *os.File, path string, max fs.FileMode) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if perm := fi.Mode().Perm(); perm&^max != 0 {
		return fmt.Errorf("state: %s has mode %04o: others could read it; chmod it to %04o", path, perm, max)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("state: stat %s: %w", path, err)
	}
	if int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("state: %s belongs to uid %d, the daemon runs as %d: chown it", path, st.Uid, os.Geteuid())
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("state: sync folder: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("state: sync folder: %w", err)
	}
	return nil
}
