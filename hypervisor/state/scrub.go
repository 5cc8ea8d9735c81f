package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// scrubLimit is the size in bytes above which the file is rewritten by the next
// Open rather than at once, while every session would wait.
const scrubLimit = 128 << 20

// scrubBatch bounds one transaction of the rewriting, in bytes.
const scrubBatch = 4 << 20

// bbolt only unlinks what is deleted: the sealed bytes stay in free pages until
// these are used again. scrubNow copies the living records to a new file, puts
// it in the place of the old one and overwrites the old one.
func (s *Store) scrubNow() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db == nil {
		return ErrClosed
	}
	if fi, err := os.Stat(s.path(fileDB)); err != nil || fi.Size() > scrubLimit {
		return err
	}
	return s.scrub()
}

// finishScrub runs at opening, when a bond was deleted and the scrub after it
// did not finish.
func (s *Store) finishScrub() error {
	if err := os.Remove(s.path(fileScrub)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("state: %w", err)
	}
	due := false
	err := s.db.View(func(tx *bolt.Tx) error {
		due = tx.Bucket(bucketMeta).Get(keyScrub) != nil
		return nil
	})
	if err != nil || !due {
		return err
	}
	return s.scrub()
}

func (s *Store) scrub() error {
	// While the old file is overwritten nothing else must be able to reach it.
	old, err := os.OpenFile(s.path(fileDB), os.O_WRONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("state: scrub: %w", err)
	}
	defer old.Close()
	if err := s.copyLiving(); err != nil {
		return errors.Join(fmt.Errorf("state: scrub: %w", err), os.Remove(s.path(fileScrub)))
	}
	if err := os.Rename(s.path(fileScrub), s.path(fileDB)); err != nil {
		return fmt.Errorf("state: scrub: %w", err)
	}
	if err := syncDir(s.dir); err != nil {
		return err
	}
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("state: scrub: %w", err)
	}
	db, err := bolt.Open(s.path(fileDB), 0o600, boltOptions())
	if err != nil {
		s.db = nil // later calls say ErrClosed: the daemon must be restarted
		return fmt.Errorf("state: scrub: %w", err)
	}
	s.db = db
	return overwrite(old)
}

func (s *Store) copyLiving() error {
	if err := os.Remove(s.path(fileScrub)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dst, err := bolt.Open(s.path(fileScrub), 0o600, boltOptions())
	if err != nil {
		return err
	}
	err = bolt.Compact(dst, s.db, scrubBatch)
	if err == nil {
		err = dst.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Delete(keyScrub) })
	}
	return errors.Join(err, dst.Close())
}

func overwrite(f *os.File) error {
	fi, err := f.Stat()
	if err != nil {
		return fmt.Errorf("state: overwrite old file: %w", err)
	}
	zeros := make([]byte, 1<<20)
	for at := int64(0); at < fi.Size(); at += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), fi.Size()-at)], at); err != nil {
			return fmt.Errorf("state: overwrite old file: %w", err)
		}
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("state: overwrite old file: %w", err)
	}
	return nil
}
