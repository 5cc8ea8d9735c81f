package state

import (
	"encoding/binary"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/uvbond/uvbond/bond"
)

// Tx is one transaction. It is valid only inside the function it was given to,
// and used by one goroutine.
type Tx struct {
	s       *Store
	tx      *bolt.Tx
	now     time.Time
	times   timeWire
	stored  timeWire
	deleted bool // a bond was deleted: its bytes must be scrubbed
}

func (t *Tx) begin() error {
	if _, err := t.get(bucketMeta, keyTime, &t.times); err != nil {
		return err
	}
	t.stored = t.times
	t.now = t.s.o.Clock()
	if high := time.Unix(t.times.Highest, 0); t.now.Before(high) {
		t.now = high
	}
	if n := t.now.Unix(); n > t.times.Highest {
		t.times.Highest = n
	}
	return nil
}

func (t *Tx) finish() error {
	if t.times == t.stored {
		return nil
	}
	return t.put(bucketMeta, keyTime, &t.times)
}

// Now is the time of the transaction; it never runs back from one to the next,
// except by ResetTime.
func (t *Tx) Now() time.Time { return t.now }

// get decodes a sealed record into v and says whether there is one.
func (t *Tx) get(bucket, key []byte, v any) (bool, error) {
	b := t.tx.Bucket(bucket)
	if b == nil {
		return false, fmt.Errorf("%w: no bucket %s", ErrCorrupt, bucket)
	}
	sealed := b.Get(key)
	if sealed == nil {
		return false, nil
	}
	plain, err := t.s.seal.open(bucket, key, sealed)
	if err != nil {
		return false, err
	}
	defer bond.Wipe(plain)
	return true, decode(plain, v)
}

func (t *Tx) put(bucket, key []byte, v any) error {
	plain, err := encode(v)
	if err != nil {
		return err
	}
	defer bond.Wipe(plain)
	b := t.tx.Bucket(bucket)
	if b == nil {
		return fmt.Errorf("%w: no bucket %s", ErrCorrupt, bucket)
	}
	if err := b.Put(key, t.s.seal.seal(bucket, key, plain)); err != nil {
		return fmt.Errorf("state: write to %s: %w", bucket, err)
	}
	return nil
}

func (t *Tx) delete(bucket, key []byte) error {
	b := t.tx.Bucket(bucket)
	if b == nil {
		return fmt.Errorf("%w: no bucket %s", ErrCorrupt, bucket)
	}
	if err := b.Delete(key); err != nil {
		return fmt.Errorf("state: delete from %s: %w", bucket, err)
	}
	return nil
}

func be64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
