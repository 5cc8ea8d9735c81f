package bond

import (
	"crypto/subtle"
	"errors"
	"slices"
)

// ErrConfirmation says that a confirmation opened, yet speaks of something else
// than was registered.
var ErrConfirmation = errors.New("bond: the confirmation is not for what was registered")

// Check compares an opened confirmation with what the tenant registered: the same
// transcript, the versions that the host really speaks equal to those it was said to
// offer, the same policy. Errors: ErrConfirmation, ErrDowngrade. That it opened at
// all proved the key.
func (c *Confirmation) Check(b *Bond, r *Registration) error {
	want := b.Transcript()
	if subtle.ConstantTimeCompare(c.Transcript[:], want[:]) != 1 {
		return ErrConfirmation
	}
	if !slices.Equal(c.Versions, r.Offered) || r.Chosen != b.Version() {
		return ErrDowngrade
	}
	if c.Policy != r.Policy {
		return ErrConfirmation
	}
	return nil
}

// NewConfirmation returns the confirmation of a registration, for the hypervisor to
// seal. now is the host's clock in Unix seconds.
func NewConfirmation(b *Bond, r *Registration, now int64) *Confirmation {
	return &Confirmation{Transcript: b.Transcript(), Versions: slices.Clone(Supported), HostTime: now, Policy: r.Policy}
}
