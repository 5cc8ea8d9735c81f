package bond

import (
	"bytes"
	"errors"
	"testing"
)

// Seeds are the committed vectors; loadVectors fails when there are none.

func FuzzPeekHeader(f *testing.F) {
	v := loadVectors(f)
	f.Add(unhex(f, v.Registration.Sealed))
	for _, m := range v.Messages {
		f.Add(unhex(f, m.Sealed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := PeekHeader(data)
		if err != nil {
			return
		}
		// What is accepted has one encoding.
		_, body, err := decodeEnvelope(data)
		if err != nil {
			t.Fatal(err)
		}
		again, err := encodeEnvelope(h, body)
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("accepted another encoding: %v", err)
		}
	})
}

// FuzzOpenRegistration feeds the input both as the sealed message and as the
// plaintext under a right seal, which no mutation would ever find.
func FuzzOpenRegistration(f *testing.F) {
	v := loadVectors(f)
	host, err := ParseHostKey(NewSecret(unhex(f, v.HostKey)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(unhex(f, v.Registration.Sealed))
	f.Add(unhex(f, v.Registration.Plain))
	p := pair{host: host, tenant: v.Tenant, vm: v.VM}
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, b, err := OpenRegistration(host, data); err == nil && (r == nil || b == nil) {
			t.Fatal("opened to nothing")
		}
		if len(data) > MaxRegistration/2 {
			return
		}
		r, _, err := OpenRegistration(host, p.forge(t, data))
		if err != nil {
			return
		}
		if err := r.Validate(); err != nil {
			t.Fatalf("accepted an invalid one: %v", err)
		}
		if plain, err := r.encode(); err != nil || !bytes.Equal(plain, data) {
			t.Fatalf("accepted another encoding: %v", err)
		}
	})
}

// FuzzOpen feeds the input as every type, sealed as it is and as the plaintext
// under a right seal.
func FuzzOpen(f *testing.F) {
	v := loadVectors(f)
	b, err := ImportBond(NewSecret(unhex(f, v.Bond)))
	if err != nil {
		f.Fatal(err)
	}
	for _, m := range v.Messages {
		f.Add(unhex(f, m.Sealed))
		f.Add(unhex(f, m.Plain))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > MaxSmall/2 {
			return
		}
		for _, m := range blankMessages() {
			_ = Open(b, data, m)
		}
		for _, m := range blankMessages() {
			if err := Open(b, sealRaw(t, b, m.purpose(), data), m); err != nil {
				if errors.Is(err, ErrOpen) {
					t.Fatalf("%s: a right seal does not open", m.purpose())
				}
				continue
			}
			if plain, err := encode(m, 0); err != nil || !bytes.Equal(plain, data) {
				t.Fatalf("%s: accepted another encoding: %v", m.purpose(), err)
			}
			if _, err := Seal(b, m); err != nil {
				t.Fatalf("%s: opens and does not seal: %v", m.purpose(), err)
			}
		}
	})
}

func FuzzVerifyChain(f *testing.F) {
	records, _ := chain(3)
	if len(records) == 0 {
		f.Fatal("no seeds")
	}
	for _, r := range records {
		f.Add(r, records[0], uint64(0))
	}
	f.Add(records[0], records[1], uint64(0))
	f.Fuzz(func(t *testing.T, first, second []byte, from uint64) {
		list := [][]byte{first, second}
		_, out, err := VerifyChain(list, from, [32]byte{})
		if err != nil {
			return
		}
		for i := range out {
			// What verifies is exactly what Encode writes.
			if raw := out[i].Encode(); !bytes.Equal(raw, list[i]) {
				t.Fatalf("record %d has another encoding", i)
			}
		}
	})
}

func FuzzImportBond(f *testing.F) {
	v := loadVectors(f)
	f.Add(unhex(f, v.Bond))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := ImportBond(NewSecret(data))
		if err == nil && !bytes.Equal(b.Export().Bytes(), data) {
			t.Fatal("accepted another encoding")
		}
	})
}
