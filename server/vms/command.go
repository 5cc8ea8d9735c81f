package vms

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"

	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/server/images"
	"github.com/uvbond/uvbond/server/problem"
	"github.com/uvbond/uvbond/server/store"
	"github.com/uvbond/uvbond/server/toolstack"
)

// Params are what a management command needs beside its ticket. Nothing that
// counts is decided by them: the ticket says the same, sealed.
type Params struct {
	From   uint64 // log: byte offset; audit: sequence number
	Disk   string // grow, build: the disk's name
	Size   uint64 // grow: bytes, as the guest will see it
	Stored uint64 // grow: bytes that the ciphertext file needs for it

	Delegation  string // undelegate: id, or
	IssuedUntil int64  // all that were issued until then

	Watch func(toolstack.Hypercall) // told of each hypercall; must not block; may be nil
}

// Command relays one management command of a VM's owner. An error means that
// nothing was asked of the VM.
func (s *Service) Command(ctx context.Context, t *store.Tenant, id, command string, ticket []byte, p Params) (*toolstack.Result, error) {
	v, err := s.find(ctx, t, id)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(toolstack.Commands(), command) {
		return nil, problem.New(http.StatusUnprocessableEntity, problem.ClassInvalid, "no command %q; there are %v", command, toolstack.Commands())
	}
	if err := checkTicket(ticket); err != nil {
		return nil, err
	}
	if v.Phase == store.PhaseRegistering {
		return nil, problem.New(http.StatusConflict, problem.ClassBusy, "VM %s is being registered just now", id)
	}
	cmd := &toolstack.Command{VM: v.ID, Name: command, Ticket: ticket, From: p.From, Size: p.Size, Delegation: p.Delegation, IssuedUntil: p.IssuedUntil, Watch: p.Watch}
	if command == "grow" {
		if err := s.growImage(ctx, t, v, p); err != nil {
			return nil, err
		}
		if cmd.Disks, cmd.Exports, err = s.open(ctx, v, []string{p.Disk}); err != nil {
			return nil, problem.Internal(err)
		}
		defer closeAll(cmd.Disks)
	}
	if command == "build" {
		if err := s.openBuild(ctx, v, p.Disk, cmd); err != nil {
			return nil, err
		}
		defer closeAll(cmd.Disks)
		defer cmd.Base.Close()
	}
	r, err := s.run(ctx, v, cmd)
	if err != nil {
		return nil, err
	}
	if len(r.Descriptor) > 0 {
		if err := s.Store.SetDescriptor(context.WithoutCancel(ctx), v.ID, r.Descriptor); err != nil {
			s.Log.Warn("a descriptor is not kept", "vm", v.ID, "error", err)
		}
	}
	// A VM that the hypervisor does not know cannot be deleted there: its record goes.
	if command == "delete" && (r.Outcome == toolstack.Done || r.Class == qmp.ClassDeviceNotFound) {
		if err := s.Store.DeleteVM(context.WithoutCancel(ctx), v.ID); err != nil && !errors.Is(err, store.ErrNotFound) {
			s.Log.Error("the record of a deleted VM stays", "vm", v.ID, "error", err)
		}
	}
	return r, nil
}

func checkTicket(ticket []byte) error {
	if len(ticket) == 0 || len(ticket) > MaxTicket {
		return problem.New(http.StatusUnprocessableEntity, problem.ClassInvalid, "ticket: 1 to %d bytes are needed", MaxTicket)
	}
	return nil
}

// Delegated relays a command of somebody whom a VM's owner delegated it to. Any
// tenant may ask: whether there is a delegation is sealed, and the gate's to say.
// Who does not know the VM's id, which is random, learns nothing.
func (s *Service) Delegated(ctx context.Context, id, command string, ticket []byte) (*toolstack.Result, error) {
	v, err := s.Store.VMByID(ctx, id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, problem.NotFound("VM", id)
	case err != nil:
		return nil, problem.Internal(err)
	case !slices.Contains(toolstack.OperatorCommands(), command):
		return nil, problem.New(http.StatusUnprocessableEntity, problem.ClassInvalid, "no command %q can be delegated; there are %v", command, toolstack.OperatorCommands())
	}
	if err := checkTicket(ticket); err != nil {
		return nil, err
	}
	return s.run(ctx, v, &toolstack.Command{VM: v.ID, Name: command, Ticket: ticket})
}

