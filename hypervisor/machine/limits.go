package machine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/disk"
	"github.com/uvbond/uvbond/hypervisor/gate"
	"github.com/uvbond/uvbond/hypervisor/keeper"
	"github.com/uvbond/uvbond/hypervisor/state"
	"github.com/uvbond/uvbond/qmp"
)

// Limits are the provider's: it can refuse service altogether, so it may also
// ration it. They hold for one instance and outlive keeper and daemon; the next
// instance begins with those of the configuration.

func deviceLimits(l qmp.DiskLimits) disk.Limits {
	return disk.Limits{IOPS: l.IOPS, Bytes: l.Bytes, Burst: float64(l.Burst)}
}

// limitsOf returns the limits of a disk.
func (i *instance) limitsOf(name string) qmp.DiskLimits {
	i.mu.Lock()
	defer i.mu.Unlock()
	if l, ok := i.limits[name]; ok {
		return l
	}
	return i.machine.manager.cfg.Limits
}

// limitsInForce lists the disks that have limits.
func (i *instance) limitsInForce() []qmp.VMLimits {
	var out []qmp.VMLimits
	for _, name := range i.machine.disks {
		if l := i.limitsOf(name); l.IOPS != 0 || l.Bytes != 0 {
			out = append(out, qmp.VMLimits{Disk: name, IOPS: l.IOPS, Bytes: l.Bytes, Burst: l.Burst})
		}
	}
	return out
}

// changedLimits is for the store, takeLimits of it.
func (i *instance) changedLimits() []state.DiskLimits {
	i.mu.Lock()
	defer i.mu.Unlock()
	var out []state.DiskLimits
	for _, name := range slices.Sorted(maps.Keys(i.limits)) {
		l := i.limits[name]
		out = append(out, state.DiskLimits{Disk: name, IOPS: l.IOPS, Bytes: l.Bytes, Burst: l.Burst})
	}
	return out
}

func (i *instance) takeLimits(stored []state.DiskLimits) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, l := range stored {
		i.setLimitsLocked(l.Disk, qmp.DiskLimits{IOPS: l.IOPS, Bytes: l.Bytes, Burst: l.Burst})
	}
}

func (i *instance) setLimits(name string, l qmp.DiskLimits) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.setLimitsLocked(name, l)
}

func (i *instance) setLimitsLocked(name string, l qmp.DiskLimits) {
	if i.limits == nil {
		i.limits = map[string]qmp.DiskLimits{}
	}
	i.limits[name] = l
}

// SetLimits implements gate.Host.
func (m *Manager) SetLimits(ctx context.Context, id bond.VMID, name string, l qmp.DiskLimits, who string) error {
	inst, err := m.running(id)
	if err != nil {
		return err
	}
	mc := inst.machine
	if !slices.Contains(mc.disks, name) {
		return invalid("the VM has no disk %q; it has %v", clip(name), mc.disks)
	}
	if inst.limitsOf(name) == l {
		return nil
	}
	// With the lock of keepers nobody starts one with the old limits meanwhile.
	inst.keepers.Lock()
	defer inst.keepers.Unlock()
	inst.setLimits(name, l)
	// Anybody in the management domain can do it again and again.
	entry := state.Entry{Kind: "limits", Who: who, Coalesce: true, Text: fmt.Sprintf("limits of disk %s changed: %s", name, l),
		Fields: map[string]string{"disk": name, "iops": fmt.Sprint(l.IOPS), "bytes": fmt.Sprint(l.Bytes), "burst": fmt.Sprint(l.Burst)}}
	if err := m.store.PutInstance(id, inst.record(), entry); errors.Is(err, state.ErrInstance) {
		return gate.ErrNotRunning // it has just ended
	} else if err != nil {
		return err
	}
	k := inst.currentKeeper()
	if k == nil {
		return nil // the next one begins with them
	}
	if err := k.SetLimits(ctx, name, deviceLimits(l)); err != nil {
		select {
		case <-k.Done():
			return nil
		default:
		}
		mc.log.Error("keeper did not take the limits", "disk", name, "err", err)
		return &qmp.Error{Class: qmp.ClassGeneric, Desc: "UVBond: the keeper did not take the limits now; its next start will"}
	}
	return nil
}

// running returns the instance of a VM.
func (m *Manager) running(id bond.VMID) (*instance, error) {
	m.mu.Lock()
	mc := m.machines[id]
	m.mu.Unlock()
	if mc == nil {
		return nil, &qmp.Error{Class: qmp.ClassDeviceNotFound, Desc: "UVBond: no bond has the VM id " + id.String()}
	}
	inst := mc.live()
	if inst == nil {
		return nil, gate.ErrNotRunning
	}
	return inst, nil
}

// QueryDisks implements gate.Host.
func (m *Manager) QueryDisks(ctx context.Context, id bond.VMID) (*qmp.QueryDisksResult, error) {
	res := &qmp.QueryDisksResult{Disks: []qmp.DiskState{}}
	inst, err := m.running(id)
	if errors.Is(err, gate.ErrNotRunning) {
		return res, nil
	}
	if err != nil {
		return nil, err
	}
	var stats map[string]*keeper.DiskStats
	if k := inst.currentKeeper(); k != nil {
		if s, err := k.Stats(ctx); err == nil {
			stats = map[string]*keeper.DiskStats{}
			for i := range s.Disks {
				stats[s.Disks[i].Name] = &s.Disks[i]
			}
		}
	}
	for _, name := range inst.machine.disks {
		d := qmp.DiskState{Name: name, FrontEnd: keeper.FrontEndNBD, Limits: inst.limitsOf(name)}
		if inst.byVhostUser(name) {
			d.FrontEnd = keeper.FrontEndVhostUser // the keeper's word could be anything
		}
		if s := stats[name]; s != nil {
			d.Size, d.Stats = s.Size, publicStats(s)
		}
		res.Disks = append(res.Disks, d)
	}
	return res, nil
}

// publicStats translates a keeper's counters.
func publicStats(s *keeper.DiskStats) *qmp.DiskStats {
	dev := &s.Device
	out := &qmp.DiskStats{
		Kinds: []qmp.KindStats{}, Depth: slices.Clone(dev.Depth[:]), Enciphered: dev.Enciphered, Pending: dev.Pending,
		Connections: s.NBD.Open, Accepted: s.NBD.Accepted, Refused: s.NBD.Refused,
	}
	if s.FrontEnd == keeper.FrontEndVhostUser {
		out.Connections, out.Accepted, out.Refused = s.Vhost.Open, s.Vhost.Accepted, s.Vhost.Refused
		out.Broken = s.Vhost.Broken
	}
	if st := s.Storage; st != nil {
		out.Storage = &qmp.StorageStats{Connections: uint64(max(0, st.Up)), Connects: st.Connects, Lost: st.Lost, Failures: st.Failures, Violations: st.Violations, Rewritten: st.RewrittenBytes,
			Stalls: st.Stalls, Resent: st.Resent, LostWrites: st.LostWrites}
	}
	for op := range dev.Ops {
		o := &dev.Ops[op]
		out.Kinds = append(out.Kinds, qmp.KindStats{Kind: disk.Op(op).String(), Count: o.Count, Errors: o.Errors,
			Bytes: o.Bytes, Nanoseconds: o.Nanoseconds, Latency: slices.Clone(o.Latency[:])})
	}
	return out
}
