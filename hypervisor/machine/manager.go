// Package machine joins the parts of a bonded VM: its bond in the store, its
// QEMU (package vm), its keeper (package keeper) and its console ring. It is
// what stands behind the gate; the gate has decided when it is called.
//
// A Machine lives as long as its bond. An instance is one launch of it: QEMU
// and keeper, with a descriptor of its own. Both processes outlive the daemon:
// New finds them again by what the store says and by the kernel's start times.
package machine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/hypervisor/gate"
	"github.com/uvbond/uvbond/hypervisor/state"
	"github.com/uvbond/uvbond/hypervisor/storage"
	"github.com/uvbond/uvbond/hypervisor/vm"
	"github.com/uvbond/uvbond/policy"
	"github.com/uvbond/uvbond/qmp"
)

// Config says where the machines live on this host.
type Config struct {
	VM       vm.Config      // VM.RunDir is below RunDir
	RunDir   string         // tmpfs: sockets, console rings; nothing there outlives the host
	Version  string         // of the hypervisor, for uvbond-query-host
	MaxVMs   int            // running at once
	Limits   qmp.DiskLimits // of every disk, until the provider changes them
	DirectIO bool           // ciphertext files are used without the kernel's page cache, where that can be
	Virtio   string         // how virtio disks are served: one of the Virtio… words; empty: VirtioAuto
	// Storages are where ciphertext may be beside files, by name.
	Storages map[string]*storage.Storage
	Clock    func() time.Time // nil: time.Now
	Log      *slog.Logger
}

// maxBonds bounds the registrations that a host keeps, each a few KiB.
const maxBonds = 4096

// Manager holds all bonded VMs of the host. It implements gate.Host.
type Manager struct {
	cfg   Config
	store *state.Store
	log   *slog.Logger
	accel string

	mu       sync.Mutex
	machines map[bond.VMID]*Machine
	slots    map[int]bool
	pending  int // registrations between their check and their place in machines

	builders chan struct{}       // holds one token for each step of a build that runs
	images   map[imagePlace]bool // that such steps write to; guarded by mu

	channels atomic.Int64 // open ones of all VMs, as far as their keepers have told

	work sync.WaitGroup // of the goroutines that follow instances
}

var _ gate.Host = (*Manager)(nil)

// New loads every bond and finds the instances that run since before the
// daemon was restarted.
func New(ctx context.Context, cfg Config, store *state.Store) (*Manager, error) {
	m := &Manager{cfg: cfg, store: store, log: cfg.Log, machines: map[bond.VMID]*Machine{}, slots: map[int]bool{},
		builders: make(chan struct{}, maxBuilders), images: map[imagePlace]bool{}}
	if m.cfg.Clock == nil {
		m.cfg.Clock = time.Now
	}
	m.accel = cfg.VM.Accel
	if m.accel == "" || m.accel == vm.AccelAuto {
		var why string
		if m.accel, why = vm.DetectAccel(); m.accel == vm.AccelTCG {
			m.log.Warn("KVM is not used: guests are emulated and slow", "why", why)
		}
	}
	m.cfg.VM.Accel = m.accel
	for _, d := range []string{cfg.RunDir, m.keeperDir(""), m.consoleDir()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("run folder: %w", err)
		}
	}
	if err := ownFolder(cfg.RunDir); err != nil {
		return nil, err
	}
	recs, err := store.Bonds()
	if err != nil {
		return nil, fmt.Errorf("bonds: %w", err)
	}
	for _, r := range recs {
		mc, err := m.load(r)
		r.Spec.Wipe()
		if err != nil {
			return nil, fmt.Errorf("bond of VM %s: %w", r.Bond.VM(), err)
		}
		m.machines[mc.id] = mc
	}
	for _, mc := range m.machines {
		if err := mc.recover(ctx); err != nil {
			m.Close()
			return nil, fmt.Errorf("VM %s: %w", mc.id, err)
		}
	}
	m.killOrphans()
	return m, nil
}

// ownFolder refuses a run folder that another user made or can write to: the
// sockets and console rings below it could be exchanged. /dev/shm is open to all.
func ownFolder(path string) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return fmt.Errorf("run folder %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return fmt.Errorf("run folder %s must be a folder of the daemon's user that nobody else can write to (it has uid %d, mode %#o); move it away or set run_dir", path, st.Uid, st.Mode&0o7777)
	}
	return nil
}

