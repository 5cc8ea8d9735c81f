package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/hypervisor/machine/machinetest"
	"github.com/uvbond/uvbond/qmp"
)

// call is one hypercall that is to be sent. Args are as JSON has them, numbers
// as json.Number.
type call struct {
	Command string
	Args    map[string]any
}

func (c call) String() string {
	if len(c.Args) == 0 {
		return c.Command
	}
	b, _ := json.Marshal(c.Args)
	return c.Command + string(b)
}

// maxSession is how many hypercalls a session may have: docs/gate.md.
const maxSession = 512

// session is what docs/gate.md says of a session under a ticket, as a model: it
// says what the gate must answer to every hypercall, what the receipt must say,
// and how many refusals the audit log must have.
type session struct {
	m         *machine
	oracle    *oracle
	boot      bool
	instance  bool // the ticket is for the running instance
	carries   bool // the ticket carries a policy
	observing bool // the owner's policy lets query-status pass

	aborted  bool
	live     bool
	running  bool
	launched bool
	deleted  bool
	leaving  bool     // the guest switches itself off; when it is gone nobody knows
	chance   bool     // so the answer to a hypercall is left to chance
	changed  bool     // something that changes the VM was executed
	verdicts []string // of the calls, as the receipt must have them
	refusals int
}

// begin is a session of m under a ticket with this automaton.
func (m *machine) begin(t *text, boot, instance bool) *session {
	return &session{m: m, oracle: t.start(), boot: boot, instance: instance && m.live, live: m.live, running: m.running}
}

// class is what the gate must answer: the class of an error, "" for acceptance.
func (s *session) class(c call) string {
	f, listed := floors[c.Command]
	if !listed {
		return s.refuse(qmp.ClassDenied)
	}
	if f.needs == needsNothing {
		return s.outside(c, f)
	}
	if !f.fits(c.Args) {
		return s.refuse(qmp.ClassInvalid)
	}
	if len(s.verdicts) >= maxSession {
		return s.refuse(qmp.ClassDenied)
	}
	why := ""
	switch {
	case f.needs == needsBoot && !s.boot, f.instance && !s.instance:
		why = qmp.ClassDenied
	case !s.oracle.step(c.Command, c.Args):
		why = qmp.ClassRefused
	}
	if why != "" && !(f.needs == needsPolicy && s.observing && !s.aborted && c.Command == qmp.CmdQueryStatus) {
		return s.refuse(why)
	}
	if fault := s.execute(c, f); fault != "" {
		s.verdicts = append(s.verdicts, bond.CallError)
		s.abort()
		return fault
	}
	s.changed = s.changed || f.changes
	s.verdicts = append(s.verdicts, bond.CallOK)
	return ""
}

// outside are the gate's own commands, which a session does not change.
func (s *session) outside(c call, f floor) string {
	if !f.fits(c.Args) {
		return qmp.ClassInvalid
	}
	switch c.Command {
	case qmp.CmdCapabilities, qmp.CmdQueryHost, qmp.CmdQueryVMs:
		return ""
	}
	return qmp.ClassInvalid // there is a session already, or the arguments are missing
}

func (s *session) refuse(class string) string {
	s.refusals++
	if len(s.verdicts) < maxSession {
		s.verdicts = append(s.verdicts, bond.CallRefused)
	}
	s.abort()
	return class
}

func (s *session) abort() {
	if !s.aborted {
		s.aborted = true
		s.oracle.abort()
	}
}

// execute says what an accepted hypercall does, and how it fails.
func (s *session) execute(c call, f floor) string {
	if f.instance && !s.live {
		s.chance = s.chance || s.leaving
		return qmp.ClassNotRunning
	}
	switch c.Command {
	case qmp.CmdStop:
		s.running = false
	case qmp.CmdCont, qmp.CmdSystemReset:
		s.running = s.running || c.Command == qmp.CmdCont
	case qmp.CmdQuit, qmp.CmdSystemPowerdown: // the stub's guest obeys at once
		s.live, s.running, s.leaving = false, false, c.Command == qmp.CmdSystemPowerdown
	case qmp.CmdLaunch:
		if s.live {
			return qmp.ClassRunning
		}
		if !s.rightDisk(c.Args) {
			return qmp.ClassInvalid
		}
		s.live, s.launched, s.instance = true, true, true
	case qmp.CmdSetPolicy:
		if !s.carries {
			return qmp.ClassInvalid
		}
	case qmp.CmdRevoke:
		id, one := c.Args["delegation"].(string)
		if b, err := hex.DecodeString(id); one && (err != nil || len(b) != 32) {
			return qmp.ClassInvalid
		}
	case qmp.CmdGrow:
		if c.Args["disk"] != s.m.name || fmt.Sprint(c.Args["size"]) != fmt.Sprint(machinetest.DiskBytes) {
			return qmp.ClassInvalid
		}
	case qmp.CmdBuild: // its owner encrypted the disk
		return qmp.ClassInvalid
	case qmp.CmdDelete:
		if s.live {
			return qmp.ClassRunning
		}
		s.deleted = true
	}
	return ""
}

// rightDisk tells whether a launch that the automaton accepted is what the
// registration says; one descriptor comes with it, the VM's disk.
func (s *session) rightDisk(args map[string]any) bool {
	disks, _ := args["disks"].([]any)
	taps, _ := args["taps"].([]any)
	if exports, _ := args["exports"].([]any); len(disks) != 1 || len(taps) != 0 || len(exports) != 0 {
		return false
	}
	d, _ := disks[0].(map[string]any)
	e, _ := args["expect"].(map[string]any)
	return d["name"] == s.m.name && fmt.Sprint(d["fd-index"]) == "0" &&
		absentOr(e, "memory", func(v any) bool { return fmt.Sprint(v) == fmt.Sprint(32<<20) }) &&
		absentOr(e, "vcpus", func(v any) bool { return fmt.Sprint(v) == "1" }) &&
		absentOr(e, "firmware", func(v any) bool { return v == "bios" }) &&
		absentOr(e, "machine", func(v any) bool { return v == "pc" })
}

// verdict is what the receipt must say.
func (s *session) verdict() string {
	switch {
	case s.aborted && !s.changed:
		return bond.VerdictRefused
	case s.aborted || !s.oracle.done():
		return bond.VerdictIncomplete
	}
	return bond.VerdictDone
}

// close brings the model of the VM to what is so after the session.
func (s *session) close() {
	if s.launched && s.verdict() != bond.VerdictDone {
		s.live, s.running = false, false
	}
	s.m.live, s.m.running = s.live, s.live && s.running
}

// compare says where a receipt is not what it must be.
func (s *session) compare(r *bond.Receipt, nonce [32]byte) string {
	var got []string
	for _, c := range r.Calls {
		got = append(got, c.Verdict)
	}
	switch {
	case r.Nonce != nonce:
		return "the receipt is for another ticket"
	case r.Verdict != s.verdict():
		return fmt.Sprintf("the receipt says %s, it must say %s", r.Verdict, s.verdict())
	case !slices.Equal(got, s.verdicts):
		return fmt.Sprintf("the receipt has the calls %v, it must have %v", got, s.verdicts)
	}
	return ""
}
