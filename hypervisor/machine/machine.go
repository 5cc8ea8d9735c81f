package machine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/hypervisor/gate"
	"github.com/uvbond/uvbond/hypervisor/keeper"
	"github.com/uvbond/uvbond/hypervisor/state"
	"github.com/uvbond/uvbond/policy"
	"github.com/uvbond/uvbond/qmp"
)

const (
	// chunkBytes is how much console or audit one sealed chunk carries.
	chunkBytes = 256 << 10
	// ringBytes is how much serial output is kept of an instance.
	ringBytes = 1 << 20
	// statusTimeout bounds a query-status that the daemon makes for itself.
	statusTimeout = 2 * time.Second
	// quitPatience is how long QEMU may take to end after quit.
	quitPatience = 5 * time.Second
)

// errLetGo says that the daemon ends and leaves the instance to the next one.
var errLetGo = errors.New("the daemon is ending")

// Machine is one bonded VM. It implements gate.VM.
type Machine struct {
	id      bond.VMID
	manager *Manager
	store   *state.Store
	bond    *bond.Bond
	log     *slog.Logger
	disks   []string              // names of the registered disks
	builds  map[string]*diskBuild // of the disks that are made from base images
	screen  bool                  // registered with a display
	forward bool                  // registered with a network card for channels
	change  chan struct{}         // holds one token while a session may change the VM

	pausing sync.Mutex // held before mu
	pauser  pauser

	mu     sync.Mutex
	policy *policy.Policy
	inst   *instance // nil: no instance
	// launching: Launch is at work; there is no second one.
	launching bool
	last      endOfLife
	deleted   bool
	listeners map[chan qmp.Event]bool
}

// endOfLife is what is known of the instance that ended last.
type endOfLife struct {
	number  uint64
	crashed bool
}

var _ gate.VM = (*Machine)(nil)

// ID implements gate.VM.
func (m *Machine) ID() bond.VMID { return m.id }

// Bond implements gate.VM.
func (m *Machine) Bond() *bond.Bond { return m.bond }

// Current implements gate.VM.
func (m *Machine) Current() gate.Current {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.inst == nil {
		return gate.Current{Number: m.last.number}
	}
	return gate.Current{Number: m.inst.number, Descriptor: m.inst.descriptor, Live: true}
}

