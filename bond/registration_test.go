package bond

import (
	"bytes"
	"crypto/hpke"
	"errors"
	"slices"
	"testing"
)

type pair struct {
	host   *HostKey
	tenant TenantID
	vm     VMID
}

func newPair(t testing.TB) pair {
	t.Helper()
	host, err := GenerateHostKey()
	if err != nil {
		t.Fatal(err)
	}
	return pair{host: host, tenant: NewTenantID(), vm: NewVMID()}
}

func (p pair) seal(t testing.TB, r *Registration) ([]byte, *Bond) {
	t.Helper()
	sealed, b, err := SealRegistration(p.host.Public(), p.tenant, p.vm, r)
	if err != nil {
		t.Fatal(err)
	}
	return sealed, b
}

// forge seals a registration without the checks of SealRegistration, as a hostile tenant
// would.
func (p pair) forge(t testing.TB, plain []byte) []byte {
	t.Helper()
	h := Header{Version: 1, Purpose: PurposeRegistration, Tenant: p.tenant, Host: p.host.Public().ID(), VM: p.vm}
	ad := h.associatedData()
	enc, s, err := hpke.NewSender(p.host.Public().key, hpke.HKDFSHA256(), hpke.AES256GCM(), ad)
	if err != nil {
		t.Fatal(err)
	}
	ct, err := s.Seal(ad, plain)
	if err != nil {
		t.Fatal(err)
	}
	return mustEncode(wireEnvelope{Version: 1, Purpose: h.Purpose, Tenant: h.Tenant, Host: h.Host, VM: h.VM, Body: slices.Concat(enc, ct)})
}

func TestRegistration(t *testing.T) {
	p := newPair(t)
	r := fixtureRegistration()
	r.Known = nil // filled in
	sealed, tenantBond := p.seal(t, r)
	got, hostBond, err := OpenRegistration(p.host, sealed)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := r.Export()
	if have, _ := got.Export(); !have.Equal(want) {
		t.Error("registration came out different")
	}
	if !tenantBond.Export().Equal(hostBond.Export()) {
		t.Error("the two ends derive different bonds")
	}
	c := new(Confirmation)
	if err := Open(tenantBond, mustSeal(t, hostBond, NewConfirmation(hostBond, got, fixtureTime)), c); err != nil {
		t.Fatal(err)
	}
	if err := c.Check(tenantBond, r); err != nil {
		t.Error(err)
	}
	got.Wipe()
	if got.Secret.Len() != 0 || got.Spec.Disks[0].VolumeKey.Len() != 0 || got.Spec.Disks[1].VolumeKey.Len() != 0 {
		t.Error("Wipe left a secret")
	}
}

// TestSwappedKey is the central claim: whoever puts another key for the boot disk, or
// another registration secret, in place of the tenant's gets no confirmation that opens.
func TestSwappedKey(t *testing.T) {
	p := newPair(t)
	sealed, tenantBond := p.seal(t, fixtureRegistration())
	for name, change := range map[string]func(*Registration){
		"boot volume key": func(r *Registration) { r.Spec.Disks[0].VolumeKey = NewSecret(pattern(64, 0x81)) },
		"secret":          func(r *Registration) { r.Secret = RandomSecret(32) },
		"nothing else":    func(*Registration) {}, // sealed anew: another transcript
	} {
		r := fixtureRegistration()
		change(r)
		swapped, _ := p.seal(t, r)
		got, hostBond, err := OpenRegistration(p.host, swapped)
		if err != nil {
			t.Fatal(err)
		}
		c := mustSeal(t, hostBond, NewConfirmation(hostBond, got, fixtureTime))
		if err := Open(tenantBond, c, new(Confirmation)); !errors.Is(err, ErrOpen) {
			t.Errorf("%s swapped: confirmation opens: %v", name, err)
		}
	}
	// With the very registration that was sent, K depends on the volume key alone.
	r, _, err := OpenRegistration(p.host, sealed)
	if err != nil {
		t.Fatal(err)
	}
	r.Spec.Disks[0].VolumeKey = NewSecret(pattern(64, 0x81))
	h, _ := PeekHeader(sealed)
	hostBond, err := r.bond(h, p.host.Public(), sealed)
	if err != nil {
		t.Fatal(err)
	}
	c := mustSeal(t, hostBond, NewConfirmation(hostBond, r, fixtureTime))
	if err := Open(tenantBond, c, new(Confirmation)); !errors.Is(err, ErrOpen) {
		t.Errorf("same transcript, other volume key: confirmation opens: %v", err)
	}
}

