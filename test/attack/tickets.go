package main

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/qmp"
)

// tryTickets changes tickets byte by byte, and presents them too early, too late,
// twice, at the same time, for an instance that is gone, and with automata that
// say something else than they seem to.
func tryTickets(t *trial) error {
	a, err := t.attacker()
	if err != nil {
		return err
	}
	m, err := t.machine("tickets", "")
	if err != nil {
		return err
	}
	if err := m.start(a); err != nil {
		return err
	}
	for _, try := range []func(*trial, *process, *machine) error{flipTickets, mistimeTickets, replayTickets, raceTickets, staleTickets, oddTickets} {
		if err := try(t, a, m); err != nil {
			return err
		}
	}
	return nil
}

// flipTickets changes each byte, cuts and lengthens.
func flipTickets(t *trial, a *process, m *machine) error {
	whole := m.ticket("status")
	every := 1
	if t.sample {
		every = 23
	}
	for i := 0; i < len(whole); i += every {
		b := bytes.Clone(whole)
		b[i] ^= 1 << (i % 8)
		if err := t.present(a, fmt.Sprintf("byte %d of a ticket changed", i), m, b, qmp.ClassRedirected, in(m)); err != nil {
			return err
		}
	}
	for _, n := range []int{1, 2, 12, len(whole) / 2, len(whole) - 1} {
		if err := t.present(a, fmt.Sprintf("%d bytes of a ticket", n), m, whole[:n], qmp.ClassRedirected, in(m)); err != nil {
			return err
		}
	}
	for _, more := range [][]byte{{0}, whole} {
		if err := t.present(a, "a ticket and more", m, slices.Concat(whole, more), qmp.ClassRedirected, in(m)); err != nil {
			return err
		}
	}
	return t.present(a, "the ticket itself, after all that", m, whole, "", nowhere())
}

func mistimeTickets(t *trial, a *process, m *machine) error {
	now := time.Now().Unix()
	for _, c := range []struct {
		name       string
		from, till int64
	}{
		{"a ticket of yesterday", now - 86400, now - 3600}, {"a ticket that just ended", now - 60, now - 2},
		{"a ticket of tomorrow", now + 3600, now + 7200}, {"a ticket of the far future", now + 1<<33, now + 1<<33 + 60},
	} {
		nonce := bond.NewNonce()
		for _, command := range []string{"status", "pause"} {
			nonce = bond.NewNonce()
			ticket := m.ticket(command, func(k *bond.Ticket) { k.Nonce, k.NotBefore, k.NotAfter = nonce, c.from, c.till })
			if err := t.presentSealed(a, c.name+" for "+command, m, nonce, ticket, qmp.ClassExpired); err != nil {
				return err
			}
			// Its refusal was sealed: it must not run later either. What is too old to be
			// remembered is refused for its age.
			if err := t.present(a, c.name+" again", m, ticket, qmp.ClassReplayed+"|"+qmp.ClassExpired, in(m)); err != nil {
				return err
			}
		}
	}
	return nil
}

// replayTickets presents what was used before.
func replayTickets(t *trial, a *process, m *machine) error {
	for _, old := range slices.Clone(m.tickets) {
		if err := t.present(a, "a ticket that was used", m, old, qmp.ClassReplayed, in(m)); err != nil {
			return err
		}
	}
	ticket := m.ticket("pause")
	if err := t.present(a, "a session that is given up", m, ticket, "", nowhere()); err != nil {
		return err
	}
	return t.present(a, "its ticket again", m, ticket, qmp.ClassReplayed, in(m))
}

// raceTickets presents one ticket on many connections at once: one may win.
func raceTickets(t *trial, a *process, m *machine) error {
	const many = 8
	rounds := 20
	if t.sample {
		rounds = 3
	}
	for round := range rounds {
		line := m.open(m.ticket("status"))
		var script []move
		for i := range many {
			script = append(script, move{Conn: i, Do: doDial})
		}
		for i := range many {
			script = append(script, move{Conn: i, Line: line, Do: doSend})
		}
		for i := range many {
			script = append(script, move{Conn: i, Do: doRead})
		}
		out, err := a.run(script...)
		if err != nil {
			return err
		}
		won := 0
		for _, o := range out[2*many:] {
			switch {
			case o.ok():
				won++
			case o.Class != qmp.ClassReplayed:
				t.refused(fmt.Sprintf("race %d", round), o.String())
			}
		}
		why := ""
		if won != 1 {
			why = fmt.Sprintf("%d sessions were opened with one ticket", won)
		}
		m.owe(many - 1)
		t.refused(fmt.Sprintf("one ticket on %d connections, race %d", many, round), why)
		if err := a.ended(many); err != nil {
			return err
		}
	}
	return nil
}

