package luks

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/uvbond/uvbond/disk/xts"
)

const passphrase = "correct horse battery staple"

// cheap is a cost for tests.
var cheap = PBKDF{Type: "argon2id", Time: 4, MemoryKiB: 64, Lanes: 2}

// cryptsetup runs it with the passphrase as a key file; files need no device mapper.
func cryptsetup(t *testing.T, args ...string) string {
	t.Helper()
	out, err := tryCryptsetup(t, args...)
	if err != nil {
		t.Fatalf("cryptsetup %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func tryCryptsetup(t *testing.T, args ...string) (string, error) {
	t.Helper()
	path, err := exec.LookPath("cryptsetup")
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/cryptsetup"); err != nil {
			t.Fatal("cryptsetup is missing: apt-get install cryptsetup-bin")
		}
	}
	out, err := exec.Command(path, append([]string{"--batch-mode"}, args...)...).CombinedOutput()
	return string(out), err
}

func keyFile(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// blank returns the name of a new file of n bytes.
func blank(t *testing.T, n int64) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, n); err != nil {
		t.Fatal(err)
	}
	return name
}

func read(t *testing.T, name string) (*Header, error) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return ReadHeader(f, info.Size())
}

func mustRead(t *testing.T, name string) *Header {
	t.Helper()
	h, err := read(t, name)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// dumpKey is the volume key as cryptsetup knows it.
func dumpKey(t *testing.T, name, key string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "vk")
	cryptsetup(t, "luksDump", "--dump-volume-key", "--volume-key-file", out, "--key-file", key, name)
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func unlock(t *testing.T, h *Header, pass string) []byte {
	t.Helper()
	k, err := h.Unlock([]byte(pass))
	if err != nil {
		t.Fatal(err)
	}
	if !h.VerifyKey(k) {
		t.Error("the unlocked key is not the volume key")
	}
	return k
}

// TestCryptsetupDisks opens what cryptsetup makes.
func TestCryptsetupDisks(t *testing.T) {
	key := keyFile(t, passphrase)
	for _, kdf := range [][]string{
		{"--pbkdf", "argon2id", "--pbkdf-memory", "1024", "--pbkdf-parallel", "2", "--pbkdf-force-iterations", "4"},
		{"--pbkdf", "argon2i", "--pbkdf-memory", "512", "--pbkdf-parallel", "4", "--pbkdf-force-iterations", "4"},
		{"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--hash", "sha512"},
	} {
		for _, sector := range []int{512, 4096} {
			for _, bits := range []int{256, 512} {
				t.Run(fmt.Sprintf("%s/%d/%d", kdf[1], sector, bits), func(t *testing.T) {
					name := blank(t, 20<<20)
					cryptsetup(t, append([]string{"luksFormat", "--type", "luks2", "--label", "a label", "--sector-size", strconv.Itoa(sector),
						"--key-size", strconv.Itoa(bits), "--key-file", key, name}, kdf...)...)
					h := mustRead(t, name)
					k := unlock(t, h, passphrase)
					if !bytes.Equal(k, dumpKey(t, name, key)) || len(k) != bits/8 {
						t.Error("another volume key than cryptsetup's")
					}
					want := Segment{Offset: 16 << 20, Length: 4 << 20, Dynamic: true, Cipher: cipherName, SectorSize: uint32(sector), KeyBytes: bits / 8}
					if h.Segment != want || h.Label != "a label" || h.Keyslots[0].KDF.Type != kdf[1] {
						t.Errorf("read %+v, %q, %s", h.Segment, h.Label, h.Keyslots[0].KDF.Type)
					}
					if strings.TrimSpace(cryptsetup(t, "luksUUID", name)) != h.UUID {
						t.Errorf("uuid %s", h.UUID)
					}
					if _, err := h.Unlock([]byte("wrong")); !errors.Is(err, ErrPassphrase) {
						t.Errorf("wrong passphrase: %v", err)
					}
				})
			}
		}
	}
}

// TestSeveralKeyslots has cryptsetup change a disk of its own in all harmless ways.
func TestSeveralKeyslots(t *testing.T) {
	name, key := blank(t, 20<<20), keyFile(t, passphrase)
	fast := []string{"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", key, name}
	run := func(args ...string) { t.Helper(); cryptsetup(t, append(args, fast...)...) }
	run("luksFormat", "--type", "luks2")
	for i := range 3 {
		cryptsetup(t, append([]string{"luksAddKey"}, append(fast, keyFile(t, fmt.Sprint("pass ", i)))...)...)
	}
	cryptsetup(t, append([]string{"luksAddKey", "--unbound", "--key-size", "256", "--key-slot", "9"}, append(fast, keyFile(t, "unbound"))...)...)
	cryptsetup(t, "config", name, "--priority", "prefer", "--key-slot", "2")
	cryptsetup(t, "config", name, "--priority", "ignore", "--key-slot", "3")
	token := keyFile(t, `{"type":"someone-elses","keyslots":["0"],"anything":{"at":["all",1,null]}}`)
	cryptsetup(t, "token", "import", "--json-file", token, name)
	h := mustRead(t, name)
	if len(h.Keyslots) != 4 || h.Keyslots[2].Priority != 2 || h.Keyslots[3].Priority != 0 {
		t.Errorf("keyslots %+v", h.Keyslots)
	}
	vk := unlock(t, h, passphrase)
	for _, pass := range []string{"pass 0", "pass 1"} {
		if !bytes.Equal(unlock(t, h, pass), vk) {
			t.Errorf("%s opens another key", pass)
		}
	}
	for _, pass := range []string{"pass 2", "unbound"} { // of priority 0; of another key
		if _, err := h.Unlock([]byte(pass)); !errors.Is(err, ErrPassphrase) {
			t.Errorf("%s: %v", pass, err)
		}
	}
	cryptsetup(t, "luksKillSlot", "--key-file", key, name, "1")
	h = mustRead(t, name)
	if _, err := h.Unlock([]byte("pass 0")); len(h.Keyslots) != 3 || !errors.Is(err, ErrPassphrase) {
		t.Errorf("after luksKillSlot: %v", err)
	}
}

// TestFormat has cryptsetup judge what Format writes, and change it.
func TestFormat(t *testing.T) {
	key, second := keyFile(t, passphrase), keyFile(t, "second")
	for _, kdf := range []PBKDF{cheap, {Type: "argon2i", Time: 4, MemoryKiB: 128, Lanes: 4}, {Type: "pbkdf2", Iterations: 1000}} {
		for _, sector := range []uint32{512, 1024, 2048, 4096} {
			for _, n := range []int{32, 64} {
				if kdf != cheap && (sector != 4096 || n != 64) {
					continue // the KDF has nothing to do with these
				}
				t.Run(fmt.Sprintf("%s/%d/%d", kdf.Type, sector, n*8), func(t *testing.T) {
					vk := make([]byte, n)
					rand.Read(vk)
					name := blank(t, 20<<20)
					f, err := os.OpenFile(name, os.O_RDWR, 0)
					if err != nil {
						t.Fatal(err)
					}
					defer f.Close()
					made, err := Format(f, FormatOptions{Passphrase: []byte(passphrase), VolumeKey: vk, SectorSize: sector, Label: "schöne Scheibe", DataSize: 4 << 20, PBKDF: kdf})
					if err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(unlock(t, made, passphrase), vk) || !bytes.Equal(unlock(t, mustRead(t, name), passphrase), vk) {
						t.Error("another volume key")
					}
					dump := cryptsetup(t, "luksDump", name)
					for _, want := range []string{made.UUID, "schöne Scheibe", "sector: " + fmt.Sprint(sector) + " ", "cipher: aes-xts-plain64", "offset: 16777216 "} {
						if !strings.Contains(dump, want) {
							t.Errorf("luksDump has no %q:\n%s", want, dump)
						}
					}
					cryptsetup(t, "open", "--test-passphrase", "--key-file", key, name)
					if _, err := tryCryptsetup(t, "open", "--test-passphrase", "--key-file", second, name); err == nil {
						t.Error("cryptsetup opens it with another passphrase")
					}
					if !bytes.Equal(dumpKey(t, name, key), vk) {
						t.Error("cryptsetup has another volume key")
					}
					cryptsetup(t, "luksAddKey", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", key, name, second)
					h := mustRead(t, name)
					if !bytes.Equal(unlock(t, h, "second"), vk) || h.SeqID <= made.SeqID {
						t.Error("the keyslot that cryptsetup added does not open")
					}
					if err := Check(h, expectation(made)); err != nil {
						t.Errorf("another keyslot is no other disk: %v", err)
					}
				})
			}
		}
	}
}

func expectation(h *Header) Expectation {
	s := h.Segment
	return Expectation{h.UUID, s.Cipher, s.KeyBytes, s.SectorSize, s.Offset, s.Length, s.IVTweak, h.Digest}
}

// TestTweaks has cryptsetup itself encipher data, which it can do without device
// mapper when it re-encrypts: so its count of tweaks is known for each sector size.
func TestTweaks(t *testing.T) {
	key := keyFile(t, passphrase)
	for _, sector := range []int{512, 4096} {
		const size = 8 << 20
		plain := make([]byte, size)
		rand.Read(plain)
		name := filepath.Join(t.TempDir(), "disk")
		if err := os.WriteFile(name, append(plain, make([]byte, 32<<20)...), 0o600); err != nil {
			t.Fatal(err)
		}
		cryptsetup(t, "reencrypt", "--encrypt", "--type", "luks2", "--sector-size", strconv.Itoa(sector), "--reduce-device-size", "32M",
			"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", key, name)
		h := mustRead(t, name)
		c, err := xts.New(unlock(t, h, passphrase), sector, uint64(sector/512))
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		got := data[h.Segment.Offset:][:size]
		if err := c.DecryptSectors(got, got, h.Segment.IVTweak); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("sectors of %d bytes: %v, or another count of tweaks than cryptsetup's", sector, err)
		}
	}
}

func TestFormatOptions(t *testing.T) {
	good := FormatOptions{Passphrase: []byte("x"), DataSize: 1 << 20, PBKDF: cheap}
	for name, change := range map[string]func(*FormatOptions){
		"no passphrase":    func(o *FormatOptions) { o.Passphrase = nil },
		"short key":        func(o *FormatOptions) { o.VolumeKey = make([]byte, 16) },
		"equal halves":     func(o *FormatOptions) { o.VolumeKey = make([]byte, 64) },
		"sector size":      func(o *FormatOptions) { o.SectorSize = 8192 },
		"odd size":         func(o *FormatOptions) { o.DataSize = 1000 },
		"size for sector":  func(o *FormatOptions) { o.DataSize, o.SectorSize = 512, 4096 },
		"no size":          func(o *FormatOptions) { o.DataSize = 0 },
		"huge size":        func(o *FormatOptions) { o.DataSize = 1<<63 - 512 },
		"long label":       func(o *FormatOptions) { o.Label = strings.Repeat("x", 48) },
		"label of lines":   func(o *FormatOptions) { o.Label = "a\nb" },
		"uuid":             func(o *FormatOptions) { o.UUID = "web1" },
		"kdf":              func(o *FormatOptions) { o.PBKDF.Type = "scrypt" },
		"memory of 8 GiB":  func(o *FormatOptions) { o.PBKDF.MemoryKiB = 8 << 20 },
		"no lanes":         func(o *FormatOptions) { o.PBKDF.Lanes = 0 },
		"no pbkdf2 at all": func(o *FormatOptions) { o.PBKDF = PBKDF{Type: "pbkdf2"} },
		"endless work":     func(o *FormatOptions) { o.PBKDF.Time, o.PBKDF.MemoryKiB = 1<<16, 1<<20 },
	} {
		o := good
		change(&o)
		if _, err := Format(refuseWrites{t}, o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	o := good
	o.DataSize = 512 * 3
	if h, err := Format(discard{}, o); err != nil || h.Segment.SectorSize != 512 || h.Segment.KeyBytes != 64 {
		t.Errorf("default: %+v, %v", h, err)
	}
}

type refuseWrites struct{ t *testing.T }

func (w refuseWrites) WriteAt(p []byte, _ int64) (int, error) {
	w.t.Error("written in spite of bad options")
	return len(p), nil
}

type discard struct{}

func (discard) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

// TestDefaultPBKDF keeps the default as strong as promised.
func TestDefaultPBKDF(t *testing.T) {
	p := DefaultPBKDF()
	if p.Type != "argon2id" || p.Time < 4 || p.MemoryKiB < 64<<10 || p.Lanes != 4 {
		t.Errorf("%+v", p)
	}
}

func TestCheck(t *testing.T) {
	h, err := Format(discard{}, FormatOptions{Passphrase: []byte("x"), DataSize: 1 << 20, PBKDF: cheap})
	if err != nil {
		t.Fatal(err)
	}
	if err := Check(h, expectation(h)); err != nil {
		t.Fatal(err)
	}
	for field, change := range map[string]func(*Expectation){
		"uuid":        func(e *Expectation) { e.UUID = NewUUID() },
		"cipher":      func(e *Expectation) { e.Cipher = "aes-cbc-essiv:sha256" },
		"key-size":    func(e *Expectation) { e.KeyBytes = 32 },
		"sector-size": func(e *Expectation) { e.SectorSize = 512 },
		"data-offset": func(e *Expectation) { e.DataOffset += 4096 },
		"length":      func(e *Expectation) { e.Length += 4096 },
		"iv-tweak":    func(e *Expectation) { e.IVTweak = 8 },
		"digest":      func(e *Expectation) { e.Digest.Value = bytes.Clone(e.Digest.Value); e.Digest.Value[31] ^= 1 },
	} {
		e := expectation(h)
		change(&e)
		var m *MismatchError
		if err := Check(h, e); !errors.As(err, &m) || m.Field != field || m.Have == "" {
			t.Errorf("%s: %v", field, err)
		}
	}
	// A disk that grew is the registered one, unless its header says how long it is.
	e := expectation(h)
	e.Length -= 4096
	if err := Check(h, e); err != nil {
		t.Errorf("a longer disk: %v", err)
	}
	fixed := *h
	fixed.Segment.Dynamic = false
	var m *MismatchError
	if err := Check(&fixed, e); !errors.As(err, &m) || m.Field != "length" {
		t.Errorf("a longer disk of a fixed length: %v", err)
	}
	e = expectation(h)
	e.Digest.Salt = nil
	if Check(h, e) == nil {
		t.Error("another salt passes")
	}
}

// TestAFSplit is the vector of the split of one known key, by its property: any
// changed byte of any stripe changes the key.
func TestAFSplit(t *testing.T) {
	for _, n := range []int{32, 64} {
		for name, h := range hashes {
			key, area := random(n), make([]byte, splitSize(n))
			afSplit(area, key, h())
			if got := afMerge(area, n, h()); !bytes.Equal(got, key) {
				t.Fatalf("%s: %s merges to %s", name, hex.EncodeToString(key), hex.EncodeToString(got))
			}
			area[n*1234] ^= 1
			if bytes.Equal(afMerge(area, n, h()), key) {
				t.Errorf("%s: a lost stripe is not missed", name)
			}
		}
	}
}

func TestLUKS1(t *testing.T) {
	name := blank(t, 8<<20)
	cryptsetup(t, "luksFormat", "--type", "luks1", "--pbkdf-force-iterations", "1000", "--key-file", keyFile(t, "x"), name)
	_, err := read(t, name)
	if err == nil || !regexp.MustCompile("LUKS1.*cryptsetup convert").MatchString(err.Error()) {
		t.Error(err)
	}
}
