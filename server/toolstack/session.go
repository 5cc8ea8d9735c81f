package toolstack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/uvbond/uvbond/qmp"
)

// Outcomes of a command, as the server sees them.
const (
	Done    = "done"    // the gate closed the session as done
	Refused = "refused" // the gate refused the ticket or a hypercall
	Failed  = "error"   // the gate accepted it, but it did not work
	Unknown = "unknown" // the gate went away in the middle
)

// defaultDeadline is taken for a session without one, in seconds.
const defaultDeadline = 120

// File is an open file under a disk's registered name.
type File struct {
	Name string
	File *os.File
}

// Command is one management command on one VM.
type Command struct {
	VM     string
	Name   string
	Ticket []byte // sealed; none: the owner's policy must allow the command
	From   uint64 // log: byte offset; audit: sequence number

	Delegation  string // undelegate: id, or
	IssuedUntil int64  // all that were issued until then
	Size        uint64 // grow: bytes, as the guest will see the one disk of Disks

	// For build only.
	Base *os.File

	// For start, grow and build. The files stay the caller's. Exports are the disks that
	// are on storages.
	Disks   []File
	Exports []qmp.DiskExport
	// For start only.
	Taps   []*os.File
	Expect *qmp.LaunchExpect

	// Watch is told of each hypercall, when it is sent and when it is answered. It
	// must not block: the session waits for it. nil: nobody wants to know.
	Watch func(Hypercall)
}

// Hypercall is one step of a command, for whoever watches it. It proves nothing;
// the receipt lists what was executed.
type Hypercall struct {
	Command   string
	Arguments json.RawMessage // nil: none
	Answered  bool            // false: just sent
	Class     string          // of the error that it was answered with
}

// Result is what came of a command. Receipt, Descriptor and Chunks are sealed
// for the tenant.
type Result struct {
	Outcome, Class, Reason string
	Receipt, Descriptor    []byte
	Chunks                 [][]byte
	Status                 string // last query-status answer, unverified
}

// session is one open conversation with the gate.
type session struct {
	g        *Gate
	c        *qmp.Client
	cmd      *Command
	calls    context.Context // for hypercalls: outlives the client, so that nothing stops half way
	waiting  context.Context // for waiting in between: ends when nobody listens any more
	deadline time.Time       // the gate's
	result   *Result
}