func TestConfirmationCheck(t *testing.T) {
	p := newPair(t)
	r := fixtureRegistration()
	_, b := p.seal(t, r)
	for name, c := range map[string]struct {
		change func(*Confirmation)
		want   error
	}{
		"transcript": {func(c *Confirmation) { c.Transcript[31]++ }, ErrConfirmation},
		"policy":     {func(c *Confirmation) { c.Policy = "" }, ErrConfirmation},
		"versions":   {func(c *Confirmation) { c.Versions = []uint16{1, 2} }, ErrDowngrade},
	} {
		conf := NewConfirmation(b, r, fixtureTime)
		c.change(conf)
		if err := conf.Check(b, r); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestRegistrationRefused(t *testing.T) {
	p := newPair(t)
	sealed, _ := p.seal(t, fixtureRegistration())
	other := newPair(t)
	if _, _, err := OpenRegistration(other.host, sealed); !errors.Is(err, ErrOpen) {
		t.Errorf("another host: %v", err)
	}
	for name, bad := range mutations(t, sealed) {
		if _, _, err := OpenRegistration(p.host, bad); !errors.Is(err, ErrOpen) && !errors.Is(err, ErrMalformed) {
			t.Errorf("%s changed: %v", name, err)
		}
	}
	for at := 0; at < len(sealed); at += 13 {
		bad := bytes.Clone(sealed)
		bad[at] ^= 4
		if _, _, err := OpenRegistration(p.host, bad); err == nil {
			t.Fatalf("byte %d flipped, and it opens", at)
		}
	}
	for n := 0; n < len(sealed); n += 17 {
		if _, _, err := OpenRegistration(p.host, sealed[:n]); err == nil {
			t.Fatalf("cut to %d, and it opens", n)
		}
	}
	if _, _, err := OpenRegistration(p.host, append(bytes.Clone(sealed), 0)); !errors.Is(err, ErrMalformed) {
		t.Errorf("trailing byte: %v", err)
	}
	if _, _, err := OpenRegistration(p.host, make([]byte, MaxRegistration+1)); err == nil {
		t.Error("too large, and it opens")
	}
	huge := mustEncode(wireEnvelope{Version: 1, Purpose: PurposeRegistration, Body: make([]byte, MaxRegistration)})
	if _, _, err := OpenRegistration(p.host, huge); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	host, _ := ParseHostKey(p.host.Secret())
	host.Wipe()
	if _, _, err := OpenRegistration(host, sealed); !errors.Is(err, ErrOpen) {
		t.Errorf("wiped host key: %v", err)
	}
}

func TestHostileRegistration(t *testing.T) {
	p := newPair(t)
	for name, c := range map[string]struct {
		change func(*Registration)
		want   error
	}{
		"offered more":         {func(r *Registration) { r.Offered = []uint16{1, 2} }, ErrDowngrade},
		"offered other":        {func(r *Registration) { r.Offered = []uint16{2} }, ErrDowngrade},
		"chosen other":         {func(r *Registration) { r.Chosen = 2 }, ErrDowngrade},
		"knows none in common": {func(r *Registration) { r.Known = []uint16{2} }, ErrDowngrade},
		"no offer":             {func(r *Registration) { r.Offered = nil }, nil},
		"short secret":         {func(r *Registration) { r.Secret = RandomSecret(31) }, nil},
		"no disk":              {func(r *Registration) { r.Spec.Disks = nil }, nil},
		"no boot disk":         {func(r *Registration) { r.Spec.Disks[0].Boot = false }, nil},
		"short volume key":     {func(r *Registration) { r.Spec.Disks[0].VolumeKey = RandomSecret(16) }, nil},
		"time before 1970":     {func(r *Registration) { r.IssuedAt = -1 }, nil},
	} {
		r := fixtureRegistration()
		c.change(r)
		plain, err := r.encode()
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = OpenRegistration(p.host, p.forge(t, plain))
		var bad *InvalidError
		if c.want != nil && !errors.Is(err, c.want) || c.want == nil && !errors.As(err, &bad) {
			t.Errorf("%s: %v", name, err)
		}
		if _, _, err := SealRegistration(p.host.Public(), p.tenant, p.vm, r); err == nil && name != "offered more" {
			t.Errorf("%s: SealRegistration seals it", name)
		}
	}
	if _, _, err := SealRegistration(p.host.Public(), p.tenant, VMID{}, fixtureRegistration()); err == nil {
		t.Error("no VM identity, and it seals")
	}
}

func TestNegotiation(t *testing.T) {
	for _, c := range []struct {
		name                      string
		offered, known, supported []uint16
		chosen, header            uint16
		ok                        bool
	}{
		{"both know one", []uint16{1}, []uint16{1}, []uint16{1}, 1, 1, true},
		{"both know two", []uint16{1, 2}, []uint16{1, 2}, []uint16{1, 2}, 2, 2, true},
		{"old client", []uint16{1, 2}, []uint16{1}, []uint16{1, 2}, 1, 1, true},
		{"old host", []uint16{1}, []uint16{1, 2}, []uint16{1}, 1, 1, true},
		{"offer stripped", []uint16{1}, []uint16{1, 2}, []uint16{1, 2}, 1, 1, false},
		{"offer inflated", []uint16{1, 2, 3}, []uint16{1, 2}, []uint16{1, 2}, 2, 2, false},
		{"chose too low", []uint16{1, 2}, []uint16{1, 2}, []uint16{1, 2}, 1, 1, false},
		{"header too low", []uint16{1, 2}, []uint16{1, 2}, []uint16{1, 2}, 2, 1, false},
		{"nothing in common", []uint16{1, 2}, []uint16{3}, []uint16{1, 2}, 3, 3, false},
	} {
		err := checkNegotiation(c.offered, c.known, c.chosen, c.header, c.supported)
		if c.ok != (err == nil) || (err != nil && !errors.Is(err, ErrDowngrade)) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if v, err := ChooseVersion([]uint16{1, 2, 7}); err != nil || v != 1 {
		t.Errorf("ChooseVersion: %d, %v", v, err)
	}
	var version *VersionError
	if _, err := ChooseVersion([]uint16{2, 3}); !errors.As(err, &version) {
		t.Errorf("ChooseVersion without a common one: %v", err)
	}
	for _, bad := range [][]uint16{nil, {0}, {2, 1}, {1, 1}, make([]uint16, 17)} {
		if _, err := ChooseVersion(bad); err == nil {
			t.Errorf("ChooseVersion accepts %v", bad)
		}
	}
}

func TestImportRegistration(t *testing.T) {
	t.Run("least", func(t *testing.T) { testImportRegistration(t, fixtureRegistration()) })
	t.Run("full", func(t *testing.T) { testImportRegistration(t, fullRegistration()) })
}

func testImportRegistration(t *testing.T, was *Registration) {
	s, err := was.Export()
	if err != nil {
		t.Fatal(err)
	}
	r, err := ImportRegistration(s)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := r.Export(); !again.Equal(s) {
		t.Error("came out different")
	}
	if (r.Spec.Seed == nil) != (was.Spec.Seed == nil) || r.Spec.Seed.Size() != was.Spec.Seed.Size() || r.Spec.Screen != was.Spec.Screen || r.Spec.ChannelMAC != was.Spec.ChannelMAC {
		t.Errorf("spec came out as %+v", r.Spec)
	}
	r.Wipe()
	if r.Spec.Seed.Size() != 0 || r.Spec.Disks[0].VolumeKey.Len() != 0 {
		t.Error("not wiped")
	}
	if _, err := ImportRegistration(NewSecret(s.Bytes()[:s.Len()-1])); !errors.Is(err, ErrMalformed) {
		t.Errorf("cut: %v", err)
	}
}

// TestRegistrationBuffer shows that the buffer which the secrets are encoded into does
// not grow, since that would leave copies behind.
func TestRegistrationBuffer(t *testing.T) {
	r := fullRegistration()
	base := r.Spec.Disks[0].Base
	r.Spec.Disks = nil
	for i := range MaxDisks {
		d := fixtureDisk("abcdefghijklmnop", i == 0, byte(i))
		d.Base = base
		d.Digest.Salt, d.Digest.Value = make([]byte, maxDigestPart), make([]byte, maxDigestPart)
		d.Digest.Hash = "a-very-long-name-of-a-hash-12345"
		r.Spec.Disks = append(r.Spec.Disks, d)
		r.Spec.NICs = append(r.Spec.NICs, NIC{Model: "virtio"})
	}
	plain, err := r.encode()
	if err != nil {
		t.Fatal(err)
	}
	if cap(plain) != registrationSlack+len(r.Policy)+r.Spec.Seed.Size() {
		t.Errorf("buffer grew to %d", cap(plain))
	}
}
