package main

import (
	"fmt"
	"time"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/qmp"
)

// tryRedirect presents every ticket, and every other sealed message, for every
// VM but its own: of the same tenant's and of others', running and stopped.
func tryRedirect(t *trial) error {
	a, err := t.attacker()
	if err != nil {
		return err
	}
	var machines []*machine
	for i, name := range []string{"web1", "web2", "db1"} {
		m, err := t.machine(name, "")
		if err != nil {
			return err
		}
		if i < 2 {
			if err := m.start(a); err != nil {
				return err
			}
		}
		machines = append(machines, m)
	}
	for _, from := range machines {
		sealed, err := everySealed(from)
		if err != nil {
			return err
		}
		for _, s := range sealed {
			for _, to := range machines {
				switch {
				case from == to && s.ticket:
					continue
				case from == to || !s.ticket:
					err = t.present(a, fmt.Sprintf("%s of %s for %s", s.name, from.name, to.name), to, s.sealed, qmp.ClassRedirected, in(to))
				default:
					err = t.present(a, fmt.Sprintf("%s of %s for %s", s.name, from.name, to.name), to, s.sealed, qmp.ClassRedirected, in(to, from))
				}
				if err != nil {
					return err
				}
			}
			if s.ticket {
				nobody := request(qmp.CmdOpen, qmp.OpenArgs{VM: bond.NewVMID().String(), Ticket: s.sealed})
				o, err := a.one(nobody)
				if err != nil {
					return err
				}
				t.must(fmt.Sprintf("%s of %s for a VM that there is not", s.name, from.name), o, qmp.ClassDeviceNotFound, inHost())
			}
		}
		// The true owner's VM still takes its ticket: a thief cannot burn it.
		for _, s := range sealed {
			if s.name == "ticket for status" {
				if err := t.present(a, "the same for its own VM", from, s.sealed, "", nowhere()); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// secret is a sealed message that passed the management domain.
type secret struct {
	name   string
	sealed []byte
	ticket bool // it opens under its own VM's bond as a ticket
}

// everySealed makes one of each message of a VM's owner and hypervisor.
func everySealed(m *machine) ([]secret, error) {
	var out []secret
	for _, command := range automata.NativeNames() {
		out = append(out, secret{"ticket for " + command, m.ticket(command), true})
	}
	g, err := m.delegate("bob", "status", "pause")
	if err != nil {
		return nil, err
	}
	out = append(out, secret{"delegate's ticket", g.ticket("status"), true},
		secret{"grant", g.grant, false}, secret{"registration", m.sealed, false})
	now := time.Now().Unix()
	for name, message := range map[string]bond.Message{
		"delegation":  g.terms,
		"receipt":     &bond.Receipt{Nonce: bond.NewNonce(), Command: "status", Verdict: bond.VerdictDone, State: "running", HostTime: now},
		"descriptor":  bond.NewDescriptor(1, bond.NewNonce(), now),
		"console":     &bond.ConsoleChunk{Nonce: bond.NewNonce()},
		"audit chunk": &bond.AuditChunk{Nonce: bond.NewNonce()},
	} {
		sealed, err := bond.Seal(m.bond, message)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out = append(out, secret{name, sealed, false})
	}
	return out, nil
}

// granted is a delegate and what the owner gave it.
type granted struct {
	m     *machine
	key   *bond.DelegateKey
	terms *bond.Delegation
	grant []byte
	open  *bond.Grant
}

// delegate gives somebody the right to some shipped commands.
func (m *machine) delegate(name string, commands ...string) (*granted, error) {
	policy, err := automata.Policy(commands...)
	if err != nil {
		return nil, err
	}
	key, err := bond.GenerateDelegateKey()
	if err != nil {
		return nil, err
	}
	return m.delegateTo(key, name, func(d *bond.Delegation) { d.Policy = policy })
}

func (m *machine) delegateTo(key *bond.DelegateKey, name string, change func(*bond.Delegation)) (*granted, error) {
	now := time.Now().Unix() + m.w.skew.Load()
	g := &granted{m: m, key: key, terms: bond.NewDelegation(key.Public(), name)}
	g.terms.IssuedAt, g.terms.NotBefore, g.terms.NotAfter = now, now-60, now+3600
	change(g.terms)
	var err error
	if g.grant, err = bond.SealGrant(m.bond, key.Public(), g.terms); err != nil {
		return nil, err
	}
	g.open, err = bond.OpenGrant(key, g.grant)
	return g, err
}

// ticket is one of the delegate's for a shipped command.
func (g *granted) ticket(command string, change ...func(*bond.DelegatedTicket)) []byte {
	t := g.m.permit(command)
	d := &bond.DelegatedTicket{Nonce: t.Nonce, Command: t.Command, Automaton: t.Automaton, NotBefore: t.NotBefore, NotAfter: t.NotAfter, DeadlineSeconds: t.DeadlineSeconds}
	for _, f := range change {
		f(d)
	}
	sealed, err := g.open.SealTicket(g.key, d)
	if err != nil {
		panic(err) // a ticket that this program made wrongly
	}
	return sealed
}