// load makes the machine of a stored bond.
func (m *Manager) load(r *state.BondRecord) (*Machine, error) {
	p, err := gate.CheckPolicy(r.Policy)
	if err != nil {
		// An earlier version took it. The owner can set another.
		m.log.Error("stored policy is not understood; operators of this VM may do nothing", "vm", r.Bond.VM(), "err", err)
		if p, err = gate.CheckPolicy(""); err != nil {
			return nil, err
		}
	}
	mc := m.newMachine(r.Bond, &r.Spec, p)
	return mc, mc.loadBuilds()
}

func (m *Manager) newMachine(b *bond.Bond, spec *bond.Spec, p *policy.Policy) *Machine {
	mc := &Machine{
		id: b.VM(), manager: m, store: m.store, bond: b, policy: p, builds: newBuilds(spec),
		change: make(chan struct{}, 1), log: m.log.With("vm", b.VM().String()),
		screen: spec.Screen, forward: hasChannelNIC(spec),
	}
	for i := range spec.Disks {
		mc.disks = append(mc.disks, spec.Disks[i].Name)
	}
	return mc
}

// Close lets go of the machines and waits until nothing is done to them any
// more. Their processes run on.
func (m *Manager) Close() {
	for _, mc := range m.list() {
		mc.detach()
	}
	m.work.Wait()
}

// Attempt implements gate.Host.
func (m *Manager) Attempt(e state.Entry) { m.store.Defer(state.HostLog, e) }

func (m *Manager) list() []*Machine {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]*Machine, 0, len(m.machines))
	for _, mc := range m.machines {
		out = append(out, mc)
	}
	return out
}

// VM implements gate.Host.
func (m *Manager) VM(id bond.VMID) gate.VM {
	m.mu.Lock()
	defer m.mu.Unlock()
	if mc, ok := m.machines[id]; ok {
		return mc
	}
	return nil
}

// Now implements gate.Host.
func (m *Manager) Now() int64 { return m.store.Now(m.cfg.Clock()).Unix() }

// QueryHost implements gate.Host.
func (m *Manager) QueryHost() qmp.QueryHostResult {
	pub := m.store.HostKey().Public()
	return qmp.QueryHostResult{
		Versions: bond.Supported, PublicKey: pub.Bytes(), Host: pub.ID().String(),
		Hypervisor: m.cfg.Version, Accel: m.accel, Time: m.Now(),
	}
}

// QueryVMs implements gate.Host.
func (m *Manager) QueryVMs() qmp.QueryVMsResult {
	res := qmp.QueryVMsResult{VMs: []qmp.VMState{}}
	for _, mc := range m.list() {
		res.VMs = append(res.VMs, mc.public())
	}
	return res
}

// Register implements gate.Host.
func (m *Manager) Register(_ context.Context, sealed []byte, who string) (*qmp.RegisterResult, error) {
	res, err := m.register(sealed, who)
	var q *qmp.Error
	if errors.As(err, &q) {
		m.refusedRegistration(sealed, who, q)
	}
	return res, err
}

// refusedRegistration records the attempt: with the bond that it would have
// replaced, or else in the host's log.
func (m *Manager) refusedRegistration(sealed []byte, who string, q *qmp.Error) {
	const text = "a registration was refused: "
	if h, err := bond.PeekHeader(sealed); err == nil && q.Class == qmp.ClassReplayed {
		m.mu.Lock()
		mc := m.machines[h.VM]
		m.mu.Unlock()
		if mc != nil {
			mc.attempt(who, text+"this VM's id was presented for another one", q.Class)
			return
		}
	}
	m.Attempt(state.Entry{Kind: "refused", Who: who, Text: text + q.Class, Coalesce: true, Fields: map[string]string{"class": q.Class}})
}

