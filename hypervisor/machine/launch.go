package machine

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/disk"
	"github.com/uvbond/uvbond/hypervisor/gate"
	"github.com/uvbond/uvbond/hypervisor/keeper"
	"github.com/uvbond/uvbond/hypervisor/state"
	"github.com/uvbond/uvbond/hypervisor/vm"
	"github.com/uvbond/uvbond/qmp"
)

// Launch implements gate.VM: it builds what the registration says from the
// ciphertext handed over, and nothing else. On failure nothing is left.
func (m *Machine) Launch(ctx context.Context, l gate.Launch, bootNonce [32]byte) error {
	defer closeFiles(l.Disks)
	defer closeAll(l.Taps)
	if err := m.beginLaunch(); err != nil {
		return err
	}
	defer m.endLaunch()
	rec, err := m.store.Bond(m.id)
	if err != nil {
		return err
	}
	// The machine's own bond stays; this copy and the volume keys go at once.
	defer rec.Wipe()
	if err := expect(&rec.Spec, l.Expect); err != nil {
		return err
	}
	if err := m.checkBuilt(); err != nil {
		return err
	}
	if err := checkMemory(rec.Spec.MemoryBytes); err != nil {
		return err
	}
	on, err := m.manager.findExports(l.Exports)
	if err != nil {
		return err
	}
	if err := checkDisks(rec.Spec.Disks, l.Disks, on, true); err != nil {
		return err
	}
	if err := m.checkExports(ctx, rec.Spec.Disks, on); err != nil {
		return err
	}
	if len(l.Taps) > len(rec.Spec.NICs) {
		return invalid("%d tap devices for %d network cards", len(l.Taps), len(rec.Spec.NICs))
	}
	slot, err := m.manager.takeSlot()
	if err != nil {
		return err
	}
	inst := newInstance(m, slot)
	inst.exports = on
	if err := inst.start(ctx, &rec.Spec, l, bootNonce); err != nil {
		inst.discard()
		m.manager.freeSlot(slot)
		return err
	}
	m.mu.Lock()
	m.inst, m.last = inst, endOfLife{number: inst.number}
	m.mu.Unlock()
	m.follow(inst)
	return nil
}

func (m *Machine) beginLaunch() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.deleted:
		return &qmp.Error{Class: qmp.ClassDeviceNotFound, Desc: "UVBond: the bond was deleted"}
	case m.inst != nil || m.launching:
		return &qmp.Error{Class: qmp.ClassRunning, Desc: "UVBond: the VM has an instance already"}
	}
	m.launching = true
	return nil
}

func (m *Machine) endLaunch() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.launching = false
}

// expect refuses a launch where the provider's idea of the VM differs from the
// sealed specification.
func expect(s *bond.Spec, e *qmp.LaunchExpect) error {
	if e == nil {
		return nil
	}
	for _, f := range []struct {
		name       string
		have, want any
		given      bool
	}{
		{"memory", e.Memory, s.MemoryBytes, e.Memory != 0},
		{"vcpus", e.VCPUs, s.VCPUs, e.VCPUs != 0},
		{"firmware", e.Firmware, s.Firmware, e.Firmware != ""},
		{"machine", e.Machine, s.Machine, e.Machine != ""},
	} {
		if f.given && f.have != f.want {
			return invalid("%s is %v in the sealed specification, not %v", f.name, f.want, f.have)
		}
	}
	return nil
}

// checkMemory refuses a VM that the host cannot hold, before QEMU fails.
func checkMemory(want uint64) error {
	free, err := availableMemory()
	if err != nil || want <= free {
		return nil // unknown: let QEMU find out
	}
	return &qmp.Error{Class: qmp.ClassUnavailable, Desc: fmt.Sprintf("UVBond: the VM needs %d MiB of memory, the host has %d MiB left", want>>20, free>>20)}
}

