package bond

import (
	"fmt"
	"regexp"
)

// Limits of the parts of messages, in bytes unless said otherwise.
const (
	MaxCalls     = 512 // calls in a receipt; a gate ends a session that reaches it
	MaxArguments = 4096
	MaxDetail    = 512
	MaxReason    = 1024
	MaxCommand   = 64
	MaxState     = 64
	MaxClass     = 64
	MaxRecord    = 32 << 10 // one encoded audit record
	MaxRecords   = 8000     // audit records in a chunk
	MaxConsole   = 512 << 10
	MaxDeadline  = 24 * 60 * 60 // seconds
)

var managementCommand = regexp.MustCompile(`^[a-z][a-z0-9-]{0,63}$`)

func (c *Confirmation) validate() error {
	if err := checkVersionList("confirmation: versions", c.Versions); err != nil {
		return err
	}
	if err := validTime("confirmation: host-time", c.HostTime); err != nil {
		return err
	}
	return validProgram("confirmation: policy", c.Policy, MaxPolicy)
}

func (t *BootTicket) validate() error {
	return validTicket("boot ticket", t.Nonce, t.Command, t.Automaton, t.NotBefore, t.NotAfter, t.DeadlineSeconds)
}

func (t *Ticket) validate() error {
	if n := len(t.Descriptor); n != 0 && n != 32 {
		return invalid("ticket: descriptor", "is %d bytes, want 32 or none", n)
	}
	if t.Policy != nil {
		if err := validProgram("ticket: policy", *t.Policy, MaxPolicy); err != nil {
			return err
		}
	}
	return validTicket("ticket", t.Nonce, t.Command, t.Automaton, t.NotBefore, t.NotAfter, t.DeadlineSeconds)
}

func validTicket(what string, nonce [32]byte, command, automaton string, notBefore, notAfter int64, deadline uint32) error {
	switch {
	case nonce == [32]byte{}:
		return invalid(what+": nonce", "is all zero; take a random one")
	case !managementCommand.MatchString(command):
		return invalid(what+": command", "is %q, want a management command", clip(command))
	case automaton == "":
		return invalid(what+": automaton", "is empty")
	case deadline > MaxDeadline:
		return invalid(what+": deadline-seconds", "is %d, want at most %d", deadline, MaxDeadline)
	}
	if err := validProgram(what+": automaton", automaton, MaxAutomaton); err != nil {
		return err
	}
	return validWindow(what, notBefore, notAfter)
}

func (d *Descriptor) validate() error {
	if d.Value == [32]byte{} {
		return invalid("descriptor: value", "is all zero")
	}
	if d.Instance == 0 {
		return invalid("descriptor: instance", "is 0, want 1 or more")
	}
	return validTime("descriptor: started-at", d.StartedAt)
}

func (r *Receipt) validate() error {
	switch r.Verdict {
	case VerdictDone, VerdictRefused, VerdictIncomplete:
	default:
		return invalid("receipt: verdict", "is %q", clip(r.Verdict))
	}
	if len(r.Calls) > MaxCalls {
		return invalid("receipt: calls", "are %d, want at most %d", len(r.Calls), MaxCalls)
	}
	texts := []struct {
		what, text string
		max        int
	}{
		{"receipt: command", r.Command, MaxCommand},
		{"receipt: class", r.Class, MaxClass},
		{"receipt: reason", r.Reason, MaxReason},
		{"receipt: state", r.State, MaxState},
	}
	for _, t := range texts {
		if err := validText(t.what, t.text, t.max); err != nil {
			return err
		}
	}
	for i := range r.Calls {
		if err := r.Calls[i].validate(fmt.Sprintf("receipt: call %d", i)); err != nil {
			return err
		}
	}
	return validTime("receipt: host-time", r.HostTime)
}

func (c *Call) validate(where string) error {
	switch c.Verdict {
	case CallOK, CallError, CallRefused:
	default:
		return invalid(where, "verdict is %q", clip(c.Verdict))
	}
	if err := validText(where+": command", c.Command, MaxCommand); err != nil {
		return err
	}
	if err := validText(where+": arguments", c.Arguments, MaxArguments); err != nil {
		return err
	}
	return validText(where+": detail", c.Detail, MaxDetail)
}

func (c *AuditChunk) validate() error {
	if len(c.Records) > MaxRecords {
		return invalid("audit chunk: records", "are %d, want at most %d", len(c.Records), MaxRecords)
	}
	for i, r := range c.Records {
		if len(r) > MaxRecord {
			return invalid("audit chunk: record", "%d is %d bytes, want at most %d", i, len(r), MaxRecord)
		}
	}
	if c.Next < c.From || c.Next-c.From != uint64(len(c.Records)) {
		return invalid("audit chunk: next", "is %d, want %d and %d records", c.Next, c.From, len(c.Records))
	}
	return nil
}

func (c *ConsoleChunk) validate() error {
	n := uint64(len(c.Data))
	switch {
	case n > MaxConsole:
		return invalid("console chunk: data", "is %d bytes, want at most %d", n, MaxConsole)
	case c.Offset > c.End || n > c.End-c.Offset:
		return invalid("console chunk: end", "%d is before the end of the data", c.End)
	case c.Lost > c.Offset:
		return invalid("console chunk: lost", "%d is more than there was before the data", c.Lost)
	}
	return nil
}
