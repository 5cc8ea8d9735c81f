package tenant

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/disk/luks"
	"github.com/uvbond/uvbond/tenant/client"
	"github.com/uvbond/uvbond/tenant/fail"
	"github.com/uvbond/uvbond/tenant/store"
)

// DiskSource is a disk that a VM gets: a local encrypted one, or one that is made
// from a base image.
type DiskSource struct {
	Path     string
	Base     *BaseSource // in the place of Path
	Name     string      // in the VM; empty: disk0, disk1 ...
	Bus      string
	ReadOnly bool
	Discard  bool
}

// CreateRequest describes a VM to be registered.
type CreateRequest struct {
	Name, Host string
	Disks      []DiskSource // the first is the boot disk
	Memory     uint64       // bytes
	CPUs       uint32
	Firmware   string // "bios" or "uefi"
	Machine    string // "pc" or "q35"
	NICs       []bond.NIC
	Policy     Terms // what operators may do without a ticket

	NoScreen     bool // no display: `uvbond vm screen` and its like do not work
	NoChannelNIC bool // no network card for `uvbond vm ssh` and `forward`

	FirstBoot *FirstBoot // nil: none

	// Passphrase returns the passphrase of a disk; try counts from 0. An error
	// ends the creation. The caller of Passphrase wipes the result.
	Passphrase func(ctx context.Context, path string, try int) (*bond.Secret, error)
	Report     Reporter
}

// Create unlocks the disks, stores them on the host, registers the VM and
// checks the confirmation.
func (o *Owner) Create(ctx context.Context, req CreateRequest) (*store.VM, error) {
	if err := store.CheckName("VM", req.Name); err != nil {
		return nil, err
	}
	if old, err := o.Store.VM(req.Name); err == nil {
		if old.Phase == store.PhasePending {
			return nil, fail.New(fail.Usage, "finish or clean up with: uvbond vm create "+req.Name+" --resume", "an interrupted registration of %q is there", req.Name)
		}
		return nil, store.Exists(req.Name)
	}
	policy, err := req.Policy.Text(o.Now())
	if err != nil {
		return nil, err
	}
	if err := req.checkFirstBoot(); err != nil {
		return nil, err
	}
	conn, err := o.Connect(ctx, req.Host)
	if err != nil {
		return nil, err
	}
	chosen, err := bond.ChooseVersion(conn.Info.Versions)
	if err != nil {
		return nil, fail.Wrap(err, fail.Other, "upgrade uvbond, or ask the provider to upgrade", "%s and this uvbond have no protocol version in common", req.Host)
	}
	reg := &bond.Registration{
		Offered: slices.Clone(conn.Info.Versions), Known: slices.Clone(bond.Supported), Chosen: chosen, IssuedAt: o.Now().Unix(),
		Secret: bond.RandomSecret(bond.RegistrationSecretSize), Policy: policy,
		Spec: bond.Spec{MemoryBytes: req.Memory, VCPUs: req.CPUs, Firmware: req.Firmware, Machine: req.Machine, NICs: req.NICs, Screen: !req.NoScreen},
	}
	defer reg.Wipe()
	if !req.NoChannelNIC {
		reg.Spec.ChannelMAC = channelMAC(req.NICs)
	}
	id := bond.NewVMID()
	hostKeys, err := req.seal(id, &reg.Spec)
	if err != nil {
		return nil, err
	}
	if reg.Spec.Disks, err = o.unlockAll(ctx, conn, req); err != nil {
		return nil, err
	}
	if err := reg.Validate(); err != nil {
		return nil, fail.Wrap(err, fail.Usage, "see: uvbond vm create --help", "this VM cannot be registered")
	}
	images, err := o.pushAll(ctx, conn, req, reg.Spec.Disks)
	if err != nil {
		return nil, err
	}
	vm, err := o.register(ctx, conn, reg, &store.VM{
		Name: req.Name, ID: id.String(), Host: req.Host, Phase: store.PhasePending, Created: o.Now().Unix(),
		Spec: showSpec(&reg.Spec, req.Disks, images), Policy: reg.Policy, Offered: reg.Offered, HostKeys: hostKeys,
	}, images, req.Report)
	if err != nil {
		req.Report.Note(fmt.Sprintf("the encrypted disks stay stored on %s (see: uvbond disk list --host %s, uvbond disk remove)", req.Host, req.Host))
	}
	return vm, err
}

// channelMAC makes a random, locally administered unicast address that no other card of
// the VM has.
func channelMAC(others []bond.NIC) (mac [6]byte) {
	for {
		_, _ = rand.Read(mac[:])
		mac[0] = mac[0]&^1 | 2
		if !slices.ContainsFunc(others, func(n bond.NIC) bool { return n.MAC == mac }) {
			return mac
		}
	}
}

