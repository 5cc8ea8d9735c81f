package bond

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
)

// redacted is all that printing a secret ever shows.
const redacted = "[secret]"

var errSecretMarshal = errors.New("bond: a secret cannot be marshalled")

// Secret holds key material. It never prints, never marshals, compares in
// constant time and can be wiped. The bytes are behind two pointers, so that even
// the reflection of fmt on an unexported field shows an address and no more (it follows
// one pointer when a verb does not fit the type).
// The zero Secret and a nil *Secret are empty.
type Secret struct {
	_ [0]func() // incomparable: == would not be constant time
	p *hidden
}

type hidden struct{ b *[]byte }

func hide(b []byte) *Secret { return &Secret{p: &hidden{b: &b}} }

// NewSecret returns a secret with a copy of b. The caller wipes its own copy.
func NewSecret(b []byte) *Secret {
	c := make([]byte, len(b))
	copy(c, b)
	return hide(c)
}

// RandomSecret returns a secret of n random bytes.
func RandomSecret(n int) *Secret {
	b := make([]byte, n)
	rand.Read(b) // never fails: the program ends instead
	return hide(b)
}

// Bytes returns the live bytes, not a copy: do not keep them, they are zeroed by
// Wipe.
func (s *Secret) Bytes() []byte {
	if s == nil || s.p == nil {
		return nil
	}
	return *s.p.b
}

// Len returns the length in bytes, 0 after Wipe.
func (s *Secret) Len() int { return len(s.Bytes()) }

// Clone returns an independent copy.
func (s *Secret) Clone() *Secret { return NewSecret(s.Bytes()) }

// Wipe zeroes the bytes and empties the secret. It may be called repeatedly.
func (s *Secret) Wipe() {
	if s == nil || s.p == nil {
		return
	}
	Wipe(*s.p.b)
	s.p = nil
}

// Equal compares in a time that depends on the lengths only.
func (s *Secret) Equal(o *Secret) bool {
	return subtle.ConstantTimeCompare(s.Bytes(), o.Bytes()) == 1
}

// String returns a placeholder, never the secret.
func (s Secret) String() string { return redacted }

// GoString returns a placeholder, never the secret.
func (s Secret) GoString() string { return redacted }

// Format prints a placeholder whatever the verb is.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// LogValue returns a placeholder, never the secret.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON fails: a secret must not leave by accident.
func (s Secret) MarshalJSON() ([]byte, error) { return nil, errSecretMarshal }

// MarshalText fails: a secret must not leave by accident.
func (s Secret) MarshalText() ([]byte, error) { return nil, errSecretMarshal }

// MarshalBinary fails: a secret must not leave by accident.
func (s Secret) MarshalBinary() ([]byte, error) { return nil, errSecretMarshal }

// MarshalCBOR fails: a secret must not leave by accident. Registrations have
// wire structs that take the bytes deliberately.
func (s Secret) MarshalCBOR() ([]byte, error) { return nil, errSecretMarshal }

var _ json.Marshaler = Secret{}

// Wipe zeroes b. The garbage collector may have left copies of a slice that
// grew; code that handles secrets allocates them once.
func Wipe(b []byte) { clear(b) }
