package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/channel/console"
	"github.com/uvbond/uvbond/hypervisor/gate"
	"github.com/uvbond/uvbond/hypervisor/keeper"
	"github.com/uvbond/uvbond/hypervisor/state"
	"github.com/uvbond/uvbond/hypervisor/vm"
	"github.com/uvbond/uvbond/qmp"
)

// instance is one launch of a VM: a QEMU and the keeper of its disks.
type instance struct {
	machine    *Machine
	slot       int
	number     uint64
	descriptor bond.Descriptor
	exports    exports // disks that are on a storage
	sockets    string  // folder that QEMU's uid reaches
	qemu       *vm.Instance
	ended      chan struct{} // closed when nothing of it is left
	let        chan struct{} // closed when the daemon lets go of it
	vhost      []string      // disks that are served by vhost-user, not NBD; constant
	network    network       // that QEMU and the keepers share

	reporting sync.WaitGroup // of those who take keepers' reports

	keepers sync.Mutex // held while a keeper is started, or what it begins with is changed

	mu      sync.Mutex
	keeper  *keeper.Process     // nil while there is none
	spare   *keeper.Sockets     // listeners of a keeper that died, for the next one
	files   map[string]*os.File // ciphertext; nil: lost, the server must offer it again
	state   string              // last run state heard of
	exit    string              // why it is about to end; empty: nobody asked for it
	letDone bool
	limits  map[string]qmp.DiskLimits // of disks whose limits the provider changed
	over    bool                      // dismantled: no files are taken over any more
	// channels is how many there are, as far as the keeper has told.
	channels int
}

func newInstance(m *Machine, slot int) *instance {
	return &instance{machine: m, slot: slot, ended: make(chan struct{}), let: make(chan struct{}), state: qmp.StatePrelaunch}
}

// execute runs one command in QEMU; args are nil or the command's.
func (i *instance) execute(ctx context.Context, command string, args any) (json.RawMessage, error) {
	ret, err := i.qemu.Execute(ctx, command, args)
	if err == nil {
		return ret, nil
	}
	var q *qmp.Error
	if errors.As(err, &q) {
		return nil, &qmp.Error{Class: qmp.ClassGeneric, Desc: "UVBond: QEMU refused " + command + ": " + clip(q.Desc)}
	}
	if !i.alive() {
		return nil, gate.ErrNotRunning
	}
	return nil, err
}

func (i *instance) status(ctx context.Context) (qmp.StatusResult, error) {
	var st qmp.StatusResult
	ret, err := i.execute(ctx, qmp.CmdQueryStatus, nil)
	if err != nil {
		return st, err
	}
	var full struct {
		Status  string `json:"status"`
		Running bool   `json:"running"`
	}
	if err := json.Unmarshal(ret, &full); err != nil {
		return st, fmt.Errorf("query-status: %w", err)
	}
	// QEMU may be the guest's by now: what it says is bounded.
	st.Status, st.Running = bond.CleanText(full.Status, bond.MaxState), full.Running
	i.setState(st.Status)
	return st, nil
}

func (i *instance) setState(s string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.state = s
}

func (i *instance) cachedState() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.state
}

func (i *instance) alive() bool {
	select {
	case <-i.qemu.Done():
		return false
	default:
		return true
	}
}

// goneWait is how long a monitor that fails is given to turn out to be that of
// a QEMU that is just ending.
const goneWait = 500 * time.Millisecond

// gone tells, after a hypercall failed, whether the reason is that the instance
// has ended. A QEMU on its way out closes its monitor first.
func (i *instance) gone(ctx context.Context) bool {
	i.mu.Lock()
	ending := i.exit != ""
	i.mu.Unlock()
	wait := goneWait
	if ending {
		wait = 10 * time.Second
	}
	select {
	case <-i.ended:
		return true
	case <-time.After(wait):
	case <-ctx.Done():
	}
	return false
}

func (i *instance) kill() {
	if err := i.qemu.Kill(); err != nil {
		i.machine.log.Error("QEMU was not killed", "err", err)
	}
}

// expectExit notes why the instance will end. The first reason stays.
func (i *instance) expectExit(reason string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.exit == "" {
		i.exit = reason
	}
}

func (i *instance) currentKeeper() *keeper.Process {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.keeper
}

