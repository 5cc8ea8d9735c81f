package luks

import (
	"encoding/json"
	"errors"

	"golang.org/x/sys/unix"
)

// areaKeySize is the length in bytes of the key that enciphers a new keyslot.
const areaKeySize = 64

// Derived is what a keyslot needs of a passphrase: whoever has it can make the
// keyslot, and open it, but does not learn the passphrase, which may be used
// elsewhere.
type Derived struct {
	KDF KDF
	Key []byte // 64 bytes, secret
}

// PBKDF is the cost of trying a passphrase on the new keyslot. The zero value
// means DefaultPBKDF.
type PBKDF struct {
	Type       string // "argon2id", "argon2i" or "pbkdf2"
	Time       uint32 // argon2: passes
	MemoryKiB  uint32 // argon2
	Lanes      uint8  // argon2
	Iterations uint32 // pbkdf2, with SHA-256
}

// DefaultPBKDF is argon2id with 4 passes, 4 lanes and 512 MiB, or half of the
// memory of a machine that has less than 1 GiB (at least 64 MiB). It fills 2 GiB
// in all, as much as the first recommended option of RFC 9106, section 4 (2 GiB,
// one pass), in a quarter of the memory. cryptsetup measures its passes out to
// take two seconds; here the cost does not depend on how busy the machine is.
func DefaultPBKDF() PBKDF {
	p := PBKDF{Type: "argon2id", Time: 4, MemoryKiB: 512 << 10, Lanes: 4}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err == nil {
		half := uint64(info.Totalram) * uint64(info.Unit) / 2048
		p.MemoryKiB = uint32(max(64<<10, min(half, uint64(p.MemoryKiB))))
	}
	return p
}

// Derive does the work of a keyslot's KDF, which takes about a second at the default
// cost, for a new salt. The zero PBKDF means DefaultPBKDF. The caller wipes the key.
func Derive(passphrase []byte, p PBKDF) (*Derived, error) {
	if err := checkPassphrase(passphrase); err != nil {
		return nil, err
	}
	if p == (PBKDF{}) {
		p = DefaultPBKDF()
	}
	d := &Derived{KDF: KDF{Type: p.Type, Time: p.Time, MemoryKiB: p.MemoryKiB, Lanes: p.Lanes, Hash: "sha256", Iterations: p.Iterations, Salt: random(32)}}
	if err := judgeKDF(d.KDF.text()); err != nil {
		return nil, err
	}
	var err error
	d.Key, err = d.KDF.derive(passphrase, areaKeySize)
	return d, err
}

func checkPassphrase(passphrase []byte) error {
	if len(passphrase) == 0 || len(passphrase) > 8<<20 {
		return errors.New("luks: the passphrase must have 1 byte to 8 MiB")
	}
	return nil
}

// NewDigest makes the digest by which a header tells its volume key.
func NewDigest(key []byte) (*Digest, error) {
	d := &Digest{Hash: "sha256", Iterations: digestIterations, Salt: random(32)}
	var err error
	d.Value, err = d.compute(key)
	return d, err
}

// text is the KDF as a keyslot's JSON has it.
func (k *KDF) text() map[string]any {
	text := map[string]any{"type": k.Type, "salt": k.Salt}
	if k.Type == "pbkdf2" {
		text["hash"], text["iterations"] = k.Hash, k.Iterations
	} else {
		text["time"], text["memory"], text["cpus"] = k.Time, k.MemoryKiB, k.Lanes
	}
	return text
}

// judgeKDF applies the reader's limits before the work is done.
func judgeKDF(text map[string]any) error {
	b, err := json.Marshal(text)
	if err != nil {
		return err
	}
	tree, err := decodeTree(b)
	if err != nil {
		return err
	}
	object{"kdf", tree, &err}.kdf()
	return err
}
