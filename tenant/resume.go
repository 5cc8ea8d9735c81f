package tenant

import (
	"context"
	"errors"
	"net/http"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant/client"
	"github.com/uvbond/uvbond/tenant/fail"
	"github.com/uvbond/uvbond/tenant/store"
)

// Resume finishes a registration that was interrupted, or cleans it up when
// the host never took it. A receipt that opens proves the same as the
// confirmation: the key it is sealed under is derived from this registration.
func (o *Owner) Resume(ctx context.Context, name string) (*store.VM, error) {
	vm, err := o.Store.VM(name)
	if err != nil {
		return nil, err
	}
	if vm.Phase != store.PhasePending {
		return nil, fail.New(fail.Usage, "see it with: uvbond vm show "+name, "%q is registered already", name)
	}
	b, err := o.Store.Bond(vm)
	if err != nil {
		return nil, err
	}
	defer b.Wipe()
	conn, err := o.Connect(ctx, vm.Host)
	if err != nil {
		return nil, err
	}
	record, err := conn.VM(ctx, vm.ID)
	var api *client.APIError
	switch {
	case errors.As(err, &api) && api.Status == http.StatusNotFound:
		if err := o.forget(vm); err != nil {
			return nil, err
		}
		return nil, fail.New(fail.Other, "register it again with: uvbond vm create "+name+" ...", "%s never took the registration of %q; the local rest of it is removed", vm.Host, name)
	case err != nil:
		return nil, contact(ctx, vm.Host, err)
	case len(record.Confirmation) > 0:
		return o.confirm(vm, b, record.Confirmation)
	}
	t, err := o.sealTicket(b, Status, nil, nil)
	if err != nil {
		return nil, err
	}
	_, res, err := o.relay(ctx, &opened{vm: vm, bond: b, conn: conn}, t, nil)
	if res == nil || res.Receipt == nil {
		return nil, err
	}
	return o.update(vm, func(v *store.VM) { v.Phase, v.Offered = store.PhaseBonded, nil })
}

// Delete ends a bond, on the host and here. A VM whose registration was
// interrupted is deleted on the host if it got there.
func (o *Owner) Delete(ctx context.Context, name string) (*Result, error) {
	vm, err := o.Store.VM(name)
	if err != nil {
		return nil, err
	}
	if vm.Phase == store.PhaseBonded {
		return o.Run(ctx, name, Delete)
	}
	if _, err := o.Resume(ctx, name); err != nil {
		if _, gone := o.Store.VM(name); gone != nil {
			return &Result{VM: name, Command: Delete}, nil
		}
		return nil, err
	}
	return o.Run(ctx, name, Delete)
}

// Forget removes the local state of a VM. Nobody can command the VM then.
func (o *Owner) Forget(ctx context.Context, name string) error {
	vm, err := o.Store.VM(name)
	if err != nil {
		return err
	}
	return o.Store.RemoveVM(ctx, name, vm.ID)
}

// Allow replaces the policy: what operators may do without a ticket.
func (o *Owner) Allow(ctx context.Context, name string, terms Terms) (*Result, string, error) {
	text, err := terms.Text(o.Now())
	if err != nil {
		return nil, "", err
	}
	op, err := o.open(ctx, name)
	if err != nil {
		return nil, "", err
	}
	defer op.bond.Wipe()
	t, err := o.sealTicket(op.bond, Allow, nil, &text)
	if err != nil {
		return nil, "", err
	}
	_, res, err := o.relay(ctx, op, t, nil)
	if err != nil {
		return res, "", err
	}
	_, err = o.update(op.vm, func(v *store.VM) { v.Policy = text })
	return res, text, err
}

// Stored is a stored receipt that was opened again. Receipt is nil when it did
// not open.
type Stored struct {
	store.Receipt
	Opened *bond.Receipt
}

// Receipts opens the stored receipts of a VM again, oldest first. damaged
// counts lines of the file that do not parse.
func (o *Owner) Receipts(name string) (list []Stored, damaged int, err error) {
	vm, err := o.Store.VM(name)
	if err != nil {
		return nil, 0, err
	}
	b, err := o.Store.Bond(vm)
	if err != nil {
		return nil, 0, err
	}
	defer b.Wipe()
	raw, damaged, err := o.Store.Receipts(name)
	if err != nil {
		return nil, 0, err
	}
	for _, r := range raw {
		s := Stored{Receipt: r}
		opened := new(bond.Receipt)
		if bond.Open(b, r.Sealed, opened) == nil && string(opened.Nonce[:]) == string(r.Nonce) {
			s.Opened = opened
		}
		list = append(list, s)
	}
	return list, damaged, nil
}
