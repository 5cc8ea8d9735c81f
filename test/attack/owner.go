package main

import (
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/hypervisor/machine/machinetest"
	"github.com/uvbond/uvbond/qmp"
)

// machine is a VM as its owner knows it: the bond, the descriptor of the running
// instance, and what must be in its audit log.
type machine struct {
	w      *world
	name   string
	bond   *bond.Bond
	sealed []byte // the registration, as the server relayed it
	disk   string // ciphertext, the server's
	policy string

	live       bool
	running    bool
	descriptor []byte
	instance   uint64

	mu      sync.Mutex
	entries int // refusals and the like that the log must have, counted from the last look
	next    uint64
	head    [32]byte
	tickets [][]byte // every ticket that passed the management domain and ran
}

// machine registers a small VM of a tenant of its own. Its disk has its name.
func (w *world) machine(name, policy string) (*machine, error) {
	m := &machine{w: w, name: name, policy: policy}
	var disk bond.Disk
	err := asTest(func(t *tb) {
		m.disk, disk = machinetest.NewDisk(t, w.disks(), name)
		m.sealed, m.bond = machinetest.Register(t, w.host, policy, disk)
	})
	if err != nil {
		return nil, err
	}
	return w.register(m)
}

// register relays a VM's registration, as the server does, and checks the confirmation.
func (w *world) register(m *machine) (*machine, error) {
	if err := w.give(m.disk); err != nil {
		return nil, err
	}
	a, err := w.attacker()
	if err != nil {
		return nil, err
	}
	defer a.close()
	o, err := a.one(request(qmp.CmdRegister, qmp.RegisterArgs{Registration: m.sealed}))
	if err != nil {
		return nil, err
	}
	var r qmp.RegisterResult
	if err := json.Unmarshal(o.Return, &r); err != nil {
		return nil, fmt.Errorf("register %s: %s", m.name, o)
	}
	var c bond.Confirmation
	if err := bond.Open(m.bond, r.Confirmation, &c); err != nil {
		return nil, fmt.Errorf("register %s: %w", m.name, err)
	}
	w.mu.Lock()
	w.machines = append(w.machines, m)
	w.mu.Unlock()
	return m, nil
}

func (m *machine) id() string { return m.bond.VM().String() }

// owe notes entries that the VM's audit log must have from now on.
func (m *machine) owe(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.entries += n
}

// permit is what an owner seals into a ticket, before it is changed.
func (m *machine) permit(command string) *bond.Ticket {
	text, err := automata.Native(command)
	if err != nil {
		panic(err) // a name in this program
	}
	now := time.Now().Unix() + m.w.skew.Load()
	t := &bond.Ticket{Nonce: bond.NewNonce(), Command: command, Automaton: text, NotBefore: now - 60, NotAfter: now + 600, DeadlineSeconds: 60}
	if m.live {
		t.Descriptor = m.descriptor
	}
	return t
}

// ticket seals one of the shipped commands, of a start too.
func (m *machine) ticket(command string, change ...func(*bond.Ticket)) []byte {
	t := m.permit(command)
	for _, f := range change {
		f(t)
	}
	if command == "start" {
		return m.seal(&bond.BootTicket{Nonce: t.Nonce, Command: t.Command, Automaton: t.Automaton, NotBefore: t.NotBefore, NotAfter: t.NotAfter, DeadlineSeconds: t.DeadlineSeconds})
	}
	return m.seal(t)
}

func (m *machine) seal(message bond.Message) []byte {
	b, err := bond.Seal(m.bond, message)
	if err != nil {
		panic(err) // a ticket that this program made wrongly
	}
	return b
}

// open is uvbond-open for this VM.
func (m *machine) open(ticket []byte) json.RawMessage {
	return request(qmp.CmdOpen, qmp.OpenArgs{VM: m.id(), Ticket: ticket})
}

