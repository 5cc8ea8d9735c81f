package state

import (
	"errors"
	"fmt"

	"github.com/uvbond/uvbond/bond"
)

// bondWire is BondRecord in the database. It repeats bond.Spec with plain
// bytes for the keys, because bond.Secret refuses to be encoded by accident.
type bondWire struct {
	Bond       []byte     `cbor:"1,keyasint"`
	Registered int64      `cbor:"2,keyasint"`
	Policy     string     `cbor:"3,keyasint"`
	Memory     uint64     `cbor:"4,keyasint"`
	VCPUs      uint32     `cbor:"5,keyasint"`
	Firmware   string     `cbor:"6,keyasint"`
	Machine    string     `cbor:"7,keyasint"`
	Disks      []diskWire `cbor:"8,keyasint"`
	NICs       []bond.NIC `cbor:"9,keyasint"`
	Screen     bool       `cbor:"10,keyasint,omitempty"`
	ChannelMAC [6]byte    `cbor:"11,keyasint"`
	Seed       *seedWire  `cbor:"12,keyasint,omitempty"`
}

type seedWire struct {
	UserData      []byte `cbor:"1,keyasint"`
	MetaData      []byte `cbor:"2,keyasint"`
	VendorData    []byte `cbor:"3,keyasint"`
	NetworkConfig []byte `cbor:"4,keyasint"`
}

type diskWire struct {
	Name       string          `cbor:"1,keyasint"`
	Bus        string          `cbor:"2,keyasint"`
	Boot       bool            `cbor:"3,keyasint"`
	ReadOnly   bool            `cbor:"4,keyasint"`
	Discard    bool            `cbor:"5,keyasint"`
	Cipher     string          `cbor:"6,keyasint"`
	SectorSize uint32          `cbor:"7,keyasint"`
	DataOffset uint64          `cbor:"8,keyasint"`
	Length     uint64          `cbor:"9,keyasint"`
	IVTweak    uint64          `cbor:"10,keyasint"`
	UUID       string          `cbor:"11,keyasint"`
	Digest     bond.DiskDigest `cbor:"12,keyasint"`
	VolumeKey  []byte          `cbor:"13,keyasint"`
	Base       *baseWire       `cbor:"14,keyasint,omitempty"`
}

type baseWire struct {
	SHA256 [32]byte `cbor:"1,keyasint"`
	Size   uint64   `cbor:"2,keyasint"`
	Time   uint32   `cbor:"3,keyasint"`
	Memory uint32   `cbor:"4,keyasint"`
	CPUs   uint32   `cbor:"5,keyasint"`
	Salt   []byte   `cbor:"6,keyasint"`
	Key    []byte   `cbor:"7,keyasint"`
}

func newBaseWire(b *bond.Base) *baseWire {
	if b == nil {
		return nil
	}
	k := &b.Keyslot
	return &baseWire{b.SHA256, b.Size, k.Time, k.Memory, k.CPUs, k.Salt, k.Key.Bytes()}
}

func (w *baseWire) base() *bond.Base {
	if w == nil {
		return nil
	}
	return &bond.Base{SHA256: w.SHA256, Size: w.Size, Keyslot: bond.Keyslot{Time: w.Time, Memory: w.Memory, CPUs: w.CPUs, Salt: w.Salt, Key: bond.NewSecret(w.Key)}}
}

// encodedSize allows 1 KiB for each disk and NIC, whose fields are bounded by bond.Spec.
func (w *bondWire) encodedSize() int {
	n := 2048 + len(w.Bond) + len(w.Policy) + 1024*(len(w.Disks)+len(w.NICs))
	for i := range w.Disks {
		n += len(w.Disks[i].VolumeKey)
	}
	if s := w.Seed; s != nil {
		n += len(s.UserData) + len(s.MetaData) + len(s.VendorData) + len(s.NetworkConfig)
	}
	return n
}

