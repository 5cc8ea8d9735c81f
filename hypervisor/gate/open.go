package gate

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/uvbond/uvbond/automaton"
	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/hypervisor/state"
	"github.com/uvbond/uvbond/qmp"
)

const (
	defaultWait     = 5 * time.Second
	defaultDeadline = time.Minute
	maxDeadline     = 10 * time.Minute
)

// ticket is what tickets, boot tickets and delegates' tickets have in common,
// after opening.
type ticket struct {
	bond.Ticket
	boot bool
	by   *bond.Delegated // nil: the owner's own
}

// open begins a session: with a ticket for what its automaton says, without
// one for what the owner's policy allows.
func (c *connection) open(ctx context.Context, cred *qmp.Cred, args qmp.OpenArgs) (any, *qmp.Error) {
	if c.session != nil {
		return nil, &qmp.Error{Class: qmp.ClassInvalid, Desc: "UVBond: a session is open on this connection; close it first or use another connection"}
	}
	if args.Wait < 0 || args.Wait > qmp.MaxOpenWait {
		return nil, &qmp.Error{Class: qmp.ClassInvalid, Desc: fmt.Sprintf("UVBond: wait must be 0 to %d seconds", qmp.MaxOpenWait)}
	}
	id, err := bond.ParseVMID(args.VM)
	if err != nil {
		return nil, &qmp.Error{Class: qmp.ClassInvalid, Desc: "UVBond: " + err.Error()}
	}
	vm := c.gate.host.VM(id)
	if vm == nil {
		c.gate.host.Attempt(attempt(fmt.Sprintf("uid %d", cred.UID), "session for a VM without a bond", map[string]string{"class": qmp.ClassDeviceNotFound}))
		return nil, &qmp.Error{Class: qmp.ClassDeviceNotFound, Desc: "UVBond: no bond has the VM id " + id.String()}
	}
	opener, err := identify(cred)
	if err != nil {
		return nil, &qmp.Error{Class: qmp.ClassDenied, Desc: "UVBond: " + err.Error()}
	}
	s := &session{gate: c.gate, vm: vm, opener: opener, number: c.gate.nextSession(), deadline: time.Now().Add(maxDeadline)}
	var qerr *qmp.Error
	if len(args.Ticket) > 0 {
		qerr = s.authorise(ctx, args)
	}
	if qerr != nil {
		opener.close()
		return nil, qerr
	}
	c.session = s
	c.notify(s)
	return qmp.OpenResult{
		Session:  strconv.FormatUint(s.number, 10),
		Command:  s.command(),
		Deadline: int(time.Until(s.deadline).Round(time.Second).Seconds()),
	}, nil
}

// authorise opens the ticket and decides on it. Either the session may start
// and its ticket is burnt, or the refusal is sealed and the ticket is burnt as
// well; a ticket that does not open, or was burnt before, gets no receipt.
func (s *session) authorise(ctx context.Context, args qmp.OpenArgs) *qmp.Error {
	t, err := openTicket(s.vm.Bond(), args.Ticket)
	if err != nil {
		return s.redirected(args.Ticket)
	}
	s.ticket = t
	m, qerr := s.admit(t)
	if qerr == nil && changes(m) {
		qerr = s.acquire(ctx, args.Wait)
	}
	if qerr != nil {
		return s.refuseTicket(qerr)
	}
	s.run = m.Start()
	most := sessionDeadline(t, m)
	if s.delegate != nil {
		most = min(most, s.delegate.most)
	}
	s.deadline = time.Now().Add(most)
	err = s.vm.UseTicket(t.Nonce, t.NotAfter, s.entry("open", fmt.Sprintf("session for %s opened", t.Command), nil))
	if err != nil {
		s.release()
		return s.unused(err)
	}
	return nil
}

// openTicket tells tickets from boot tickets and delegates' tickets by their
// header; opening proves it.
func openTicket(b *bond.Bond, sealed []byte) (*ticket, error) {
	h, err := bond.PeekHeader(sealed)
	if err != nil {
		return nil, err
	}
	switch h.Purpose {
	case bond.PurposeDelegatedTicket:
		return openDelegated(b, sealed)
	case bond.PurposeBootTicket:
	default:
		t := &ticket{}
		return t, bond.Open(b, sealed, &t.Ticket)
	}
	var bt bond.BootTicket
	if err := bond.Open(b, sealed, &bt); err != nil {
		return nil, err
	}
	return &ticket{boot: true, Ticket: bond.Ticket{
		Nonce: bt.Nonce, Command: bt.Command, Automaton: bt.Automaton,
		NotBefore: bt.NotBefore, NotAfter: bt.NotAfter, DeadlineSeconds: bt.DeadlineSeconds,
	}}, nil
}

// admit checks a ticket that opened: time, instance, automaton.
func (s *session) admit(t *ticket) (*automaton.Machine, *qmp.Error) {
	if err := t.CheckValidity(s.gate.host.Now()); err != nil {
		return nil, &qmp.Error{Class: qmp.ClassExpired, Desc: "UVBond: " + err.Error()}
	}
	if t.by != nil {
		return s.admitDelegate(t)
	}
	cur := s.vm.Current()
	switch {
	case t.boot && cur.Live:
		return nil, &qmp.Error{Class: qmp.ClassRunning, Desc: "UVBond: the VM has an instance already; shut it down or power it off first"}
	case len(t.Descriptor) > 0 && !cur.Live:
		return nil, &qmp.Error{Class: qmp.ClassNotRunning, Desc: "UVBond: the instance of this ticket's descriptor has ended; start the VM first"}
	case len(t.Descriptor) > 0 && !cur.Descriptor.Matches(t.Descriptor):
		return nil, &qmp.Error{Class: qmp.ClassStale, Desc: "UVBond: the ticket's descriptor belongs to an earlier instance"}
	}
	if len(t.Descriptor) > 0 {
		s.instance = cur.Number
	}
	m, err := compileTicket(t)
	if err != nil {
		return nil, &qmp.Error{Class: qmp.ClassInvalid, Desc: "UVBond: the ticket's automaton: " + err.Error()}
	}
	return m, nil
}

