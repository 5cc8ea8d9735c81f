package state

import (
	"errors"
	"time"

	"github.com/uvbond/uvbond/bond"
)

// deferDelay is how long a deferred entry may wait; deferMax how many entries
// may, before Defer commits them itself.
const (
	deferDelay = time.Second
	deferMax   = 256
)

// Defer appends entries with the next Update, before anything that it does, or
// after one second: for commands at a high rate that quote no head. A crash
// loses at most what was deferred; a head or page read in an Update includes it.
// Entries for a bond that was deleted meanwhile are dropped.
func (s *Store) Defer(vm bond.VMID, entries ...Entry) {
	s.deferMu.Lock()
	s.deferred = append(s.deferred, deferredEntries{vm, entries})
	full := len(s.deferred) >= deferMax
	if s.timer == nil && !full {
		s.timer = time.AfterFunc(deferDelay, func() { _ = s.Flush() })
	}
	s.deferMu.Unlock()
	if full {
		_ = s.Flush()
	}
}

// Flush commits what was deferred.
func (s *Store) Flush() error {
	s.deferMu.Lock()
	empty := len(s.deferred) == 0
	s.deferMu.Unlock()
	if empty {
		return nil
	}
	err := s.write(func(*Tx) error { return nil })
	if errors.Is(err, ErrClosed) {
		return nil
	}
	return err
}

func (s *Store) takeDeferred() []deferredEntries {
	s.deferMu.Lock()
	defer s.deferMu.Unlock()
	d := s.deferred
	s.deferred = nil
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
	return d
}

// putBack keeps the entries of a transaction that failed for the next one.
// While commits keep failing the oldest are kept: they say how it began.
func (s *Store) putBack(d []deferredEntries) {
	if len(d) == 0 {
		return
	}
	s.deferMu.Lock()
	defer s.deferMu.Unlock()
	s.deferred = append(d, s.deferred...)
	if len(s.deferred) > 4*deferMax {
		s.deferred = s.deferred[:4*deferMax]
	}
	if s.timer == nil {
		s.timer = time.AfterFunc(deferDelay, func() { _ = s.Flush() })
	}
}
