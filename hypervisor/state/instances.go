package state

import (
	"fmt"

	"github.com/uvbond/uvbond/bond"
)

type instanceWire struct {
	Last    uint64          `cbor:"1,keyasint"` // highest number ever
	Current *InstanceRecord `cbor:"2,keyasint"`
	End     *EndRecord      `cbor:"3,keyasint"`
}

func (t *Tx) instances(vm bond.VMID) (w instanceWire, err error) {
	if err := t.known(vm); err != nil {
		return w, err
	}
	_, err = t.get(bucketInstances, vm[:], &w)
	return w, err
}

// NextInstance is the number that a new instance of vm must have.
func (t *Tx) NextInstance(vm bond.VMID) (uint64, error) {
	w, err := t.instances(vm)
	return w.Last + 1, err
}

// PutInstance stores a new instance, whose number must be NextInstance while
// none is current, or changes the current one; else ErrInstance.
func (t *Tx) PutInstance(vm bond.VMID, r InstanceRecord, entries ...Entry) error {
	w, err := t.instances(vm)
	if err != nil {
		return err
	}
	switch {
	case w.Current == nil && r.Number == w.Last+1:
	case w.Current != nil && r.Number == w.Current.Number:
	default:
		return fmt.Errorf("%w: got %d, last was %d", ErrInstance, r.Number, w.Last)
	}
	w.Last, w.Current = r.Number, &r
	if err := t.put(bucketInstances, vm[:], &w); err != nil {
		return err
	}
	return t.note(vm, entries)
}

// Instance returns the current instance of vm, or nil.
func (t *Tx) Instance(vm bond.VMID) (*InstanceRecord, error) {
	w, err := t.instances(vm)
	return w.Current, err
}

// LastEnd returns how the last instance that ended did, or nil.
func (t *Tx) LastEnd(vm bond.VMID) (*EndRecord, error) {
	w, err := t.instances(vm)
	return w.End, err
}

// EndInstance forgets the current instance, its descriptor with it. Without a
// current one it is ErrInstance and nothing is appended.
func (t *Tx) EndInstance(vm bond.VMID, reason string, entries ...Entry) error {
	w, err := t.instances(vm)
	if err != nil {
		return err
	}
	if w.Current == nil {
		return fmt.Errorf("%w: none is running", ErrInstance)
	}
	w.End = &EndRecord{Number: w.Current.Number, At: t.now.Unix(), Reason: reason}
	w.Current = nil
	if err := t.put(bucketInstances, vm[:], &w); err != nil {
		return err
	}
	return t.note(vm, entries)
}

func (t *Tx) note(vm bond.VMID, entries []Entry) error {
	if len(entries) == 0 {
		return nil
	}
	_, err := t.Append(vm, entries...)
	return err
}
