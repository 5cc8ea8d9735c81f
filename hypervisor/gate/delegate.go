package gate

import (
	"encoding/hex"
	"errors"
	"slices"
	"time"

	"github.com/uvbond/uvbond/automaton"
	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/hypervisor/state"
	"github.com/uvbond/uvbond/policy"
	"github.com/uvbond/uvbond/qmp"
)

// delegate is by what right a session runs whose ticket is not the owner's own.
type delegate struct {
	by      *bond.Delegated
	allowed string        // the delegation's automaton that includes the ticket's
	rule    *policy.Rule  // of that automaton; nil: none
	alters  bool          // the ticket's automaton holds what changes the VM
	counted bool          // its use began
	most    time.Duration // how long the session may last
}

func (d *delegate) name() string { return bond.CleanText(d.by.Delegation.Name, bond.MaxDelegateName) }

// openDelegated opens a delegate's ticket.
func openDelegated(b *bond.Bond, sealed []byte) (*ticket, error) {
	d, err := bond.OpenDelegated(b, sealed)
	if err != nil {
		return nil, err
	}
	return &ticket{by: d, Ticket: bond.Ticket{
		Nonce: d.Ticket.Nonce, Command: d.Ticket.Command, Automaton: d.Ticket.Automaton,
		NotBefore: d.Ticket.NotBefore, NotAfter: d.Ticket.NotAfter, DeadlineSeconds: d.Ticket.DeadlineSeconds,
	}}, nil
}

// named adds to the fields of an audit entry whose ticket it is about.
func (t *ticket) named(fields map[string]string) map[string]string {
	if t.by != nil {
		fields["delegate"] = bond.CleanText(t.by.Delegation.Name, bond.MaxDelegateName)
		fields["delegation"] = hex.EncodeToString(t.by.Delegation.ID[:])
	}
	return fields
}

func (t *ticket) wipe() {
	if t.by != nil {
		t.by.Wipe()
	}
}

// admitDelegate checks a delegate's ticket that opened: what the owner allowed,
// for how long, on which instance, and that the ticket asks for a part of it.
func (s *session) admitDelegate(t *ticket) (*automaton.Machine, *qmp.Error) {
	d := &t.by.Delegation
	if err := d.CheckValidity(s.gate.host.Now()); err != nil {
		return nil, &qmp.Error{Class: qmp.ClassExpired, Desc: "UVBond: " + err.Error()}
	}
	if qerr := s.notRevoked(d); qerr != nil {
		return nil, qerr
	}
	if qerr := s.delegatedInstance(t); qerr != nil {
		return nil, qerr
	}
	allowed, err := CheckPolicy(d.Policy)
	if err != nil {
		return nil, &qmp.Error{Class: qmp.ClassInvalid, Desc: "UVBond: the delegation: " + err.Error()}
	}
	m, err := compileTicket(t)
	if err != nil {
		return nil, &qmp.Error{Class: qmp.ClassInvalid, Desc: "UVBond: the ticket's automaton: " + err.Error()}
	}
	name, err := allowed.Including(m)
	if err != nil {
		return nil, &qmp.Error{Class: qmp.ClassDenied, Desc: "UVBond: the delegation does not include the ticket's automaton: " + err.Error()}
	}
	s.delegate = &delegate{by: t.by, allowed: name, rule: allowed.Rule(name), alters: changes(m)}
	// Neither longer than the owner's automaton says, nor beyond the delegation's end.
	s.delegate.most = time.Duration(d.NotAfter-s.gate.host.Now()+1) * time.Second
	if own := allowed.Deadline(name); own > 0 {
		s.delegate.most = min(s.delegate.most, own)
	}
	if s.delegate.rule != nil {
		if err := s.delegate.rule.Open(s.gate.host.Now()); err != nil {
			return nil, &qmp.Error{Class: qmp.ClassDenied, Desc: "UVBond: the delegation: " + err.Error()}
		}
	}
	if s.instance == 0 && slices.ContainsFunc(m.Commands(), func(c string) bool { return table[c].instance }) {
		return nil, &qmp.Error{Class: qmp.ClassNotRunning, Desc: "UVBond: " + ErrNotRunning.Error()}
	}
	return m, nil
}

