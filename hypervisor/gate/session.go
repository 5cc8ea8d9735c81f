package gate

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/uvbond/uvbond/automaton"
	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/policy"
	"github.com/uvbond/uvbond/qmp"
)

const (
	// maxCalls bounds the hypercalls of a session, and so the receipt's size.
	maxCalls = bond.MaxCalls
)

// session is one conversation about one VM under one ticket, or, without a
// ticket, under the owner's policy. Its connection's goroutine owns it.
type session struct {
	gate     *Gate
	vm       VM
	opener   *sender
	number   uint64
	ticket   *ticket        // nil: policy only
	run      *automaton.Run // of the ticket
	instance uint64         // instance that the ticket is for; 0: none
	deadline time.Time
	locked   bool // holds the VM's change lock
	deletes  bool // delete the bond once everything else is recorded
	// launched: this session made the instance; descriptor is its.
	launched   bool
	descriptor bond.Descriptor
	// begun: something may have changed that no call in calls vouches for.
	begun bool

	quiet func()        // ends the delivery of events; nil: there is none
	still chan struct{} // closed when the last event has been delivered

	delegate *delegate // nil: the ticket is the owner's own, or there is none

	policy    *policy.Policy // the policy that policyRun follows
	policyRun *policy.Run

	calls  []bond.Call
	class  string // why the session was aborted; empty: it was not
	reason string
}

func (s *session) command() string {
	if s.ticket == nil {
		return ""
	}
	return s.ticket.Command
}

// begin decides on one hypercall, and records it if it changes something.
func (s *session) begin(req *qmp.Request, e *entry) (permit, *qmp.Error) {
	if len(s.calls) >= maxCalls {
		return permit{}, s.refuse(req.Execute, qmp.ClassDenied, fmt.Sprintf("a session has at most %d hypercalls", maxCalls))
	}
	if !time.Now().Before(s.deadline) {
		s.abort(qmp.ClassExpired, "the session's deadline passed")
	}
	p, qerr := s.accept(req, e)
	if qerr != nil {
		return permit{}, s.refuse(req.Execute, qerr.Class, qerr.Desc)
	}
	if e.changes && !p.recorded {
		if _, _, err := s.vm.Record(s.accepted(req.Execute, p.policy)); err != nil {
			s.logAudit(err)
			return permit{}, s.fault(req, internal())
		}
	}
	return p, nil
}

// call decides on one hypercall and executes it.
func (s *session) call(ctx context.Context, req *qmp.Request, e *entry, args any, files *[]*os.File) (any, *qmp.Error) {
	p, qerr := s.begin(req, e)
	if qerr != nil {
		return nil, qerr
	}
	ctx, cancel := context.WithDeadline(ctx, s.deadline.Add(abortGrace))
	defer cancel()
	if e.rewrite != nil {
		if args, qerr = e.rewrite(args, files); qerr != nil {
			return nil, s.fault(req, qerr)
		}
	}
	ret, err := s.execute(ctx, req.Execute, p, args)
	if err == nil {
		ret, err = e.answer.filter(ret)
	}
	if err != nil {
		s.begun = s.begun || e.changes && !withoutEffect(err)
		return nil, s.fault(req, s.gate.public(req.Execute, err))
	}
	s.note(req, bond.CallOK, detail(ret), ret)
	return ret, nil
}

// detail is what a receipt says of an answer beside its hash.
func detail(ret any) string {
	switch r := ret.(type) {
	case qmp.GrowResult:
		return fmt.Sprintf("from %d to %d bytes; the guest: %s", r.Old, r.New, r.Guest)
	case qmp.BuildState:
		return r.Detail()
	}
	return ""
}

// withoutEffect tells errors that say that a hypercall was not carried out from
// those, such as a time-out, after which nobody knows.
func withoutEffect(err error) bool {
	var q *qmp.Error
	return errors.As(err, &q)
}

// execute runs an accepted hypercall.
func (s *session) execute(ctx context.Context, command string, p permit, args any) (any, error) {
	switch command {
	case qmp.CmdQueryStatus:
		return s.vm.Status(ctx)
	case qmp.CmdLaunch:
		return nil, s.launch(ctx, args.(Launch))
	case qmp.CmdReadConsole:
		c, err := s.vm.ReadConsole(args.(qmp.ReadConsoleArgs).Offset)
		if err != nil {
			return nil, err
		}
		c.Nonce = s.ticket.Nonce
		return s.chunk(c)
	case qmp.CmdReadAudit:
		c, err := s.vm.ReadAudit(args.(qmp.ReadAuditArgs).From)
		if err != nil {
			return nil, err
		}
		c.Nonce = s.ticket.Nonce
		return s.chunk(c)
	case qmp.CmdSetPolicy:
		if s.ticket.Policy == nil {
			return nil, &qmp.Error{Class: qmp.ClassInvalid, Desc: "UVBond: the ticket carries no policy"}
		}
		if err := s.vm.SetPolicy(*s.ticket.Policy); err != nil {
			return nil, err
		}
		return nil, nil
	case qmp.CmdGrow:
		r, err := s.vm.Grow(ctx, args.(Grow))
		if err != nil {
			return nil, err
		}
		return *r, nil
	case qmp.CmdBuild:
		r, err := s.vm.Build(ctx, args.(Build))
		if err != nil {
			return nil, err
		}
		return *r, nil
	case qmp.CmdRevoke:
		return nil, s.revoke(args.(qmp.RevokeArgs))
	case qmp.CmdDelete:
		if s.vm.Current().Live {
			return nil, &qmp.Error{Class: qmp.ClassRunning, Desc: "UVBond: the VM has an instance; shut it down or power it off first"}
		}
		s.deletes = true
		return nil, nil
	}
	return s.vm.Execute(ctx, p.instance, command, args, p.pause)
}

