package state

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/uvbond/uvbond/bond"
)

// Buckets. On-disk format, do not change.
var (
	bucketMeta      = []byte("meta")      // the keys below
	bucketBonds     = []byte("bonds")     // vm -> bondWire
	bucketUsed      = []byte("used")      // vm -> Tombstone
	bucketInstances = []byte("instances") // vm -> instanceWire
	bucketNonces    = []byte("nonces")    // vm nonce -> expiry
	bucketExpiries  = []byte("expiries")  // expiry vm nonce -> nothing
	bucketAudit     = []byte("audit")     // vm -> bucket: seq -> chain value, record
	bucketLogs      = []byte("logs")      // vm -> logWire
	bucketGrants    = []byte("grants")    // vm -> grantsWire; since format 2
	bucketBuilds    = []byte("builds")    // vm name-of-disk -> BuildRecord; since format 3

	keyFormat   = []byte("format")   // the only value that is not sealed
	keyIdentity = []byte("identity") // identityWire
	keyTime     = []byte("time")     // timeWire
	keyScrub    = []byte("scrub")    // there while a deleted bond's bytes may linger
)

var allBuckets = [][]byte{bucketMeta, bucketBonds, bucketUsed, bucketInstances,
	bucketNonces, bucketExpiries, bucketAudit, bucketLogs, bucketGrants, bucketBuilds}

// since is the format that a bucket came with, where that is not the first.
var since = map[string]uint32{string(bucketGrants): 2, string(bucketBuilds): 3}

type identityWire struct {
	Key     []byte `cbor:"1,keyasint"`
	Created int64  `cbor:"2,keyasint"`
}

func (w *identityWire) wipe() { bond.Wipe(w.Key) }

type timeWire struct {
	Highest int64 `cbor:"1,keyasint"` // Unix seconds
	Pruned  int64 `cbor:"2,keyasint"` // nonces valid until then may be forgotten
}

// Store is the open database. All methods are safe for concurrent use; updates
// run one at a time.
type Store struct {
	dir  string
	o    Options
	lock *os.File
	seal *sealer

	host    *bond.HostKey
	created time.Time

	mu sync.RWMutex // guards db being replaced or closed, not its content
	db *bolt.DB

	timeMu sync.Mutex
	times  timeWire // as last committed

	deferMu  sync.Mutex
	deferred []deferredEntries
	timer    *time.Timer
}

type deferredEntries struct {
	vm      bond.VMID
	entries []Entry
}

// initialise fills a new database.
func (s *Store) initialise(tx *bolt.Tx) error {
	for _, b := range allBuckets {
		if _, err := tx.CreateBucket(b); err != nil {
			return err
		}
	}
	host, err := bond.GenerateHostKey()
	if err != nil {
		return err
	}
	defer host.Wipe()
	secret := host.Secret()
	defer secret.Wipe()
	if err := tx.Bucket(bucketMeta).Put(keyFormat, formatRecord()); err != nil {
		return err
	}
	t := &Tx{s: s, tx: tx, now: s.o.Clock()}
	if err := t.put(bucketMeta, keyTime, &timeWire{Highest: t.now.Unix()}); err != nil {
		return err
	}
	return t.put(bucketMeta, keyIdentity, &identityWire{Key: secret.Bytes(), Created: t.now.Unix()})
}

// HostKey is the host's identity. It belongs to the store: do not wipe it.
func (s *Store) HostKey() *bond.HostKey { return s.host }

// Created is when the identity was made.
func (s *Store) Created() time.Time { return s.created }

// Now is the later of t and the highest time a commit has seen, so that a clock
// that was set back cannot make expired nonces and tickets valid again.
func (s *Store) Now(t time.Time) time.Time {
	s.timeMu.Lock()
	defer s.timeMu.Unlock()
	if high := time.Unix(s.times.Highest, 0); t.Before(high) {
		return high
	}
	return t
}

// ResetTime forgets the highest time seen, for a host whose clock once ran far
// ahead. Nonces stay safe: those that may have been forgotten stay refused.
func (s *Store) ResetTime() error {
	return s.write(func(t *Tx) error {
		t.times.Highest = s.o.Clock().Unix()
		t.now = s.o.Clock()
		return nil
	})
}

// Update runs fn in one transaction: when Update returns nil all of it is on
// stable storage, else none of it happened. It costs two syncs of the file, so
// one gate operation should be one Update. fn must not use the Store.
func (s *Store) Update(fn func(*Tx) error) error { return s.write(fn) }

func (s *Store) write(fn func(*Tx) error) error {
	s.mu.RLock()
	scrub, err := s.commit(fn)
	s.mu.RUnlock()
	if err == nil && scrub {
		// The deletion is committed and answered for; a scrub that fails is
		// repeated by the next Open.
		_ = s.scrubNow()
	}
	return err
}

func (s *Store) commit(fn func(*Tx) error) (scrub bool, err error) {
	if s.db == nil {
		return false, ErrClosed
	}
	waiting := s.takeDeferred()
	var t *Tx
	err = s.db.Update(func(tx *bolt.Tx) error {
		t = &Tx{s: s, tx: tx}
		if err := t.begin(); err != nil {
			return err
		}
		for _, d := range waiting {
			if _, err := t.Append(d.vm, d.entries...); err != nil && !errors.Is(err, ErrUnknownVM) {
				return err
			}
		}
		if err := fn(t); err != nil {
			return err
		}
		return t.finish()
	})
	if err != nil {
		s.putBack(waiting)
		return false, err
	}
	s.timeMu.Lock()
	s.times = t.times
	s.timeMu.Unlock()
	return t.deleted, nil
}

// View runs fn on a consistent snapshot; methods that change anything fail.
func (s *Store) View(fn func(*Tx) error) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.db == nil {
		return ErrClosed
	}
	return s.db.View(func(tx *bolt.Tx) error {
		t := &Tx{s: s, tx: tx}
		if err := t.begin(); err != nil {
			return err
		}
		return fn(t)
	})
}

// Close writes what was deferred, wipes the keys and gives up the lock.
func (s *Store) Close() error {
	err := s.Flush()
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(err, s.release())
}

// release closes what is open; the caller holds mu or is the only user.
func (s *Store) release() error {
	var err error
	if s.db != nil {
		if err = s.db.Close(); err != nil {
			err = fmt.Errorf("state: close: %w", err)
		}
		s.db = nil
	}
	if s.host != nil {
		s.host.Wipe()
	}
	if s.lock != nil {
		_ = s.lock.Close()
		s.lock = nil
	}
	return err
}
