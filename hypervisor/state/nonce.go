package state

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/uvbond/uvbond/bond"
)

// pruneBatch bounds what one transaction forgets of expired nonces; it is more
// than one transaction adds, so the set shrinks to those still valid.
const pruneBatch = 32

type nonceWire struct {
	Expiry int64 `cbor:"1,keyasint"`
}

// UseNonce uses up a nonce of vm's that is valid until expiry (Unix seconds,
// included) and appends the entries. Errors: ErrReplayed, ErrExpired,
// ErrUnknownVM. When the transaction is rolled back the nonce is unused again.
func (t *Tx) UseNonce(vm bond.VMID, nonce [32]byte, expiry int64, entries ...Entry) error {
	if expiry < t.now.Unix() {
		if err := t.known(vm); err != nil {
			return err
		}
		return fmt.Errorf("%w (valid until %d, now %d)", ErrExpired, expiry, t.now.Unix())
	}
	return t.BurnNonce(vm, nonce, expiry, entries...)
}

// BurnNonce is UseNonce for a nonce that may be past its validity: when it
// returns nil the nonce was never used and never will be. ErrExpired when
// nonces of its age may have been forgotten, so that nobody can tell.
func (t *Tx) BurnNonce(vm bond.VMID, nonce [32]byte, expiry int64, entries ...Entry) error {
	if err := t.known(vm); err != nil {
		return err
	}
	if expiry <= 0 || expiry <= t.times.Pruned {
		return fmt.Errorf("%w (valid until %d, forgotten until %d)", ErrExpired, expiry, t.times.Pruned)
	}
	key := slices.Concat(vm[:], nonce[:])
	var old nonceWire
	if used, err := t.get(bucketNonces, key, &old); err != nil {
		return err
	} else if used {
		return ErrReplayed
	}
	if err := t.prune(); err != nil {
		return err
	}
	if err := t.put(bucketNonces, key, &nonceWire{expiry}); err != nil {
		return err
	}
	if err := t.put(bucketExpiries, expiryKey(expiry, key), nil); err != nil {
		return err
	}
	if len(entries) == 0 {
		return nil
	}
	_, err := t.Append(vm, entries...)
	return err
}

func expiryKey(expiry int64, key []byte) []byte {
	return append(be64(uint64(expiry)), key...)
}

// prune forgets nonces that are past their validity. From then on nothing that
// was valid no longer than the latest of them is accepted, whatever the clock.
func (t *Tx) prune() error {
	var gone [][]byte
	c := t.tx.Bucket(bucketExpiries).Cursor()
	now := be64(uint64(t.now.Unix()))
	for k, _ := c.First(); k != nil && len(gone) < pruneBatch && bytes.Compare(k[:8], now) < 0; k, _ = c.Next() {
		gone = append(gone, bytes.Clone(k))
	}
	for _, k := range gone {
		t.times.Pruned = max(t.times.Pruned, int64(binary.BigEndian.Uint64(k)))
		if err := t.delete(bucketExpiries, k); err != nil {
			return err
		}
		if err := t.delete(bucketNonces, k[8:]); err != nil {
			return err
		}
	}
	return nil
}

// forgetNonces removes all nonces of a bond that is being deleted.
func (t *Tx) forgetNonces(vm bond.VMID) error {
	var keys [][]byte
	c := t.tx.Bucket(bucketNonces).Cursor()
	for k, _ := c.Seek(vm[:]); bytes.HasPrefix(k, vm[:]); k, _ = c.Next() {
		keys = append(keys, bytes.Clone(k))
	}
	for _, k := range keys {
		var w nonceWire
		if _, err := t.get(bucketNonces, k, &w); err != nil {
			return err
		}
		if err := t.delete(bucketExpiries, expiryKey(w.Expiry, k)); err != nil {
			return err
		}
		if err := t.delete(bucketNonces, k); err != nil {
			return err
		}
	}
	return nil
}
