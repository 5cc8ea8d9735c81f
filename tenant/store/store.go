// Package store keeps what the owner's client must not lose: pinned hosts, the
// bonds of VMs with their descriptors, verified receipts and the last audit head.
//
//	$UVBOND_HOME (or $XDG_CONFIG_HOME/uvbond, or ~/.config/uvbond)     0700
//	├── .lock                 flock(2): writers take it exclusively
//	├── hosts/NAME.json       address, token, pins                      0600
//	├── delegate.key          this client's own key, to act for other owners      0600
//	├── grants/NAME.json      what other owners delegated to it             0600
//	├── digests.json          cache: SHA-256 of local files by inode and time
//	└── vms/NAME/
//	    ├── bond              bond.Bond.Export: the VM's secret         0600
//	    ├── vm.json           everything else of the VM                 0600
//	    └── receipts.jsonl    sealed receipts, newest last, bounded     0600
//
// A VM exists when its vm.json does; the bond is written before it. Every file
// is written under another name, synced, and renamed; a file that does not
// parse is an error that names it, never a reason to start afresh. The folder is
// trusted as much as the owner's account is: whoever reads it owns the VMs.
package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/tenant/fail"
)

// maxFile caps what is read of one state file, bytes.
const maxFile = 4 << 20

// Store is an opened state folder. It holds no data: each call reads the files
// again, so that several clients can work at once.
type Store struct{ dir string }

// DefaultDir says where the state folder is.
func DefaultDir() (string, error) {
	if dir := os.Getenv("UVBOND_HOME"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fail.Wrap(err, fail.Other, "set UVBOND_HOME to a folder of your own", "no place for the client's state")
	}
	return filepath.Join(dir, "uvbond"), nil
}

// Open makes the folder when it is missing and refuses one that others may
// write to or that belongs to somebody else.
func Open(dir string) (*Store, error) {
	for _, d := range []string{dir, filepath.Join(dir, "hosts"), filepath.Join(dir, "vms")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fail.Wrap(err, fail.Other, "set UVBOND_HOME to a folder that you may write to", "cannot make the state folder")
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	if st.Mode&0o077 != 0 {
		return nil, fail.New(fail.Other, "chmod 700 "+dir, "the state folder %s is open to others (mode %04o): it holds the keys of your VMs", dir, st.Mode&0o7777)
	}
	if int(st.Uid) != os.Geteuid() {
		return nil, fail.New(fail.Other, "run uvbond as that user, or set UVBOND_HOME", "the state folder %s belongs to user %d", dir, st.Uid)
	}
	return &Store{dir: dir}, nil
}

// Dir returns the path of the state folder.
func (s *Store) Dir() string { return s.dir }

var nameRE = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}$`)

// CheckName refuses names of hosts and VMs that could leave their folder or be
// taken for a flag.
func CheckName(kind, name string) error {
	if !nameRE.MatchString(name) {
		return fail.New(fail.Usage, "use letters, digits, '.', '_' and '-', at most 63, the first a letter or a digit", "%q is not a name for a %s", name, kind)
	}
	return nil
}

// lock takes the folder's lock for a change. It is held for file operations
// only, never while waiting for a person or the network.
func (s *Store) lock(ctx context.Context) (unlock func(), err error) {
	path := filepath.Join(s.dir, ".lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) || time.Now().After(deadline) {
			f.Close()
			return nil, fail.Wrap(err, fail.Other, "another uvbond is writing to it: wait for it or end it", "cannot lock %s", path)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// write replaces a file so that a crash leaves the old or the new one whole.
func write(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".new-*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
			if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
				err = fail.Wrap(err, fail.Other, "make room on the file system of "+dir, "cannot save %s", path)
			}
		}
	}()
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func writeJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return write(path, append(data, '\n'))
}

// read returns a state file; a missing one is fs.ErrNotExist.
func read(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, damaged(path, errors.New("it is too large"))
	}
	return data, nil
}

func readJSON(path string, v any) error {
	data, err := read(path)
	if err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		if strings.Contains(err.Error(), "unknown field") { // encoding/json has no type for it
			return fail.Wrap(err, fail.Other, "install the newest uvbond here; an older one would lose what it does not know", "the state file %s was written by a newer uvbond, or is damaged", path)
		}
		return damaged(path, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return damaged(path, errors.New("something follows the end"))
	}
	return nil
}

func damaged(path string, err error) error {
	return fail.Wrap(err, fail.Other, "restore it from a backup; without one, move it away and start anew", "the state file %s is damaged", path)
}

// names lists what exists in a sub-folder, sorted.
func (s *Store) names(sub string, pick func(fs.DirEntry) (string, bool)) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, sub))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if name, ok := pick(e); ok && nameRE.MatchString(name) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out, nil
}

func known(names []string) string {
	if len(names) == 0 {
		return "there is none yet"
	}
	return "known: " + strings.Join(names, ", ")
}

func errIsMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }

func quoteMissing(kind, name string, names []string, how string) error {
	return fail.New(fail.Usage, fmt.Sprintf("%s; %s", known(names), how), "there is no %s %q", kind, name)
}
