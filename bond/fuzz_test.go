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

func fuzzHost(f *testing.F, v *vectors) *HostKey {
	host, err := ParseHostKey(NewSecret(unhex(f, v.HostKey)))
	if err != nil {
		f.Fatal(err)
	}
	return host
}

func FuzzOpenRegistration(f *testing.F) {
	v := loadVectors(f)
	host := fuzzHost(f, v)
	f.Add(unhex(f, v.Registration.Sealed))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, b, err := OpenRegistration(host, data)
		if err == nil && (r.Validate() != nil || b.Host() != host.Public().ID()) {
			t.Fatal("accepted an invalid one")
		}
	})
}

// FuzzDecodeRegistration feeds what stands inside the seal, which mutations of the
// sealed message never reach.
func FuzzDecodeRegistration(f *testing.F) {
	v := loadVectors(f)
	host := fuzzHost(f, v)
	h := Header{Version: 1, Purpose: PurposeRegistration, Tenant: v.Tenant, Host: v.Host, VM: v.VM}
	f.Add(unhex(f, v.Registration.Plain))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := decodeRegistration(data)
		if err != nil {
			return
		}
		if plain, err := r.encode(); err != nil || !bytes.Equal(plain, data) {
			t.Fatalf("accepted another encoding: %v", err)
		}
		if _, err := r.accept(h, host.Public(), data); err == nil && r.Spec.BootDisk() == nil {
			t.Fatal("accepted a VM without a boot disk")
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
