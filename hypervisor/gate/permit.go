package gate

import (
	"errors"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/hypervisor/state"
	"github.com/uvbond/uvbond/policy"
	"github.com/uvbond/uvbond/qmp"
)

// permit is what lets a hypercall pass.
type permit struct {
	instance uint64 // that it is for
	policy   string // the policy's automaton that accepted it; "": the ticket's did
	pause    *Pause // how long a stop may last; nil: for ever
	recorded bool   // it is in the audit already, with its count
}

// accept asks the ticket's automaton, then the owner's policy.
func (s *session) accept(req *qmp.Request, e *entry) (permit, *qmp.Error) {
	var refusal *qmp.Error
	if s.ticket != nil {
		if refusal = s.acceptTicket(req, e); refusal == nil {
			return s.acceptDelegate(req, e)
		}
		if s.delegate != nil {
			return permit{}, refusal // operators have sessions of their own
		}
	}
	if e.verdict != byPolicy {
		if refusal == nil {
			refusal = &qmp.Error{Class: qmp.ClassDenied, Desc: "only the owner's ticket can allow it: " + e.why}
		}
		return permit{}, refusal
	}
	if s.class != "" {
		if refusal == nil {
			refusal = &qmp.Error{Class: s.class, Desc: "the session was aborted: " + clip(s.reason)}
		}
		return permit{}, refusal
	}
	p, qerr := s.acceptPolicy(req, e)
	if qerr != nil {
		if refusal == nil {
			refusal = qerr
		}
		return permit{}, refusal
	}
	return p, nil
}

func (s *session) acceptTicket(req *qmp.Request, e *entry) *qmp.Error {
	switch {
	case e.boot && !s.ticket.boot:
		return &qmp.Error{Class: qmp.ClassDenied, Desc: "only a boot ticket can allow it"}
	case e.instance && s.instance == 0:
		return &qmp.Error{Class: qmp.ClassDenied, Desc: "the ticket carries no descriptor of the running instance"}
	}
	if err := s.run.Step(req.Execute, req.Arguments); err != nil {
		return &qmp.Error{Class: qmp.ClassRefused, Desc: err.Error()}
	}
	return nil
}

// acceptPolicy follows the owner's policy as it stands now; a change of the
// policy takes effect on open sessions too.
func (s *session) acceptPolicy(req *qmp.Request, e *entry) (permit, *qmp.Error) {
	if p := s.vm.Policy(); s.policyRun == nil || p != s.policy {
		s.policy, s.policyRun = p, p.Start(changing)
	}
	cur := s.vm.Current()
	out := permit{instance: cur.Number}
	gone := e.instance && !cur.Live
	count := func(name string, r *policy.Rule) error {
		if gone {
			return nil // refused below, and not counted
		}
		out.recorded = true
		return s.vm.Count(Use{Name: name, Rule: r}, s.counted(req.Execute, name))
	}
	g, err := s.policyRun.Step(req.Execute, req.Arguments, s.gate.host.Now(), count)
	var outside *policy.OutsideError
	var usedUp *policy.UsedUpError
	switch {
	case errors.Is(err, policy.ErrNotAllowed):
		return permit{}, &qmp.Error{Class: qmp.ClassDenied, Desc: "the owner's policy does not allow it without a ticket"}
	case errors.As(err, &outside), errors.As(err, &usedUp):
		return permit{}, &qmp.Error{Class: qmp.ClassDenied, Desc: "the owner's policy does not allow it without a ticket: " + err.Error()}
	case err != nil:
		return permit{}, s.gate.public(req.Execute, err)
	case gone:
		return permit{}, &qmp.Error{Class: qmp.ClassNotRunning, Desc: ErrNotRunning.Error()}
	}
	out.policy, out.pause = g.Name, pauseOf(g.Name, g.Rule)
	return out, nil
}

func pauseOf(name string, r *policy.Rule) *Pause {
	if r == nil || r.Pause == 0 {
		return nil
	}
	return &Pause{Name: name, Most: r.Pause}
}

// changing tells the hypercalls whose execution is a use of an automaton.
func changing(command string) bool { return table[command].changes }

// accepted is the audit entry of a hypercall that changes the VM, before it is
// executed.
func (s *session) accepted(command, policy string) state.Entry {
	fields := map[string]string{"hypercall": command}
	if policy != "" {
		fields["policy"] = policy
	}
	return s.entry("call", command+" accepted", fields)
}

// counted is the same where the hypercall begins a use that is counted. It is no
// attempt that can be repeated at will, so it is never only counted itself.
func (s *session) counted(command, policy string) state.Entry {
	e := s.accepted(command, policy)
	e.Coalesce = false
	e.Text = command + " accepted; one more use of " + bond.CleanText(policy, 64)
	return e
}