func (s *session) notRevoked(d *bond.Delegation) *qmp.Error {
	err := s.vm.Delegated(d.ID, d.IssuedAt)
	if errors.Is(err, state.ErrRevoked) {
		return &qmp.Error{Class: qmp.ClassRevoked, Desc: "UVBond: the owner took this delegation back"}
	}
	return s.gate.public(qmp.CmdOpen, err)
}

// delegatedInstance finds the instance that the session is for. The descriptor
// is the owner's, so delegates name instances by number.
func (s *session) delegatedInstance(t *ticket) *qmp.Error {
	cur := s.vm.Current()
	for _, n := range []uint64{t.by.Delegation.Instance, t.by.Ticket.Instance} {
		switch {
		case n != 0 && n != cur.Number:
			return &qmp.Error{Class: qmp.ClassStale, Desc: "UVBond: the delegation or the ticket is for an earlier instance"}
		case n != 0 && !cur.Live:
			return &qmp.Error{Class: qmp.ClassNotRunning, Desc: "UVBond: the instance that the delegation or the ticket is for has ended"}
		}
	}
	if cur.Live {
		s.instance = cur.Number
	}
	return nil
}

// acceptDelegate applies the rules of the delegation to a hypercall that the
// ticket's automaton accepted. After an abort they do not keep anybody from undoing.
func (s *session) acceptDelegate(req *qmp.Request, e *entry) (permit, *qmp.Error) {
	p := permit{instance: s.instance}
	d := s.delegate
	if d == nil {
		return p, nil
	}
	if e.verdict != byPolicy {
		return permit{}, &qmp.Error{Class: qmp.ClassDenied, Desc: "only the owner's own ticket can allow it: " + e.why}
	}
	if e.changes {
		if qerr := s.notRevoked(&d.by.Delegation); qerr != nil {
			return permit{}, qerr
		}
	}
	p.pause = pauseOf(d.allowed, d.rule)
	if d.rule == nil || s.class != "" || d.alters && !e.changes {
		return p, nil
	}
	if e.changes || !d.counted {
		if err := d.rule.Open(s.gate.host.Now()); err != nil {
			return permit{}, &qmp.Error{Class: qmp.ClassDenied, Desc: "the delegation: " + err.Error()}
		}
	}
	if d.counted || len(d.rule.Limits) == 0 {
		d.counted = true
		return p, nil
	}
	use := Use{Delegation: d.by.Delegation.ID, Name: d.allowed, Rule: d.rule, Until: d.by.Delegation.NotAfter}
	err := s.vm.Count(use, s.counted(req.Execute, d.allowed))
	var usedUp *policy.UsedUpError
	if errors.As(err, &usedUp) {
		return permit{}, &qmp.Error{Class: qmp.ClassDenied, Desc: "the delegation: " + err.Error()}
	}
	if err != nil {
		return permit{}, s.gate.public(req.Execute, err)
	}
	d.counted, p.recorded = true, true
	return p, nil
}

// delegatedReceipt seals what was done for the delegate.
func (s *session) delegatedReceipt(verdict string, instance uint64) []byte {
	r := bond.DelegatedReceipt{
		Nonce: s.ticket.Nonce, Command: s.ticket.Command, Instance: instance, Verdict: verdict,
		Class: s.class, Reason: clip(s.reason), Calls: s.calls, State: bond.CleanText(s.vm.State(), bond.MaxState),
		HostTime: s.gate.host.Now(),
	}
	sealed, err := s.ticket.by.SealReceipt(&r)
	if err != nil {
		s.gate.log.Error("gate: a delegate's receipt was not sealed", "vm", s.vm.ID(), "err", err)
		return nil
	}
	return sealed
}

// revoke carries out uvbond-revoke. Which delegation it is comes from the server;
// that it is the one the owner means, from the automaton that accepted the call.
func (s *session) revoke(a qmp.RevokeArgs) error {
	var id [32]byte
	raw, err := hex.DecodeString(a.Delegation)
	one := a.Delegation != ""
	if one == (a.IssuedUntil != 0) || a.IssuedUntil < 0 || one && (err != nil || len(raw) != len(id)) {
		return &qmp.Error{Class: qmp.ClassInvalid, Desc: "UVBond: give the id of a delegation, 64 hexadecimal digits, or a time until which all are meant"}
	}
	copy(id[:], raw)
	return s.vm.Revoke(id, a.IssuedUntil)
}