// Run executes one management command. An error means that nothing was asked
// of the VM; everything else is in the Result. When ctx ends, the hypercall in
// flight is finished and the session is closed in order.
func (g *Gate) Run(ctx context.Context, cmd *Command) (*Result, error) {
	run, ok := sequences[cmd.Name]
	if !ok {
		return nil, fmt.Errorf("no management command %q", cmd.Name)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c, err := g.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	s := &session{g: g, c: c, cmd: cmd, calls: context.WithoutCancel(ctx), waiting: ctx, result: &Result{}}
	opened, err := s.open()
	if err != nil || !opened {
		return s.result, err
	}
	s.close(run(s))
	return s.result, nil
}

// open starts the session. A refusal here is a result: it may carry a receipt.
func (s *session) open() (bool, error) {
	args := qmp.OpenArgs{VM: s.cmd.VM, Ticket: s.cmd.Ticket, Wait: min(int(s.g.Wait/time.Second), qmp.MaxOpenWait)}
	var r qmp.OpenResult
	start := time.Now()
	err := s.g.execute(s.calls, s.c, s.g.Wait+callTimeout, qmp.CmdOpen, args, &r)
	if err != nil && qmp.ClassOf(err) == "" {
		return false, &UnavailableError{s.g.Path, err}
	} else if err != nil {
		s.fail(err)
		return false, nil
	}
	if r.Deadline < 0 || r.Deadline > 24*3600 {
		return false, &UnavailableError{s.g.Path, fmt.Errorf("it gave a session of %d seconds", r.Deadline)}
	}
	if r.Deadline == 0 {
		r.Deadline = defaultDeadline
	}
	s.deadline = start.Add(time.Duration(r.Deadline) * time.Second)
	return true, nil
}

// call sends one hypercall.
func (s *session) call(timeout time.Duration, command string, args, ret any, files ...*os.File) error {
	if s.cmd.Watch == nil || command == qmp.CmdClose {
		return s.g.execute(s.calls, s.c, timeout, command, args, ret, files...)
	}
	h := Hypercall{Command: command}
	if args != nil {
		var err error
		if h.Arguments, err = json.Marshal(args); err != nil {
			return err
		}
	}
	s.cmd.Watch(h)
	err := s.g.execute(s.calls, s.c, timeout, command, args, ret, files...)
	h.Answered, h.Class = true, qmp.ClassOf(err)
	if err != nil && h.Class == "" {
		h.Class = qmp.ClassUnavailable
	}
	s.cmd.Watch(h)
	return err
}

// status asks for the run state.
func (s *session) status() (*qmp.StatusResult, error) {
	var r qmp.StatusResult
	if err := s.call(callTimeout, qmp.CmdQueryStatus, nil, &r); err != nil {
		return nil, err
	}
	s.result.Status = r.Status
	return &r, nil
}

// pause waits before the next look; false says that it is time to end.
func (s *session) pause(d time.Duration) bool {
	if time.Until(s.deadline) < d+time.Second {
		return false
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.waiting.Done():
		return false
	case <-s.c.Done():
		return false
	}
}

// close ends the session, takes the receipt and settles the result.
func (s *session) close(err error) {
	var r qmp.CloseResult
	cerr := s.call(closeTimeout, qmp.CmdClose, nil, &r)
	s.result.Receipt, s.result.Descriptor = r.Receipt, r.Descriptor
	switch {
	case err != nil:
		s.fail(err)
	case cerr != nil:
		s.fail(cerr)
	case r.Verdict == Done:
		s.result.Outcome = Done
	case r.Verdict == Refused:
		s.result.Outcome, s.result.Class, s.result.Reason = Refused, qmp.ClassRefused, "the gate closed the session as refused"
	default:
		s.result.Outcome, s.result.Class = Failed, qmp.ClassGeneric
		s.result.Reason = fmt.Sprintf("the gate closed the session as %q", r.Verdict)
	}
	if e, ok := errors.AsType[*qmp.Error](cerr); ok && s.result.Receipt == nil {
		s.result.Receipt = e.Receipt
	}
}

// fail puts an error into the result.
func (s *session) fail(err error) {
	r := s.result
	if e, ok := errors.AsType[*qmp.Error](err); ok {
		r.Outcome, r.Class, r.Reason = outcomeOf(e.Class), e.Class, e.Desc
		if r.Receipt == nil {
			r.Receipt = e.Receipt
		}
		return
	}
	if e, ok := errors.AsType[*failure](err); ok {
		r.Outcome, r.Class, r.Reason = Failed, qmp.ClassGeneric, e.reason
		return
	}
	r.Outcome, r.Class = Unknown, qmp.ClassUnavailable
	r.Reason = "the hypervisor's gate went away while the command ran; whether it was executed is unknown: " + err.Error()
}

// failure is a command that the gate allowed and that still did not work.
type failure struct{ reason string }

func (f *failure) Error() string { return f.reason }

// outcomeOf tells refusals of the gate from failures of what it allowed.
func outcomeOf(class string) string {
	switch class {
	case qmp.ClassDenied, qmp.ClassRefused, qmp.ClassRedirected, qmp.ClassExpired, qmp.ClassReplayed, qmp.ClassStale, qmp.ClassRevoked,
		qmp.ClassBusy, qmp.ClassNotRunning, qmp.ClassRunning, qmp.ClassNotBuilt, qmp.ClassInvalid, qmp.ClassDowngrade, qmp.ClassCommandNotFound:
		return Refused
	}
	return Failed
}
