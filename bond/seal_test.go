package bond

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"sync"
	"testing"
)

// TestKeyScheduleByHand computes K and the purpose keys of the vectors with HMAC
// alone, as RFC 5869 writes it.
func TestKeyScheduleByHand(t *testing.T) {
	mac := func(key []byte, parts ...string) []byte {
		h := hmac.New(sha256.New, key)
		for _, p := range parts {
			h.Write([]byte(p))
		}
		return h.Sum(nil)
	}
	v := loadVectors(t)
	prk := mac(unhex(t, v.Transcript), string(unhex(t, v.Secret)), string(unhex(t, v.BootVolumeKey)))
	k := mac(prk, "uvbond v1 bond key", "\x01")
	if hex.EncodeToString(k) != v.BondKey {
		t.Error("K differs")
	}
	for _, m := range v.Messages {
		if hex.EncodeToString(mac(k, "uvbond v1 "+string(m.Purpose), "\x01")) != m.Key {
			t.Errorf("key for %s differs", m.Purpose)
		}
	}
	h := sha256.New()
	h.Write([]byte("uvbond v1 transcript"))
	for _, part := range []string{v.HostPublic, v.Registration.Sealed} {
		b := unhex(t, part)
		h.Write([]byte{0, 0, 0, 0, 0, byte(len(b) >> 16), byte(len(b) >> 8), byte(len(b))})
		h.Write(b)
	}
	if hex.EncodeToString(h.Sum(nil)) != v.Transcript {
		t.Error("transcript differs")
	}
}

func TestSealOpen(t *testing.T) {
	b := fixtureBond(t, 1)
	blanks := blankMessages()
	for i, m := range fixtureMessages(b.Transcript()) {
		sealed := mustSeal(t, b, m)
		if bytes.Equal(sealed, mustSeal(t, b, m)) {
			t.Errorf("%s: two seals are equal", m.purpose())
		}
		h, err := PeekHeader(sealed)
		if err != nil || h != b.header(m.purpose()) {
			t.Errorf("%s: header %v, %v", m.purpose(), h, err)
		}
		if err := Open(b, sealed, blanks[i]); err != nil {
			t.Errorf("%s: %v", m.purpose(), err)
		}
		if !sameMessage(m, blanks[i]) {
			t.Errorf("%s: came out different", m.purpose())
		}
	}
}

// TestPurposeMatrix opens every message as every other type, as it is and with
// the purpose in the header rewritten to the one expected.
func TestPurposeMatrix(t *testing.T) {
	b := fixtureBond(t, 1)
	tried := 0
	for _, m := range fixtureMessages(b.Transcript()) {
		sealed := mustSeal(t, b, m)
		_, body, err := decodeEnvelope(sealed)
		if err != nil {
			t.Fatal(err)
		}
		for _, as := range blankMessages() {
			if as.purpose() == m.purpose() {
				continue
			}
			tried++
			if err := Open(b, sealed, as); !errors.Is(err, ErrOpen) {
				t.Errorf("%s opened as %s: %v", m.purpose(), as.purpose(), err)
			}
			forged, err := encodeEnvelope(b.header(as.purpose()), body)
			if err != nil {
				t.Fatal(err)
			}
			if err := Open(b, forged, as); !errors.Is(err, ErrOpen) {
				t.Errorf("%s relabelled opened as %s: %v", m.purpose(), as.purpose(), err)
			}
		}
	}
	if tried != 8*7 {
		t.Errorf("tried %d pairs", tried)
	}
}

// TestRegistrationMatrix does the same across HPKE and K.
func TestRegistrationMatrix(t *testing.T) {
	v := loadVectors(t)
	host, err := ParseHostKey(NewSecret(unhex(t, v.HostKey)))
	if err != nil {
		t.Fatal(err)
	}
	reg := unhex(t, v.Registration.Sealed)
	_, b, err := OpenRegistration(host, reg)
	if err != nil {
		t.Fatal(err)
	}
	_, body, _ := decodeEnvelope(reg)
	for _, as := range blankMessages() {
		if err := Open(b, reg, as); !errors.Is(err, ErrOpen) {
			t.Errorf("registration opened as %s: %v", as.purpose(), err)
		}
		forged := mustEncode(wireEnvelope{Version: 1, Purpose: as.purpose(), Tenant: b.tenant, Host: b.host, VM: b.vm, Body: body})
		if err := Open(b, forged, as); !errors.Is(err, ErrOpen) {
			t.Errorf("registration relabelled opened as %s: %v", as.purpose(), err)
		}
	}
	for _, m := range v.Messages {
		sealed := unhex(t, m.Sealed)
		if _, _, err := OpenRegistration(host, sealed); !errors.Is(err, ErrOpen) {
			t.Errorf("%s opened as registration: %v", m.Purpose, err)
		}
		_, body, _ := decodeEnvelope(sealed)
		forged, err := encodeEnvelope(b.header(PurposeRegistration), body)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := OpenRegistration(host, forged); !errors.Is(err, ErrOpen) {
			t.Errorf("%s relabelled opened as registration: %v", m.Purpose, err)
		}
	}
}

