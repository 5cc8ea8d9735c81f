package bond

import (
	"crypto/hpke"
	"crypto/subtle"
	"fmt"
	"slices"
	"time"
)

// RegistrationSecretSize is the length in bytes of the fresh secret in every
// registration.
const RegistrationSecretSize = 32

// MaxPolicy and MaxAutomaton are the limits in bytes of automaton texts.
const (
	MaxPolicy    = 64 << 10
	MaxAutomaton = 64 << 10
)

// RegistrationLifetime is how long after IssuedAt a registration is accepted, and
// RegistrationSkew by how much the host's clock may be behind the tenant's.
const (
	RegistrationLifetime = 24 * time.Hour
	RegistrationSkew     = 5 * time.Minute
)

// Registration is what creates a bond. It is used once: the VM's identity in its
// header must be new to the hypervisor.
type Registration struct {
	Offered  []uint16 // versions that the host offered, as the tenant received them
	Known    []uint16 // versions that the tenant speaks; SealRegistration fills it in when empty
	Chosen   uint16   // the highest that is in both
	IssuedAt int64    // Unix seconds
	Secret   *Secret  // RegistrationSecretSize random bytes
	Spec     Spec
	Policy   string // text of automata that operators may use without a ticket; may be empty
}

// Wipe zeroes the registration secret and all volume keys.
func (r *Registration) Wipe() {
	r.Secret.Wipe()
	r.Spec.Wipe()
}

// CheckValidity tells whether the registration is fresh enough at now (Unix
// seconds). Errors are *ValidityError.
func (r *Registration) CheckValidity(now int64) error {
	return checkValidity("registration", now,
		r.IssuedAt-int64(RegistrationSkew/time.Second), r.IssuedAt+int64(RegistrationLifetime/time.Second))
}

// Validate checks everything but the versions, which depend on who checks.
func (r *Registration) Validate() error {
	if err := checkVersionList("registration: offered", r.Offered); err != nil {
		return err
	}
	if err := checkVersionList("registration: known", r.Known); err != nil {
		return err
	}
	if err := validTime("registration: issued-at", r.IssuedAt); err != nil {
		return err
	}
	if r.Secret.Len() != RegistrationSecretSize {
		return invalid("registration: secret", "is %d bytes, want %d", r.Secret.Len(), RegistrationSecretSize)
	}
	if err := validProgram("registration: policy", r.Policy, MaxPolicy); err != nil {
		return err
	}
	return r.Spec.Validate()
}

// SealRegistration seals a registration to a host and returns the bond that it
// creates. This is the tenant's side. It fails when r.Chosen is not the highest version that
// r.Offered and r.Known share.
func SealRegistration(host *HostPublic, tenant TenantID, vm VMID, r *Registration) (sealed []byte, b *Bond, err error) {
	if len(r.Known) == 0 {
		r.Known = slices.Clone(Supported)
	}
	if err := r.Validate(); err != nil {
		return nil, nil, err
	}
	if best, ok := highestCommon(r.Offered, r.Known); !ok || best != r.Chosen {
		return nil, nil, invalid("registration: chosen", "version %d is not the highest of offered %v and known %v", r.Chosen, r.Offered, r.Known)
	}
	if !slices.Contains(Supported, r.Chosen) {
		return nil, nil, &VersionError{Have: []uint16{r.Chosen}, Supported: slices.Clone(Supported)}
	}
	if vm.IsZero() {
		return nil, nil, invalid("registration: vm", "has no identity")
	}
	body, err := r.encode()
	if err != nil {
		return nil, nil, err
	}
	defer Wipe(body)
	h := Header{Version: r.Chosen, Purpose: PurposeRegistration, Tenant: tenant, Host: host.ID(), VM: vm}
	ad := h.associatedData()
	enc, sender, err := hpke.NewSender(host.key, hpke.HKDFSHA256(), hpke.AES256GCM(), ad)
	if err != nil {
		return nil, nil, fmt.Errorf("bond: sealing registration: %w", err)
	}
	ct, err := sender.Seal(ad, body)
	if err != nil {
		return nil, nil, fmt.Errorf("bond: sealing registration: %w", err)
	}
	if sealed, err = encodeEnvelope(h, slices.Concat(enc, ct)); err != nil {
		return nil, nil, err
	}
	b, err = r.bond(h, host, sealed)
	return sealed, b, err
}

// OpenRegistration opens and validates a registration and returns the bond that it
// creates. This is the hypervisor's side; it still has to check that the VM's
// identity was never used before, and CheckValidity. The caller wipes both results.
// Errors: ErrOpen, ErrMalformed, ErrTooLarge, ErrDowngrade, *VersionError, *InvalidError.
func OpenRegistration(host *HostKey, sealed []byte) (*Registration, *Bond, error) {
	h, body, err := decodeEnvelope(sealed)
	if err != nil {
		return nil, nil, err
	}
	want := host.Public().ID()
	if h.Purpose != PurposeRegistration || subtle.ConstantTimeCompare(h.Host[:], want[:]) != 1 {
		return nil, nil, ErrOpen
	}
	plain, err := openHPKE(host, h.associatedData(), body)
	if err != nil {
		return nil, nil, ErrOpen
	}
	defer Wipe(plain)
	r, err := decodeRegistration(plain)
	if err != nil {
		return nil, nil, err
	}
	b, err := r.accept(h, host.Public(), sealed)
	if err != nil {
		r.Wipe()
		return nil, nil, err
	}
	return r, b, nil
}

// encapsulationSize is the length of HPKE's enc for MLKEM768-X25519.
const encapsulationSize = 1120

func openHPKE(host *HostKey, ad, body []byte) ([]byte, error) {
	if len(body) < encapsulationSize || host.priv == nil {
		return nil, ErrOpen
	}
	rcpt, err := hpke.NewRecipient(body[:encapsulationSize], host.priv, hpke.HKDFSHA256(), hpke.AES256GCM(), ad)
	if err != nil {
		return nil, err
	}
	return rcpt.Open(ad, body[encapsulationSize:])
}

// accept applies what only the hypervisor can check, then derives the bond.
func (r *Registration) accept(h Header, host *HostPublic, sealed []byte) (*Bond, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	if h.VM.IsZero() {
		return nil, invalid("registration: vm", "has no identity")
	}
	if err := checkNegotiation(r.Offered, r.Known, r.Chosen, h.Version, Supported); err != nil {
		return nil, err
	}
	return r.bond(h, host, sealed)
}

func (r *Registration) bond(h Header, host *HostPublic, sealed []byte) (*Bond, error) {
	transcript := transcriptOf(host.raw, sealed)
	key, err := bondKey(transcript, r.Secret, r.Spec.BootDisk().VolumeKey)
	if err != nil {
		return nil, err
	}
	return newBond(h, transcript, key), nil
}
