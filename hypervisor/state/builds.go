package state

import (
	"bytes"

	"github.com/uvbond/uvbond/bond"
)

// Phases of the making of a disk from its base image.
const (
	BuildCheck = iota // the base is read and held against the owner's digest; nothing is written
	BuildWrite        // it is read again, held against what was read before, and encrypted
	BuildDone
)

// BuildRecord is how far a disk is made. What it says is on stable storage.
type BuildRecord struct {
	Phase    int       `cbor:"1,keyasint"`
	Done     uint64    `cbor:"2,keyasint"`            // bytes of the base in this phase, whole pieces
	Hash     []byte    `cbor:"3,keyasint,omitempty"`  // SHA-256 after Done bytes, as it marshals itself
	Piece    uint64    `cbor:"4,keyasint,omitempty"`  // bytes
	Prefixes []byte    `cbor:"5,keyasint,omitempty"`  // SHA-256 of the base up to the end of each piece
	Wrong    [32]byte  `cbor:"6,keyasint"`            // digest of the last base that was not the owner's; zero: none
	Image    [2]uint64 `cbor:"7,keyasint"`            // device and inode of the file that is written to
	Storage  string    `cbor:"8,keyasint,omitempty"`  // name of the storage that is written to, in the place of a file
	Export   string    `cbor:"9,keyasint,omitempty"`  // and of the export there
	Last     []byte    `cbor:"10,keyasint,omitempty"` // SHA-256 of the last sector that was written
}

// Build returns how far a disk is made, or nil when that has not begun.
func (t *Tx) Build(vm bond.VMID, disk string) (*BuildRecord, error) {
	var r BuildRecord
	found, err := t.get(bucketBuilds, buildKey(vm, disk), &r)
	if err != nil || !found {
		return nil, err
	}
	return &r, nil
}

// PutBuild records how far a disk is made and appends the entries. Call it only
// when what it says was written is on stable storage. ErrUnknownVM when there is no
// such bond.
func (t *Tx) PutBuild(vm bond.VMID, disk string, r *BuildRecord, entries ...Entry) error {
	if err := t.known(vm); err != nil {
		return err
	}
	if err := t.put(bucketBuilds, buildKey(vm, disk), r); err != nil {
		return err
	}
	if len(entries) == 0 {
		return nil
	}
	_, err := t.Append(vm, entries...)
	return err
}

func buildKey(vm bond.VMID, disk string) []byte { return append(vm[:], disk...) }

// forgetBuilds removes the records of all of a bond's disks.
func (t *Tx) forgetBuilds(vm bond.VMID) error {
	var keys [][]byte
	c := t.tx.Bucket(bucketBuilds).Cursor()
	for k, _ := c.Seek(vm[:]); bytes.HasPrefix(k, vm[:]); k, _ = c.Next() {
		keys = append(keys, bytes.Clone(k))
	}
	for _, k := range keys {
		if err := t.delete(bucketBuilds, k); err != nil {
			return err
		}
	}
	return nil
}
