package bond

import "fmt"

// normaliser is a message whose texts come from another domain and are made fit
// for sealing first, so that no hostile text can keep it from being sealed.
type normaliser interface{ normalise() }

// Seal validates a message and seals it under the bond's key of its purpose. The
// texts of a receipt are cleaned and cut in place first (see CleanText). Errors:
// *InvalidError, ErrTooLarge.
func Seal(b *Bond, m Message) ([]byte, error) {
	if n, ok := m.(normaliser); ok {
		n.normalise()
	}
	if err := m.validate(); err != nil {
		return nil, err
	}
	aead, err := b.aead(m.purpose())
	if err != nil {
		return nil, err
	}
	plain, err := encode(m, sizeHint(m))
	if err != nil {
		return nil, err
	}
	defer Wipe(plain)
	h := b.header(m.purpose())
	return encodeEnvelope(h, aead.Seal(nil, nil, plain, h.associatedData()))
}

// sizeHint keeps the buffer of large or secret messages from growing, which would
// leave copies behind.
func sizeHint(m Message) int {
	switch m := m.(type) {
	case *Ticket:
		n := 1024 + len(m.Automaton)
		if m.Policy != nil {
			n += len(*m.Policy)
		}
		return n
	case *Delegation:
		return 1024 + len(m.Policy)
	case *AuditChunk:
		n := 1024
		for _, r := range m.Records {
			n += len(r) + 8
		}
		return n
	case *ConsoleChunk:
		return 1024 + len(m.Data)
	default:
		return 4096
	}
}

// Open opens a sealed message into m, whose type says which purpose is expected,
// and validates it. m must be a zero value and must not be used after an error.
// Errors: ErrOpen, which says no more; *VersionError, when the envelope has a
// version that is not spoken here (not authenticated); ErrTooLarge; and, from a
// sender that had the key, ErrMalformed or *InvalidError.
func Open(b *Bond, sealed []byte, m Message) error {
	h, body, err := decodeEnvelope(sealed)
	if err != nil {
		return openError(err)
	}
	if h != b.header(m.purpose()) {
		return ErrOpen
	}
	aead, err := b.aead(h.Purpose)
	if err != nil {
		return err
	}
	plain, err := aead.Open(nil, nil, body, h.associatedData())
	if err != nil {
		return ErrOpen
	}
	defer Wipe(plain)
	if err := decodeStrict(plain, m); err != nil {
		return fmt.Errorf("%w: %s", err, h.Purpose)
	}
	return m.validate()
}

// normalise makes the texts of a receipt fit: they hold what an untrusted caller
// of the gate sent. When they are too long together, arguments become hashes
// and details are cut, so that MaxCalls calls always fit MaxReceipt.
func (r *Receipt) normalise() {
	r.Command = CleanText(r.Command, MaxCommand)
	r.Class = CleanText(r.Class, MaxClass)
	r.Reason = CleanText(r.Reason, MaxReason)
	r.State = CleanText(r.State, MaxState)
	total := 0
	for i := range r.Calls {
		c := &r.Calls[i]
		c.Command = CleanText(c.Command, MaxCommand)
		c.Detail = CleanText(c.Detail, MaxDetail)
		c.Arguments = CallArguments([]byte(c.Arguments))
		total += len(c.Command) + len(c.Detail) + len(c.Arguments) + callOverhead
	}
	if total <= MaxReceipt-receiptOverhead {
		return
	}
	for i := range r.Calls {
		c := &r.Calls[i]
		c.Detail = CleanText(c.Detail, shortDetail)
		if len(c.Arguments) > len(argumentDigestPrefix)+64 {
			c.Arguments = argumentDigest(c.Arguments)
		}
	}
}

const (
	callOverhead    = 128 // field names, result hash, lengths
	receiptOverhead = 8 << 10
	shortDetail     = 128
)