// start brings up keeper and QEMU and makes the instance durable.
func (i *instance) start(ctx context.Context, spec *bond.Spec, l gate.Launch, bootNonce [32]byte) error {
	m := i.machine
	cfg := m.manager.cfg.VM
	id := m.id.String()
	if err := vm.Cleanup(cfg, id); err != nil {
		return err
	}
	sockets, err := vm.Prepare(cfg, id, i.slot)
	if err != nil {
		return err
	}
	i.sockets = sockets
	if i.files, err = m.ciphertext(spec, l.Disks); err != nil {
		return err
	}
	i.chooseFrontEnds(spec)
	if err := i.network.make(); err != nil {
		return err
	}
	os.Remove(m.ringPath())
	if _, err := i.startKeeper(ctx, spec); err != nil {
		return err
	}
	ls := i.launchSpec(ctx, spec, l.Taps)
	if ls.Network, err = i.network.dup(); err != nil {
		return err
	}
	i.qemu, err = vm.Launch(ctx, cfg, ls)
	ls.Network.Close()
	if err != nil {
		m.log.Error("QEMU did not start", "err", err)
		return &qmp.Error{Class: qmp.ClassGeneric, Desc: "UVBond: QEMU did not start; the hypervisor's log has the reason"}
	}
	return m.store.Update(func(tx *state.Tx) error {
		// An instance whose end could not be written when it came.
		if old, err := tx.Instance(m.id); err != nil {
			return err
		} else if old != nil {
			if err := tx.EndInstance(m.id, reasonUnrecorded, state.Entry{Kind: "exit", Who: "hypervisor", Text: reasonUnrecorded}); err != nil {
				return err
			}
		}
		n, err := tx.NextInstance(m.id)
		if err != nil {
			return err
		}
		i.number, i.descriptor = n, *bond.NewDescriptor(n, bootNonce, time.Now().Unix())
		return tx.PutInstance(m.id, i.record(), state.Entry{Kind: "boot", Who: "hypervisor",
			Text: fmt.Sprintf("instance %d launched", n), Fields: map[string]string{"accel": cfg.Accel}})
	})
}

// record is what the store needs to find the instance again.
func (i *instance) record() state.InstanceRecord {
	q := i.qemu.Record()
	r := state.InstanceRecord{
		Number: i.number, Descriptor: i.descriptor.Value, BootNonce: i.descriptor.BootNonce,
		StartedAt: i.descriptor.StartedAt, Slot: i.slot,
		QEMU: state.Process{PID: q.PID, StartTime: q.StartTime}, QMPPath: q.QMPPath,
		KeeperDir: i.machine.manager.keeperDir(i.machine.id.String()),
	}
	r.Limits, r.VhostUser = i.changedLimits(), i.vhost
	r.Exports = i.exports.record()
	if k := i.currentKeeper(); k != nil {
		r.Keeper = state.Process{PID: k.PID(), StartTime: k.StartTime()}
	}
	return r
}

// launchSpec translates the specification for package vm, without its secrets.
func (i *instance) launchSpec(ctx context.Context, spec *bond.Spec, taps []*os.File) vm.LaunchSpec {
	k := i.currentKeeper()
	s := vm.LaunchSpec{
		ID: i.machine.id.String(), Slot: i.slot, MemoryBytes: spec.MemoryBytes, VCPUs: spec.VCPUs,
		Firmware: spec.Firmware, Machine: spec.Machine, DiskSockets: map[string]string{},
		ConsoleSocket: k.ConsolePath(), TapFiles: taps,
		Screen: spec.Screen, ChannelMAC: spec.ChannelMAC,
		OnStarted: func(pid int) {
			if err := k.AllowPeer(ctx, pid); err != nil {
				i.machine.log.Error("keeper was not told of QEMU", "err", err)
			}
		},
	}
	for n := range spec.Disks {
		d := &spec.Disks[n]
		s.Disks = append(s.Disks, vm.Disk{Name: d.Name, Bus: d.Bus, Boot: d.Boot, ReadOnly: d.ReadOnly, Discard: d.Discard, VhostUser: i.byVhostUser(d.Name)})
		s.DiskSockets[d.Name] = k.DiskPath(d.Name)
	}
	if spec.Seed != nil {
		bus := seedBus(spec)
		s.Disks = append(s.Disks, vm.Disk{Name: bond.SeedDisk, Bus: bus, ReadOnly: seedReadOnly(bus)})
		s.DiskSockets[bond.SeedDisk] = k.DiskPath(bond.SeedDisk)
	}
	for _, n := range spec.NICs {
		s.NICs = append(s.NICs, vm.NIC{MAC: n.MAC, Model: n.Model})
	}
	return s
}