func (m *Manager) register(sealed []byte, who string) (_ *qmp.RegisterResult, err error) {
	reg, b, err := bond.OpenRegistration(m.store.HostKey(), sealed)
	if err != nil {
		return nil, registrationError(err)
	}
	defer reg.Wipe()
	defer func() {
		if err != nil {
			b.Wipe()
		}
	}()
	if err := reg.CheckValidity(m.Now()); err != nil {
		return nil, invalid("the registration's time: %v", err)
	}
	if err := checkBases(&reg.Spec); err != nil {
		return nil, err
	}
	p, err := gate.CheckPolicy(reg.Policy)
	if err != nil {
		return nil, invalid("the registration's policy: %v", err)
	}
	confirmation, err := bond.Seal(b, bond.NewConfirmation(b, reg, m.Now()))
	if err != nil {
		return nil, err
	}
	if err := m.reserve(); err != nil {
		return nil, err
	}
	rec := &state.BondRecord{Bond: b, Spec: reg.Spec, Policy: reg.Policy, Registered: m.Now()}
	entry := state.Entry{Kind: "registration", Who: who, Text: "VM registered by its owner",
		Fields: map[string]string{"tenant": b.Tenant().String(), "memory": fmt.Sprint(reg.Spec.MemoryBytes), "vcpus": fmt.Sprint(reg.Spec.VCPUs), "disks": fmt.Sprint(len(reg.Spec.Disks))}}
	err = m.store.AddBond(rec, entry)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pending--
	if errors.Is(err, state.ErrUsed) {
		return nil, &qmp.Error{Class: qmp.ClassReplayed, Desc: "UVBond: this VM id was registered before; a registration is used once"}
	}
	if err != nil {
		return nil, err
	}
	m.machines[b.VM()] = m.newMachine(b, &reg.Spec, p)
	return registerResult(b.VM(), &reg.Spec, confirmation), nil
}

// reserve counts a registration before it is stored, so that many at once
// cannot exceed the limit.
func (m *Manager) reserve() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.machines)+m.pending >= maxBonds {
		return &qmp.Error{Class: qmp.ClassUnavailable, Desc: fmt.Sprintf("UVBond: the host holds %d bonds, its limit; delete VMs that are not needed", maxBonds)}
	}
	m.pending++
	return nil
}

func registerResult(id bond.VMID, spec *bond.Spec, confirmation []byte) *qmp.RegisterResult {
	res := &qmp.RegisterResult{VM: id.String(), Confirmation: confirmation, Memory: spec.MemoryBytes, VCPUs: spec.VCPUs}
	for i := range spec.Disks {
		d := &spec.Disks[i]
		res.Disks = append(res.Disks, qmp.RegisterDisk{Name: d.Name, Size: d.DataOffset + d.Length, ReadOnly: d.ReadOnly})
	}
	return res
}

func registrationError(err error) error {
	var version *bond.VersionError
	switch {
	case errors.As(err, &version), errors.Is(err, bond.ErrDowngrade):
		return &qmp.Error{Class: qmp.ClassDowngrade, Desc: "UVBond: " + err.Error()}
	case errors.Is(err, bond.ErrOpen):
		return invalid("the registration does not open with this host's key")
	}
	return invalid("registration: %v", err)
}

// Attach implements gate.Host.
func (m *Manager) Attach(ctx context.Context, id bond.VMID, disks map[string]*os.File, who string) error {
	m.mu.Lock()
	mc := m.machines[id]
	m.mu.Unlock()
	if mc == nil {
		closeFiles(disks)
		m.Attempt(state.Entry{Kind: "refused", Who: who, Text: "disks for a VM without a bond", Coalesce: true, Fields: map[string]string{"class": qmp.ClassDeviceNotFound}})
		return &qmp.Error{Class: qmp.ClassDeviceNotFound, Desc: "UVBond: no bond has the VM id " + id.String()}
	}
	return mc.attach(ctx, disks, who)
}

// takeSlot reserves the number from which an instance's uids follow.
func (m *Manager) takeSlot() (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.cfg.MaxVMs {
		if !m.slots[i] {
			m.slots[i] = true
			return i, nil
		}
	}
	return 0, &qmp.Error{Class: qmp.ClassUnavailable, Desc: fmt.Sprintf("UVBond: %d VMs run on this host, its limit (max_vms)", m.cfg.MaxVMs)}
}

func (m *Manager) holdSlot(i int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.slots[i] = true
}

func (m *Manager) freeSlot(i int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.slots, i)
}

func (m *Manager) forget(id bond.VMID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.machines, id)
}

func (m *Manager) keeperDir(id string) string { return filepath.Join(m.cfg.RunDir, "keeper", id) }
func (m *Manager) consoleDir() string         { return filepath.Join(m.cfg.RunDir, "console") }

func invalid(format string, args ...any) error {
	return &qmp.Error{Class: qmp.ClassInvalid, Desc: "UVBond: " + fmt.Sprintf(format, args...)}
}

func closeFiles(files map[string]*os.File) {
	for _, f := range files {
		f.Close()
	}
}
