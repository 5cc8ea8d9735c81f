package fakehost

import (
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"strconv"

	"github.com/uvbond/uvbond/automaton"
	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/policy"
	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/tenant/client"
)

// delegated answers a delegate's ticket as the gate does.
func (s *Server) delegated(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var in client.Command
	v := s.vms[r.PathValue("id")]
	if json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&in) != nil || v == nil {
		problem(w, http.StatusNotFound, "", "no such VM")
		return
	}
	if s.evil == ReplayedReceipt && v.lastDelegated != nil {
		answer(w, client.Outcome{Outcome: "done", Receipt: v.lastDelegated})
		return
	}
	d, err := bond.OpenDelegated(v.bond, in.Ticket)
	if err != nil || v.nonces[d.Ticket.Nonce] {
		v.record("refused", "pid 4242 uid 990", "a ticket that does not open, or was used before")
		answer(w, client.Outcome{Outcome: "refused", Class: "Redirected", Reason: "the ticket does not open under the bond of this VM"})
		return
	}
	v.nonces[d.Ticket.Nonce] = true
	out := client.Outcome{Outcome: "done"}
	rec := &bond.DelegatedReceipt{Nonce: d.Ticket.Nonce, Command: d.Ticket.Command, Instance: v.instance, Verdict: bond.VerdictDone, HostTime: s.now()}
	if rec.Class, rec.Reason = s.mayDelegated(v, d); rec.Class == "" {
		t := &bond.Ticket{Nonce: d.Ticket.Nonce, Command: d.Ticket.Command, NotBefore: d.Ticket.NotBefore, NotAfter: d.Ticket.NotAfter}
		rec.Class, rec.Reason = s.act(v, t, nil, &out)
	}
	if rec.Class != "" {
		rec.Verdict, out.Outcome, out.Class, out.Reason = bond.VerdictRefused, "refused", rec.Class, rec.Reason
	}
	rec.State = v.state
	v.record("close", "pid 100 uid 990", d.Ticket.Command+" by delegate "+d.Delegation.Name+": "+rec.Verdict)
	if out.Receipt, err = d.SealReceipt(rec); err != nil {
		panic(err)
	}
	v.lastDelegated = append([]byte(nil), out.Receipt...)
	switch s.evil {
	case NoReceipt:
		out.Receipt = nil
	case ForgedReceipt:
		_, _ = rand.Read(out.Receipt[len(out.Receipt)/2:])
	}
	answer(w, out)
}

// mayDelegated returns a class to refuse.
func (s *Server) mayDelegated(v *vm, d *bond.Delegated) (class, reason string) {
	if err := d.Delegation.CheckValidity(s.now()); err != nil {
		return "Expired", err.Error()
	}
	if v.revoked[d.Delegation.ID] || d.Delegation.IssuedAt <= v.revokedUntil {
		return "Revoked", "the owner took this delegation back"
	}
	if n := d.Delegation.Instance; n != 0 && n != v.instance {
		return "Stale", "the delegation is for an earlier instance"
	}
	p, err := policy.Parse(d.Delegation.Policy)
	if err != nil {
		return "Invalid", err.Error()
	}
	f, err := automaton.Parse("ticket", []byte(d.Ticket.Automaton))
	if err != nil {
		return "Invalid", err.Error()
	}
	m, err := f.Compile(d.Ticket.Command)
	if err != nil {
		return "Invalid", err.Error()
	}
	if _, err := p.Including(m); err != nil {
		return "Denied", "the delegation does not include the ticket's automaton: " + err.Error()
	}
	if !v.live && d.Ticket.Command != "status" {
		return "NotRunning", "the VM has no running instance"
	}
	return "", ""
}

// undelegate does what the ticket's automaton lets pass of the parameters.
func (v *vm) undelegate(t *bond.Ticket, p *client.Params) (class, reason string) {
	f, err := automaton.Parse("ticket", []byte(t.Automaton))
	if err != nil {
		return "Invalid", err.Error()
	}
	m, err := f.Compile(t.Command)
	if err != nil {
		return "Invalid", err.Error()
	}
	args := map[string]any{}
	if p != nil && p.Delegation != "" {
		args["delegation"] = p.Delegation
	}
	if p != nil && p.IssuedUntil != 0 {
		args["issued-until"] = json.Number(strconv.FormatInt(p.IssuedUntil, 10))
	}
	if err := m.Start().Step(qmp.CmdRevoke, args); err != nil {
		return "Refused", err.Error()
	}
	id, err := bond.ParseHostID(p.Delegation)
	if err == nil {
		v.revoked[id] = true
	}
	v.revokedUntil = max(v.revokedUntil, p.IssuedUntil)
	v.record("policy", "pid 100 uid 990", "a delegation was revoked")
	return "", ""
}