// compileTicket compiles the one automaton of a ticket; its name is the
// management command, so that the audit and the automaton say the same.
func compileTicket(t *ticket) (*automaton.Machine, error) {
	f, err := automaton.Parse("ticket", []byte(t.Automaton))
	if err != nil {
		return nil, err
	}
	if names := f.Names(); len(names) != 1 || names[0] != t.Command {
		return nil, fmt.Errorf("it must hold one automaton, named %q like the command", printable(t.Command))
	}
	m, err := f.Compile(t.Command)
	if err != nil {
		return nil, err
	}
	return m, checkTypes(f)
}

// changes tells whether an automaton holds a command that changes the VM.
func changes(m *automaton.Machine) bool {
	for _, c := range m.Commands() {
		if table[c].changes {
			return true
		}
	}
	return false
}

func sessionDeadline(t *ticket, m *automaton.Machine) time.Duration {
	d := defaultDeadline
	if m.Deadline() > 0 {
		d = m.Deadline()
	}
	if own := time.Duration(t.DeadlineSeconds) * time.Second; own > 0 && own < d {
		d = own
	}
	return min(d, maxDeadline)
}

func (s *session) acquire(ctx context.Context, wait int) *qmp.Error {
	d := defaultWait
	if wait > 0 {
		d = time.Duration(wait) * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	if err := s.vm.AcquireChange(ctx); err != nil {
		return s.gate.public(qmp.CmdOpen, err)
	}
	s.locked = true
	return nil
}

// redirected handles a ticket that does not open under this VM's bond. When it
// opens under the bond that its header names, that owner's audit gets it too.
func (s *session) redirected(sealed []byte) *qmp.Error {
	fields := map[string]string{"class": qmp.ClassRedirected}
	if h, err := bond.PeekHeader(sealed); err == nil && h.VM != s.vm.ID() {
		fields["ticket-of"] = h.VM.String()
		if other := s.gate.host.VM(h.VM); other != nil {
			if t, err := openTicket(other.Bond(), sealed); err == nil {
				t.wipe()
				_, _, err = other.Record(attempt(s.opener.String(), fmt.Sprintf("ticket for %s was presented for VM %s", t.Command, s.vm.ID()),
					t.named(map[string]string{"class": qmp.ClassRedirected, "presented-for": s.vm.ID().String()})))
				s.logAudit(err)
			}
		}
	}
	_, _, err := s.vm.Record(attempt(s.opener.String(), "a ticket that does not open under this bond was presented", fields))
	s.logAudit(err)
	return &qmp.Error{Class: qmp.ClassRedirected, Desc: "UVBond: the ticket does not open under the bond of VM " + s.vm.ID().String()}
}

// refuseTicket burns a ticket that opened but is refused, and seals the refusal.
func (s *session) refuseTicket(qerr *qmp.Error) *qmp.Error {
	s.release()
	text := fmt.Sprintf("session for %s refused: %s", printable(s.ticket.Command), qerr.Desc)
	e := attempt(s.opener.String(), text, s.ticket.named(map[string]string{"class": qerr.Class}))
	err := s.vm.RefuseTicket(s.ticket.Nonce, s.ticket.NotAfter, e)
	if errors.Is(err, state.ErrExpired) {
		// Nobody can tell any more whether it ran: refused, but not sealed.
		_, _, err = s.vm.Record(e)
		s.logAudit(err)
		return qerr
	}
	if err != nil {
		return s.unused(err)
	}
	s.fail(qerr.Class, qerr.Desc)
	seq, head, err := s.vm.Record()
	if err != nil {
		s.logAudit(err)
		return internal()
	}
	out := *qerr
	out.Receipt = s.receipt(bond.VerdictRefused, seq, head)
	s.ticket.wipe()
	return &out
}

// unused reports that a ticket could not be burnt: it was before, it expired
// just now, or the store failed. None of them gets a receipt: the ticket may
// have run.
func (s *session) unused(err error) *qmp.Error {
	if errors.Is(err, ErrReplayed) {
		_, _, rerr := s.vm.Record(attempt(s.opener.String(), fmt.Sprintf("ticket for %s was presented again", printable(s.ticket.Command)), s.ticket.named(map[string]string{"class": qmp.ClassReplayed})))
		s.logAudit(rerr)
	}
	return s.gate.public(qmp.CmdOpen, err)
}

// entry is an audit entry of this session. Sessions without a ticket can be
// had at will, so their entries are counted rather than repeated, and bear no
// number that would make them differ.
func (s *session) entry(kind, text string, fields map[string]string) state.Entry {
	e := state.Entry{Kind: kind, Who: s.opener.String(), Text: text, Fields: fields}
	if s.ticket == nil {
		e.Coalesce = true
		return e
	}
	if e.Fields == nil {
		e.Fields = map[string]string{}
	}
	e.Fields["session"] = strconv.FormatUint(s.number, 10)
	e.Fields["command"] = printable(s.ticket.Command)
	s.ticket.named(e.Fields)
	return e
}
