package gate

import (
	"fmt"
	"slices"
	"strings"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/qmp"
)

// close ends the session in order: verdict, audit, receipt, descriptor.
func (s *session) close() (any, *qmp.Error) {
	defer s.opener.close()
	defer s.release()
	verdict := s.verdict()
	s.undo(verdict)
	verdict, seq, head, err := s.end(verdict)
	if err != nil {
		s.logAudit(err)
		return nil, s.gate.public(qmp.CmdClose, err)
	}
	res := qmp.CloseResult{Verdict: verdict}
	if s.ticket == nil {
		return res, nil
	}
	res.Receipt = s.receipt(verdict, seq, head)
	if d := s.due(verdict); d != nil {
		if res.Descriptor, err = bond.Seal(s.vm.Bond(), d); err != nil {
			s.gate.log.Error("gate: descriptor was not sealed", "vm", s.vm.ID(), "err", err)
		}
	}
	s.ticket.wipe()
	if s.deletes && verdict == bond.VerdictDone {
		s.vm.Bond().Wipe()
	}
	return res, nil
}

// end records the end of the session. A deletion happens here, with the record,
// so that the log never says done of one that failed.
func (s *session) end(verdict string) (string, uint64, [32]byte, error) {
	if s.deletes && verdict == bond.VerdictDone {
		seq, head, err := s.vm.Delete(s.entry("close", s.summary(verdict), s.closing(verdict)))
		if err == nil {
			return verdict, seq, head, nil
		}
		qerr := s.gate.public(qmp.CmdDelete, err)
		s.fail(qerr.Class, qerr.Desc)
		verdict = bond.VerdictIncomplete
	}
	seq, head, err := s.vm.Record(s.entry("close", s.summary(verdict), s.closing(verdict)))
	return verdict, seq, head, err
}

// due is the descriptor that the close carries to the owner: of a start, and of
// the live instance when a ticket without a descriptor asked for the status. The
// answer to a start can be lost, and without a descriptor its owner could not
// even end the instance. Only the owner can open it.
func (s *session) due(verdict string) *bond.Descriptor {
	if verdict != bond.VerdictDone || s.delegate != nil {
		return nil
	}
	if s.launched {
		if s.descriptor.Instance == 0 {
			return nil
		}
		return &s.descriptor
	}
	asked := slices.ContainsFunc(s.calls, func(c bond.Call) bool { return c.Command == qmp.CmdQueryStatus })
	cur := s.vm.Current()
	if len(s.ticket.Descriptor) > 0 || !asked || !cur.Live {
		return nil
	}
	return &cur.Descriptor
}

// abandon ends a session whose peer is gone or silent. Nobody gets a receipt;
// the audit has what was done.
func (s *session) abandon(why string) {
	defer s.opener.close()
	defer s.release()
	if s.ticket != nil {
		defer s.ticket.wipe()
	}
	s.abort(qmp.ClassExpired, why)
	verdict := s.verdict()
	s.undo(verdict)
	_, _, err := s.vm.Record(s.entry("close", s.summary(verdict), s.closing(verdict)))
	s.logAudit(err)
}

// verdict says how the session ended. A policy session has no sequence to
// complete, so it is done unless something was refused or failed.
func (s *session) verdict() string {
	switch {
	case s.class != "" && !s.begun && s.executed() == 0:
		return bond.VerdictRefused
	case s.class != "":
		return bond.VerdictIncomplete
	case s.run != nil && !s.run.Done():
		s.fail(qmp.ClassRefused, "the sequence was not completed; next would be "+strings.Join(s.run.Expected(), " or "))
		return bond.VerdictIncomplete
	}
	return bond.VerdictDone
}

// executed counts the hypercalls that had an effect.
func (s *session) executed() int {
	n := 0
	for _, c := range s.calls {
		if c.Verdict == bond.CallOK && table[c.Command].changes {
			n++
		}
	}
	return n
}

// undo leaves nothing half-made: an instance whose boot was not completed ends.
func (s *session) undo(verdict string) {
	if s.launched && verdict != bond.VerdictDone {
		s.vm.Kill(s.instance, "its boot was not completed")
	}
}

func (s *session) receipt(verdict string, seq uint64, head [32]byte) []byte {
	n := s.instance
	if n == 0 {
		n = s.vm.Current().Number
	}
	if s.ticket.by != nil {
		return s.delegatedReceipt(verdict, n)
	}
	r := bond.Receipt{
		Nonce: s.ticket.Nonce, Command: s.ticket.Command, Instance: n, Verdict: verdict,
		Class: s.class, Reason: clip(s.reason), Calls: s.calls, State: bond.CleanText(s.vm.State(), bond.MaxState),
		HostTime: s.gate.host.Now(), AuditSeq: seq, AuditHead: head,
	}
	sealed, err := bond.Seal(s.vm.Bond(), &r)
	if err != nil {
		s.gate.log.Error("gate: receipt was not sealed", "vm", s.vm.ID(), "err", err)
		return nil
	}
	return sealed
}

func (s *session) summary(verdict string) string {
	what := "policy session"
	if s.ticket != nil {
		what = s.ticket.Command
	}
	if s.delegate != nil {
		what += " by delegate " + s.delegate.name()
	}
	if s.reason == "" {
		return what + ": " + verdict
	}
	return what + ": " + verdict + ": " + clip(s.reason)
}

// closing lists the calls, with runs of the same one counted.
func (s *session) closing(verdict string) map[string]string {
	var b strings.Builder
	for i := 0; i < len(s.calls) && b.Len() < 1024; {
		j := i
		for j < len(s.calls) && s.calls[j].Command == s.calls[i].Command && s.calls[j].Verdict == s.calls[i].Verdict {
			j++
		}
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s %s", s.calls[i].Command, s.calls[i].Verdict)
		if j-i > 1 {
			fmt.Fprintf(&b, " ×%d", j-i)
		}
		i = j
	}
	return map[string]string{"verdict": verdict, "calls": b.String()}
}
