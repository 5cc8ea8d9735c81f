package bond

import (
	"bytes"
	"errors"
	"slices"
	"testing"
)

// sealRaw seals any plaintext as a message of a purpose, as a hostile holder of the
// key would.
func sealRaw(t testing.TB, b *Bond, p Purpose, plain []byte) []byte {
	t.Helper()
	aead, err := b.aead(p)
	if err != nil {
		t.Fatal(err)
	}
	h := b.header(p)
	sealed, err := encodeEnvelope(h, aead.Seal(nil, nil, plain, h.associatedData()))
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

// splitMap cuts a deterministic map of text keys into its encoded pairs.
func splitMap(t testing.TB, plain []byte) [][]byte {
	t.Helper()
	if plain[0]>>5 != 5 || plain[0]&31 > 23 {
		t.Fatalf("not a small map: %#x", plain[0])
	}
	var pairs [][]byte
	rest := plain[1:]
	for range plain[0] & 31 {
		n := 0
		for range 2 {
			var err error
			tail, err := decMode.UnmarshalFirst(rest[n:], new(any))
			if err != nil {
				t.Fatal(err)
			}
			n = len(rest) - len(tail)
		}
		pairs = append(pairs, rest[:n])
		rest = rest[n:]
	}
	return pairs
}

func joinMap(pairs [][]byte) []byte {
	return append([]byte{0xa0 | byte(len(pairs))}, bytes.Join(pairs, nil)...)
}

// oddEncodings returns encodings of the same or nearly the same map that must all
// be refused.
func oddEncodings(t testing.TB, plain []byte) map[string][]byte {
	t.Helper()
	pairs := splitMap(t, plain)
	if !bytes.Equal(joinMap(pairs), plain) {
		t.Fatal("splitMap is wrong")
	}
	last := len(pairs) - 1
	swapped := slices.Clone(pairs)
	swapped[0], swapped[last] = swapped[last], swapped[0]
	unknown := append([]byte{0x67}, "unknown\x00"...)
	upper := slices.Clone(pairs)
	upper[0] = bytes.Clone(upper[0])
	upper[0][1] -= 'a' - 'A'
	indefinite := append([]byte{0xbf}, bytes.Join(pairs, nil)...)
	longKey := slices.Clone(pairs)
	longKey[0] = append([]byte{0x78, pairs[0][0] & 31}, pairs[0][1:]...)
	return map[string][]byte{
		"duplicate key":      joinMap(append(slices.Clone(pairs), pairs[last])),
		"unknown field":      joinMap(append(slices.Clone(pairs), unknown)),
		"missing first":      joinMap(pairs[1:]),
		"missing last":       joinMap(pairs[:last]),
		"unsorted":           joinMap(swapped),
		"other case":         joinMap(upper),
		"indefinite map":     append(indefinite, 0xff),
		"long form of count": append([]byte{0xb8, byte(len(pairs))}, bytes.Join(pairs, nil)...),
		"long form of key":   joinMap(longKey),
		"trailing byte":      append(bytes.Clone(plain), 0),
		"tagged":             append([]byte{0xd9, 0xd9, 0xf7}, plain...),
		"truncated":          plain[:len(plain)-1],
		"empty":              {},
		"null":               {0xf6},
		"empty map":          {0xa0},
		"array":              {0x80},
		"deep":               append(bytes.Repeat([]byte{0x81}, 100), 0x80),
		"claims 4 GiB":       {0xa1, 0x7a, 0xff, 0xff, 0xff, 0xff},
		"claims 2^64 items":  {0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
	}
}

func TestStrictMessages(t *testing.T) {
	b := fixtureBond(t, 1)
	for i, m := range fixtureMessages(b.Transcript()) {
		plain, err := encode(m, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := Open(b, sealRaw(t, b, m.purpose(), plain), blankMessages()[i]); err != nil {
			t.Fatalf("%s: %v", m.purpose(), err)
		}
		for name, odd := range oddEncodings(t, plain) {
			if err := Open(b, sealRaw(t, b, m.purpose(), odd), blankMessages()[i]); !errors.Is(err, ErrMalformed) {
				t.Errorf("%s, %s: %v", m.purpose(), name, err)
			}
		}
	}
}

func TestStrictRegistration(t *testing.T) {
	p := newPair(t)
	plain, err := fixtureRegistration().encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := OpenRegistration(p.host, p.forge(t, plain)); err != nil {
		t.Fatal(err)
	}
	for name, odd := range oddEncodings(t, plain) {
		if _, _, err := OpenRegistration(p.host, p.forge(t, odd)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A disk's map inside, with one field twice and with one unknown.
	for name, change := range map[string][2]string{
		"unknown field of a disk": {"\x64boot\xf5", "\x64boox\xf5"},
		"number in a long form":   {"\x65vcpus\x02", "\x65vcpus\x18\x02"},
		"text as bytes":           {"\x63bus\x66virtio", "\x63bus\x46virtio"},
		"number as text":          {"\x66chosen\x01", "\x66chosen\x611"},
		"float":                   {"\x66chosen\x01", "\x66chosen\xf9\x3c\x00"},
		"undefined":               {"\x64boot\xf5", "\x64boot\xf7"},
		"indefinite list":         {"\x67offered\x81\x01", "\x67offered\x9f\x01\xff"},
	} {
		odd := bytes.Replace(plain, []byte(change[0]), []byte(change[1]), 1)
		if bytes.Equal(odd, plain) {
			t.Fatalf("%s: nothing changed", name)
		}
		if _, _, err := OpenRegistration(p.host, p.forge(t, odd)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestStrictEnvelope(t *testing.T) {
	b := fixtureBond(t, 1)
	sealed := mustSeal(t, b, fixtureMessages(b.Transcript())[2])
	_, body, _ := decodeEnvelope(sealed)
	for name, odd := range map[string][]byte{
		"indefinite array": append(append([]byte{0x9f}, sealed[1:]...), 0xff),
		"seven items":      append(append([]byte{0x87}, sealed[1:]...), 0),
		"five items":       append([]byte{0x85}, sealed[1:len(sealed)-len(body)-2]...),
		"long version":     append([]byte{sealed[0], 0x18, 1}, sealed[2:]...),
		"trailing":         append(bytes.Clone(sealed), 0xf6),
		"short identity": mustEncode(struct {
			_ struct{} `cbor:",toarray"`
			V uint16
			P Purpose
			T [31]byte
			H [32]byte
			M VMID
			B []byte
		}{V: 1, P: PurposeDescriptor, B: body}),
		"long identity": mustEncode(struct {
			_ struct{} `cbor:",toarray"`
			V uint16
			P Purpose
			T [33]byte
			H [32]byte
			M VMID
			B []byte
		}{V: 1, P: PurposeDescriptor, B: body}),
		"empty": {}, "null": {0xf6},
	} {
		if _, err := PeekHeader(odd); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
		if err := Open(b, odd, new(Descriptor)); !errors.Is(err, ErrOpen) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
