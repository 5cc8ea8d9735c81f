package bond

import (
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha256"
	"fmt"
	"slices"
)

const (
	labelDelegationKey   = labelPrefix + "delegation key "
	labelDelegatedTicket = labelPrefix + "delegated ticket"
)

// Grant is what a delegate holds: the sealed delegation, which only the
// hypervisor opens, what it says, and the key under which the delegate and the
// hypervisor speak. The owner can derive that key too; the delegate's signature on
// every ticket tells the two apart.
type Grant struct {
	header     Header // purpose empty
	capability []byte // the sealed Delegation
	terms      Delegation
	key        *Secret
}

// wireGrant is the plaintext of a sealed grant.
type wireGrant struct {
	Capability []byte     `cbor:"capability"`
	Key        []byte     `cbor:"key"`
	Terms      Delegation `cbor:"terms"`
}

// wireDelegated is the body of a delegated ticket.
type wireDelegated struct {
	_          struct{} `cbor:",toarray"`
	Capability []byte   // the sealed delegation
	Sealed     []byte   // GCM nonce, ciphertext and tag of a wireSigned
}

// wireSigned is what is sealed of a delegated ticket.
type wireSigned struct {
	Ticket    []byte   `cbor:"ticket"` // encoded DelegatedTicket
	Signature [64]byte `cbor:"signature"`
}

// VM returns the identity of the VM that the grant is for.
func (g *Grant) VM() VMID { return g.header.VM }

// Host returns the identity of the hypervisor that runs it.
func (g *Grant) Host() HostID { return g.header.Host }

// Terms returns what the owner says that the delegation allows. The hypervisor holds
// the delegate to what the sealed one says.
func (g *Grant) Terms() Delegation { return g.terms }

// Wipe zeroes the key.
func (g *Grant) Wipe() { g.key.Wipe() }

// Format prints the VM's identity only, whatever the verb is.
func (g *Grant) Format(f fmt.State, _ rune) {
	_, _ = f.Write([]byte("grant for vm " + g.header.VM.String()))
}

// delegationKey derives the key of one sealed delegation from K: change a byte of
// it and the key is another.
func (b *Bond) delegationKey(capability []byte) (*Secret, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.key.Len() == 0 {
		return nil, invalid("bond", "has been wiped")
	}
	sum := sha256.Sum256(capability)
	raw, err := hkdf.Expand(sha256.New, b.key.Bytes(), labelDelegationKey+string(sum[:]), keySize)
	if err != nil {
		return nil, fmt.Errorf("bond: deriving delegation key: %w", err)
	}
	defer Wipe(raw)
	return NewSecret(raw), nil
}

// SealGrant seals a delegation under the bond, and what the delegate needs to use
// it to the delegate's key. This is the owner's side. d must be for p.
func SealGrant(b *Bond, p *DelegatePublic, d *Delegation) ([]byte, error) {
	if d.Delegate != p.id || d.Signer != p.signer() {
		return nil, invalid("delegation: delegate", "is not the holder of this public key")
	}
	capability, err := Seal(b, d)
	if err != nil {
		return nil, err
	}
	key, err := b.delegationKey(capability)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	plain, err := encode(wireGrant{Capability: capability, Key: key.Bytes(), Terms: *d}, 2*len(capability)+1024)
	if err != nil {
		return nil, err
	}
	defer Wipe(plain)
	h := b.header(PurposeGrant)
	ad := h.associatedData()
	enc, sender, err := hpke.NewSender(p.seal, hpke.HKDFSHA256(), hpke.AES256GCM(), ad)
	if err != nil {
		return nil, fmt.Errorf("bond: sealing grant: %w", err)
	}
	ct, err := sender.Seal(ad, plain)
	if err != nil {
		return nil, fmt.Errorf("bond: sealing grant: %w", err)
	}
	return encodeEnvelope(h, slices.Concat(enc, ct))
}