// setKeeper is false when the instance was dismantled meanwhile.
func (i *instance) setKeeper(k *keeper.Process) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.over {
		return false
	}
	i.keeper, i.spare = k, nil
	return true
}

// dropKeeper forgets a keeper that died but keeps its listeners, so that
// QEMU's connections queue until the next keeper serves them.
func (i *instance) dropKeeper() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.keeper != nil {
		i.keeper, i.spare = nil, i.keeper.Sockets()
	}
}

func (i *instance) spareSockets() *keeper.Sockets {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.spare
}

func (i *instance) currentFiles() map[string]*os.File {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.files
}

// needsDisks names the disks whose ciphertext the server must offer again.
func (i *instance) needsDisks() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.keeper != nil || i.files != nil || i.over {
		return nil
	}
	return i.fileDisks()
}

// fileDisks names the disks that are on no storage.
func (i *instance) fileDisks() []string {
	var names []string
	for _, name := range i.machine.disks {
		if _, ok := i.exports[name]; !ok {
			names = append(names, name)
		}
	}
	return names
}

// takeFiles takes over the ciphertext unless it is not needed any more.
func (i *instance) takeFiles(files map[string]*os.File) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.keeper != nil || i.files != nil || i.over {
		return false
	}
	i.files = files
	return true
}

// detach lets go of the processes without ending them.
func (i *instance) detach() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.letDone {
		i.letDone = true
		close(i.let)
		i.network.close()
		i.qemu.Close()
	}
}

// discard removes what a failed start left.
func (i *instance) discard() {
	if i.qemu != nil {
		i.kill()
		<-i.qemu.Done()
	}
	i.dismantle(console.End{Why: console.InstanceEnded, Text: "its start failed"})
}

// dismantle ends the keeper, which tells the viewers of the console how the instance
// ended, and removes sockets and folders. QEMU is gone.
func (i *instance) dismantle(e console.End) {
	m := i.machine
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	i.mu.Lock()
	k := i.keeper
	i.over, i.keeper = true, nil
	i.mu.Unlock()
	if k != nil {
		if err := k.Finish(ctx, e); err != nil {
			m.log.Error("keeper was not stopped", "err", err)
		}
		k.Close()
	}
	i.reporting.Wait() // for the last words of a keeper that has ended
	i.mu.Lock()
	if i.spare != nil {
		i.spare.Close()
	}
	closeFiles(i.files)
	i.files, i.spare = nil, nil
	i.mu.Unlock()
	i.network.close()
	m.removeFolders()
}

// removeFolders removes what keeper and QEMU had below the run folder.
func (m *Machine) removeFolders() {
	id := m.id.String()
	if err := vm.Cleanup(m.manager.cfg.VM, id); err != nil {
		m.log.Error("run folder was not removed", "err", err)
	}
	if err := os.RemoveAll(m.manager.keeperDir(id)); err != nil {
		m.log.Error("keeper folder was not removed", "err", err)
	}
}

// attach takes over ciphertext that the server offers again after both daemon
// and keeper were killed.
func (m *Machine) attach(ctx context.Context, disks map[string]*os.File, who string) error {
	defer closeFiles(disks)
	inst := m.live()
	if inst == nil {
		m.attempt(who, "disks were offered to a VM without an instance", qmp.ClassNotRunning)
		return gate.ErrNotRunning
	}
	if want := inst.needsDisks(); len(want) == 0 || len(want) != len(disks) || !slices.Equal(slices.Sorted(maps.Keys(disks)), slices.Sorted(slices.Values(want))) {
		m.attempt(who, "disks were offered that the VM does not need", qmp.ClassInvalid)
		return invalid("the VM needs %d disks offered again, %d were", len(want), len(disks))
	}
	rec, err := m.store.Bond(m.id)
	if err != nil {
		return err
	}
	defer rec.Wipe()
	if err := checkDisks(rec.Spec.Disks, disks, inst.exports, true); err != nil {
		m.attempt(who, "disks offered again are refused: "+err.Error(), qmp.ClassInvalid)
		return err
	}
	files, err := m.ciphertext(&rec.Spec, disks)
	if err != nil {
		return err
	}
	if !inst.takeFiles(files) {
		closeFiles(files)
		return invalid("the disks are not needed any more")
	}
	m.recordEntry(state.Entry{Kind: "restart", Who: who, Text: "disks handed over again", Coalesce: true})
	return nil
}