// mutations returns copies of a sealed message, each with one header field changed, with
// its name.
func mutations(t testing.TB, sealed []byte) map[string][]byte {
	t.Helper()
	h, body, err := decodeEnvelope(sealed)
	if err != nil {
		t.Fatal(err)
	}
	env := func(change func(*Header)) []byte {
		c := h
		change(&c)
		return mustEncode(wireEnvelope{Version: c.Version, Purpose: c.Purpose, Tenant: c.Tenant, Host: c.Host, VM: c.VM, Body: body})
	}
	out := map[string][]byte{"purpose unknown": env(func(h *Header) { h.Purpose = "pardon" })}
	for i := range 32 {
		out["tenant "+string(rune('0'+i))] = env(func(h *Header) { h.Tenant[i] ^= 1 })
		out["host "+string(rune('0'+i))] = env(func(h *Header) { h.Host[i] ^= 0x80 })
	}
	for i := range 16 {
		out["vm "+string(rune('0'+i))] = env(func(h *Header) { h.VM[i] ^= 1 })
	}
	return out
}

func TestHeaderFlipped(t *testing.T) {
	b := fixtureBond(t, 1)
	blanks := blankMessages()
	for i, m := range fixtureMessages(b.Transcript()) {
		sealed := mustSeal(t, b, m)
		for name, bad := range mutations(t, sealed) {
			if err := Open(b, bad, blanks[i]); !errors.Is(err, ErrOpen) {
				t.Errorf("%s with %s changed: %v", m.purpose(), name, err)
			}
		}
		h, body, _ := decodeEnvelope(sealed)
		bad := mustEncode(wireEnvelope{Version: 2, Purpose: h.Purpose, Tenant: h.Tenant, Host: h.Host, VM: h.VM, Body: body})
		var version *VersionError
		if err := Open(b, bad, blanks[i]); !errors.As(err, &version) || version.Have[0] != 2 {
			t.Errorf("%s with version 2: %v", m.purpose(), err)
		}
	}
}

// TestHeaderIsAuthenticated changes the bond along with the header, so that only
// the associated data can tell.
func TestHeaderIsAuthenticated(t *testing.T) {
	b := fixtureBond(t, 1)
	sealed := mustSeal(t, b, fixtureMessages(b.Transcript())[2])
	h, body, _ := decodeEnvelope(sealed)
	for name, change := range map[string]func(*Header){
		"tenant": func(h *Header) { h.Tenant[0]++ }, "host": func(h *Header) { h.Host[0]++ }, "vm": func(h *Header) { h.VM[0]++ },
	} {
		c := h
		change(&c)
		other := newBond(c, b.transcript, b.key.Clone())
		forged, err := encodeEnvelope(c, body)
		if err != nil {
			t.Fatal(err)
		}
		if err := Open(other, forged, new(Descriptor)); !errors.Is(err, ErrOpen) {
			t.Errorf("%s is not authenticated: %v", name, err)
		}
	}
}

func TestBytesFlipped(t *testing.T) {
	b := fixtureBond(t, 1)
	blanks := blankMessages()
	for i, m := range fixtureMessages(b.Transcript()) {
		sealed := mustSeal(t, b, m)
		for at := range sealed {
			bad := bytes.Clone(sealed)
			bad[at] ^= 1 << (at % 8)
			err := Open(b, bad, blanks[i])
			var version *VersionError
			if !errors.Is(err, ErrOpen) && !errors.As(err, &version) {
				t.Fatalf("%s: byte %d flipped: %v", m.purpose(), at, err)
			}
		}
	}
}

func TestTruncatedAndTrailing(t *testing.T) {
	b := fixtureBond(t, 1)
	blanks := blankMessages()
	for i, m := range fixtureMessages(b.Transcript()) {
		sealed := mustSeal(t, b, m)
		for n := range sealed {
			if err := Open(b, sealed[:n], blanks[i]); !errors.Is(err, ErrOpen) {
				t.Fatalf("%s cut to %d: %v", m.purpose(), n, err)
			}
		}
		if err := Open(b, append(bytes.Clone(sealed), 0), blanks[i]); !errors.Is(err, ErrOpen) {
			t.Errorf("%s with a byte after it: %v", m.purpose(), err)
		}
		// A body shortened inside a well-formed envelope.
		h, body, _ := decodeEnvelope(sealed)
		for _, n := range []int{0, 11, 12, 27, 28, len(body) - 1} {
			short, _ := encodeEnvelope(h, body[:n])
			if err := Open(b, short, blanks[i]); !errors.Is(err, ErrOpen) {
				t.Errorf("%s with a body of %d: %v", m.purpose(), n, err)
			}
		}
	}
}

