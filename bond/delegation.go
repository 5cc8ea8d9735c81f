package bond

import "time"

// Limits of delegations.
const (
	MaxDelegateName   = 64
	MaxDelegation     = 48 << 10 // sealed
	MaxGrant          = 112 << 10
	maxDelegationText = 32 << 10
	// MaxDelegationValidity is the longest time between NotBefore and NotAfter.
	MaxDelegationValidity = 10 * 366 * 24 * time.Hour
)

// Delegation is the capability that an owner gives to somebody: a part of what
// the owner may do, for a time, on one VM. It is sealed under K, so that only the
// owner makes it and nobody on its way reads it; the hypervisor keeps no list of
// them. Whoever it names cannot pass it on.
type Delegation struct {
	ID        [32]byte `cbor:"id"`       // random
	Delegate  [32]byte `cbor:"delegate"` // DelegateID
	Signer    [32]byte `cbor:"signer"`   // the delegate's Ed25519 key
	Name      string   `cbor:"name"`     // as the owner calls the delegate; never empty
	Policy    string   `cbor:"policy"`   // automata, with rules or without
	Instance  uint64   `cbor:"instance"` // the only instance it is for; 0: any
	IssuedAt  int64    `cbor:"issued-at"`
	NotBefore int64    `cbor:"not-before"`
	NotAfter  int64    `cbor:"not-after"` // Unix seconds, at most MaxDelegationValidity after NotBefore
}

// NewDelegation returns the capability for the holder of p; the caller fills in
// what is allowed and for how long.
func NewDelegation(p *DelegatePublic, name string) *Delegation {
	return &Delegation{ID: NewNonce(), Delegate: p.id, Signer: p.signer(), Name: name}
}

func (*Delegation) purpose() Purpose { return PurposeDelegation }

func (d *Delegation) validate() error {
	switch {
	case d.ID == [32]byte{}:
		return invalid("delegation: id", "is all zero; take a random one")
	case d.Name == "":
		return invalid("delegation: name", "is empty")
	}
	if err := validText("delegation: name", d.Name, MaxDelegateName); err != nil {
		return err
	}
	if err := validProgram("delegation: policy", d.Policy, maxDelegationText); err != nil {
		return err
	}
	if err := validTime("delegation: issued-at", d.IssuedAt); err != nil {
		return err
	}
	if err := validTime("delegation: not-before", d.NotBefore); err != nil {
		return err
	}
	if err := validTime("delegation: not-after", d.NotAfter); err != nil {
		return err
	}
	if d.NotAfter <= d.NotBefore || d.NotAfter-d.NotBefore > int64(MaxDelegationValidity/time.Second) {
		return invalid("delegation: not-after", "must be after not-before, by %d days at most", MaxDelegationValidity/(24*time.Hour))
	}
	return nil
}

// CheckValidity tells whether the delegation is valid at now (Unix seconds, both
// ends included). Errors are *ValidityError.
func (d *Delegation) CheckValidity(now int64) error {
	return checkValidity("delegation", now, d.NotBefore, d.NotAfter)
}

// DelegatedTicket authorises one management command of a delegate on one VM.
type DelegatedTicket struct {
	Nonce           [32]byte `cbor:"nonce"`     // random, used once
	Command         string   `cbor:"command"`   // management command
	Automaton       string   `cbor:"automaton"` // text with one automaton of that name
	NotBefore       int64    `cbor:"not-before"`
	NotAfter        int64    `cbor:"not-after"`        // Unix seconds, at most MaxValidity after NotBefore
	DeadlineSeconds uint32   `cbor:"deadline-seconds"` // of the session; 0: what the automaton says
	Instance        uint64   `cbor:"instance"`         // the only instance it is for; 0: the one that runs
}

func (t *DelegatedTicket) validate() error {
	return validTicket("delegated ticket", t.Nonce, t.Command, t.Automaton, t.NotBefore, t.NotAfter, t.DeadlineSeconds)
}

// CheckValidity tells whether the ticket is valid at now (Unix seconds, both ends
// included). Errors are *ValidityError.
func (t *DelegatedTicket) CheckValidity(now int64) error {
	return checkValidity("ticket", now, t.NotBefore, t.NotAfter)
}

// DelegatedReceipt says to a delegate what was done under a ticket, and by which
// right. It says nothing of the owner's audit log, which has the same.
type DelegatedReceipt struct {
	Nonce      [32]byte `cbor:"nonce"`      // of the ticket
	Command    string   `cbor:"command"`    // of the ticket
	Delegation [32]byte `cbor:"delegation"` // its id
	Delegate   string   `cbor:"delegate"`   // the name that the owner gave
	Instance   uint64   `cbor:"instance"`   // 0 when the VM never ran
	Verdict    string   `cbor:"verdict"`    // VerdictDone, VerdictRefused, VerdictIncomplete
	Class      string   `cbor:"class"`      // of the error, empty when done
	Reason     string   `cbor:"reason"`     // for people, empty when done
	Calls      []Call   `cbor:"calls"`      // at most MaxCalls, in order
	State      string   `cbor:"state"`      // of the VM afterwards
	HostTime   int64    `cbor:"host-time"`  // Unix seconds
}

// asReceipt has the same rules in the same words.
func (r *DelegatedReceipt) asReceipt() *Receipt {
	return &Receipt{Nonce: r.Nonce, Command: r.Command, Instance: r.Instance, Verdict: r.Verdict, Class: r.Class,
		Reason: r.Reason, Calls: r.Calls, State: r.State, HostTime: r.HostTime}
}

func (r *DelegatedReceipt) normalise() {
	o := r.asReceipt()
	o.normalise() // the calls are shared
	r.Command, r.Class, r.Reason, r.State = o.Command, o.Class, o.Reason, o.State
	r.Delegate = CleanText(r.Delegate, MaxDelegateName)
}

func (r *DelegatedReceipt) validate() error {
	if err := validText("receipt: delegate", r.Delegate, MaxDelegateName); err != nil {
		return err
	}
	return r.asReceipt().validate()
}