func (s *session) launch(ctx context.Context, l Launch) error {
	if err := s.vm.Launch(ctx, l, s.ticket.Nonce); err != nil {
		return err
	}
	cur := s.vm.Current() // it may have crashed already; then its number stays
	s.launched, s.instance, s.descriptor = true, cur.Number, cur.Descriptor
	return nil
}

func (s *session) chunk(m bond.Message) (any, error) {
	sealed, err := bond.Seal(s.vm.Bond(), m)
	if err != nil {
		return nil, err
	}
	return qmp.ChunkResult{Chunk: sealed}, nil
}

// refuse denies a hypercall, records the attempt and aborts the session.
func (s *session) refuse(command, class, why string) *qmp.Error {
	command = printable(command)
	why = strings.TrimPrefix(strings.TrimPrefix(why, "UVBond: "), command+": ")
	s.addCall(bond.Call{Command: command, Verdict: bond.CallRefused, Detail: clip(why)})
	s.abort(class, command+": "+why)
	e := s.entry("refused", command+" refused: "+clip(why), map[string]string{"class": class, "hypercall": command})
	e.Coalesce = true // one session can be refused the same again and again
	_, _, err := s.vm.Record(e)
	s.logAudit(err)
	return &qmp.Error{Class: class, Desc: "UVBond: " + command + ": " + why}
}

// foreign refuses a line that another process than the opener sent. The record
// names that process.
func (s *session) foreign(cred *qmp.Cred, command, why string) *qmp.Error {
	s.addCall(bond.Call{Command: printable(command), Verdict: bond.CallRefused, Detail: clip(why)})
	s.abort(qmp.ClassDenied, why)
	e := s.entry("refused", clip(why), map[string]string{"class": qmp.ClassDenied, "hypercall": printable(command)})
	e.Who, e.Coalesce = "process "+credName(cred), true
	_, _, err := s.vm.Record(e)
	s.logAudit(err)
	return qmp.Errorf(qmp.ClassDenied, "UVBond: %s", why)
}

// fault notes a hypercall that was accepted but failed; `on abort` steps may follow.
func (s *session) fault(req *qmp.Request, qerr *qmp.Error) *qmp.Error {
	s.note(req, bond.CallError, clip(strings.TrimPrefix(qerr.Desc, "UVBond: ")), nil)
	s.abort(qerr.Class, req.Execute+" failed: "+strings.TrimPrefix(qerr.Desc, "UVBond: "))
	return qerr
}

// abort makes the session fail closed. The first reason stays.
func (s *session) abort(class, reason string) {
	s.fail(class, reason)
	if s.run != nil {
		s.run.Abort()
	}
}

func (s *session) fail(class, reason string) {
	if s.class == "" {
		s.class, s.reason = class, strings.TrimPrefix(reason, "UVBond: ")
	}
}

func (s *session) note(req *qmp.Request, verdict, detail string, ret any) {
	call := bond.Call{Command: req.Execute, Verdict: verdict, Detail: detail}
	if len(req.Arguments) > 0 {
		if b, err := json.Marshal(req.Arguments); err == nil {
			call.Arguments = bond.CallArguments(b)
		}
	}
	if verdict == bond.CallOK {
		if ret == nil {
			ret = struct{}{}
		}
		if b, err := json.Marshal(ret); err == nil {
			call.Result = sha256.Sum256(b)
		}
	}
	s.addCall(call)
}

func (s *session) addCall(c bond.Call) {
	if len(s.calls) < maxCalls {
		s.calls = append(s.calls, c)
	}
}

// silence ends the delivery of events, and waits until none is under way.
func (s *session) silence() {
	if s.quiet != nil {
		s.quiet()
		s.quiet = nil
		<-s.still
	}
}

func (s *session) release() {
	if s.quiet != nil {
		s.quiet()
		s.quiet = nil
	}
	if s.locked {
		s.locked = false
		s.vm.ReleaseChange()
	}
}

// logAudit reports an audit record that could not be written; the peer learns
// no more than that the hypervisor failed.
func (s *session) logAudit(err error) {
	if err != nil && !errors.Is(err, context.Canceled) {
		s.gate.log.Error("gate: audit was not written", "vm", s.vm.ID(), "err", err)
	}
}

// clip bounds a text for receipts and records.
func clip(s string) string { return bond.CleanText(s, 512) }