func TestWrongBond(t *testing.T) {
	b, other := fixtureBond(t, 1), fixtureBond(t, 2)
	sameIDs := newBond(b.header(""), b.transcript, RandomSecret(keySize))
	blanks := blankMessages()
	for i, m := range fixtureMessages(b.Transcript()) {
		sealed := mustSeal(t, b, m)
		if err := Open(other, sealed, blanks[i]); !errors.Is(err, ErrOpen) {
			t.Errorf("%s opened under another VM's bond: %v", m.purpose(), err)
		}
		if err := Open(sameIDs, sealed, blanks[i]); !errors.Is(err, ErrOpen) {
			t.Errorf("%s opened under another key: %v", m.purpose(), err)
		}
		_, body, _ := decodeEnvelope(sealed)
		moved, _ := encodeEnvelope(other.header(m.purpose()), body)
		if err := Open(other, moved, blanks[i]); !errors.Is(err, ErrOpen) {
			t.Errorf("%s redirected to another VM opened: %v", m.purpose(), err)
		}
	}
}

func TestSealTooLarge(t *testing.T) {
	b := fixtureBond(t, 1)
	big := strings.Repeat("a", MaxAutomaton)
	ticket := fixtureMessages(b.Transcript())[3].(*Ticket)
	ticket.Automaton, ticket.Policy = big, &big
	if _, err := Seal(b, ticket); !errors.Is(err, ErrTooLarge) {
		t.Errorf("ticket of 128 KiB of text: %v", err)
	}
	// The limit also holds for what arrives, before it is opened.
	huge := mustEncode(wireEnvelope{Version: 1, Purpose: PurposeTicket, Tenant: b.tenant, Host: b.host, VM: b.vm, Body: make([]byte, MaxTicket)})
	if err := Open(b, huge, new(Ticket)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("opening: %v", err)
	}
	if _, err := PeekHeader(make([]byte, maxSealed+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("peeking: %v", err)
	}
}

// TestLargestOfEach shows that every message fits its limit with its parts at
// theirs.
func TestLargestOfEach(t *testing.T) {
	b := fixtureBond(t, 1)
	m := fixtureMessages(b.Transcript())
	m[0].(*Confirmation).Policy = strings.Repeat("p", MaxPolicy)
	m[1].(*BootTicket).Automaton = strings.Repeat("a", MaxAutomaton)
	m[3].(*Ticket).Automaton = strings.Repeat("a", MaxAutomaton)
	receipt := m[4].(*Receipt)
	receipt.Calls = nil
	for range MaxCalls {
		receipt.Calls = append(receipt.Calls, Call{
			Command: strings.Repeat("c", 2*MaxCommand), Verdict: CallRefused,
			Arguments: strings.Repeat("\x01", 5000), Detail: strings.Repeat("d", 5000),
		})
	}
	m[6].(*ConsoleChunk).Data, m[6].(*ConsoleChunk).End = make([]byte, MaxConsole), 10+MaxConsole
	blanks := blankMessages()
	for i := range m {
		if err := Open(b, mustSeal(t, b, m[i]), blanks[i]); err != nil {
			t.Errorf("%s: %v", m[i].purpose(), err)
		}
	}
	if got := blanks[4].(*Receipt).Calls[0].Arguments; !strings.HasPrefix(got, "sha256:") {
		t.Errorf("control characters stand in the receipt: %.20q", got)
	}
}

func TestWipedBond(t *testing.T) {
	b := fixtureBond(t, 1)
	sealed := mustSeal(t, b, fixtureMessages(b.Transcript())[2])
	b.Wipe()
	b.Wipe()
	if _, err := Seal(b, fixtureMessages(b.Transcript())[2]); err == nil {
		t.Error("a wiped bond seals")
	}
	if err := Open(b, sealed, new(Descriptor)); err == nil {
		t.Error("a wiped bond opens")
	}
}

// TestConcurrent is for the race detector: a daemon uses one bond from many goroutines.
func TestConcurrent(t *testing.T) {
	b := fixtureBond(t, 1)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i, m := range fixtureMessages(b.Transcript()) {
				sealed, err := Seal(b, m)
				if err == nil {
					err = Open(b, sealed, blankMessages()[i])
				}
				var wiped *InvalidError
				if err != nil && !errors.As(err, &wiped) {
					t.Error(err)
				}
			}
			b.Export().Wipe()
			b.Wipe()
		})
	}
	wg.Wait()
}

func TestExportImport(t *testing.T) {
	b := fixtureBond(t, 1)
	again, err := ImportBond(b.Export())
	if err != nil {
		t.Fatal(err)
	}
	if err := Open(again, mustSeal(t, b, fixtureMessages(b.Transcript())[2]), new(Descriptor)); err != nil {
		t.Error(err)
	}
	raw := b.Export().Bytes()
	for n := range raw {
		if _, err := ImportBond(NewSecret(raw[:n])); err == nil {
			t.Fatalf("bond cut to %d imported", n)
		}
	}
	if _, err := ImportBond(RandomSecret(5000)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("large: %v", err)
	}
	w := wireBond{Version: 9, Key: make([]byte, 32)}
	var version *VersionError
	if _, err := ImportBond(NewSecret(mustEncode(w))); !errors.As(err, &version) {
		t.Errorf("version 9: %v", err)
	}
}
