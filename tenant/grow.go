package tenant

import (
	"context"
	"strings"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/tenant/client"
	"github.com/uvbond/uvbond/tenant/fail"
	"github.com/uvbond/uvbond/tenant/image"
	"github.com/uvbond/uvbond/tenant/store"
)

// Size is how long a disk is to be: Bytes in all, or more than it has.
type Size struct {
	Bytes uint64
	More  bool
}

// GrowDisk makes a disk of a VM longer, whether the VM runs or not. The ticket holds
// the one disk and the one size. The receipt's only call says what was done.
func (o *Owner) GrowDisk(ctx context.Context, name, disk string, size Size) (*Result, error) {
	op, err := o.open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer op.bond.Wipe()
	d, err := findDisk(op.vm, disk)
	if err != nil {
		return nil, err
	}
	if size.More {
		size.Bytes += d.Length
	}
	const limit = 1 << 56 // bond's
	if size.Bytes < d.Length || size.Bytes%512 != 0 || size.Bytes > limit {
		return nil, fail.New(fail.Usage, "give a larger size, or +SIZE for so much more; a disk cannot shrink", "disk %s of %q has %d bytes and cannot have %d", disk, name, d.Length, size.Bytes)
	}
	text, err := automata.Grow(disk, size.Bytes)
	if err != nil {
		return nil, fail.Wrap(err, fail.Other, "this is a fault of this build of uvbond", "no automaton for %q", Grow)
	}
	t, err := o.sealText(op.bond, Grow, text, nil, nil)
	if err != nil {
		return nil, err
	}
	_, res, err := o.relay(ctx, op, t, &client.Params{Disk: disk, Size: size.Bytes, Stored: d.Offset + size.Bytes})
	if err != nil {
		return res, err
	}
	_, err = o.update(op.vm, func(v *store.VM) {
		for i := range v.Spec.Disks {
			if v.Spec.Disks[i].Name == disk {
				v.Spec.Disks[i].Length, v.Spec.Disks[i].Offset = size.Bytes, d.Offset
			}
		}
	})
	return res, err
}

// findDisk returns a VM's disk with its length. A client that knew no growing did
// not keep it; then the local file's header has it, if it is still the same.
func findDisk(vm *store.VM, name string) (*store.Disk, error) {
	var names []string
	for i := range vm.Spec.Disks {
		d := vm.Spec.Disks[i]
		names = append(names, d.Name)
		if d.Name != name {
			continue
		}
		if d.Length != 0 {
			return &d, nil
		}
		h, err := image.Inspect(d.File)
		if err != nil || h.UUID != d.UUID {
			return nil, fail.New(fail.Other, "put a copy of the encrypted disk there (its header is enough) and try again",
				"%q was registered by an older uvbond, and %s is not its disk %s any more: its length is not known here", vm.Name, d.File, name)
		}
		d.Length, d.Offset = h.Segment.Length, h.Segment.Offset
		return &d, nil
	}
	return nil, fail.New(fail.Usage, "its disks: "+strings.Join(names, ", "), "%q has no disk %q", vm.Name, name)
}

// Grown returns what the receipt of GrowDisk says of the growth, for people.
func (r *Result) Grown() string {
	if r.Receipt == nil {
		return ""
	}
	for _, c := range r.Receipt.Calls {
		if c.Command == qmp.CmdGrow {
			return c.Detail
		}
	}
	return ""
}