// launch is uvbond-launch with this VM's disk as the first descriptor.
func (m *machine) launch() (json.RawMessage, []file) {
	return request(qmp.CmdLaunch, qmp.LaunchArgs{Disks: []qmp.DiskFile{{Name: m.name}}}), []file{{Path: m.disk, Flags: os.O_RDWR}}
}

// start boots the VM, as its owner wants it.
func (m *machine) start(a *process) error {
	ticket := m.ticket("start")
	launch, files := m.launch()
	out, err := a.run(move{Line: m.open(ticket)}, move{Line: launch, Files: files}, move{Line: request(qmp.CmdCont, nil)},
		move{Line: request(qmp.CmdQueryStatus, nil)}, move{Line: request(qmp.CmdClose, nil)}, move{Do: doClose})
	if err != nil {
		return err
	}
	for _, o := range out {
		if !o.ok() {
			return fmt.Errorf("start %s: %s", m.name, o)
		}
	}
	m.tickets = append(m.tickets, ticket)
	return m.started(out[4].Return)
}

// started takes the descriptor from the answer to the close of a start.
func (m *machine) started(closed json.RawMessage) error {
	var c qmp.CloseResult
	if err := json.Unmarshal(closed, &c); err != nil {
		return err
	}
	var d bond.Descriptor
	if err := bond.Open(m.bond, c.Descriptor, &d); err != nil {
		return fmt.Errorf("descriptor of %s: %w", m.name, err)
	}
	m.live, m.running, m.descriptor, m.instance = true, true, d.Value[:], d.Instance
	return nil
}

// receipt opens the receipt of a close.
func (m *machine) receipt(closed json.RawMessage) (*bond.Receipt, error) {
	var c qmp.CloseResult
	if err := json.Unmarshal(closed, &c); err != nil {
		return nil, err
	}
	var r bond.Receipt
	if err := bond.Open(m.bond, c.Receipt, &r); err != nil {
		return nil, err
	}
	if r.Verdict != c.Verdict {
		return nil, fmt.Errorf("the receipt says %s, the answer %s", r.Verdict, c.Verdict)
	}
	return &r, nil
}

// do runs a shipped command of one hypercall and returns its receipt.
func (m *machine) do(a *process, command, hypercall string, args any, change ...func(*bond.Ticket)) (*bond.Receipt, []outcome, error) {
	ticket := m.ticket(command, change...)
	out, err := a.run(move{Line: m.open(ticket)}, move{Line: request(hypercall, args)}, move{Line: request(qmp.CmdClose, nil)}, move{Do: doClose})
	if err != nil {
		return nil, nil, err
	}
	for _, o := range out {
		if !o.ok() {
			return nil, nil, fmt.Errorf("%s of %s: %s", command, m.name, o)
		}
	}
	m.tickets = append(m.tickets, ticket)
	r, err := m.receipt(out[2].Return)
	if err == nil && r.Verdict != bond.VerdictDone {
		err = fmt.Errorf("%s of %s: %s: %s", command, m.name, r.Verdict, r.Reason)
	}
	return r, out, err
}

// status is a status under a ticket.
func (m *machine) status(a *process) (*bond.Receipt, error) {
	r, _, err := m.do(a, "status", qmp.CmdQueryStatus, nil)
	return r, err
}

// resume lets a VM run that an attempt stopped as it may.
func (m *machine) resume(a *process) error {
	if m.running || !m.live {
		return nil
	}
	_, _, err := m.do(a, "resume", qmp.CmdCont, nil)
	m.running = err == nil
	return err
}

// powerOff ends the instance.
func (m *machine) powerOff(a *process) {
	if _, _, err := m.do(a, "poweroff", qmp.CmdQuit, nil); err == nil {
		m.live, m.running = false, false
	}
}

// ready brings a VM back into the state in which an attempt begins.
func (m *machine) ready(a *process) error {
	if !m.live {
		return m.start(a)
	}
	return m.resume(a)
}
