package machine

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/channel/console"
	"github.com/uvbond/uvbond/hypervisor/keeper"
	"github.com/uvbond/uvbond/hypervisor/state"
	"github.com/uvbond/uvbond/hypervisor/vm"
	"github.com/uvbond/uvbond/qmp"
)

// keeperPause is how long the daemon waits at first between attempts to bring a
// keeper back, and keeperPauseMost at last. QEMU holds the guest's requests
// meanwhile.
const (
	keeperPause     = 250 * time.Millisecond
	keeperPauseMost = 8 * time.Second
)

// Reasons of an instance's end. isCrash tells which count as a crash, also after
// a restart of the daemon: see recover.
const (
	reasonCrashed    = "QEMU ended by itself: "
	reasonUnseen     = "ended while the daemon was down"
	reasonUnreached  = "ended by the daemon: its monitor did not answer after a restart"
	reasonUnbooted   = "its boot was not completed: the daemon was restarted"
	reasonUnrecorded = "ended; the end could not be recorded when it came"
)

// errUnbooted says that an instance's boot was cut off by the daemon's end.
var errUnbooted = errors.New(reasonUnbooted)

func isCrash(reason string) bool {
	return strings.HasPrefix(reason, reasonCrashed) || reason == reasonUnseen || reason == reasonUnreached
}

// follow starts what goes on as long as the instance does.
func (m *Machine) follow(inst *instance) {
	m.manager.work.Go(func() { m.watch(inst) })
	m.manager.work.Go(inst.keepKeeper)
}

// watch follows an instance until it ends or the daemon lets go of it.
func (m *Machine) watch(inst *instance) {
	for {
		select {
		case ev, ok := <-inst.qemu.Events():
			if !ok {
				<-inst.qemu.Done()
				m.end(inst)
				return
			}
			m.event(inst, ev)
		case <-inst.qemu.Done():
			m.end(inst)
			return
		case <-inst.let:
			return
		}
	}
}

// event takes note of what QEMU tells by itself. What of it reaches the
// management domain is the gate's to say.
func (m *Machine) event(inst *instance, ev qmp.Event) {
	m.announce(ev)
	switch ev.Event {
	case "STOP":
		inst.setState(qmp.StatePaused)
	case "RESUME":
		inst.setState(qmp.StateRunning)
	case "SHUTDOWN":
		var d struct {
			Guest bool `json:"guest"`
		}
		if json.Unmarshal(ev.Data, &d) == nil && d.Guest {
			m.manager.work.Go(func() { m.reap(inst) })
		}
	// The guest can cause these at will.
	case "GUEST_PANICKED":
		m.recordEntry(state.Entry{Kind: "panic", Who: "guest", Text: "the guest's kernel panicked", Coalesce: true})
	case "BLOCK_IO_ERROR":
		m.recordEntry(state.Entry{Kind: "io-error", Who: "hypervisor", Text: "a disk request of the guest failed", Coalesce: true})
	}
}

// reap ends the QEMU of a guest that has switched itself off.
func (m *Machine) reap(inst *instance) {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	inst.expectExit("the guest shut down")
	if err := m.quit(ctx, inst); err != nil && !errors.Is(err, errLetGo) && inst.alive() {
		m.log.Error("instance was not ended after the guest shut down", "err", err)
		inst.kill()
	}
}

// end records how an instance ended and leaves nothing of it behind.
func (m *Machine) end(inst *instance) {
	inst.mu.Lock()
	reason := inst.exit
	inst.mu.Unlock()
	crashed := reason == ""
	fields := map[string]string{}
	if crashed {
		e := inst.qemu.Exit()
		reason = reasonCrashed + e.Reason
		fields["detail"] = clip(e.Detail)
		m.log.Error("QEMU ended by itself", "reason", e.Reason, "detail", e.Detail)
	}
	inst.dismantle(endOfConsole(reason))
	// First in the store: a launch that follows finds its number free.
	err := m.store.EndInstance(m.id, reason, state.Entry{Kind: "exit", Who: "hypervisor", Text: reason, Fields: fields})
	if err != nil {
		m.log.Error("end of the instance was not recorded", "err", err)
	}
	m.manager.freeSlot(inst.slot)
	m.mu.Lock()
	m.inst, m.last = nil, endOfLife{number: inst.number, crashed: crashed}
	inst.descriptor.Wipe()
	m.mu.Unlock()
	close(inst.ended)
}

