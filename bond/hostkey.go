package bond

import (
	"bytes"
	"crypto/hpke"
	"fmt"
)

// Sizes of the host key in bytes, from draft-ietf-hpke-pq (MLKEM768-X25519).
const (
	HostKeySize    = 32   // private key: a seed
	HostPublicSize = 1216 // ML-KEM-768 encapsulation key and X25519 public key
)

// HostKey is a hypervisor's HPKE private key: MLKEM768-X25519.
type HostKey struct {
	seed   *Secret
	priv   hpke.PrivateKey
	public *HostPublic
}

// GenerateHostKey makes a new random host key.
func GenerateHostKey() (*HostKey, error) {
	priv, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("bond: generating host key: %w", err)
	}
	return newHostKey(priv)
}

// ParseHostKey reads the private key as Secret returned it.
func ParseHostKey(s *Secret) (*HostKey, error) {
	if s.Len() != HostKeySize {
		return nil, invalid("host key", "is %d bytes, want %d", s.Len(), HostKeySize)
	}
	priv, err := hpke.MLKEM768X25519().NewPrivateKey(s.Bytes())
	if err != nil {
		return nil, invalid("host key", "is not an MLKEM768-X25519 private key")
	}
	return newHostKey(priv)
}

func newHostKey(priv hpke.PrivateKey) (*HostKey, error) {
	seed, err := priv.Bytes()
	if err != nil {
		return nil, fmt.Errorf("bond: reading host key: %w", err)
	}
	defer Wipe(seed)
	public, err := ParseHostPublic(priv.PublicKey().Bytes())
	if err != nil {
		return nil, err
	}
	return &HostKey{seed: NewSecret(seed), priv: priv, public: public}, nil
}

// Secret returns a copy of the private key, for storage.
func (k *HostKey) Secret() *Secret { return k.seed.Clone() }

// Public returns the public half.
func (k *HostKey) Public() *HostPublic { return k.public }

// Wipe zeroes the seed and forgets the expanded key. The standard library does
// not let callers zero the expanded key; it goes with the next garbage collection.
func (k *HostKey) Wipe() {
	k.seed.Wipe()
	k.priv = nil
}

// Format prints the fingerprint of the public half, whatever the verb is.
func (k *HostKey) Format(f fmt.State, _ rune) {
	if k == nil || k.public == nil {
		_, _ = f.Write([]byte("host key (none)"))
		return
	}
	_, _ = f.Write([]byte("host key " + k.public.Fingerprint()))
}

// HostPublic is a hypervisor's HPKE public key. Who has it can make
// registrations for that host; whether it is the right host's is for the tenant's
// pinning to say.
type HostPublic struct {
	raw []byte
	key hpke.PublicKey
	id  HostID
}

// ParseHostPublic reads a public key of HostPublicSize bytes.
func ParseHostPublic(b []byte) (*HostPublic, error) {
	if len(b) != HostPublicSize {
		return nil, invalid("host public key", "is %d bytes, want %d", len(b), HostPublicSize)
	}
	key, err := hpke.MLKEM768X25519().NewPublicKey(b)
	if err != nil {
		return nil, invalid("host public key", "is not an MLKEM768-X25519 public key")
	}
	raw := bytes.Clone(b)
	return &HostPublic{raw: raw, key: key, id: hostID(raw)}, nil
}

// Bytes returns a copy of the encoded public key.
func (p *HostPublic) Bytes() []byte { return bytes.Clone(p.raw) }

// ID returns the host identity.
func (p *HostPublic) ID() HostID { return p.id }

// Fingerprint returns the host identity as a person compares it.
func (p *HostPublic) Fingerprint() string { return p.id.Fingerprint() }
