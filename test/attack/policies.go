package main

import (
	"fmt"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/qmp"
)

// policyAllows are the hypercalls that begin one of a policy's automata.
var policyAllows = map[string][]string{
	"":       {},
	"status": {qmp.CmdQueryStatus},
	"maintain": {qmp.CmdQueryStatus, qmp.CmdStop, qmp.CmdCont, qmp.CmdSystemReset,
		qmp.CmdSystemPowerdown},
}

// tryPolicies lets operators use a VM without a ticket: every hypercall under
// every ready-made policy, more often than it allows, and its own change.
func tryPolicies(t *trial) error {
	a, err := t.attacker()
	if err != nil {
		return err
	}
	for name, allowed := range policyAllows {
		text := ""
		if name != "" {
			if text, err = automata.Policy(name); err != nil {
				return err
			}
		}
		m, err := t.machine("policy-"+orNone(name), text)
		if err != nil {
			return err
		}
		for _, c := range strangers(m.name) {
			if floors[c.Command].needs == needsNothing {
				continue
			}
			if err := t.byOperator(a, m, orNone(name), c, allowed); err != nil {
				return err
			}
		}
	}
	if err := t.limited(a); err != nil {
		return err
	}
	return t.ownPolicy(a)
}

func orNone(name string) string {
	if name == "" {
		return "none"
	}
	return name
}

func (t *trial) byOperator(a *process, m *machine, policy string, c call, allowed []string) error {
	if err := m.gone(a); err != nil {
		return err
	}
	if err := m.ready(a); err != nil {
		return err
	}
	out, err := a.run(move{Line: m.open(nil)}, move{Line: requestOf(c)}, move{Line: request(qmp.CmdClose, nil)}, move{Do: doClose})
	if err != nil {
		return err
	}
	m.owe(1) // the session's own end
	name := fmt.Sprintf("%s without a ticket under the policy %s", c, policy)
	for _, ok := range allowed {
		if ok != c.Command {
			continue
		}
		if floors[c.Command].changes {
			m.owe(1)
		}
		t.must(name, out[1], "", nowhere())
		switch c.Command {
		case qmp.CmdStop:
			m.running = false
		case qmp.CmdSystemPowerdown:
			m.live, m.running = false, false
		}
		return nil
	}
	t.must(name, out[1], deniedOr(floors[c.Command], c.Args), in(m))
	return nil
}

// limited uses a policy more often than it allows, from many sessions at once.
func (t *trial) limited(a *process) error {
	text, err := automata.Policy("reset")
	if err != nil {
		return err
	}
	m, err := t.machine("limited", "rule reset = limit 3 per 1day ;\n"+text)
	if err != nil {
		return err
	}
	if err := m.start(a); err != nil {
		return err
	}
	const many = 8
	reset := request(qmp.CmdSystemReset, nil)
	var script []move
	for i := range many {
		script = append(script, move{Conn: i, Line: m.open(nil)})
	}
	for i := range many {
		script = append(script, move{Conn: i, Line: reset, Do: doSend})
	}
	for i := range many {
		script = append(script, move{Conn: i, Do: doRead})
	}
	for i := range many {
		script = append(script, move{Conn: i, Line: request(qmp.CmdClose, nil)}, move{Conn: i, Do: doClose})
	}
	out, err := a.run(script...)
	if err != nil {
		return err
	}
	done := 0
	for _, o := range out[2*many : 3*many] {
		if o.ok() {
			done++
		}
	}
	m.owe(many + many) // an entry for each hypercall, refused or counted, and one for each session's end
	why := ""
	if done != 3 {
		why = fmt.Sprintf("%d resets passed, the owner allows 3 a day", done)
	}
	t.refused(fmt.Sprintf("%d resets at once, of which 3 are allowed", many), why)
	return nil
}

// ownPolicy has operators change the policy themselves.
func (t *trial) ownPolicy(a *process) error {
	m, err := t.machine("policy-own", "")
	if err != nil {
		return err
	}
	wide, err := automata.Policy("maintain")
	if err != nil {
		return err
	}
	for _, c := range []struct {
		name, text, class string
	}{
		{"an owner's policy that holds what no policy may", "automaton p = uvbond-read-console{ offset: 0.. } ;", qmp.ClassInvalid},
		{"an owner's policy with a command that never passes", "automaton p = screendump{...} ;", qmp.ClassInvalid},
		{"an owner's policy without sense", "automaton p = (((", qmp.ClassInvalid},
		{"an owner's policy", wide, ""},
	} {
		ticket := m.ticket("allow", func(k *bond.Ticket) { k.Policy = &c.text })
		out, err := a.run(move{Line: m.open(ticket)}, move{Line: request(qmp.CmdSetPolicy, nil)}, move{Line: request(qmp.CmdClose, nil)}, move{Do: doClose})
		if err != nil {
			return err
		}
		t.must(c.name, out[1], c.class, nowhere())
		if err := t.present(a, "its ticket again", m, ticket, qmp.ClassReplayed, in(m)); err != nil {
			return err
		}
	}
	return nil
}
