package main

import (
	"bytes"
	"fmt"
	"time"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/qmp"
)

// tryDelegates is a colleague of the owner who wants more than was given, and
// everybody else who wants what the colleague has.
func tryDelegates(t *trial) error {
	a, err := t.attacker()
	if err != nil {
		return err
	}
	m, err := t.machine("shared", "")
	if err != nil {
		return err
	}
	if err := m.start(a); err != nil {
		return err
	}
	g, err := m.delegate("bob", "status", "reset")
	if err != nil {
		return err
	}
	for _, command := range automata.NativeNames() {
		class := qmp.ClassDenied
		if command == "status" || command == "reset" {
			class = ""
		}
		if err := t.asDelegate(a, m, g.ticket(command), "a delegate of status and reset wants "+command, class); err != nil {
			return err
		}
	}
	for _, try := range []func(*trial, *process, *machine, *granted) error{widenDelegations, stealDelegations, flipDelegations, endDelegations} {
		if err := try(t, a, m, g); err != nil {
			return err
		}
	}
	return nil
}

// asDelegate presents a delegate's ticket and gives the session up.
func (t *trial) asDelegate(a *process, m *machine, ticket []byte, name, class string) error {
	if class == "" {
		return t.present(a, name, m, ticket, "", nowhere())
	}
	return t.present(a, name, m, ticket, class, in(m))
}

// widenDelegations asks for more in the ticket's automaton than was given.
func widenDelegations(t *trial, a *process, m *machine, g *granted) error {
	for name, text := range map[string]string{
		"a choice that goes further":  "automaton reset = query-status* (system_reset | stop) query-status* ;",
		"twice where once was given":  "automaton reset = query-status* system_reset query-status* system_reset ;",
		"more on abort":               "automaton reset = query-status* system_reset query-status* on abort quit ;",
		"what never passes":           "automaton reset = screendump{...} ;",
		"an automaton of other names": "automaton other = system_reset ;",
	} {
		ticket := g.ticket("reset", func(d *bond.DelegatedTicket) { d.Automaton = text })
		class := qmp.ClassDenied
		if name == "an automaton of other names" {
			class = qmp.ClassInvalid
		}
		if err := t.asDelegate(a, m, ticket, "a delegate's ticket: "+name, class); err != nil {
			return err
		}
	}
	narrow := g.ticket("reset", func(d *bond.DelegatedTicket) { d.Automaton = "automaton reset = system_reset ;" })
	out, err := a.run(move{Line: m.open(narrow)}, move{Line: request(qmp.CmdSystemReset, nil)}, move{Line: request(qmp.CmdQueryStatus, nil)}, move{Do: doClose})
	if err != nil {
		return err
	}
	t.must("a delegate's ticket for less than was given", out[1], "", nowhere())
	t.must("more than that ticket says", out[2], qmp.ClassRefused, in(m))
	limited, err := m.delegateTo(g.key, "bob", func(d *bond.Delegation) {
		text, _ := automata.Policy("reset")
		d.Policy = "rule reset = limit 1 per 1day ;\n" + text
	})
	if err != nil {
		return err
	}
	for i, class := range []string{"", qmp.ClassDenied, qmp.ClassDenied} {
		out, err := a.run(move{Line: m.open(limited.ticket("reset"))}, move{Line: request(qmp.CmdSystemReset, nil)}, move{Do: doClose})
		if err != nil {
			return err
		}
		t.must(fmt.Sprintf("reset number %d of a delegate who has one a day", i+1), out[1], class, in(m))
	}
	return nil
}