// endOfConsole is what the viewers of an instance's console are told.
func endOfConsole(reason string) console.End {
	e := console.End{Why: console.InstanceEnded, Text: reason}
	if isCrash(reason) {
		e.Why = console.InstanceCrashed
	}
	return e
}

// keepKeeper brings the keeper back whenever it dies while QEMU lives.
func (i *instance) keepKeeper() {
	pause := keeperPause
	for {
		k := i.currentKeeper()
		if k != nil {
			select {
			case <-k.Done():
				i.dropKeeper()
				k = nil
			case <-i.qemu.Done():
				return
			case <-i.let:
				return
			}
		}
		switch {
		case k != nil || !i.alive():
		case i.currentFiles() != nil && i.revive():
			pause = keeperPause
		default:
			select {
			case <-time.After(pause):
			case <-i.qemu.Done():
				return
			case <-i.let:
				return
			}
			// Without files nothing was tried: the server's offer is not kept waiting.
			if i.currentFiles() != nil {
				pause = min(2*pause, keeperPauseMost)
			}
		}
		if !i.alive() {
			return
		}
	}
}

// revive starts a new keeper on the ciphertext that the daemon still holds.
func (i *instance) revive() bool {
	m := i.machine
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	i.keepers.Lock()
	defer i.keepers.Unlock()
	rec, err := m.store.Bond(m.id)
	if err != nil {
		m.log.Error("keeper cannot be started again", "err", err)
		return false
	}
	defer rec.Wipe()
	k, err := i.startKeeper(ctx, &rec.Spec)
	return err == nil && i.introduce(ctx, k)
}

// introduce tells a new keeper of QEMU, and the store of the keeper. It fails when the
// instance was dismantled meanwhile, and the keeper with it.
func (i *instance) introduce(ctx context.Context, k *keeper.Process) bool {
	m := i.machine
	if err := k.AllowPeer(ctx, i.qemu.PID()); err != nil {
		if i.currentKeeper() != k {
			return false
		}
		m.log.Error("keeper was not told of QEMU", "err", err)
		_ = k.Kill()
		i.dropKeeper()
		return false
	}
	m.log.Warn("keeper was started again")
	err := m.store.PutInstance(m.id, i.record(), state.Entry{Kind: "restart", Who: "hypervisor", Text: "keeper of the disks was started again"})
	if err != nil {
		m.log.Error("new keeper was not recorded", "err", err)
	}
	return true
}

// recover finds a stored instance again after a restart of the daemon and
// reports sessions that the restart cut off.
func (m *Machine) recover(ctx context.Context) error {
	cut, err := m.cutSessions()
	if err != nil {
		return err
	}
	var rec *state.InstanceRecord
	err = m.store.View(func(tx *state.Tx) (err error) {
		end, err := tx.LastEnd(m.id)
		if err != nil {
			return err
		}
		if end != nil {
			m.last = endOfLife{number: end.Number, crashed: isCrash(end.Reason)}
		}
		rec, err = tx.Instance(m.id)
		return err
	})
	if err != nil {
		return err
	}
	if rec != nil {
		// The owner of a boot that was cut off has no descriptor of its instance.
		if err := m.recoverInstance(ctx, rec, !slices.ContainsFunc(cut, func(s cutSession) bool { return s.launched })); err != nil {
			return err
		}
	}
	// Last, so that a daemon that is killed before it gets here begins again.
	return m.reportSessions(cut)
}

