package main

import (
	"fmt"
	"time"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/qmp"
)

// tryFloods sends more than is decent: refusals, connections, hypercalls in one
// session, questions whose answers nobody reads.
func tryFloods(t *trial) error {
	a, err := t.attacker()
	if err != nil {
		return err
	}
	m, err := t.machine("flood", "")
	if err != nil {
		return err
	}
	if err := m.start(a); err != nil {
		return err
	}
	n := 4000
	if t.sample {
		n = 300
	}
	for _, try := range []func(*process, *machine, int) error{t.refusals, t.connections, t.longSession, t.unread} {
		if err := try(a, m, n); err != nil {
			return err
		}
	}
	return nil
}

// refusals sends the same refused things again and again, and different ones: the
// log counts each, and stays small.
func (t *trial) refusals(a *process, m *machine, n int) error {
	out, err := a.run(move{Line: request("screendump", nil), Times: n},
		move{Line: m.open([]byte("no ticket")), Times: n}, move{Line: m.open(nil)}, move{Line: request("screendump", nil), Times: n}, move{Do: doClose})
	if err != nil {
		return err
	}
	inHost().owe(t.world, n)
	in(m).owe(t.world, 2*n+1)
	t.refused(fmt.Sprintf("%d refusals without a session", n), differs(out[0], qmp.ClassDenied))
	t.refused(fmt.Sprintf("%d tickets that are none", n), differs(out[1], qmp.ClassRedirected))
	t.refused(fmt.Sprintf("%d refusals in a session", n), differs(out[3], qmp.ClassDenied))
	different := make([]move, n)
	for i := range different {
		different[i] = move{Line: request(fmt.Sprintf("no-such-%d", i), nil)}
	}
	out, err = a.run(append(append([]move{{Line: m.open(nil)}}, different...), move{Do: doClose})...)
	if err != nil {
		return err
	}
	in(m).owe(t.world, n+1)
	why := ""
	for _, o := range out[1 : n+1] {
		if why == "" {
			why = differs(o, qmp.ClassDenied)
		}
	}
	t.refused(fmt.Sprintf("%d different refusals", n), why)
	before := m.next
	if err := m.settle(a); err != nil {
		t.amiss("audit log of "+m.name, err.Error())
	}
	why = ""
	if written := m.next - before; written > 200 {
		why = fmt.Sprintf("they made %d records", written)
	}
	t.accepted("the audit log after the flood", why)
	return nil
}

// connections opens more than one user may have: those beyond are closed, and the
// others work.
func (t *trial) connections(a *process, m *machine, _ int) error {
	b, err := t.attacker()
	if err != nil {
		return err
	}
	defer b.close()
	const many = 300
	var script []move
	for i := range many {
		script = append(script, move{Conn: i, Do: doDial})
	}
	out, err := b.run(script...)
	if err != nil {
		return err
	}
	open := 0
	for _, o := range out {
		if o.Lost == "" {
			open++
		}
	}
	why := ""
	if open > 256 || open < 200 {
		why = fmt.Sprintf("%d of %d are open, 256 is the limit", open, many)
	}
	t.refused(fmt.Sprintf("%d connections of one user", many), why)
	if err := b.ended(many); err != nil {
		return err
	}
	time.Sleep(50 * time.Millisecond)
	_, err = m.status(a)
	t.accepted("a status after them", orNil(err))
	return nil
}

// longSession sends more hypercalls than a session may have.
func (t *trial) longSession(a *process, m *machine, _ int) error {
	nonce := bond.NewNonce()
	ticket := m.ticket("status", func(k *bond.Ticket) { k.Nonce = nonce })
	script := []move{{Line: m.open(ticket)}, {Line: request(qmp.CmdQueryStatus, nil), Times: maxSession}}
	const more = 20
	for range more {
		script = append(script, move{Line: request(qmp.CmdQueryStatus, nil)})
	}
	out, err := a.run(append(script, move{Line: request(qmp.CmdClose, nil)}, move{Do: doClose})...)
	if err != nil {
		return err
	}
	t.must(fmt.Sprintf("%d hypercalls in a session", maxSession), out[1], "", nowhere())
	for i := range more {
		t.must(fmt.Sprintf("hypercall number %d", maxSession+1+i), out[2+i], qmp.ClassDenied, in(m))
	}
	r, err := m.receipt(out[2+more].Return)
	why := orNil(err)
	if err == nil && (r.Nonce != nonce || len(r.Calls) != maxSession || r.Verdict != bond.VerdictRefused) {
		why = fmt.Sprintf("%s with %d calls", r.Verdict, len(r.Calls))
	}
	t.accepted("the receipt of the long session", why)
	return nil
}

// unread asks and does not read the answers, while the owner's commands work.
func (t *trial) unread(a *process, m *machine, n int) error {
	b, err := t.attacker()
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		_, err := b.run(move{Line: request(qmp.CmdQueryVMs, nil), Do: doNothing, Times: 50 * n})
		done <- err
	}()
	for range 5 {
		_, err := m.status(a)
		t.accepted("a status beside a peer that reads nothing", orNil(err))
	}
	_ = b.cmd.Process.Kill() // it may be waiting for the gate to read
	<-done
	b.close()
	_, err = m.status(a)
	t.accepted("a status after it", orNil(err))
	return nil
}
