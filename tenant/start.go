package tenant

import (
	"bytes"
	"context"
	"slices"
	"time"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant/fail"
	"github.com/uvbond/uvbond/tenant/store"
)

// start relays a boot ticket and takes the descriptor. The ticket's nonce is
// saved first: a client that is stopped before the answer came can still
// recognise the descriptor of this start later.
func (o *Owner) start(ctx context.Context, op *opened, t *sealed) (*Result, error) {
	_, err := o.Store.UpdateVM(ctx, op.vm.Name, op.vm.ID, func(v *store.VM) { v.BootNonce = slices.Clone(t.nonce[:]) })
	if err != nil {
		return nil, err
	}
	out, res, err := o.relay(ctx, op, t, nil)
	if res != nil && res.Receipt != nil && err != nil {
		// Nothing was started; the descriptor of an earlier instance stays.
		_, uerr := o.update(op.vm, func(v *store.VM) {
			if bytes.Equal(v.BootNonce, t.nonce[:]) {
				v.BootNonce = nil
			}
		})
		if uerr != nil {
			return res, uerr
		}
	}
	if err != nil {
		return res, err
	}
	if len(out.Descriptor) == 0 {
		return res, fail.New(fail.Unknown, "the server withholds it: tell the provider; `uvbond vm status "+op.vm.Name+"` still works", "%q was started (verified), but its descriptor did not come: it cannot be commanded", op.vm.Name)
	}
	return res, o.takeDescriptor(op, t.nonce[:], out.Descriptor, res.Receipt.Instance)
}

// update changes a VM's state even when the context was cancelled: what is
// written here has happened already.
func (o *Owner) update(vm *store.VM, change func(*store.VM)) (*store.VM, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return o.Store.UpdateVM(ctx, vm.Name, vm.ID, change)
}

// takeDescriptor opens the descriptor of a start and keeps it. instance is the
// one that the receipt named, or 0 when no receipt came.
func (o *Owner) takeDescriptor(op *opened, nonce, blob []byte, instance uint64) error {
	d := new(bond.Descriptor)
	if err := bond.Open(op.bond, blob, d); err != nil {
		return forged("the descriptor of this start does not open under the VM's bond")
	}
	defer d.Wipe()
	if !bytes.Equal(d.BootNonce[:], nonce) || instance != 0 && d.Instance != instance {
		return forged("the descriptor is the one of another start (replayed)")
	}
	vm, err := o.update(op.vm, func(v *store.VM) {
		if d.Instance >= v.Instance {
			v.Descriptor, v.Instance = slices.Clone(d.Value[:]), d.Instance
		}
		if bytes.Equal(v.BootNonce, nonce) {
			v.BootNonce = nil
		}
	})
	if err == nil {
		op.vm = vm
	}
	return err
}

// recoverDescriptor asks the server for the sealed descriptor of a start whose
// answer was lost. Without one the VM keeps the descriptor it had.
func (o *Owner) recoverDescriptor(ctx context.Context, op *opened) error {
	if len(op.vm.BootNonce) == 0 {
		return nil
	}
	record, err := op.conn.VM(ctx, op.vm.ID)
	if err != nil {
		return contact(ctx, op.vm.Host, err)
	}
	if len(record.Descriptor) == 0 {
		return nil
	}
	d := new(bond.Descriptor)
	defer d.Wipe()
	if bond.Open(op.bond, record.Descriptor, d) != nil || !bytes.Equal(d.BootNonce[:], op.vm.BootNonce) {
		return nil // the start did not happen; what the server has is older, or not ours
	}
	return o.takeDescriptor(op, op.vm.BootNonce, record.Descriptor, 0)
}