func (w *bondWire) wipe() {
	bond.Wipe(w.Bond)
	for i := range w.Disks {
		bond.Wipe(w.Disks[i].VolumeKey)
		if b := w.Disks[i].Base; b != nil {
			bond.Wipe(b.Key)
		}
	}
	if s := w.Seed; s != nil {
		for _, file := range [][]byte{s.UserData, s.MetaData, s.VendorData, s.NetworkConfig} {
			bond.Wipe(file)
		}
	}
}

// newBondWire shares the memory of the disks' keys and of the seed with r.
func newBondWire(r *BondRecord, export *bond.Secret) *bondWire {
	w := &bondWire{
		Bond: export.Bytes(), Registered: r.Registered, Policy: r.Policy,
		Memory: r.Spec.MemoryBytes, VCPUs: r.Spec.VCPUs, Firmware: r.Spec.Firmware, Machine: r.Spec.Machine,
		NICs: r.Spec.NICs, Screen: r.Spec.Screen, ChannelMAC: r.Spec.ChannelMAC,
	}
	if s := r.Spec.Seed; s != nil {
		w.Seed = &seedWire{s.UserData.Bytes(), s.MetaData.Bytes(), s.VendorData.Bytes(), s.NetworkConfig.Bytes()}
	}
	for _, d := range r.Spec.Disks {
		w.Disks = append(w.Disks, diskWire{d.Name, d.Bus, d.Boot, d.ReadOnly, d.Discard, d.Cipher,
			d.SectorSize, d.DataOffset, d.Length, d.IVTweak, d.UUID, d.Digest, d.VolumeKey.Bytes(), newBaseWire(d.Base)})
	}
	return w
}

func (w *bondWire) record() (*BondRecord, error) {
	export := bond.NewSecret(w.Bond)
	defer export.Wipe()
	b, err := bond.ImportBond(export)
	if err != nil {
		return nil, fmt.Errorf("%w: bond: %w", ErrCorrupt, err)
	}
	r := &BondRecord{Bond: b, Registered: w.Registered, Policy: w.Policy, Spec: bond.Spec{
		MemoryBytes: w.Memory, VCPUs: w.VCPUs, Firmware: w.Firmware, Machine: w.Machine, NICs: w.NICs,
		Screen: w.Screen, ChannelMAC: w.ChannelMAC}}
	if s := w.Seed; s != nil {
		r.Spec.Seed = &bond.Seed{UserData: bond.NewSecret(s.UserData), MetaData: bond.NewSecret(s.MetaData),
			VendorData: bond.NewSecret(s.VendorData), NetworkConfig: bond.NewSecret(s.NetworkConfig)}
	}
	for _, d := range w.Disks {
		r.Spec.Disks = append(r.Spec.Disks, bond.Disk{Name: d.Name, Bus: d.Bus, Boot: d.Boot,
			ReadOnly: d.ReadOnly, Discard: d.Discard, Cipher: d.Cipher, SectorSize: d.SectorSize,
			DataOffset: d.DataOffset, Length: d.Length, IVTweak: d.IVTweak, UUID: d.UUID,
			Digest: d.Digest, VolumeKey: bond.NewSecret(d.VolumeKey), Base: d.Base.base()})
	}
	return r, nil
}

// AddBond stores a new bond and begins its audit log with the entries. The VM
// id counts as used from then on, even after the bond is deleted: ErrUsed.
// The record stays the caller's. A zero Registered is set to now.
func (t *Tx) AddBond(r *BondRecord, first ...Entry) error {
	vm := r.Bond.VM()
	if vm == HostLog {
		return fmt.Errorf("state: VM id %s is reserved", vm)
	}
	if old, err := t.Used(vm); err != nil {
		return err
	} else if old != nil {
		return ErrUsed
	}
	if r.Registered == 0 {
		r.Registered = t.now.Unix()
	}
	export := r.Bond.Export()
	defer export.Wipe()
	if err := t.put(bucketBonds, vm[:], newBondWire(r, export)); err != nil {
		return err
	}
	if err := t.put(bucketUsed, vm[:], &Tombstone{Registered: r.Registered}); err != nil {
		return err
	}
	_, err := t.Append(vm, first...)
	return err
}