// stealDelegations uses what belongs to others.
func stealDelegations(t *trial, a *process, m *machine, g *granted) error {
	thief, err := bond.GenerateDelegateKey()
	if err != nil {
		return err
	}
	stolen := &granted{m: m, key: thief, terms: g.terms, grant: g.grant, open: g.open}
	if err := t.asDelegate(a, m, stolen.ticket("status"), "a delegate's grant with another's signature", qmp.ClassRedirected); err != nil {
		return err
	}
	// The thief's own bond on the same host seals what it likes.
	own, err := t.machine("thief", "")
	if err != nil {
		return err
	}
	forged, err := own.delegate("thief", "status", "reset")
	if err != nil {
		return err
	}
	ticket := forged.ticket("status")
	if err := t.present(a, "a delegation of another owner", m, ticket, qmp.ClassRedirected, in(m, own)); err != nil {
		return err
	}
	if err := t.present(a, "the same on its own VM", own, ticket, "", nowhere()); err != nil {
		return err
	}
	once := g.ticket("status")
	if err := t.asDelegate(a, m, once, "a delegate's ticket", ""); err != nil {
		return err
	}
	return t.asDelegate(a, m, once, "the same again", qmp.ClassReplayed)
}

func flipDelegations(t *trial, a *process, m *machine, g *granted) error {
	whole := g.ticket("status")
	every := 7
	if t.sample {
		every = 101
	}
	for i := 0; i < len(whole); i += every {
		b := bytes.Clone(whole)
		b[i] ^= 1 << (i % 8)
		if err := t.asDelegate(a, m, b, fmt.Sprintf("byte %d of a delegate's ticket changed", i), qmp.ClassRedirected); err != nil {
			return err
		}
	}
	return nil
}

// endDelegations uses delegations that are over: in time, by their instance, and
// because the owner took them back.
func endDelegations(t *trial, a *process, m *machine, g *granted) error {
	now := time.Now().Unix()
	for _, c := range []struct {
		name, class string
		change      func(*bond.Delegation)
	}{
		{"a delegation that ended", qmp.ClassExpired, func(d *bond.Delegation) { d.NotBefore, d.NotAfter = now-600, now-2 }},
		{"a delegation of tomorrow", qmp.ClassExpired, func(d *bond.Delegation) { d.NotBefore, d.NotAfter = now+3600, now+7200 }},
		{"a delegation for another instance", qmp.ClassStale, func(d *bond.Delegation) { d.Instance = m.instance + 1 }},
		{"a delegation of nothing", qmp.ClassDenied, func(d *bond.Delegation) { d.Policy = "" }},
	} {
		other, err := m.delegateTo(g.key, "bob", func(d *bond.Delegation) { d.Policy = g.terms.Policy; c.change(d) })
		if err != nil {
			return err
		}
		if err := t.asDelegate(a, m, other.ticket("status"), c.name, c.class); err != nil {
			return err
		}
	}
	// Taken back while a session of the delegate is open.
	id := fmt.Sprintf("%x", g.terms.ID)
	revoke := m.ticket("undelegate", func(k *bond.Ticket) { k.Automaton = automata.Undelegate(id, 0) })
	another := m.ticket("undelegate", func(k *bond.Ticket) { k.Automaton = automata.Undelegate(id, 0) })
	everything := request(qmp.CmdRevoke, qmp.RevokeArgs{IssuedUntil: now + 3600})
	other := request(qmp.CmdRevoke, qmp.RevokeArgs{Delegation: fmt.Sprintf("%x", bond.NewNonce())})
	out, err := a.run(
		move{Line: m.open(g.ticket("reset"))},
		move{Conn: 1, Line: m.open(another)}, move{Conn: 1, Line: other}, move{Conn: 1, Do: doClose},
		move{Conn: 1, Line: m.open(revoke)}, move{Conn: 1, Line: request(qmp.CmdRevoke, qmp.RevokeArgs{Delegation: id})},
		move{Conn: 1, Line: everything}, move{Conn: 1, Do: doClose},
		move{Line: request(qmp.CmdSystemReset, nil)}, move{Do: doClose})
	if err != nil {
		return err
	}
	t.must("the owner's ticket used to take back another delegation", out[2], qmp.ClassRefused, in(m))
	t.must("the owner takes the delegation back", out[5], "", nowhere())
	t.must("the owner's ticket used to take back all", out[6], qmp.ClassRefused, in(m))
	t.must("the delegate's open session afterwards", out[8], qmp.ClassRevoked, in(m))
	return t.asDelegate(a, m, g.ticket("status"), "the delegate afterwards", qmp.ClassRevoked)
}
