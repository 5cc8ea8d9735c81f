package luks

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// formatDerived does both halves: what only the owner's machine does, and what can
// be done elsewhere with its result.
func formatDerived(t *testing.T, name string, size uint64, key []byte) (*Derived, *Digest, *Header) {
	t.Helper()
	d, err := Derive([]byte(passphrase), cheap)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := NewDigest(key)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, err := Format(f, FormatOptions{Derived: d, VolumeKey: key, Digest: digest, UUID: "3f2b7c9e-0d4a-4f6b-8a51-0123456789ab", SectorSize: 512, DataSize: size})
	if err != nil {
		t.Fatal(err)
	}
	return d, digest, h
}

// TestDerived: a header made without the passphrase opens with it, here and in
// cryptsetup, with no other, and holds the digest and UUID that were given.
func TestDerived(t *testing.T) {
	key := random(64)
	name := blank(t, DataOffset+1<<20)
	d, digest, h := formatDerived(t, name, 1<<20, key)
	if bytes.Contains(d.Key, []byte(passphrase)) || len(d.KDF.Salt) != 32 {
		t.Error("what was derived holds the passphrase, or no salt")
	}
	want := Expectation{UUID: "3f2b7c9e-0d4a-4f6b-8a51-0123456789ab", Cipher: cipherName, KeyBytes: 64, SectorSize: 512, DataOffset: DataOffset, Length: 1 << 20, Digest: *digest}
	if err := Check(h, want); err != nil {
		t.Error(err)
	}
	if err := Check(mustRead(t, name), want); err != nil {
		t.Error(err)
	}
	if k := unlock(t, mustRead(t, name), passphrase); !bytes.Equal(k, key) {
		t.Error("another volume key")
	}
	file := keyFile(t, passphrase)
	cryptsetup(t, "open", "--test-passphrase", "--key-file", file, name)
	if !bytes.Equal(dumpKey(t, name, file), key) {
		t.Error("cryptsetup finds another volume key")
	}
	if dump := cryptsetup(t, "luksDump", name); !strings.Contains(dump, "argon2id") || !strings.Contains(dump, want.UUID) {
		t.Errorf("luksDump:\n%s", dump)
	}
	if out, err := tryCryptsetup(t, "open", "--test-passphrase", "--key-file", keyFile(t, "another"), name); err == nil {
		t.Errorf("another passphrase opens it: %s", out)
	}
}

func TestDerivedRefusals(t *testing.T) {
	key := random(64)
	good := Derived{KDF: KDF{Type: "argon2id", Time: 4, MemoryKiB: 64, Lanes: 2, Salt: random(32)}, Key: random(64)}
	for name, change := range map[string]func(o *FormatOptions, d *Derived){
		"passphrase as well": func(o *FormatOptions, _ *Derived) { o.Passphrase = []byte(passphrase) },
		"short key":          func(_ *FormatOptions, d *Derived) { d.Key = d.Key[:32] },
		"no key":             func(_ *FormatOptions, d *Derived) { d.Key = nil },
		"equal halves":       func(_ *FormatOptions, d *Derived) { d.Key = bytes.Repeat([]byte{1}, 64) },
		"no memory":          func(_ *FormatOptions, d *Derived) { d.KDF.MemoryKiB = 0 },
		"endless passes":     func(_ *FormatOptions, d *Derived) { d.KDF.Time = 1 << 31 },
		"no salt":            func(_ *FormatOptions, d *Derived) { d.KDF.Salt = nil },
		"short digest": func(o *FormatOptions, _ *Derived) {
			o.Digest = &Digest{Hash: "sha256", Iterations: 1000, Salt: random(32), Value: random(20)}
		},
		"another digest": func(o *FormatOptions, _ *Derived) {
			o.Digest = &Digest{Hash: "none", Iterations: 1000, Salt: random(32), Value: random(20)}
		},
	} {
		d := good
		d.KDF.Salt = bytes.Clone(good.KDF.Salt)
		o := FormatOptions{Derived: &d, VolumeKey: key, DataSize: 1 << 20}
		change(&o, &d)
		w := &written{}
		if _, err := Format(w, o); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if w.n != 0 {
			t.Errorf("%s: %d bytes were written", name, w.n)
		}
	}
	if _, err := Derive(nil, cheap); err == nil {
		t.Error("no passphrase is accepted")
	}
}

// written counts what is written to it.
type written struct{ n int }

func (w *written) WriteAt(b []byte, _ int64) (int, error) { w.n += len(b); return len(b), nil }