// growImage makes room for a disk that is to grow, before the hypervisor looks. If
// it refuses then, the file stays longer, at the tenant's expense.
func (s *Service) growImage(ctx context.Context, t *store.Tenant, v *store.VM, p Params) error {
	i := slices.IndexFunc(v.Disks, func(d store.Disk) bool { return d.Name == p.Disk })
	if i < 0 {
		return problem.New(http.StatusUnprocessableEntity, problem.ClassInvalid, "the VM has no disk %q", p.Disk)
	}
	if p.Stored < p.Size || p.Stored > images.MaxSize {
		return problem.New(http.StatusUnprocessableEntity, problem.ClassInvalid, "a disk of %d bytes does not fit into %d stored ones, or these are more than 64 TiB", p.Size, p.Stored)
	}
	return s.Images.Grow(ctx, t, v.Disks[i].Image, int64(p.Stored))
}

// Operate runs an operator's command: without a ticket, so that only what the
// owner's policy allows goes through.
func (s *Service) Operate(ctx context.Context, v *store.VM, command string) (*toolstack.Result, error) {
	if !slices.Contains(toolstack.OperatorCommands(), command) {
		return nil, fmt.Errorf("no operator command %q", command)
	}
	return s.run(ctx, v, &toolstack.Command{VM: v.ID, Name: command})
}

func (s *Service) run(ctx context.Context, v *store.VM, cmd *toolstack.Command) (*toolstack.Result, error) {
	if cmd.Name == "start" {
		names := make([]string, 0, len(v.Disks))
		for _, d := range v.Disks {
			names = append(names, d.Name)
		}
		var err error
		if cmd.Disks, cmd.Exports, err = s.open(ctx, v, names); err != nil {
			return nil, problem.Internal(err)
		}
		defer closeAll(cmd.Disks)
		if cmd.Taps, err = openTaps(s.Taps[v.ID]); err != nil {
			return nil, problem.New(http.StatusServiceUnavailable, problem.ClassUnavailable, "the VM's network is not ready on this server").Because(err)
		}
		defer func() {
			for _, f := range cmd.Taps {
				f.Close()
			}
		}()
		if v.Memory != 0 {
			cmd.Expect = &qmp.LaunchExpect{Memory: v.Memory, VCPUs: v.VCPUs}
		}
	}
	r, err := s.Gate.Run(ctx, cmd)
	if err != nil {
		return nil, Gone(err)
	}
	return r, nil
}

// Files opens a VM's named disks for the watcher.
func (s *Service) Files(ctx context.Context, id string, names []string) ([]toolstack.File, error) {
	v, err := s.Store.VMByID(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("no record of VM %s: its disks are unknown here", id)
	} else if err != nil {
		return nil, err
	}
	files, exports, err := s.open(ctx, v, names)
	if err == nil && len(exports) > 0 {
		closeAll(files)
		return nil, fmt.Errorf("disk %s of VM %s was placed on storage %s while the VM ran: place it back", exports[0].Name, v.ID, exports[0].Storage)
	}
	return files, err
}

// open opens named disks of v, or tells on which storage they are.
func (s *Service) open(ctx context.Context, v *store.VM, names []string) (files []toolstack.File, exports []qmp.DiskExport, err error) {
	for _, name := range names {
		f, export, err := s.openDisk(ctx, v, name)
		if err != nil {
			closeAll(files)
			return nil, nil, fmt.Errorf("VM %s, disk %q: %w", v.ID, name, err)
		}
		if export != nil {
			exports = append(exports, *export)
			continue
		}
		files = append(files, toolstack.File{Name: name, File: f})
	}
	return files, exports, nil
}

func (s *Service) openDisk(ctx context.Context, v *store.VM, name string) (*os.File, *qmp.DiskExport, error) {
	i := slices.IndexFunc(v.Disks, func(d store.Disk) bool { return d.Name == name })
	if i < 0 {
		return nil, nil, errors.New("there is none of that name")
	}
	p, err := s.Store.PlaceOf(ctx, v.Disks[i].Image)
	if err != nil {
		return nil, nil, err
	}
	if p.Storage != "" {
		return nil, &qmp.DiskExport{Name: name, Storage: p.Storage, Export: p.Export}, nil
	}
	f, err := s.Images.Open(p.Image)
	return f, nil, err
}

func closeAll(files []toolstack.File) {
	for _, f := range files {
		f.File.Close()
	}
}