// OpenGrant opens a grant with the delegate's key. That it opens does not prove
// who made it: the delegate compares its fingerprint with the owner. Errors:
// ErrOpen, ErrTooLarge, *VersionError, ErrMalformed, *InvalidError.
func OpenGrant(k *DelegateKey, sealed []byte) (*Grant, error) {
	h, body, err := decodeEnvelope(sealed)
	if err != nil {
		return nil, openError(err)
	}
	if h.Purpose != PurposeGrant || len(body) < encapsulationSize || k.seal == nil {
		return nil, ErrOpen
	}
	ad := h.associatedData()
	rcpt, err := hpke.NewRecipient(body[:encapsulationSize], k.seal, hpke.HKDFSHA256(), hpke.AES256GCM(), ad)
	if err != nil {
		return nil, ErrOpen
	}
	plain, err := rcpt.Open(ad, body[encapsulationSize:])
	if err != nil {
		return nil, ErrOpen
	}
	defer Wipe(plain)
	return decodeGrant(k, h, plain)
}

func decodeGrant(k *DelegateKey, h Header, plain []byte) (*Grant, error) {
	var w wireGrant
	defer func() { Wipe(w.Key) }()
	if err := decodeStrict(plain, &w); err != nil {
		return nil, fmt.Errorf("%w: grant", err)
	}
	inner, err := PeekHeader(w.Capability)
	want := h
	want.Purpose = PurposeDelegation
	switch {
	case err != nil || inner != want:
		return nil, invalid("grant: capability", "is not a delegation of the same VM")
	case len(w.Key) != keySize:
		return nil, invalid("grant: key", "is %d bytes, want %d", len(w.Key), keySize)
	case w.Terms.Delegate != k.public.id || w.Terms.Signer != k.public.signer():
		return nil, invalid("grant: terms", "name another delegate")
	}
	if err := w.Terms.validate(); err != nil {
		return nil, err
	}
	h.Purpose = ""
	return &Grant{header: h, capability: w.Capability, terms: w.Terms, key: NewSecret(w.Key)}, nil
}

// SealTicket signs and seals a ticket of the delegate. This is the delegate's side.
func (g *Grant) SealTicket(k *DelegateKey, t *DelegatedTicket) ([]byte, error) {
	if err := t.validate(); err != nil {
		return nil, err
	}
	h := g.header
	h.Purpose = PurposeDelegatedTicket
	ticket := mustEncode(t)
	signed := wireSigned{Ticket: ticket}
	copy(signed.Signature[:], ed25519.Sign(k.sign, signedBytes(h, g.capability, ticket)))
	aead, err := newAEAD(g.key, h.Purpose)
	if err != nil {
		return nil, err
	}
	sealed := aead.Seal(nil, nil, mustEncode(signed), h.associatedData())
	return encodeEnvelope(h, mustEncode(wireDelegated{Capability: g.capability, Sealed: sealed}))
}

// signedBytes is what a delegate signs: this ticket, under this delegation, on this VM.
func signedBytes(h Header, capability, ticket []byte) []byte {
	sum := sha256.Sum256(capability)
	return slices.Concat([]byte(labelDelegatedTicket), h.associatedData(), sum[:], ticket)
}

// OpenReceipt opens the answer to a delegate's ticket. Errors are those of Open.
func (g *Grant) OpenReceipt(sealed []byte) (*DelegatedReceipt, error) {
	h, body, err := decodeEnvelope(sealed)
	if err != nil {
		return nil, openError(err)
	}
	want := g.header
	want.Purpose = PurposeDelegatedReceipt
	if h != want {
		return nil, ErrOpen
	}
	aead, err := newAEAD(g.key, h.Purpose)
	if err != nil {
		return nil, err
	}
	r := new(DelegatedReceipt)
	if err := openInto(aead, h, body, r); err != nil {
		return nil, err
	}
	if r.Delegation != g.terms.ID {
		return nil, invalid("receipt: delegation", "is another one")
	}
	return r, r.validate()
}

func openInto(aead cipher.AEAD, h Header, body []byte, v any) error {
	plain, err := aead.Open(nil, nil, body, h.associatedData())
	if err != nil {
		return ErrOpen
	}
	defer Wipe(plain)
	if err := decodeStrict(plain, v); err != nil {
		return fmt.Errorf("%w: %s", err, h.Purpose)
	}
	return nil
}

// Delegated is a delegate's ticket as the hypervisor has opened it.
type Delegated struct {
	Delegation Delegation
	Ticket     DelegatedTicket
	header     Header
	key        *Secret
}

