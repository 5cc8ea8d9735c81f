package store

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant/fail"
)

var errOtherName = errors.New("it was copied from another name, or is incomplete")

// Phases of a VM's local state.
const (
	// PhasePending: the registration may have been sent; no confirmation was
	// opened. Written before the registration leaves, so that a client that is
	// stopped in between knows of the VM that may exist.
	PhasePending = "pending"
	// PhaseBonded: the confirmation opened.
	PhaseBonded = "bonded"
)

// VM is what the client keeps of a VM beside its bond.
type VM struct {
	Name    string `json:"name"`
	ID      string `json:"id"` // bond.VMID
	Host    string `json:"host"`
	Phase   string `json:"phase"`
	Created int64  `json:"created"` // Unix seconds
	Spec    Spec   `json:"spec"`
	Policy  string `json:"policy"` // automaton text in force, as last verified

	Offered []uint16 `json:"offered,omitempty"` // while pending: versions that the host offered

	Descriptor []byte `json:"descriptor,omitempty"` // of the instance, 32 bytes
	Instance   uint64 `json:"instance,omitempty"`
	BootNonce  []byte `json:"boot_nonce,omitempty"` // of a start whose descriptor has not come yet

	// HostKeys are the public keys of the guest's sshd, a line each as in
	// authorized_keys ("ssh-ed25519 AAAA..."). Empty: none is known.
	HostKeys []string `json:"host_keys,omitempty"`

	Delegations []Delegation `json:"delegations,omitempty"` // given away from this machine

	State     string `json:"state,omitempty"` // from the newest verified receipt
	StateTime int64  `json:"state_time,omitempty"`

	Records   uint64 `json:"records,omitempty"`   // most audit records that a verified receipt spoke of
	AuditSeq  uint64 `json:"audit_seq,omitempty"` // newest record of the last verified audit
	AuditHead []byte `json:"audit_head,omitempty"`
}

// Spec is the sealed specification without its keys, for showing.
type Spec struct {
	Memory   uint64 `json:"memory"`
	CPUs     uint32 `json:"cpus"`
	Firmware string `json:"firmware"`
	Machine  string `json:"machine"`
	Disks    []Disk `json:"disks"`
	NICs     []NIC  `json:"nics,omitempty"`
	// Screen and ChannelMAC are missing in a VM that was registered by an older client.
	Screen     bool   `json:"screen,omitempty"`
	ChannelMAC string `json:"channel_mac,omitempty"` // of the network card for ssh and forward; empty: none

	FirstBoot bool `json:"first_boot,omitempty"` // cloud-init gets something at the first boot
}

// Disk is a disk of a Spec.
type Disk struct {
	Name     string `json:"name"`
	Bus      string `json:"bus"`
	ReadOnly bool   `json:"read_only,omitempty"`
	Discard  bool   `json:"discard,omitempty"`
	UUID     string `json:"uuid"`
	File     string `json:"file,omitempty"`
	Base     string `json:"base,omitempty"`   // the base image that the hypervisor makes it from, in the place of File
	SHA256   string `json:"sha256,omitempty"` // of the base image, hex
	Built    bool   `json:"built,omitempty"`  // it is made, by a verified receipt
	Image    string `json:"image"`            // id on the server

	Length uint64 `json:"length,omitempty"` // bytes, as last verified; 0: registered by an older client
	Offset uint64 `json:"offset,omitempty"` // of the data in the image, bytes
}

// NIC is a network card of a Spec.
type NIC struct {
	Model string `json:"model"`
	MAC   string `json:"mac"`
}

func (s *Store) vmDir(name string) string    { return filepath.Join(s.dir, "vms", name) }
func (s *Store) vmPath(name string) string   { return filepath.Join(s.vmDir(name), "vm.json") }
func (s *Store) bondPath(name string) string { return filepath.Join(s.vmDir(name), "bond") }

// VMs lists the names of the VMs.
func (s *Store) VMs() ([]string, error) {
	return s.names("vms", func(e fs.DirEntry) (string, bool) {
		if !e.IsDir() {
			return "", false
		}
		_, err := os.Lstat(s.vmPath(e.Name()))
		return e.Name(), err == nil
	})
}