// known says ErrUnknownVM unless vm has a bond.
func (t *Tx) known(vm bond.VMID) error {
	if b := t.tx.Bucket(bucketBonds); b == nil || b.Get(vm[:]) == nil {
		return ErrUnknownVM
	}
	return nil
}

// Bond returns a bond, or ErrUnknownVM. The caller wipes the record.
func (t *Tx) Bond(vm bond.VMID) (*BondRecord, error) {
	var w bondWire
	defer w.wipe()
	found, err := t.get(bucketBonds, vm[:], &w)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, ErrUnknownVM
	}
	r, err := w.record()
	if err != nil {
		return nil, err
	}
	if r.Bond.VM() != vm {
		r.Wipe()
		return nil, fmt.Errorf("%w: bond of %s is stored as %s's", ErrCorrupt, r.Bond.VM(), vm)
	}
	return r, nil
}

// VMs lists the ids of all bonds in order.
func (t *Tx) VMs() ([]bond.VMID, error) {
	var ids []bond.VMID
	err := t.tx.Bucket(bucketBonds).ForEach(func(k, _ []byte) error {
		if len(k) != len(bond.VMID{}) {
			return fmt.Errorf("%w: bond key of %d bytes", ErrCorrupt, len(k))
		}
		ids = append(ids, bond.VMID(k))
		return nil
	})
	return ids, err
}

// Bonds returns all bonds in the order of their ids, without their seeds: thousands
// of these at once would take hundreds of megabytes. Bond has them. The caller wipes them.
func (t *Tx) Bonds() ([]*BondRecord, error) {
	ids, err := t.VMs()
	if err != nil {
		return nil, err
	}
	records := make([]*BondRecord, 0, len(ids))
	for _, vm := range ids {
		r, err := t.Bond(vm)
		if err != nil {
			for _, r := range records {
				r.Wipe()
			}
			return nil, err
		}
		r.Spec.Seed.Wipe()
		r.Spec.Seed = nil
		records = append(records, r)
	}
	return records, nil
}

// Used returns what is known of a VM id that was ever registered, or nil.
func (t *Tx) Used(vm bond.VMID) (*Tombstone, error) {
	var s Tombstone
	found, err := t.get(bucketUsed, vm[:], &s)
	if err != nil || !found {
		return nil, err
	}
	return &s, nil
}

// UpdatePolicy replaces the policy in force and appends the entries.
func (t *Tx) UpdatePolicy(vm bond.VMID, policy string, entries ...Entry) error {
	var w bondWire
	defer w.wipe()
	found, err := t.get(bucketBonds, vm[:], &w)
	if err != nil {
		return err
	}
	if !found {
		return ErrUnknownVM
	}
	w.Policy = policy
	if err := t.put(bucketBonds, vm[:], &w); err != nil {
		return err
	}
	_, err = t.Append(vm, entries...)
	return err
}

// DeleteBond appends the entries and then removes the bond with its keys, log,
// nonces and instances. What stays is a Tombstone with the head it returns.
// After the commit the file is rewritten without the removed bytes.
func (t *Tx) DeleteBond(vm bond.VMID, entries ...Entry) (Head, error) {
	old, err := t.Used(vm)
	if err != nil {
		return Head{}, err
	}
	if err := t.known(vm); err != nil {
		return Head{}, err
	}
	if old == nil {
		return Head{}, fmt.Errorf("%w: bond %s was never marked used", ErrCorrupt, vm)
	}
	head, err := t.Append(vm, entries...)
	if err != nil {
		return Head{}, err
	}
	old.Deleted, old.AuditSeq, old.AuditHead = t.now.Unix(), head.Seq, head.Hash
	err = errors.Join(
		t.put(bucketUsed, vm[:], old),
		t.delete(bucketBonds, vm[:]),
		t.delete(bucketInstances, vm[:]),
		t.delete(bucketGrants, vm[:]),
		t.forgetBuilds(vm),
		t.forgetNonces(vm),
		t.forgetLog(vm),
		t.put(bucketMeta, keyScrub, nil),
	)
	t.deleted = err == nil
	return head, err
}
