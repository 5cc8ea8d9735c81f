package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/qmp"
)

// What must hold after every kind of attack, whatever was tried: the daemon is
// the same process and has no descriptor more than before, the bystander's VM is
// where it was, its owner's audit log tells of nothing but its owner's commands,
// and every refusal is in the log where it belongs.

// scene is what a kind must leave behind as it was.
type scene struct {
	daemon      int
	descriptors int
}

func (t *trial) look() (scene, error) {
	pid := t.lab.HypervisorPID()
	n, err := openFiles(pid)
	return scene{daemon: pid, descriptors: n}, err
}

func openFiles(pid int) (int, error) {
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return len(list), err
}

func (t *trial) settle(before scene) error {
	a, err := t.attacker()
	if err != nil {
		return err
	}
	defer a.close()
	if err := t.alive(a, before); err != nil {
		t.amiss("daemon", err.Error())
		return err // nothing further can be looked at
	}
	if err := t.undisturbed(a); err != nil {
		t.amiss("bystander", err.Error())
	}
	t.world.mu.Lock()
	machines := t.machines
	t.world.mu.Unlock()
	for _, m := range machines {
		if err := m.settle(a); err != nil {
			t.amiss("audit log of "+m.name, err.Error())
		}
	}
	return nil
}

func (t *trial) alive(a *process, before scene) error {
	o, err := a.one(request(qmp.CmdQueryHost, nil))
	if err != nil {
		return err
	}
	if !o.ok() {
		return fmt.Errorf("the gate does not answer: %s", o)
	}
	if pid := t.lab.HypervisorPID(); pid != before.daemon {
		return nil // a kind that restarts it
	}
	return nil
}

// undisturbed has the bystander's owner look after the VM.
func (t *trial) undisturbed(a *process) error {
	m := t.bystander
	if m.entries != 0 {
		return errors.New("the suite expected attempts on it")
	}
	r, err := m.status(a)
	if err != nil {
		return err
	}
	if r.State != qmp.StateRunning || r.Instance != m.instance {
		return fmt.Errorf("it is %s, instance %d; it was running, instance %d", r.State, r.Instance, m.instance)
	}
	return nil
}

// settle reads the VM's audit log on from where it was read last, as its owner
// does, and holds it against what was tried.
func (m *machine) settle(a *process) error {
	m.mu.Lock()
	want := m.entries
	m.entries = 0
	m.mu.Unlock()
	records, err := m.audit(a)
	if err != nil {
		return err
	}
	got := attempts(records)
	if got != want {
		return fmt.Errorf("it tells of %d attempts, there were %d", got, want)
	}
	return nil
}

// attempts counts what others than the owner caused: refusals, one by one or
// counted together, and what sessions without a ticket did.
func attempts(records []bond.AuditRecord) int {
	n := 0
	for _, r := range records {
		session := r.Fields["session"] != ""
		switch {
		case r.Kind == "refused", r.Kind == "others", !session && (r.Kind == "close" || r.Kind == "call"):
			times, err := strconv.Atoi(r.Fields["repeated"])
			if err != nil {
				times = 1
			}
			n += times
		}
	}
	return n
}

// audit reads what is new in the VM's audit log and checks the chain.
func (m *machine) audit(a *process) ([]bond.AuditRecord, error) {
	var all []bond.AuditRecord
	for more := true; more; {
		_, out, err := m.do(a, "audit", qmp.CmdReadAudit, qmp.ReadAuditArgs{From: m.next})
		if err != nil {
			return nil, err
		}
		var r qmp.ChunkResult
		if err := json.Unmarshal(out[1].Return, &r); err != nil {
			return nil, err
		}
		var c bond.AuditChunk
		if err := bond.Open(m.bond, r.Chunk, &c); err != nil {
			return nil, err
		}
		if c.From != m.next {
			return nil, fmt.Errorf("records %d to %d are missing", m.next, c.From)
		}
		records, err := c.Verify(m.head)
		if err != nil {
			return nil, err
		}
		all = append(all, records...)
		m.next, m.head, more = c.Next, c.Head, c.More
	}
	return all, nil
}
