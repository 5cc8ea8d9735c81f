package main

import (
	"bytes"
	"fmt"
	"time"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/hypervisor/machine/machinetest"
	"github.com/uvbond/uvbond/qmp"
)

// tryRegistrations registers one blob from many processes at once, registers
// again what is registered or was deleted, and what was changed on its way.
func tryRegistrations(t *trial) error {
	a, err := t.attacker()
	if err != nil {
		return err
	}
	rounds, every := 10, 11
	if t.sample {
		rounds, every = 2, 301
	}
	var disk bond.Disk
	if err := asTest(func(tb *tb) { _, disk = machinetest.NewDisk(tb, t.disks(), "spare") }); err != nil {
		return err
	}
	for round := range rounds {
		if err := t.raceRegistration(round, disk); err != nil {
			return err
		}
	}
	var whole []byte
	if err := asTest(func(tb *tb) { whole, _ = machinetest.Register(tb, t.host, "", disk) }); err != nil {
		return err
	}
	present := func(name string, blob []byte, class string, where logged) error {
		o, err := a.one(request(qmp.CmdRegister, qmp.RegisterArgs{Registration: blob}))
		if err == nil {
			t.must(name, o, class, where)
		}
		return err
	}
	for i := 0; i < len(whole); i += every {
		b := bytes.Clone(whole)
		b[i] ^= 1 << (i % 8)
		if err := present(fmt.Sprintf("byte %d of a registration changed", i), b, qmp.ClassInvalid+"|"+qmp.ClassDowngrade, inHost()); err != nil {
			return err
		}
	}
	if err := present("half a registration", whole[:len(whole)/2], qmp.ClassInvalid, inHost()); err != nil {
		return err
	}
	if err := t.oddRegistrations(present, disk); err != nil {
		return err
	}
	return t.registeredAgain(a, present)
}

// raceRegistration sends one registration from four processes at once: one bond
// is made. Which log has the others depends on who comes first, so it is a VM of
// its own that nobody looks at again, and the host's log is not counted for it.
func (t *trial) raceRegistration(round int, disk bond.Disk) error {
	var sealed []byte
	var owner *bond.Bond
	if err := asTest(func(tb *tb) { sealed, owner = machinetest.Register(tb, t.host, "", disk) }); err != nil {
		return err
	}
	const many = 4
	line := request(qmp.CmdRegister, qmp.RegisterArgs{Registration: sealed})
	got := make(chan []outcome, many)
	errs := make(chan error, many)
	for range many {
		a, err := t.attacker()
		if err != nil {
			return err
		}
		if _, err := a.run(move{Do: doDial}, move{Conn: 1, Do: doDial}); err != nil {
			return err
		}
		go func() {
			defer a.close()
			out, err := a.run(move{Line: line, Do: doSend}, move{Conn: 1, Line: line, Do: doSend}, move{Do: doRead}, move{Conn: 1, Do: doRead})
			errs <- err
			got <- out
		}()
	}
	won, odd := 0, ""
	for range many {
		if err := <-errs; err != nil {
			return err
		}
		for _, o := range (<-got)[2:] {
			switch {
			case o.ok():
				won++
			case o.Class != qmp.ClassReplayed:
				odd = o.String()
			}
		}
	}
	why := ""
	if won != 1 || odd != "" {
		why = fmt.Sprintf("%d bonds were made; %s", won, odd)
	}
	t.refused(fmt.Sprintf("one registration 8 times at once, race %d", round), why)
	m := &machine{w: t.world, name: "race", bond: owner, sealed: sealed}
	a, err := t.attacker()
	if err != nil {
		return err
	}
	defer a.close()
	records, err := m.audit(a)
	if err != nil {
		return err
	}
	t.refusedOutside(2*many - 1 - attempts(records))
	return nil
}

