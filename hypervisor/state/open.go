package state

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/bond"
)

// Names in the state folder.
const (
	fileDB    = "state.db"
	fileNew   = "state.db.new"   // first opening in progress
	fileScrub = "state.db.scrub" // copy without deleted records, in progress
	fileKey   = "state.key"
	fileLock  = "state.lock"
)

// Options of Open. The zero value is what the daemon uses.
type Options struct {
	Key        KeySource        // nil: FileKey state.key in the folder
	AuditBytes int64            // cap of one bond's audit log, 0: 64 MiB
	HostBytes  int64            // cap of HostLog, 0: 8 MiB
	Clock      func() time.Time // nil: time.Now
}

func (o *Options) defaults(dir string) {
	if o.Key == nil {
		o.Key = FileKey(filepath.Join(dir, fileKey))
	}
	if o.AuditBytes == 0 {
		o.AuditBytes = 64 << 20
	}
	if o.HostBytes == 0 {
		o.HostBytes = 8 << 20
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
}

// Open opens the state in dir, which is made (0700) when missing; the parent
// must exist. The first opening makes the state key and the host's identity.
// Errors: ErrLocked, ErrKey, ErrCorrupt. It never resets what it cannot read.
func Open(dir string, o Options) (*Store, error) {
	o.defaults(dir)
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{dir: dir, o: o, lock: lock}
	if err := s.open(); err != nil {
		s.release()
		return nil, err
	}
	return s, nil
}

func (s *Store) open() error {
	fresh, err := s.prepare()
	if err != nil {
		return err
	}
	if fresh {
		if err := s.create(); err != nil {
			return err
		}
	}
	if err := s.attach(); err != nil {
		return err
	}
	return s.finishScrub()
}

func lockDir(dir string) (*os.File, error) {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("state: %w", err)
	}
	d, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	defer d.Close()
	if err := private(d, dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, fileLock), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("state: lock %s: %w", f.Name(), err)
		}
		pid, _ := io.ReadAll(io.LimitReader(f, 20))
		return nil, fmt.Errorf("%w: %s is held by process %s: stop it first", ErrLocked, dir, strings.TrimSpace(string(pid)))
	}
	// The number is for the message above only; the lock is what counts.
	if err := f.Truncate(0); err == nil {
		_, _ = fmt.Fprintf(f, "%d\n", os.Getpid())
	}
	return f, nil
}

// prepare loads the key and says whether the database must be made. The file
// fileNew exists exactly while a first opening is unfinished, so a database
// that somebody removed is told apart from one that never was.
func (s *Store) prepare() (fresh bool, err error) {
	haveDB, err := s.exists(fileDB)
	if err != nil {
		return false, err
	}
	haveNew, err := s.exists(fileNew)
	if err != nil {
		return false, err
	}
	key, err := s.o.Key.Load()
	switch {
	case errors.Is(err, ErrNoKey) && haveDB:
		return false, fmt.Errorf("%w: %s is there but its key is not: restore the key from a backup", ErrKey, s.path(fileDB))
	case errors.Is(err, ErrNoKey):
		if key, err = s.firstKey(); err != nil {
			return false, err
		}
	case err != nil:
		return false, err
	case !haveDB && !haveNew:
		return false, fmt.Errorf("%w: there is a state key but no %s: restore it from a backup, or remove the key too to begin with a new identity and no bonds", ErrCorrupt, s.path(fileDB))
	}
	defer key.Wipe()
	if s.seal, err = newSealer(key); err != nil {
		return false, err
	}
	return !haveDB, nil
}

func (s *Store) firstKey() (*bond.Secret, error) {
	f, err := os.OpenFile(s.path(fileNew), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	_ = f.Close()
	if err := syncDir(s.dir); err != nil {
		return nil, err
	}
	return s.o.Key.Create()
}

// create builds the database under another name and renames it when it is whole.
func (s *Store) create() error {
	if err := os.Truncate(s.path(fileNew), 0); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	db, err := bolt.Open(s.path(fileNew), 0o600, boltOptions())
	if err != nil {
		return fmt.Errorf("state: create database: %w", err)
	}
	err = db.Update(s.initialise)
	if cerr := db.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("state: create database: %w", err)
	}
	if err := os.Rename(s.path(fileNew), s.path(fileDB)); err != nil {
		return fmt.Errorf("state: create database: %w", err)
	}
	return syncDir(s.dir)
}

// boltOptions: the free list is rebuilt on opening rather than stored, which
// makes a commit cheaper and leaves one structure less to be damaged.
func boltOptions() *bolt.Options {
	return &bolt.Options{Timeout: time.Second, NoFreelistSync: true, FreelistType: bolt.FreelistMapType}
}

// attach checks the file, opens it and reads what the store keeps in memory.
func (s *Store) attach() (err error) {
	f, err := os.OpenFile(s.path(fileDB), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("state: %w", err)
	}
	defer f.Close()
	if err := private(f, s.path(fileDB), 0o600); err != nil {
		return err
	}
	if err := checkPages(f); err != nil {
		return err
	}
	// bbolt trusts its file. checkPages is meant to find whatever could make it
	// fail; should it have missed something, that is an error too and no crash.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %s: %v", ErrCorrupt, s.path(fileDB), r)
		}
	}()
	db, err := bolt.Open(s.path(fileDB), 0o600, boltOptions())
	if err != nil {
		return fmt.Errorf("%w: open %s: %w", ErrCorrupt, s.path(fileDB), err)
	}
	s.db = db
	if err := db.View(s.verify); err != nil {
		return err
	}
	return db.Update(upgrade)
}

// upgrade brings a verified database to the format of this program.
func upgrade(tx *bolt.Tx) error {
	if bytes.Equal(tx.Bucket(bucketMeta).Get(keyFormat), formatRecord()) {
		return nil
	}
	for _, name := range allBuckets {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return fmt.Errorf("state: bring the database to format %d: %w", FormatVersion, err)
		}
	}
	return tx.Bucket(bucketMeta).Put(keyFormat, formatRecord())
}

func (s *Store) path(name string) string { return filepath.Join(s.dir, name) }

func (s *Store) exists(name string) (bool, error) {
	_, err := os.Lstat(s.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("state: %w", err)
	}
	return true, nil
}
