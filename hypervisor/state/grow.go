package state

import "github.com/uvbond/uvbond/bond"

// GrowDisk replaces the length of a disk, in bytes, and appends the entries: from
// now on it is the registered one. ErrUnknownVM when there is no such bond or disk.
func (t *Tx) GrowDisk(vm bond.VMID, disk string, length uint64, entries ...Entry) error {
	var w bondWire
	defer w.wipe()
	found, err := t.get(bucketBonds, vm[:], &w)
	if err != nil {
		return err
	}
	for i := range w.Disks {
		if !found || w.Disks[i].Name != disk {
			continue
		}
		w.Disks[i].Length = length
		if err := t.put(bucketBonds, vm[:], &w); err != nil {
			return err
		}
		_, err := t.Append(vm, entries...)
		return err
	}
	return ErrUnknownVM
}