// oddRegistrations are sealed rightly and say what no host should take.
func (t *trial) oddRegistrations(present func(string, []byte, string, logged) error, disk bond.Disk) error {
	other, err := bond.GenerateHostKey()
	if err != nil {
		return err
	}
	for _, c := range []struct {
		name   string
		host   *bond.HostPublic
		policy string
		change func(*bond.Registration)
	}{
		{"a registration for another host", other.Public(), "", nil},
		{"a registration of last week", t.host, "", func(r *bond.Registration) { r.IssuedAt = time.Now().Unix() - 7*86400 }},
		{"a registration of next week", t.host, "", func(r *bond.Registration) { r.IssuedAt = time.Now().Unix() + 7*86400 }},
		{"a registration with a policy without sense", t.host, "automaton x = (((", nil},
		{"a registration whose policy holds what none may", t.host, "automaton x = uvbond-delete ;", nil},
	} {
		r := &bond.Registration{Offered: bond.Supported, Chosen: bond.Version, IssuedAt: time.Now().Unix(), Secret: bond.RandomSecret(32), Policy: c.policy,
			Spec: bond.Spec{MemoryBytes: 32 << 20, VCPUs: 1, Firmware: "bios", Machine: "pc"}}
		d := disk
		d.VolumeKey, d.Boot = disk.VolumeKey.Clone(), true
		r.Spec.Disks = []bond.Disk{d}
		if c.change != nil {
			c.change(r)
		}
		sealed, _, err := bond.SealRegistration(c.host, bond.NewTenantID(), bond.NewVMID(), r)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		if err := present(c.name, sealed, qmp.ClassInvalid, inHost()); err != nil {
			return err
		}
	}
	return nil
}

// registeredAgain presents a registration of a bond that lives, a registration of
// the attacker's own for that VM, and the first one again when the bond is deleted.
func (t *trial) registeredAgain(a *process, present func(string, []byte, string, logged) error) error {
	m, err := t.machine("again", "")
	if err != nil {
		return err
	}
	if err := present("the registration of a VM that there is", m.sealed, qmp.ClassReplayed, in(m)); err != nil {
		return err
	}
	var own []byte
	err = asTest(func(tb *tb) {
		_, disk := machinetest.NewDisk(tb, t.disks(), "evil")
		disk.Boot = true
		r := &bond.Registration{Offered: bond.Supported, Chosen: bond.Version, IssuedAt: time.Now().Unix(), Secret: bond.RandomSecret(32),
			Spec: bond.Spec{MemoryBytes: 32 << 20, VCPUs: 1, Firmware: "bios", Machine: "pc", Disks: []bond.Disk{disk}}}
		var err error
		if own, _, err = bond.SealRegistration(t.host, bond.NewTenantID(), m.bond.VM(), r); err != nil {
			tb.Fatal(err)
		}
	})
	if err != nil {
		return err
	}
	if err := present("the attacker's own registration for that VM", own, qmp.ClassReplayed, in(m)); err != nil {
		return err
	}
	if err := m.settle(a); err != nil {
		t.amiss("audit log of "+m.name, err.Error())
	}
	status := m.ticket("status")
	if _, _, err := m.do(a, "delete", qmp.CmdDelete, nil); err != nil {
		return err
	}
	t.forget(m)
	for name, blob := range map[string][]byte{"the registration of a deleted VM": m.sealed, "the attacker's own for it": own} {
		if err := present(name, blob, qmp.ClassReplayed, inHost()); err != nil {
			return err
		}
	}
	o, err := a.one(m.open(status))
	if err != nil {
		return err
	}
	t.must("a ticket of a deleted VM", o, qmp.ClassDeviceNotFound, inHost())
	return nil
}

// forget takes a VM whose bond was deleted out of what is looked after.
func (t *trial) forget(m *machine) {
	t.world.mu.Lock()
	defer t.world.mu.Unlock()
	for i, o := range t.machines {
		if o == m {
			t.machines = append(t.machines[:i], t.machines[i+1:]...)
			return
		}
	}
}