// State implements gate.VM.
func (m *Machine) State() string {
	ctx, cancel := context.WithTimeout(context.Background(), statusTimeout)
	defer cancel()
	if inst := m.live(); inst != nil {
		if st, err := inst.status(ctx); err == nil {
			return st.Status
		}
		if !inst.gone(ctx) {
			return inst.cachedState()
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.restingLocked()
}

func (m *Machine) restingLocked() string {
	if m.last.crashed {
		return qmp.StateCrashed
	}
	return qmp.StateStopped
}

// public is what the provider may know.
func (m *Machine) public() qmp.VMState {
	m.mu.Lock()
	inst, st := m.inst, qmp.VMState{VM: m.id.String(), State: m.restingLocked(), Instance: m.last.number}
	m.mu.Unlock()
	st.Builds = m.unbuilt()
	if inst != nil {
		st.State, st.Instance, st.NeedsDisks, st.Limits = inst.cachedState(), inst.number, inst.needsDisks(), inst.limitsInForce()
	}
	return st
}

func (m *Machine) live() *instance {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.inst
}

// AcquireChange implements gate.VM.
func (m *Machine) AcquireChange(ctx context.Context) error {
	select {
	case m.change <- struct{}{}:
		return nil
	case <-ctx.Done():
		return gate.ErrBusy
	}
}

// ReleaseChange implements gate.VM.
func (m *Machine) ReleaseChange() { <-m.change }

// UseTicket implements gate.VM.
func (m *Machine) UseTicket(nonce [32]byte, expiry int64, e state.Entry) error {
	err := m.store.UseNonce(m.id, nonce, expiry, e)
	if errors.Is(err, state.ErrReplayed) {
		return gate.ErrReplayed
	}
	return err
}

// RefuseTicket implements gate.VM.
func (m *Machine) RefuseTicket(nonce [32]byte, expiry int64, e state.Entry) error {
	err := m.store.BurnNonce(m.id, nonce, expiry, e)
	if errors.Is(err, state.ErrReplayed) {
		return gate.ErrReplayed
	}
	return err
}

// Record implements gate.VM.
func (m *Machine) Record(e ...state.Entry) (uint64, [32]byte, error) {
	h, err := m.store.Append(m.id, e...)
	return h.Seq, h.Hash, err
}

// record is Record where nobody waits for the answer.
func (m *Machine) record(kind, text string, fields map[string]string) {
	m.recordEntry(state.Entry{Kind: kind, Who: "hypervisor", Text: text, Fields: fields})
}

// attempt records something that was refused and can be tried again at will.
func (m *Machine) attempt(who, text, class string) {
	m.recordEntry(state.Entry{Kind: "refused", Who: who, Text: text, Coalesce: true, Fields: map[string]string{"class": class}})
}

func (m *Machine) recordEntry(e state.Entry) {
	_, _, err := m.Record(e)
	if err != nil && !errors.Is(err, state.ErrUnknownVM) && !errors.Is(err, state.ErrClosed) {
		m.log.Error("audit was not written", "err", err)
	}
}

// Status implements gate.VM.
func (m *Machine) Status(ctx context.Context) (qmp.StatusResult, error) {
	inst := m.live()
	if inst == nil {
		return qmp.StatusResult{Status: qmp.StateShutdown}, nil
	}
	st, err := inst.status(ctx)
	if err != nil && inst.gone(ctx) {
		return qmp.StatusResult{Status: qmp.StateShutdown}, nil
	}
	return st, err
}

// Execute implements gate.VM.
func (m *Machine) Execute(ctx context.Context, n uint64, command string, args any, p *gate.Pause) (json.RawMessage, error) {
	inst := m.live()
	if inst == nil || inst.number != n {
		return nil, gate.ErrNotRunning
	}
	if command == qmp.CmdQuit {
		return json.RawMessage("{}"), m.quit(ctx, inst)
	}
	ret, err := json.RawMessage("{}"), error(nil)
	if command == qmp.CmdStop || command == qmp.CmdCont {
		err = m.stopOrCont(ctx, inst, command, p)
	} else {
		ret, err = inst.execute(ctx, command, args)
	}
	if err != nil && inst.gone(ctx) {
		return nil, gate.ErrNotRunning
	}
	return ret, err
}

// quit ends an instance in order and waits until nothing of it is left.
func (m *Machine) quit(ctx context.Context, inst *instance) error {
	inst.expectExit("powered off")
	_, err := inst.execute(ctx, qmp.CmdQuit, nil)
	select {
	case <-inst.let:
		return errLetGo
	default:
	}
	if err != nil && inst.alive() {
		inst.kill()
	}
	for patience := time.After(quitPatience); ; {
		select {
		case <-inst.ended:
			return nil
		case <-patience:
			inst.kill()
		case <-inst.let:
			return errLetGo
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Kill implements gate.VM.
func (m *Machine) Kill(n uint64, reason string) {
	inst := m.live()
	if inst == nil || inst.number != n {
		return
	}
	inst.expectExit(reason)
	inst.kill()
	select {
	case <-inst.ended:
	case <-time.After(10 * time.Second):
		m.log.Error("instance does not end after SIGKILL", "instance", n)
	}
}

// ReadConsole implements gate.VM. After an instance has ended its last output
// can still be read, until the next launch or the deletion of the bond.
func (m *Machine) ReadConsole(offset uint64) (*bond.ConsoleChunk, error) {
	c := &bond.ConsoleChunk{Instance: m.Current().Number, Offset: offset}
	f, err := os.Open(m.ringPath())
	if errors.Is(err, os.ErrNotExist) {
		c.Offset = 0
		return c, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if c.Data, c.End, c.Lost, err = keeper.ReadRing(f, offset, chunkBytes); err != nil {
		return nil, err
	}
	// Data begins behind what the ring has overwritten. Who asks from behind the end,
	// such as a client that followed an earlier instance, learns where the end is.
	c.Offset = min(c.Offset+c.Lost, c.End)
	return c, nil
}

// ReadAudit implements gate.VM.
func (m *Machine) ReadAudit(from uint64) (*bond.AuditChunk, error) {
	p, err := m.store.ReadAudit(m.id, from, chunkBytes)
	if err != nil {
		return nil, err
	}
	return auditChunk(p), nil
}

// policyFields names what a policy allows and the text that says how.
func policyFields(text string) map[string]string {
	names := "nothing"
	if p, err := policy.Parse(text); err == nil && len(p.Names()) > 0 {
		names = strings.Join(p.Describe(), ", ")
	}
	sum := sha256.Sum256([]byte(text))
	return map[string]string{"operators-may": clip(names), "sha256": hex.EncodeToString(sum[:])}
}

// SetPolicy implements gate.VM.
func (m *Machine) SetPolicy(text string) error {
	p, err := gate.CheckPolicy(text)
	if err != nil {
		return invalid("policy: %v", err)
	}
	err = m.store.UpdatePolicy(m.id, text, state.Entry{Kind: "policy", Who: "owner", Text: "policy for operators changed", Fields: policyFields(text)})
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.policy = p
	return nil
}

// Delete implements gate.VM.
func (m *Machine) Delete(e state.Entry) (uint64, [32]byte, error) {
	m.mu.Lock()
	if m.inst != nil || m.launching {
		m.mu.Unlock()
		return 0, [32]byte{}, &qmp.Error{Class: qmp.ClassRunning, Desc: "UVBond: the VM has an instance; shut it down or power it off first"}
	}
	m.deleted = true // no launch begins from here on
	m.mu.Unlock()
	h, err := m.store.DeleteBond(m.id, e)
	if err != nil {
		m.mu.Lock()
		m.deleted = false
		m.mu.Unlock()
		return 0, [32]byte{}, err
	}
	m.manager.forget(m.id)
	os.Remove(m.ringPath())
	return h.Seq, h.Hash, nil
}

func (m *Machine) ringPath() string { return filepath.Join(m.manager.consoleDir(), m.id.String()) }

func clip(s string) string {
	if len(s) > 1024 {
		return s[:1024] + "…"
	}
	return s
}

// detach lets go of the processes; they run on without the daemon.
func (m *Machine) detach() {
	if inst := m.live(); inst != nil {
		inst.detach()
	}
}

func (m *Machine) String() string { return fmt.Sprintf("VM %s", m.id) }
