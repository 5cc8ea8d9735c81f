package tenant

import (
	"errors"
	"fmt"
	"time"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant/fail"
)

// Validity of a ticket: it starts a little in the past for clocks that differ,
// and ends soon, so that one that the server keeps back is worth little.
const (
	ticketBefore = time.Minute
	ticketAfter  = 5 * time.Minute
	// receiptSlack is how long after the end of a ticket's validity its session
	// may still close: the gate's longest session and its abort steps.
	receiptSlack = 15 * time.Minute
)

// Management commands. Each has an automaton of the same name.
const (
	Build    = "build"
	Start    = "start"
	Status   = "status"
	Pause    = "pause"
	Resume   = "resume"
	Reset    = "reset"
	Shutdown = "shutdown"
	Poweroff = "poweroff"
	Log      = "log"
	Audit    = "audit"
	Allow    = "allow"
	Grow     = "grow"
	Delete   = "delete"

	Undelegate = "undelegate"
)

// touchesInstance tells the commands whose ticket carries the descriptor.
func touchesInstance(command string) bool {
	switch command {
	case Pause, Resume, Reset, Shutdown, Poweroff:
		return true
	}
	return false
}

// sealed is a ticket ready to be relayed.
type sealed struct {
	command             string
	nonce               [32]byte
	notBefore, notAfter int64
	blob                []byte
}

// sealTicket writes the ticket for one command. descriptor is empty for
// commands that touch no instance; policy is for allow only.
func (o *Owner) sealTicket(b *bond.Bond, command string, descriptor []byte, policy *string) (*sealed, error) {
	text, err := automata.Native(command)
	if err != nil {
		return nil, fail.Wrap(err, fail.Other, "this is a fault of this build of uvbond", "no automaton for %q", command)
	}
	return o.sealText(b, command, text, descriptor, policy)
}

// sealText writes a ticket with an automaton of its own.
func (o *Owner) sealText(b *bond.Bond, command, text string, descriptor []byte, policy *string) (s *sealed, err error) {
	now := o.Now()
	s = &sealed{
		command:   command,
		nonce:     bond.NewNonce(),
		notBefore: now.Add(-ticketBefore).Unix(),
		notAfter:  now.Add(ticketAfter).Unix(),
	}
	var m bond.Message
	if command == Start {
		m = &bond.BootTicket{Nonce: s.nonce, Command: command, Automaton: text, NotBefore: s.notBefore, NotAfter: s.notAfter}
	} else {
		t := &bond.Ticket{Nonce: s.nonce, Command: command, Automaton: text, NotBefore: s.notBefore, NotAfter: s.notAfter, Policy: policy}
		t.Descriptor = append(make([]byte, 0, 32), descriptor...)
		defer t.Wipe()
		m = t
	}
	s.blob, err = bond.Seal(b, m)
	return s, err
}

// verify opens a receipt and checks that it answers this ticket. Its errors are
// of the class Forged: what came back is not from the bonded VM's hypervisor, or
// is not about this command.
func (s *sealed) verify(b *bond.Bond, blob []byte) (*bond.Receipt, error) {
	r := new(bond.Receipt)
	if err := bond.Open(b, blob, r); err != nil {
		var version *bond.VersionError
		if errors.As(err, &version) {
			return nil, forged("the receipt claims another protocol version (%v)", err)
		}
		return nil, forged("the receipt does not open under this VM's bond")
	}
	switch {
	case r.Nonce != s.nonce:
		return nil, forged("the receipt is for another ticket (replayed)")
	case r.Command != s.command:
		return nil, forged("the receipt is for %q, not %q", r.Command, s.command)
	}
	// A refusal for the validity itself is the one whose time lies outside.
	if r.Verdict != bond.VerdictRefused && (r.HostTime < s.notBefore || r.HostTime > s.notAfter+int64(receiptSlack/time.Second)) {
		return nil, forged("the receipt was made at %s, outside of the ticket's validity", time.Unix(r.HostTime, 0).UTC().Format(time.RFC3339))
	}
	return r, nil
}

// setBack is a receipt of a hypervisor that has forgotten what it wrote into
// earlier receipts: somebody put an old copy of its state back. Nonces that were
// burnt since may pass again there.
func setBack(have, had uint64) error {
	return fail.New(fail.Forged, "tell the provider; until it is explained, do not command VMs on this host: tickets used since then may be accepted again",
		"THE HYPERVISOR'S STATE WAS SET BACK: its audit log has %d records, and had %d at an earlier receipt", have, had)
}

func forged(format string, args ...any) error {
	return &fail.Error{Code: fail.Forged,
		Text: "REDIRECTED OR FORGED: " + fmt.Sprintf(format, args...),
		Hint: "do not trust what this server shows of the VM; `uvbond audit` shows what the hypervisor recorded"}
}