// staleTickets uses the descriptor of an instance that is gone.
func staleTickets(t *trial, a *process, m *machine) error {
	old := bytes.Clone(m.descriptor)
	nonce := bond.NewNonce()
	foreign := bond.NewNonce()
	ticket := m.ticket("pause", func(k *bond.Ticket) { k.Nonce, k.Descriptor = nonce, foreign[:] })
	if err := t.presentSealed(a, "a descriptor of nothing", m, nonce, ticket, qmp.ClassStale); err != nil {
		return err
	}
	m.powerOff(a)
	if err := m.gone(a); err != nil {
		return err
	}
	for _, c := range []struct{ name, class string }{{"while the VM is stopped", qmp.ClassNotRunning}, {"while the next instance runs", qmp.ClassStale}} {
		for _, command := range []string{"pause", "resume", "reset", "shutdown", "poweroff"} {
			nonce := bond.NewNonce()
			ticket := m.ticket(command, func(k *bond.Ticket) { k.Nonce, k.Descriptor = nonce, old })
			if err := t.presentSealed(a, "the old descriptor for "+command+" "+c.name, m, nonce, ticket, c.class); err != nil {
				return err
			}
		}
		if !m.live {
			if err := m.start(a); err != nil {
				return err
			}
		}
	}
	// A boot ticket for a VM that runs.
	boot := bond.NewNonce()
	if err := t.presentSealed(a, "a boot ticket while it runs", m, boot, m.ticket("start", func(k *bond.Ticket) { k.Nonce = boot }), qmp.ClassRunning); err != nil {
		return err
	}
	// Without a descriptor a ticket opens, and touches no instance.
	for _, command := range []struct{ command, hypercall string }{{"pause", qmp.CmdStop}, {"reset", qmp.CmdSystemReset}, {"poweroff", qmp.CmdQuit}} {
		ticket := m.ticket(command.command, func(k *bond.Ticket) { k.Descriptor = nil })
		out, err := a.run(move{Line: m.open(ticket)}, move{Line: request(command.hypercall, nil)}, move{Do: doClose})
		if err != nil {
			return err
		}
		t.must(command.command+" without a descriptor", out[1], qmp.ClassDenied, in(m))
	}
	return nil
}

// oddTickets are sealed by a client that was fooled into an automaton which is
// not what its name says, or that no gate should take.
func oddTickets(t *trial, a *process, m *machine) error {
	pause, err := automata.Native("pause")
	if err != nil {
		return err
	}
	for _, c := range []struct{ name, command, text string }{
		{"an automaton of another name", "status", pause},
		{"two automata", "pause", pause + "automaton other = stop ;"},
		{"a policy with rules", "pause", "rule pause = limit 1 per 1day ;\n" + pause},
		{"no automaton", "pause", "# nothing"},
		{"no syntax", "pause", "automaton pause = ((("},
		{"an import", "pause", "import stop ;\nautomaton pause = @stop ;"},
		{"a hypercall that nobody knows", "pause", "automaton pause = stopp ;"},
		{"arguments that the hypercall has not", "pause", `automaton pause = stop{ force: true } ;`},
		{"an automaton of 100000 states", "pause", "automaton pause = (stop{1000} cont{1000}){100} ;"},
		{"a nested text", "pause", "automaton pause = " + string(bytes.Repeat([]byte("("), 10000)) + " ;"},
	} {
		nonce := bond.NewNonce()
		ticket := m.ticket("pause", func(k *bond.Ticket) { k.Nonce, k.Command, k.Automaton = nonce, c.command, c.text })
		if err := t.presentSealed(a, c.name, m, nonce, ticket, qmp.ClassInvalid); err != nil {
			return err
		}
	}
	for name, line := range map[string][]byte{
		"no base64":      []byte(`{"execute":"uvbond-open","arguments":{"vm":"` + m.id() + `","ticket":"%%%"}}` + "\n"),
		"a short VM id":  []byte(`{"execute":"uvbond-open","arguments":{"vm":"00"}}` + "\n"),
		"a wait of ages": []byte(`{"execute":"uvbond-open","arguments":{"vm":"` + m.id() + `","wait":31}}` + "\n"),
		"a wait below 0": []byte(`{"execute":"uvbond-open","arguments":{"vm":"` + m.id() + `","wait":-1}}` + "\n"),
	} {
		out, err := a.run(move{Raw: line}, move{Do: doClose})
		if err != nil {
			return err
		}
		t.must(name, out[0], qmp.ClassInvalid, nowhere())
	}
	return nil
}
