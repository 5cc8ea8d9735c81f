package machine

import (
	"context"
	"errors"
	"fmt"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/hypervisor/gate"
	"github.com/uvbond/uvbond/hypervisor/keeper"
	"github.com/uvbond/uvbond/hypervisor/state"
	"github.com/uvbond/uvbond/hypervisor/vm"
	"github.com/uvbond/uvbond/qmp"
)

// Grow implements gate.VM. What the owner authorised becomes the registered
// length, and is durable before the guest can write behind the old end:
//
//	storage grew (server) ─▶ header and size are right ─▶ keeper's device ─▶ store ─▶ guest
//
// A failure before the store leaves the disk as it was; after it the guest learns
// the size at the next start at the latest.
func (m *Machine) Grow(ctx context.Context, g gate.Grow) (*qmp.GrowResult, error) {
	if g.File != nil {
		defer g.File.Close()
	}
	rec, err := m.store.Bond(m.id)
	if err != nil {
		return nil, err
	}
	defer rec.Wipe()
	d, old, err := grown(&rec.Spec, g)
	if err != nil {
		return nil, err
	}
	if b := m.builds[d.Name]; b != nil && b.look().Phase != qmp.BuildDone {
		return nil, b.notBuilt("it can grow when it is made from its base image")
	}
	inst := m.live()
	if inst == nil {
		if err := checkGrown(d, g); err != nil {
			return nil, err
		}
		return &qmp.GrowResult{Old: old, New: g.Size, Guest: qmp.GuestNextStart}, m.recordGrowth(g, old)
	}
	k, err := inst.grow(ctx, d, old, g)
	if err != nil {
		return nil, err
	}
	res := &qmp.GrowResult{Old: old, New: g.Size, Guest: qmp.GuestTold}
	if err := inst.tellSize(ctx, k, d, g.Size); err != nil {
		if !errors.Is(err, vm.ErrNotResizable) {
			m.log.Warn("the guest was not told of its disk's new size", "disk", d.Name, "err", err)
		}
		res.Guest = qmp.GuestNextStart
	}
	return res, nil
}

// grow does it up to the store, and returns the keeper, if there is one. No keeper is
// started with the old length meanwhile; but one may be afterwards, as QEMU waits for
// a keeper when it is told.
func (i *instance) grow(ctx context.Context, d *bond.Disk, old uint64, g gate.Grow) (*keeper.Process, error) {
	i.keepers.Lock()
	defer i.keepers.Unlock()
	if err := i.checkGrown(ctx, d, g); err != nil {
		return nil, err
	}
	k := i.currentKeeper()
	if k != nil {
		if err := k.Grow(ctx, d.Name, g.Size); err != nil {
			i.machine.log.Error("keeper did not grow the disk", "disk", d.Name, "err", err)
			return nil, &qmp.Error{Class: qmp.ClassGeneric, Desc: "UVBond: the keeper did not grow the disk; the hypervisor's log has the reason"}
		}
	}
	return k, i.machine.recordGrowth(g, old)
}

// grown finds the disk in spec and gives it the new length.
func grown(spec *bond.Spec, g gate.Grow) (d *bond.Disk, old uint64, err error) {
	for i := range spec.Disks {
		if spec.Disks[i].Name == g.Disk {
			d = &spec.Disks[i]
		}
	}
	if d == nil {
		return nil, 0, invalid("the VM has no disk %q", clip(g.Disk))
	}
	// The same size again is no error: an owner whose answer was lost asks again.
	if old = d.Length; g.Size < old {
		return nil, 0, diskError(d.Name, fmt.Sprintf("it has %d bytes; a disk cannot shrink to %d", old, g.Size))
	}
	d.Length = g.Size
	if err := spec.Validate(); err != nil {
		return nil, 0, diskError(d.Name, err.Error())
	}
	return d, old, nil
}

// checkGrown does that with what the VM runs on, whatever came with the message.
func (i *instance) checkGrown(ctx context.Context, d *bond.Disk, g gate.Grow) error {
	if x, ok := i.exports[d.Name]; ok {
		return i.machine.checkExport(ctx, d, x)
	}
	if f := i.currentFiles()[d.Name]; f != nil {
		g.File = f
	}
	return checkGrown(d, g)
}

// checkGrown holds the ciphertext, as it is now, against the new length.
func checkGrown(d *bond.Disk, g gate.Grow) error {
	if g.File == nil {
		return diskError(d.Name, "its ciphertext was not handed over")
	}
	if _, err := checkFile(d, g.File); err != nil {
		return err
	}
	size, err := fileSize(g.File)
	if err != nil {
		return diskError(d.Name, err.Error())
	}
	return checkHeader(d, g.File, size)
}

func (m *Machine) recordGrowth(g gate.Grow, old uint64) error {
	if old == g.Size {
		return nil
	}
	entry := state.Entry{Kind: "grow", Who: "owner", Text: fmt.Sprintf("disk %s grew from %d to %d bytes", g.Disk, old, g.Size),
		Fields: map[string]string{"disk": g.Disk, "from": fmt.Sprint(old), "to": fmt.Sprint(g.Size)}}
	return m.store.Update(func(tx *state.Tx) error { return tx.GrowDisk(m.id, g.Disk, g.Size, entry) })
}

// tellSize makes the running guest see a disk's new size.
func (i *instance) tellSize(ctx context.Context, k *keeper.Process, d *bond.Disk, size uint64) error {
	switch {
	case k == nil:
		return errors.New("no keeper runs just now")
	case !vm.Resizes(d.Bus) || d.ReadOnly:
		return vm.ErrNotResizable
	}
	if err := k.Announce(ctx, d.Name); err != nil {
		return err
	}
	if i.byVhostUser(d.Name) {
		return nil // QEMU and the guest's driver look at the keeper's word by themselves
	}
	return i.qemu.ResizeNBD(ctx, d.Name, size)
}
