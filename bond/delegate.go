package bond

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
)

// Sizes of a delegate's keys in bytes.
const (
	DelegateKeySize    = 32                                     // private key: a seed for both
	DelegatePublicSize = HostPublicSize + ed25519.PublicKeySize // HPKE key, then signing key
)

// Labels of a delegate's keys.
const (
	labelDelegateSeal = labelPrefix + "delegate sealing key"
	labelDelegateSign = labelPrefix + "delegate signing key"
	delegateIDLabel   = "uvbond delegate id v1"
	delegateTextForm  = "uvbond-delegate-v1"
)

// DelegateID identifies somebody who acts for owners: the hash of both public keys.
type DelegateID [32]byte

// MarshalText returns the hexadecimal form.
func (id DelegateID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads the hexadecimal form.
func (id *DelegateID) UnmarshalText(b []byte) error { return parseHex("delegate", id[:], string(b)) }

// String returns the hexadecimal form.
func (id DelegateID) String() string { return HostID(id).String() }

// Fingerprint returns the identity as a person compares it, like that of a host.
func (id DelegateID) Fingerprint() string { return HostID(id).Fingerprint() }

// DelegateKey is the key pair of somebody who acts for owners: one for HPKE
// (MLKEM768-X25519), to be given grants, and one for Ed25519, to sign tickets.
type DelegateKey struct {
	seed   *Secret
	seal   hpke.PrivateKey
	sign   ed25519.PrivateKey
	public *DelegatePublic
}

// GenerateDelegateKey makes a new random key pair.
func GenerateDelegateKey() (*DelegateKey, error) {
	seed := RandomSecret(DelegateKeySize)
	defer seed.Wipe()
	return ParseDelegateKey(seed)
}

// ParseDelegateKey reads the private key as Secret returned it.
func ParseDelegateKey(s *Secret) (*DelegateKey, error) {
	if s.Len() != DelegateKeySize {
		return nil, invalid("delegate key", "is %d bytes, want %d", s.Len(), DelegateKeySize)
	}
	sealSeed, err := hkdf.Expand(sha256.New, s.Bytes(), labelDelegateSeal, HostKeySize)
	if err != nil {
		return nil, fmt.Errorf("bond: deriving delegate key: %w", err)
	}
	defer Wipe(sealSeed)
	signSeed, err := hkdf.Expand(sha256.New, s.Bytes(), labelDelegateSign, ed25519.SeedSize)
	if err != nil {
		return nil, fmt.Errorf("bond: deriving delegate key: %w", err)
	}
	defer Wipe(signSeed)
	k := &DelegateKey{seed: s.Clone(), sign: ed25519.NewKeyFromSeed(signSeed)}
	if k.seal, err = hpke.MLKEM768X25519().NewPrivateKey(sealSeed); err != nil {
		return nil, fmt.Errorf("bond: delegate key: %w", err)
	}
	raw := append(k.seal.PublicKey().Bytes(), k.sign.Public().(ed25519.PublicKey)...)
	k.public, err = ParseDelegatePublic(raw)
	return k, err
}

// Secret returns a copy of the private key, for storage.
func (k *DelegateKey) Secret() *Secret { return k.seed.Clone() }

// Public returns the public half.
func (k *DelegateKey) Public() *DelegatePublic { return k.public }

// Wipe zeroes the seed and the signing key; see HostKey.Wipe for the other.
func (k *DelegateKey) Wipe() {
	k.seed.Wipe()
	Wipe(k.sign)
	k.seal = nil
}

// Format prints the fingerprint of the public half, whatever the verb is.
func (k *DelegateKey) Format(f fmt.State, _ rune) {
	if k == nil || k.public == nil {
		_, _ = f.Write([]byte("delegate key (none)"))
		return
	}
	_, _ = f.Write([]byte("delegate key " + k.public.ID().Fingerprint()))
}

// DelegatePublic is the public half of a DelegateKey.
type DelegatePublic struct {
	raw  []byte
	seal hpke.PublicKey
	id   DelegateID
}

// ParseDelegatePublic reads public keys of DelegatePublicSize bytes.
func ParseDelegatePublic(b []byte) (*DelegatePublic, error) {
	if len(b) != DelegatePublicSize {
		return nil, invalid("delegate's public key", "is %d bytes, want %d", len(b), DelegatePublicSize)
	}
	seal, err := hpke.MLKEM768X25519().NewPublicKey(b[:HostPublicSize])
	if err != nil {
		return nil, invalid("delegate's public key", "is not an MLKEM768-X25519 public key")
	}
	raw := bytes.Clone(b)
	sum := sha256.New()
	sum.Write([]byte(delegateIDLabel))
	sum.Write(raw)
	return &DelegatePublic{raw: raw, seal: seal, id: DelegateID(sum.Sum(nil))}, nil
}

// Bytes returns a copy of the encoded keys.
func (p *DelegatePublic) Bytes() []byte { return bytes.Clone(p.raw) }

// ID returns the identity.
func (p *DelegatePublic) ID() DelegateID { return p.id }

// signer is the Ed25519 key.
func (p *DelegatePublic) signer() [32]byte { return [32]byte(p.raw[HostPublicSize:]) }

// Text returns the line of a public key file: form, keys in base64, and a name
// for people, which proves nothing.
func (p *DelegatePublic) Text(name string) string {
	return delegateTextForm + " " + base64.StdEncoding.EncodeToString(p.raw) + " " + strings.Join(strings.Fields(CleanText(name, MaxDelegateName)), "-") + "\n"
}

// ParseDelegateText reads the line that Text wrote.
func ParseDelegateText(text string) (p *DelegatePublic, name string, err error) {
	const most = 4096
	fields := strings.Fields(text[:min(len(text), most)])
	if len(text) > most || len(fields) < 2 || len(fields) > 3 || fields[0] != delegateTextForm {
		return nil, "", invalid("delegate's public key", "is not a line like: %s KEY NAME", delegateTextForm)
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(fields[1])
	if err != nil {
		return nil, "", invalid("delegate's public key", "is not base64")
	}
	if len(fields) == 3 {
		if name = fields[2]; validText("delegate's name", name, MaxDelegateName) != nil {
			return nil, "", invalid("delegate's public key", "has a name that is no plain text of up to %d bytes", MaxDelegateName)
		}
	}
	p, err = ParseDelegatePublic(raw)
	return p, name, err
}
