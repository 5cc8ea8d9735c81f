package bond

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// delegated is an owner's bond, a delegate, and what they have of each other.
type delegated struct {
	owner *Bond
	key   *DelegateKey
	grant *Grant
	blob  []byte
}

func delegate(t testing.TB, b *Bond) *delegated {
	t.Helper()
	k := fixtureDelegateKey()
	blob, err := SealGrant(b, k.Public(), fixtureDelegation())
	if err != nil {
		t.Fatal(err)
	}
	g, err := OpenGrant(k, blob)
	if err != nil {
		t.Fatal(err)
	}
	return &delegated{owner: b, key: k, grant: g, blob: blob}
}

func (d *delegated) ticket(t testing.TB) []byte {
	t.Helper()
	sealed, err := d.grant.SealTicket(d.key, fixtureDelegatedTicket())
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

func otherDelegate(t testing.TB) *DelegateKey {
	t.Helper()
	k, err := GenerateDelegateKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestDelegateKey(t *testing.T) {
	k := otherDelegate(t)
	again, err := ParseDelegateKey(k.Secret())
	if err != nil || again.Public().ID() != k.Public().ID() {
		t.Fatalf("read again: %v", err)
	}
	text := k.Public().Text("Bob of  ops")
	p, name, err := ParseDelegateText(text)
	if err != nil || p.ID() != k.Public().ID() || name != "Bob-of-ops" {
		t.Errorf("%s: %v, %q", text, err, name)
	}
	if fmt.Sprintf("%v %+v %s", k, k, k) != strings.TrimSpace(strings.Repeat("delegate key "+k.Public().ID().Fingerprint()+" ", 3)) {
		t.Error("a key prints more than its fingerprint")
	}
	for what, bad := range map[string]string{
		"empty": "", "other form": strings.Replace(text, "v1", "v2", 1), "cut": text[:500], "too many words": strings.TrimSpace(text) + " x",
		"no base64": delegateTextForm + " !!!! bob", "long": text + strings.Repeat(" ", 5000),
		"control": strings.Replace(text, "Bob-of-ops", "b\x1bob", 1),
	} {
		if _, _, err := ParseDelegateText(bad); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	if _, err := ParseDelegateKey(NewSecret(pattern(31, 1))); err == nil {
		t.Error("a short key is accepted")
	}
}

func TestGrantRoundTrip(t *testing.T) {
	b := fixtureBond(t, 1)
	d := delegate(t, b)
	if d.grant.VM() != b.VM() || d.grant.Host() != b.Host() || d.grant.Terms().Name != "bob" {
		t.Errorf("grant of %v", d.grant)
	}
	stored, err := ImportGrant(d.key, d.grant.Export())
	if err != nil {
		t.Fatal(err)
	}
	d.grant = stored
	got, err := OpenDelegated(b, d.ticket(t))
	if err != nil {
		t.Fatal(err)
	}
	if got.Ticket != *fixtureDelegatedTicket() || got.Delegation != *fixtureDelegation() {
		t.Errorf("arrived as %+v", got)
	}
	r := fixtureDelegatedReceipt()
	r.Reason = "a\x1bb"
	sealed, err := got.SealReceipt(r)
	if err != nil {
		t.Fatal(err)
	}
	have, err := d.grant.OpenReceipt(sealed)
	if err != nil || have.Delegate != "bob" || have.Delegation != d.grant.Terms().ID || have.Verdict != VerdictDone || strings.Contains(have.Reason, "\x1b") {
		t.Errorf("receipt %+v, %v", have, err)
	}
	if fmt.Sprint(d.grant) != "grant for vm "+b.VM().String() {
		t.Errorf("a grant prints as %v", d.grant)
	}
	d.grant.Wipe()
	got.Wipe()
	b.Wipe()
	if _, err := OpenDelegated(b, d.blob); err == nil {
		t.Error("a wiped bond opens")
	}
}

// TestDelegatedTicketsElsewhere: a delegation counts on one VM, for one holder,
// and nothing of it can be changed, exchanged or passed on.
func TestDelegatedTicketsElsewhere(t *testing.T) {
	b, other := fixtureBond(t, 1), fixtureBond(t, 2)
	d, e := delegate(t, b), delegate(t, other)
	ticket := d.ticket(t)
	refused := func(what string, sealed []byte, on *Bond) {
		t.Helper()
		if _, err := OpenDelegated(on, sealed); !errors.Is(err, ErrOpen) {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("another VM", ticket, other)
	_, body, err := decodeEnvelope(ticket)
	if err != nil {
		t.Fatal(err)
	}
	relabelled, err := encodeEnvelope(other.header(PurposeDelegatedTicket), body)
	if err != nil {
		t.Fatal(err)
	}
	refused("another VM's header", relabelled, other)

	var w, foreign wireDelegated
	_, otherBody, _ := decodeEnvelope(e.ticket(t))
	if decodeStrict(body, &w) != nil || decodeStrict(otherBody, &foreign) != nil {
		t.Fatal("bodies do not decode")
	}
	wrap := func(capability, sealed []byte) []byte {
		out, err := encodeEnvelope(b.header(PurposeDelegatedTicket), mustEncode(wireDelegated{Capability: capability, Sealed: sealed}))
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	refused("another VM's delegation", wrap(foreign.Capability, w.Sealed), b)
	// The same terms sealed again are another delegation: its key is another.
	refused("a delegation exchanged for its twin", wrap(mustSeal(t, b, fixtureDelegation()), w.Sealed), b)
	refused("an owner's ticket", mustSeal(t, b, fixtureMessages(b.Transcript())[3]), b)
	refused("a grant", d.blob, b)

	// Somebody with the delegation's key and not the delegate's: the owner, or
	// who stole a stored grant.
	thief := otherDelegate(t)
	sealed, err := d.grant.SealTicket(thief, fixtureDelegatedTicket())
	if err != nil {
		t.Fatal(err)
	}
	refused("signed by another", sealed, b)
	signed := wireSigned{Ticket: mustEncode(fixtureDelegatedTicket())}
	copy(signed.Signature[:], ed25519.Sign(d.key.sign, signed.Ticket)) // without label, header and delegation
	aead, err := newAEAD(d.grant.key, PurposeDelegatedTicket)
	if err != nil {
		t.Fatal(err)
	}
	h := b.header(PurposeDelegatedTicket)
	refused("signed without its place", wrap(w.Capability, aead.Seal(nil, nil, mustEncode(signed), h.associatedData())), b)

	// The grant opens for nobody else, and is for nobody else.
	if _, err := OpenGrant(thief, d.blob); !errors.Is(err, ErrOpen) {
		t.Errorf("another's grant: %v", err)
	}
	if _, err := ImportGrant(thief, d.grant.Export()); err == nil {
		t.Error("another's stored grant is taken")
	}
	if _, err := SealGrant(b, thief.Public(), fixtureDelegation()); err == nil {
		t.Error("a delegation is given to somebody it does not name")
	}
}

func TestDelegatedBytesFlipped(t *testing.T) {
	b := fixtureBond(t, 1)
	d := delegate(t, b)
	ticket := d.ticket(t)
	got, err := OpenDelegated(b, ticket)
	if err != nil {
		t.Fatal(err)
	}
	receipt, err := got.SealReceipt(fixtureDelegatedReceipt())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		blob []byte
		open func([]byte) error
	}{
		"grant":   {d.blob, func(x []byte) error { _, err := OpenGrant(d.key, x); return err }},
		"ticket":  {ticket, func(x []byte) error { _, err := OpenDelegated(b, x); return err }},
		"receipt": {receipt, func(x []byte) error { _, err := d.grant.OpenReceipt(x); return err }},
	} {
		if err := c.open(c.blob); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for i := range c.blob {
			bad := bytes.Clone(c.blob)
			bad[i] ^= 1 << (i % 8)
			if c.open(bad) == nil {
				t.Fatalf("%s opens with byte %d changed", name, i)
			}
		}
		for _, n := range []int{0, 1, len(c.blob) / 2, len(c.blob) - 1} {
			if c.open(c.blob[:n]) == nil {
				t.Errorf("%s opens when cut to %d bytes", name, n)
			}
		}
		if c.open(append(bytes.Clone(c.blob), 0)) == nil {
			t.Errorf("%s opens with a byte more", name)
		}
	}
}

// TestDelegatedPurposes: nothing that is sealed for one direction opens in another.
func TestDelegatedPurposes(t *testing.T) {
	b := fixtureBond(t, 1)
	d := delegate(t, b)
	ticket := d.ticket(t)
	_, body, _ := decodeEnvelope(ticket)
	for _, p := range []Purpose{PurposeTicket, PurposeReceipt, PurposeDelegation, PurposeDelegatedReceipt, PurposeGrant} {
		h := b.header(p)
		forged := mustEncode(wireEnvelope{Version: h.Version, Purpose: p, Tenant: h.Tenant, Host: h.Host, VM: h.VM, Body: body})
		if _, err := d.grant.OpenReceipt(forged); err == nil {
			t.Errorf("a ticket as %s opens as a receipt", p)
		}
		if _, err := OpenDelegated(b, forged); err == nil {
			t.Errorf("a ticket as %s opens as a ticket", p)
		}
		for _, m := range blankMessages() {
			if Open(b, forged, m) == nil {
				t.Errorf("a ticket as %s opens as %s", p, m.purpose())
			}
		}
	}
	// The owner's receipts are not the delegate's, even for the same bond.
	if _, err := d.grant.OpenReceipt(mustSeal(t, b, fixtureMessages(b.Transcript())[4])); !errors.Is(err, ErrOpen) {
		t.Errorf("an owner's receipt: %v", err)
	}
}

func TestDelegationValidation(t *testing.T) {
	b := fixtureBond(t, 1)
	for name, bend := range map[string]func(*Delegation){
		"no id":          func(d *Delegation) { d.ID = [32]byte{} },
		"no name":        func(d *Delegation) { d.Name = "" },
		"control name":   func(d *Delegation) { d.Name = "a\nb" },
		"long name":      func(d *Delegation) { d.Name = strings.Repeat("x", MaxDelegateName+1) },
		"large policy":   func(d *Delegation) { d.Policy = strings.Repeat("#", maxDelegationText+1) },
		"control policy": func(d *Delegation) { d.Policy = "\x1b" },
		"no time":        func(d *Delegation) { d.NotAfter = d.NotBefore },
		"too long":       func(d *Delegation) { d.NotAfter = d.NotBefore + int64(MaxDelegationValidity.Seconds()) + 1 },
		"negative":       func(d *Delegation) { d.IssuedAt = -1 },
	} {
		d := fixtureDelegation()
		bend(d)
		if _, err := Seal(b, d); err == nil {
			t.Errorf("%s: sealed", name)
		}
	}
	d := fixtureDelegation()
	for at, ok := range map[int64]bool{d.NotBefore - 1: false, d.NotBefore: true, d.NotAfter: true, d.NotAfter + 1: false} {
		if err := d.CheckValidity(at); (err == nil) != ok {
			t.Errorf("at %d: %v", at, err)
		}
	}
}

func FuzzOpenDelegated(f *testing.F) {
	v := loadVectors(f)
	b, err := ImportBond(NewSecret(unhex(f, v.Bond)))
	if err != nil {
		f.Fatal(err)
	}
	k := fixtureDelegateKey()
	g, err := ImportGrant(k, NewSecret(unhex(f, v.Delegate.StoredGrant)))
	if err != nil {
		f.Fatal(err)
	}
	for _, m := range []vectorMessage{v.Delegate.Ticket, v.Delegate.Grant, v.Delegate.Receipt} {
		f.Add(unhex(f, m.Sealed))
		f.Add(unhex(f, m.Plain))
	}
	_, body, err := decodeEnvelope(unhex(f, v.Delegate.Ticket.Sealed))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	aead, err := newAEAD(g.key, PurposeDelegatedTicket)
	if err != nil {
		f.Fatal(err)
	}
	h := b.header(PurposeDelegatedTicket)
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = OpenDelegated(b, data)
		_, _ = OpenGrant(k, data)
		_, _ = g.OpenReceipt(data)
		_, _ = decodeGrant(k, b.header(PurposeGrant), data)
		if len(data) > MaxTicket/2 {
			return
		}
		// As a body, and as a ticket that the delegate itself signed.
		if blob, err := encodeEnvelope(h, data); err == nil {
			_, _ = OpenDelegated(b, blob)
		}
		signed := wireSigned{Ticket: data}
		copy(signed.Signature[:], ed25519.Sign(k.sign, signedBytes(h, g.capability, data)))
		sealed := aead.Seal(nil, nil, mustEncode(signed), h.associatedData())
		blob, err := encodeEnvelope(h, mustEncode(wireDelegated{Capability: g.capability, Sealed: sealed}))
		if err != nil {
			return
		}
		d, err := OpenDelegated(b, blob)
		if errors.Is(err, ErrOpen) {
			t.Fatal("a right seal does not open")
		}
		if err == nil && !bytes.Equal(mustEncode(&d.Ticket), data) {
			t.Fatal("accepted another encoding")
		}
	})
}

func FuzzImportGrant(f *testing.F) {
	v := loadVectors(f)
	k := fixtureDelegateKey()
	f.Add(unhex(f, v.Delegate.StoredGrant))
	f.Fuzz(func(t *testing.T, data []byte) {
		g, err := ImportGrant(k, NewSecret(data))
		if err == nil && !bytes.Equal(g.Export().Bytes(), data) {
			t.Fatal("accepted another encoding")
		}
	})
}

func FuzzParseDelegateText(f *testing.F) {
	f.Add(fixtureDelegateKey().Public().Text("bob"))
	f.Add(delegateTextForm + " AAAA")
	f.Fuzz(func(t *testing.T, text string) {
		p, name, err := ParseDelegateText(text)
		if err != nil {
			return
		}
		again, same, err := ParseDelegateText(p.Text(name))
		if err != nil || again.ID() != p.ID() || same != name {
			t.Fatalf("%q is read again as %q, %v", name, same, err)
		}
	})
}
