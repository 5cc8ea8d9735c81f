package machine

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/uvbond/uvbond/hypervisor/gate"
	"github.com/uvbond/uvbond/hypervisor/state"
	"github.com/uvbond/uvbond/policy"
	"github.com/uvbond/uvbond/qmp"
)

// resumeRetry is how long the hypervisor waits before it tries again to resume
// a VM that was paused for long enough.
const resumeRetry = 5 * time.Second

// Policy implements gate.VM.
func (m *Machine) Policy() *policy.Policy {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.policy
}

// Count implements gate.VM.
func (m *Machine) Count(u gate.Use, e state.Entry) error {
	return m.store.Update(func(tx *state.Tx) error {
		return tx.Use(m.id, state.UseName(u.Delegation, u.Name), u.Until, func(times []int64, now int64) ([]int64, error) {
			if err := u.Rule.Allows(u.Name, times, now); err != nil {
				return nil, err
			}
			return u.Rule.Forget(times, now), nil
		}, e)
	})
}

// Delegated implements gate.VM.
func (m *Machine) Delegated(id [32]byte, issued int64) error {
	return m.store.View(func(tx *state.Tx) error { return tx.Delegated(m.id, id, issued) })
}

// Revoke implements gate.VM.
func (m *Machine) Revoke(id [32]byte, until int64) error {
	e := state.Entry{Kind: "policy", Who: "owner", Text: "a delegation was revoked", Fields: map[string]string{"delegation": hex.EncodeToString(id[:])}}
	if id == [32]byte{} {
		e.Text, e.Fields = "all delegations so far were revoked", map[string]string{"issued-until": fmt.Sprint(until)}
		return m.store.Update(func(tx *state.Tx) error { return tx.RevokeAll(m.id, until, e) })
	}
	return m.store.Update(func(tx *state.Tx) error { return tx.Revoke(m.id, id, e) })
}

// pauser resumes an instance that operators may pause for a limited time only.
// What it waits for is in the store too, so that a restart does not end it.
type pauser struct {
	waiting state.PauseRecord // Instance 0: nothing
	cancel  context.CancelFunc
}

// stopOrCont executes one of the two commands and keeps the pauser's books.
// Without a limit they end what the pauser waits for: an owner who pauses the VM
// wants it paused.
func (m *Machine) stopOrCont(ctx context.Context, inst *instance, command string, p *gate.Pause) error {
	m.pausing.Lock()
	defer m.pausing.Unlock()
	if command == qmp.CmdStop && p != nil {
		if err := m.limitPause(ctx, inst, p); err != nil {
			return err
		}
	}
	if command == qmp.CmdStop && p == nil {
		if err := m.forgetPause(); err != nil {
			return err
		}
	}
	if _, err := inst.execute(ctx, command, nil); err != nil {
		return err
	}
	if command == qmp.CmdCont {
		return m.forgetPause()
	}
	return nil
}

// limitPause notes, before the VM is stopped, when it resumes. A VM that is
// paused already stays what it is: it is not prolonged, and not resumed where
// somebody else paused it. The caller holds pausing.
func (m *Machine) limitPause(ctx context.Context, inst *instance, p *gate.Pause) error {
	st, err := inst.status(ctx)
	if err != nil || !st.Running {
		return err
	}
	rec := state.PauseRecord{Instance: inst.number, Name: p.Name}
	err = m.store.Update(func(tx *state.Tx) error {
		rec.Resume = tx.Now().Add(p.Most).Unix()
		return tx.SetPause(m.id, rec)
	})
	if err != nil {
		return err
	}
	m.await(inst, rec, p.Most)
	return nil
}

// forgetPause ends the waiting. The caller holds pausing.
func (m *Machine) forgetPause(entries ...state.Entry) error {
	if m.pauser.waiting.Instance == 0 {
		return nil
	}
	err := m.store.Update(func(tx *state.Tx) error { return tx.SetPause(m.id, state.PauseRecord{}, entries...) })
	if err != nil {
		return err
	}
	m.pauser.cancel()
	m.pauser = pauser{}
	return nil
}

// await resumes the instance when its time has come. The caller holds pausing.
func (m *Machine) await(inst *instance, rec state.PauseRecord, wait time.Duration) {
	if m.pauser.cancel != nil {
		m.pauser.cancel()
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.pauser = pauser{waiting: rec, cancel: cancel}
	m.manager.work.Go(func() {
		defer cancel()
		for {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return
			case <-inst.ended:
				return
			case <-inst.let:
				return
			}
			if m.resume(ctx, inst, rec) {
				return
			}
			wait = resumeRetry
		}
	})
}

// resume ends a pause that lasted for long enough, and tells whether nothing is
// left to be done.
func (m *Machine) resume(ctx context.Context, inst *instance, rec state.PauseRecord) bool {
	m.pausing.Lock()
	defer m.pausing.Unlock()
	if ctx.Err() != nil || m.pauser.waiting != rec {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	st, err := inst.status(ctx)
	if err != nil {
		m.log.Warn("state of a paused VM is not known; trying again", "err", err)
		return false
	}
	if st.Status != qmp.StatePaused {
		return m.resumed()
	}
	if _, err := inst.execute(ctx, qmp.CmdCont, nil); err != nil {
		m.log.Warn("a VM that was paused for long enough was not resumed; trying again", "err", err)
		return false
	}
	return m.resumed(state.Entry{Kind: "policy", Who: "hypervisor", Text: "resumed: it may not stay paused any longer",
		Fields: map[string]string{"policy": rec.Name, "hypercall": qmp.CmdCont}})
}

func (m *Machine) resumed(entries ...state.Entry) bool {
	err := m.forgetPause(entries...)
	if err != nil && !errors.Is(err, state.ErrUnknownVM) && !errors.Is(err, state.ErrClosed) {
		m.log.Error("the end of a pause was not recorded", "err", err)
		return false
	}
	return true
}

// recoverPause goes on with what an earlier daemon waited for.
func (m *Machine) recoverPause(inst *instance) error {
	m.pausing.Lock()
	defer m.pausing.Unlock()
	var rec state.PauseRecord
	var now time.Time
	err := m.store.View(func(tx *state.Tx) (err error) {
		rec, err = tx.Pause(m.id)
		now = tx.Now()
		return err
	})
	if err != nil || rec.Instance != inst.number {
		return err
	}
	m.await(inst, rec, max(0, time.Unix(rec.Resume, 0).Sub(now)))
	return nil
}