// VM returns the state of a VM.
func (s *Store) VM(name string) (*VM, error) {
	if err := CheckName("VM", name); err != nil {
		return nil, err
	}
	vm := new(VM)
	err := readJSON(s.vmPath(name), vm)
	if errIsMissing(err) {
		names, _ := s.VMs()
		return nil, quoteMissing("VM", name, names, "make one with: uvbond vm create "+name+" --host HOST --disk FILE")
	}
	if err != nil {
		return nil, err
	}
	if vm.Name != name {
		return nil, damaged(s.vmPath(name), errOtherName)
	}
	return vm, nil
}

// Bond returns the bond of a VM; the caller wipes it.
func (s *Store) Bond(vm *VM) (*bond.Bond, error) {
	path := s.bondPath(vm.Name)
	data, err := read(path)
	if err != nil {
		return nil, damaged(path, err)
	}
	secret := bond.NewSecret(data)
	bond.Wipe(data)
	defer secret.Wipe()
	b, err := bond.ImportBond(secret)
	if err != nil {
		return nil, damaged(path, err)
	}
	if b.VM().String() != vm.ID {
		b.Wipe()
		return nil, damaged(path, errors.New("it is the bond of another VM"))
	}
	return b, nil
}

// CreateVM saves a new VM with its bond. The name must be free.
func (s *Store) CreateVM(ctx context.Context, vm *VM, b *bond.Bond) error {
	if err := CheckName("VM", vm.Name); err != nil {
		return err
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Lstat(s.vmPath(vm.Name)); err == nil {
		return Exists(vm.Name)
	}
	// What a stopped client left without a vm.json is no VM.
	if err := os.RemoveAll(s.vmDir(vm.Name)); err != nil {
		return err
	}
	if err := os.Mkdir(s.vmDir(vm.Name), 0o700); err != nil {
		return err
	}
	secret := b.Export()
	defer secret.Wipe()
	if err := errors.Join(write(s.bondPath(vm.Name), secret.Bytes()), syncDir(filepath.Join(s.dir, "vms"))); err != nil {
		os.RemoveAll(s.vmDir(vm.Name))
		return err
	}
	if err := writeJSON(s.vmPath(vm.Name), vm); err != nil {
		os.RemoveAll(s.vmDir(vm.Name))
		return err
	}
	return nil
}

// Exists is the error for a VM's name that is taken.
func Exists(name string) error {
	return fail.New(fail.Usage, "choose another name, or see it with: uvbond vm show "+name, "there is already a VM %q", name)
}

// UpdateVM changes the state of a VM under the lock, starting from what is on
// the disk. The ID guards against a VM that was deleted and made anew under
// the same name in the meantime.
func (s *Store) UpdateVM(ctx context.Context, name, id string, change func(*VM)) (*VM, error) {
	unlock, err := s.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	vm, err := s.VM(name)
	if err != nil {
		return nil, err
	}
	if vm.ID != id {
		return nil, fail.New(fail.Other, "another uvbond made a new VM of this name: run the command again", "the VM %q is no longer the one this command began with", name)
	}
	change(vm)
	return vm, writeJSON(s.vmPath(name), vm)
}

// RemoveVM forgets a VM and its bond. vm.json goes first, so that a crash in
// between leaves no VM without a bond.
func (s *Store) RemoveVM(ctx context.Context, name, id string) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	vm, err := s.VM(name)
	if err != nil || vm.ID != id {
		return err
	}
	if err := os.Remove(s.vmPath(name)); err != nil {
		return err
	}
	if err := syncDir(s.vmDir(name)); err != nil {
		return err
	}
	if err := os.RemoveAll(s.vmDir(name)); err != nil {
		return err
	}
	return syncDir(filepath.Join(s.dir, "vms"))
}

// PutKnownHosts writes a VM's file for ssh and returns its absolute path. It holds
// public keys only.
func (s *Store) PutKnownHosts(name string, text []byte) (string, error) {
	if err := CheckName("VM", name); err != nil {
		return "", err
	}
	path, err := filepath.Abs(filepath.Join(s.vmDir(name), "known_hosts"))
	if err != nil {
		return "", err
	}
	if old, err := read(path); err == nil && bytes.Equal(old, text) {
		return path, nil
	}
	return path, write(path, text)
}