// recoverInstance takes up a stored instance whose boot was completed, and ends
// any other.
func (m *Machine) recoverInstance(ctx context.Context, rec *state.InstanceRecord, booted bool) error {
	cfg := m.manager.cfg.VM
	id := m.id.String()
	var q *vm.Instance
	err := errUnbooted
	if booted {
		q, err = vm.Adopt(ctx, cfg, vm.Record{
			ID: id, Slot: rec.Slot, PID: rec.QEMU.PID, StartTime: rec.QEMU.StartTime,
			QMPPath: rec.QMPPath, Accel: cfg.Accel,
		})
	}
	inst := newInstance(m, rec.Slot)
	inst.number, inst.sockets = rec.Number, vm.SocketDir(cfg, id)
	inst.vhost = rec.VhostUser
	inst.takeLimits(rec.Limits)
	inst.exports = m.manager.recordedExports(rec.Exports)
	inst.descriptor = bond.Descriptor{Value: rec.Descriptor, Instance: rec.Number, BootNonce: rec.BootNonce, StartedAt: rec.StartedAt}
	k, kerr := keeper.Adopt(rec.KeeperDir, rec.Keeper.PID, rec.Keeper.StartTime)
	if kerr == nil {
		inst.keeper = k
	}
	if err != nil && ctx.Err() != nil {
		return ctx.Err() // the daemon is told to stop: no reason to end a VM
	}
	if err != nil {
		return m.bury(ctx, inst, rec, err)
	}
	inst.qemu = q
	m.manager.holdSlot(rec.Slot)
	if err := inst.network.adopt(q); err != nil {
		m.log.Warn("QEMU's network namespace is not found; if the keeper ends it cannot be started again", "err", err)
	}
	if k != nil && kerr == nil {
		if inst.files, err = k.Files(ctx); err != nil {
			m.log.Warn("keeper does not give its files; if it ends the server must offer them again", "err", err)
		}
		inst.renewConnections(ctx, k)
		inst.listen(ctx, k)
	}
	if inst.files == nil && len(inst.fileDisks()) == 0 {
		inst.files = map[string]*os.File{} // the server has nothing to offer again
	}
	m.inst, m.last = inst, endOfLife{number: rec.Number}
	m.record("restart", "the daemon was restarted; the instance runs on", map[string]string{"keeper": keeperState(kerr)})
	if st, err := inst.status(ctx); err == nil && st.Status == qmp.StateShutdown {
		m.manager.work.Go(func() { m.reap(inst) })
	}
	m.follow(inst)
	return m.recoverPause(inst)
}

func keeperState(err error) string {
	if err != nil {
		return "gone"
	}
	return "alive"
}

// bury records an instance that ended while the daemon was down, or whose
// monitor cannot be reached, and removes what is left of it.
func (m *Machine) bury(ctx context.Context, inst *instance, rec *state.InstanceRecord, cause error) error {
	cfg := m.manager.cfg.VM
	err := vm.Terminate(ctx, cfg, vm.Record{ID: m.id.String(), Slot: rec.Slot, PID: rec.QEMU.PID, StartTime: rec.QEMU.StartTime, QMPPath: rec.QMPPath})
	if err != nil {
		m.log.Warn("QEMU of an earlier daemon", "err", err)
	}
	if k := inst.currentKeeper(); k != nil {
		inst.listen(ctx, k) // for what it has to report yet
	}
	reason := reasonUnreached
	switch {
	case errors.Is(cause, errUnbooted):
		reason = reasonUnbooted
	case errors.Is(cause, vm.ErrGone):
		reason = reasonUnseen
	}
	inst.dismantle(endOfConsole(reason))
	m.last = endOfLife{number: rec.Number, crashed: isCrash(reason)}
	m.log.Warn("instance was not found again", "reason", reason, "cause", cause)
	return m.store.EndInstance(m.id, reason, state.Entry{Kind: "exit", Who: "hypervisor", Text: reason})
}