// OpenDelegated opens a delegate's ticket: the delegation under the bond, the
// ticket under the delegation's key, and the signature with the key that the
// delegation names. This is the hypervisor's side; validity, revocation, single use
// and the automaton are still to be checked. Errors are those of Open.
func OpenDelegated(b *Bond, sealed []byte) (*Delegated, error) {
	h, body, err := decodeEnvelope(sealed)
	if err != nil {
		return nil, openError(err)
	}
	var w wireDelegated
	if h != b.header(PurposeDelegatedTicket) || decodeStrict(body, &w) != nil {
		return nil, ErrOpen
	}
	d := &Delegated{header: h}
	if err := Open(b, w.Capability, &d.Delegation); err != nil {
		return nil, ErrOpen
	}
	if d.key, err = b.delegationKey(w.Capability); err != nil {
		return nil, err
	}
	if err := d.openTicket(&w); err != nil {
		d.Wipe()
		return nil, err
	}
	return d, nil
}

func (d *Delegated) openTicket(w *wireDelegated) error {
	aead, err := newAEAD(d.key, PurposeDelegatedTicket)
	if err != nil {
		return err
	}
	var signed wireSigned
	if err := openInto(aead, d.header, w.Sealed, &signed); err != nil {
		return err
	}
	if !ed25519.Verify(d.Delegation.Signer[:], signedBytes(d.header, w.Capability, signed.Ticket), signed.Signature[:]) {
		return ErrOpen
	}
	if err := decodeStrict(signed.Ticket, &d.Ticket); err != nil {
		return fmt.Errorf("%w: %s", err, d.header.Purpose)
	}
	return d.Ticket.validate()
}

// Wipe zeroes the key.
func (d *Delegated) Wipe() { d.key.Wipe() }

// SealReceipt seals the answer for the delegate. Texts are cleaned and cut in
// place first, and what says who was delegated what is filled in.
func (d *Delegated) SealReceipt(r *DelegatedReceipt) ([]byte, error) {
	r.Delegation, r.Delegate = d.Delegation.ID, d.Delegation.Name
	r.normalise()
	if err := r.validate(); err != nil {
		return nil, err
	}
	h := d.header
	h.Purpose = PurposeDelegatedReceipt
	aead, err := newAEAD(d.key, h.Purpose)
	if err != nil {
		return nil, err
	}
	plain, err := encode(r, 4096)
	if err != nil {
		return nil, err
	}
	return encodeEnvelope(h, aead.Seal(nil, nil, plain, h.associatedData()))
}

// wireStoredGrant is what Export writes.
type wireStoredGrant struct {
	Version    uint16     `cbor:"version"`
	Tenant     TenantID   `cbor:"tenant"`
	Host       HostID     `cbor:"host"`
	VM         VMID       `cbor:"vm"`
	Capability []byte     `cbor:"capability"`
	Key        []byte     `cbor:"key"`
	Terms      Delegation `cbor:"terms"`
}

// Export returns the grant for storage. It is as secret as its key.
func (g *Grant) Export() *Secret {
	raw, err := encode(wireStoredGrant{
		Version: g.header.Version, Tenant: g.header.Tenant, Host: g.header.Host, VM: g.header.VM,
		Capability: g.capability, Key: g.key.Bytes(), Terms: g.terms,
	}, 2*MaxDelegation)
	if err != nil {
		panic(err) // it came from such a struct
	}
	defer Wipe(raw)
	return NewSecret(raw)
}

// ImportGrant reads what Export wrote, for the holder of k.
func ImportGrant(k *DelegateKey, s *Secret) (*Grant, error) {
	var w wireStoredGrant
	defer func() { Wipe(w.Key) }()
	if s.Len() > MaxGrant {
		return nil, tooLarge("stored grant", s.Len(), MaxGrant)
	}
	if err := decodeStrict(s.Bytes(), &w); err != nil {
		return nil, fmt.Errorf("%w: stored grant", err)
	}
	h := Header{Version: w.Version, Purpose: PurposeGrant, Tenant: w.Tenant, Host: w.Host, VM: w.VM}
	plain, err := encode(wireGrant{Capability: w.Capability, Key: w.Key, Terms: w.Terms}, s.Len())
	if err != nil {
		return nil, err
	}
	defer Wipe(plain)
	return decodeGrant(k, h, plain)
}

// GrantFingerprint is what owner and delegate compare of a sealed grant, so that the
// delegate knows whose it is: SHA-256 in the form of other fingerprints.
func GrantFingerprint(sealed []byte) string { return HostID(sha256.Sum256(sealed)).Fingerprint() }
