package state

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/uvbond/uvbond/bond"
)

// verify reads every record once and keeps the identity and the time. The
// bodies of audit logs are left for when they are read: they can be large, and
// of each only the last record, which the next one continues, is checked.
func (s *Store) verify(tx *bolt.Tx) error {
	buckets, err := bucketsOf(tx)
	if err != nil {
		return err
	}
	t := &Tx{s: s, tx: tx}
	if err := s.verifyIdentity(t); err != nil {
		return err
	}
	for _, name := range buckets {
		if bytes.Equal(name, bucketAudit) {
			continue
		}
		if err := t.verifyBucket(name); err != nil {
			return err
		}
	}
	return t.verifyBonds()
}

// bucketsOf returns the buckets that a database of its format has, once all of
// them are there.
func bucketsOf(tx *bolt.Tx) ([][]byte, error) {
	meta := tx.Bucket(bucketMeta)
	if meta == nil {
		return nil, fmt.Errorf("%w: no bucket %s: not this program's file, or damaged", ErrCorrupt, bucketMeta)
	}
	f := meta.Get(keyFormat)
	if len(f) != 4 {
		return nil, fmt.Errorf("%w: no format version", ErrCorrupt)
	}
	v := binary.BigEndian.Uint32(f)
	if v < 1 || v > FormatVersion {
		return nil, fmt.Errorf("state: database has format %d, this program reads 1 to %d: use the version of uvbond-hypervisor that wrote it", v, FormatVersion)
	}
	buckets := slices.DeleteFunc(slices.Clone(allBuckets), func(name []byte) bool { return since[string(name)] > v })
	for _, name := range buckets {
		if tx.Bucket(name) == nil {
			return nil, fmt.Errorf("%w: no bucket %s: not this program's file, or damaged", ErrCorrupt, name)
		}
	}
	return buckets, nil
}

func (s *Store) verifyIdentity(t *Tx) error {
	var id identityWire
	defer id.wipe()
	found, err := t.get(bucketMeta, keyIdentity, &id)
	if err != nil {
		// The first sealed record that is read: most likely the key is another's.
		return fmt.Errorf("%w: %s does not open with this state key: %w", ErrKey, s.path(fileDB), err)
	}
	if !found {
		return fmt.Errorf("%w: no host identity", ErrCorrupt)
	}
	secret := bond.NewSecret(id.Key)
	defer secret.Wipe()
	if s.host, err = bond.ParseHostKey(secret); err != nil {
		return fmt.Errorf("%w: host identity: %w", ErrCorrupt, err)
	}
	s.created = time.Unix(id.Created, 0)
	found, err = t.get(bucketMeta, keyTime, &s.times)
	if err == nil && !found {
		return fmt.Errorf("%w: no record of the time", ErrCorrupt)
	}
	return err
}

func (t *Tx) verifyBucket(name []byte) error {
	return t.tx.Bucket(name).ForEach(func(k, v []byte) error {
		if v == nil {
			return fmt.Errorf("%w: bucket inside %s", ErrCorrupt, name)
		}
		if bytes.Equal(name, bucketMeta) && bytes.Equal(k, keyFormat) {
			return nil
		}
		plain, err := t.s.seal.open(name, k, v)
		bond.Wipe(plain)
		return err
	})
}

// verifyBonds checks that what belongs together is there.
func (t *Tx) verifyBonds() error {
	bonds, err := t.Bonds()
	if err != nil {
		return err
	}
	logs := []bond.VMID{HostLog}
	for _, r := range bonds {
		vm := r.Bond.VM()
		r.Wipe()
		logs = append(logs, vm)
		used, err := t.Used(vm)
		if err != nil {
			return err
		}
		if used == nil || used.Deleted != 0 {
			return fmt.Errorf("%w: bond %s is not marked used", ErrCorrupt, vm)
		}
		if _, err := t.instances(vm); err != nil {
			return err
		}
	}
	for _, vm := range logs {
		head, err := t.AuditHead(vm)
		if err != nil {
			return err
		}
		if head.Seq == 0 {
			continue
		}
		p, err := t.ReadAudit(vm, head.Seq-1, 1)
		if err != nil {
			return err
		}
		if p.Head != head.Hash {
			return fmt.Errorf("%w: audit log of %s ends elsewhere", ErrCorrupt, vm)
		}
		if _, _, err := bond.VerifyChain(p.Records, p.From, p.Prev); err != nil {
			return fmt.Errorf("%w: audit log of %s: %w", ErrCorrupt, vm, err)
		}
	}
	return nil
}