// startKeeper starts a keeper with the volume keys of spec on i.files. It may have ended,
// and be the instance's no more, when this returns.
func (i *instance) startKeeper(ctx context.Context, spec *bond.Spec) (*keeper.Process, error) {
	m := i.machine
	dir := m.manager.keeperDir(m.id.String())
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	ring, err := keeper.CreateRing(m.ringPath(), ringBytes)
	if err != nil {
		return nil, err
	}
	defer ring.Close()
	files, give, err := i.giveConnections()
	if err != nil {
		return nil, err
	}
	defer give()
	ns, err := i.network.dup()
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	uid := m.manager.cfg.VM.UID(i.slot)
	o := keeper.Options{
		Self: m.manager.cfg.VM.Self, UID: uid + 1, GID: uid + 1, Dir: dir, SocketDir: i.sockets,
		Sockets: i.spareSockets(), Config: keeper.Config{VM: m.id.String(), QEMUUID: uid, Seed: spec.Seed, SeedReadOnly: seedReadOnly(seedBus(spec)), Dials: hasChannelNIC(spec)},
		Disks: files, Ring: ring, Stderr: os.Stderr, Network: ns,
	}
	if unix.Geteuid() != 0 {
		o.UID, o.GID, o.Config.QEMUUID = uint32(unix.Geteuid()), uint32(unix.Getegid()), uint32(unix.Geteuid())
	}
	for n := range spec.Disks {
		d := &spec.Disks[n]
		o.Config.Disks = append(o.Config.Disks, keeper.DiskConfig{
			Name: d.Name, Key: d.VolumeKey, SectorSize: d.SectorSize, DataOffset: d.DataOffset,
			Length: d.Length, IVTweak: d.IVTweak, ReadOnly: d.ReadOnly, Discard: d.Discard,
			Limits: deviceLimits(i.limitsOf(d.Name)), Storage: i.exports.forKeeper(d.Name),
			VhostQueues: i.queues(spec, d.Name),
		})
	}
	k, err := keeper.Start(ctx, o)
	if err != nil {
		m.log.Error("keeper did not start", "err", err)
		return nil, &qmp.Error{Class: qmp.ClassGeneric, Desc: "UVBond: the keeper of the VM's disks did not start; the hypervisor's log has the reason"}
	}
	if !i.setKeeper(k) {
		_ = k.Kill()
		k.Close()
		m.removeFolders()
		return nil, gate.ErrNotRunning
	}
	i.listen(ctx, k)
	return k, nil
}

// ciphertext returns descriptors of the instance's own for its files.
func (m *Machine) ciphertext(spec *bond.Spec, files map[string]*os.File) (map[string]*os.File, error) {
	own, err := dupFiles(files)
	if err != nil || !m.manager.cfg.DirectIO {
		return own, err
	}
	for n := range spec.Disks {
		d := &spec.Disks[n]
		f := own[d.Name]
		if f == nil {
			continue // it is on an NBD server
		}
		direct, err := disk.Direct(f, d.SectorSize)
		if err != nil {
			m.log.Warn("ciphertext is used without direct I/O", "disk", d.Name, "err", err)
			continue
		}
		f.Close()
		own[d.Name] = direct
	}
	return own, nil
}

func dupFiles(files map[string]*os.File) (map[string]*os.File, error) {
	out := make(map[string]*os.File, len(files))
	for name, f := range files {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			closeFiles(out)
			return nil, err
		}
		out[name] = os.NewFile(uintptr(fd), name)
	}
	return out, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