// unlockAll reads every disk's header from the local file and gets its volume
// key, or makes the key of a disk that is made from a base image. On an error the keys
// so far are wiped.
func (o *Owner) unlockAll(ctx context.Context, conn *Conn, req CreateRequest) (disks []bond.Disk, err error) {
	defer func() {
		if err != nil {
			(&bond.Spec{Disks: disks}).Wipe()
		}
	}()
	for i, src := range req.Disks {
		var d *bond.Disk
		if src.Base == nil {
			d, err = unlock(ctx, src, req)
		} else {
			var b *client.Base
			if b, err = o.findBase(ctx, conn, src.Base); err == nil {
				d, err = newDisk(ctx, src, uint64(b.Size), req.Report)
			}
		}
		if err != nil {
			return disks, err
		}
		d.Boot = i == 0
		d.Name = diskName(src, i)
		disks = append(disks, *d)
	}
	return disks, nil
}

func diskName(src DiskSource, i int) string {
	if src.Name != "" {
		return src.Name
	}
	return fmt.Sprintf("disk%d", i)
}

// maxTries bounds how often a person is asked for a passphrase.
const maxTries = 3

func unlock(ctx context.Context, src DiskSource, req CreateRequest) (*bond.Disk, error) {
	f, size, err := openDisk(src.Path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h, err := luks.ReadHeader(f, size)
	if err != nil {
		return nil, notEncrypted(src.Path, err)
	}
	for try := range maxTries {
		pass, err := req.Passphrase(ctx, src.Path, try)
		if err != nil {
			return nil, err
		}
		req.Report.Begin("unlock "+filepath.Base(src.Path), 0)
		key, err := unlockHeader(ctx, h, pass)
		req.Report.End()
		if errors.Is(err, luks.ErrPassphrase) {
			req.Report.Note("that passphrase does not open " + src.Path)
			continue
		}
		if err != nil {
			return nil, err
		}
		return bondDisk(src, h, key), nil
	}
	return nil, WrongPassphrase(src.Path)
}

// WrongPassphrase is the error for a disk whose passphrase is wrong. A
// Passphrase function with one answer (a file) returns it when asked again.
func WrongPassphrase(path string) error {
	return fail.New(fail.Other, "check it with: cryptsetup open --test-passphrase "+path, "the passphrase does not open %s", path)
}

// unlockHeader runs the key derivation, which takes about a second and cannot
// be stopped, beside the context.
func unlockHeader(ctx context.Context, h *luks.Header, pass *bond.Secret) (*bond.Secret, error) {
	type result struct {
		key *bond.Secret
		err error
	}
	done := make(chan result, 1)
	go func() {
		defer pass.Wipe()
		raw, err := h.Unlock(pass.Bytes())
		if err != nil {
			done <- result{err: err}
			return
		}
		defer bond.Wipe(raw)
		done <- result{key: bond.NewSecret(raw)}
	}()
	select {
	case r := <-done:
		return r.key, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// pushAll stores the disks that the host does not have yet. Of those that are made
// from base images nothing is sent.
func (o *Owner) pushAll(ctx context.Context, conn *Conn, req CreateRequest, disks []bond.Disk) ([]client.ImageDisk, error) {
	var images []client.ImageDisk
	for i, src := range req.Disks {
		if src.Base != nil {
			img, err := o.blank(ctx, conn, req.Name, &disks[i], src.Base)
			if err != nil {
				return nil, err
			}
			images = append(images, client.ImageDisk{Name: disks[i].Name, Image: img.ID})
			continue
		}
		f, size, err := openDisk(src.Path)
		if err != nil {
			return nil, err
		}
		img, err := o.pushFile(ctx, conn, f, size, filepath.Base(src.Path), req.Report)
		if err == nil && img.VM != "" {
			// Another VM writes to that copy: this one gets its own.
			img, err = o.pushFile(ctx, conn, f, size, req.Name+"-"+filepath.Base(src.Path), req.Report)
		}
		f.Close()
		if err != nil {
			return nil, err
		}
		images = append(images, client.ImageDisk{Name: diskName(src, i), Image: img.ID})
	}
	return images, nil
}

// register sends the registration. The bond is saved as pending first: from
// here on a VM may exist that only this bond commands.
func (o *Owner) register(ctx context.Context, conn *Conn, reg *bond.Registration, vm *store.VM, images []client.ImageDisk, report Reporter) (*store.VM, error) {
	owner, err := o.Store.Tenant(ctx)
	if err != nil {
		return nil, err
	}
	id, err := bond.ParseVMID(vm.ID)
	if err != nil {
		return nil, err
	}
	blob, b, err := bond.SealRegistration(conn.Public, owner, id, reg)
	if err != nil {
		return nil, fail.Wrap(err, fail.Usage, "see: uvbond vm create --help", "this VM cannot be registered")
	}
	defer b.Wipe()
	if err := o.Store.CreateVM(ctx, vm, b); err != nil {
		return nil, err
	}
	report.Begin("register "+vm.Name, 0)
	record, err := conn.CreateVM(ctx, client.CreateVM{ID: vm.ID, Name: vm.Name, Disks: images, Registration: blob})
	report.End()
	if err != nil {
		return nil, o.notRegistered(ctx, vm, conn, err)
	}
	return o.confirm(vm, b, record.Confirmation)
}

// confirm opens the confirmation, the proof that the hypervisor holds this
// registration and this disk key, and no other. One that does not open ends the
// bond: the local state goes.
func (o *Owner) confirm(vm *store.VM, b *bond.Bond, blob []byte) (*store.VM, error) {
	if len(blob) == 0 {
		return nil, fail.New(fail.Unknown, "finish or clean up with: uvbond vm create "+vm.Name+" --resume",
			"%s took the registration of %q but returned no confirmation", vm.Host, vm.Name)
	}
	c := new(bond.Confirmation)
	err := bond.Open(b, blob, c)
	if err == nil {
		err = c.Check(b, &bond.Registration{Offered: vm.Offered, Chosen: b.Version(), Policy: vm.Policy})
	}
	if err != nil {
		return nil, errors.Join(o.notConfirmed(vm, err), o.forget(vm))
	}
	return o.update(vm, func(v *store.VM) { v.Phase, v.Offered = store.PhaseBonded, nil })
}

func (o *Owner) notConfirmed(vm *store.VM, err error) error {
	what := "THE KEY WAS SWAPPED, OR ANOTHER HOST ANSWERED: the confirmation does not open under the bond of %q, so the hypervisor does not hold the key of your disk"
	if !errors.Is(err, bond.ErrOpen) {
		what = "THE REGISTRATION WAS TAMPERED WITH: the confirmation of %q is about something else than was registered"
	}
	return fail.Wrap(err, fail.Forged, "nothing was started and nothing is kept here; do not use a VM that this server shows you; ask the provider", what, vm.Name)
}

// forget removes local state even when the context was cancelled.
func (o *Owner) forget(vm *store.VM) error {
	return o.Store.RemoveVM(context.Background(), vm.Name, vm.ID)
}

// notRegistered decides about the pending state after a failed registration.
func (o *Owner) notRegistered(ctx context.Context, vm *store.VM, conn *Conn, err error) error {
	var sent *client.SentError
	var api *client.APIError
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("the registration of %q may have been sent; finish or clean up with `uvbond vm create %s --resume`: %w", vm.Name, vm.Name, context.Cause(ctx))
	case errors.As(err, &sent), errors.Is(err, client.ErrGarbage), errors.Is(err, client.ErrTooLarge),
		errors.As(err, &api) && api.Status >= 500:
		return fail.Wrap(err, fail.Unknown, "finish or clean up with: uvbond vm create "+vm.Name+" --resume", "it is not known whether %q was registered", vm.Name)
	}
	// The server did not take it, or was never reached.
	if ferr := o.forget(vm); ferr != nil {
		return errors.Join(err, ferr)
	}
	if api == nil || api.Class == "" {
		return contact(ctx, vm.Host, err)
	}
	if api.Class == "Downgrade" {
		return fail.Wrap(err, fail.Forged, "somebody changes the versions that the host offers; ask the provider", "the protocol versions were tampered with")
	}
	hint, what := "see: uvbond vm create --help", "the registration of %q was refused"
	if off := o.clockOff(conn); off != "" {
		hint, what = clockHint, what+" ("+off+")"
	}
	return fail.Wrap(err, fail.Refused, hint, what, vm.Name)
}

func bondDisk(src DiskSource, h *luks.Header, key *bond.Secret) *bond.Disk {
	return &bond.Disk{
		Bus: src.Bus, ReadOnly: src.ReadOnly, Discard: src.Discard,
		Cipher: h.Segment.Cipher, SectorSize: h.Segment.SectorSize,
		DataOffset: h.Segment.Offset, Length: h.Segment.Length, IVTweak: h.Segment.IVTweak,
		UUID:      h.UUID,
		Digest:    bond.DiskDigest{Hash: h.Digest.Hash, Iterations: h.Digest.Iterations, Salt: h.Digest.Salt, Value: h.Digest.Value},
		VolumeKey: key,
	}
}

func showSpec(s *bond.Spec, src []DiskSource, images []client.ImageDisk) store.Spec {
	out := store.Spec{Memory: s.MemoryBytes, CPUs: s.VCPUs, Firmware: s.Firmware, Machine: s.Machine, Screen: s.Screen, FirstBoot: s.Seed != nil}
	if s.ChannelMAC != [6]byte{} {
		out.ChannelMAC = net.HardwareAddr(s.ChannelMAC[:]).String()
	}
	for i, d := range s.Disks {
		disk := store.Disk{Name: d.Name, Bus: d.Bus, ReadOnly: d.ReadOnly, Discard: d.Discard, UUID: d.UUID, Image: images[i].Image, Length: d.Length, Offset: d.DataOffset}
		if b := src[i].Base; b != nil {
			disk.Base, disk.SHA256 = b.Name, hex.EncodeToString(b.SHA256[:])
		} else if abs, err := filepath.Abs(src[i].Path); err == nil {
			disk.File = abs
		} else {
			disk.File = src[i].Path
		}
		out.Disks = append(out.Disks, disk)
	}
	for _, n := range s.NICs {
		out.NICs = append(out.NICs, store.NIC{Model: n.Model, MAC: net.HardwareAddr(n.MAC[:]).String()})
	}
	return out
}
