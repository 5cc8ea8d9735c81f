package bond

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"strings"
)

// HostID identifies a hypervisor: the hash of its public key.
type HostID [32]byte

// TenantID identifies a tenant towards hypervisors. It is random, has no key of its
// own, and only keeps the bonds of one tenant apart from others'.
type TenantID [32]byte

// VMID identifies a VM. It is chosen at random by the tenant, before
// registration, and never used again.
type VMID [16]byte

// NewTenantID returns a random tenant identity.
func NewTenantID() (id TenantID) {
	rand.Read(id[:])
	return id
}

// NewVMID returns a random VM identity.
func NewVMID() (id VMID) {
	rand.Read(id[:])
	return id
}

// ParseVMID reads the text form, 32 lower-case hexadecimal digits.
func ParseVMID(s string) (id VMID, err error) {
	err = parseHex("vm", id[:], s)
	return id, err
}

// ParseTenantID reads the text form, 64 lower-case hexadecimal digits.
func ParseTenantID(s string) (id TenantID, err error) {
	err = parseHex("tenant", id[:], s)
	return id, err
}

// ParseHostID reads the text form, 64 lower-case hexadecimal digits.
func ParseHostID(s string) (id HostID, err error) {
	err = parseHex("host", id[:], s)
	return id, err
}

// parseHex accepts lower-case digits only, so that every identity has one text.
func parseHex(what string, dst []byte, s string) error {
	if len(s) != 2*len(dst) || strings.ToLower(s) != s {
		return invalid(what+" id", "want %d lower-case hexadecimal digits", 2*len(dst))
	}
	b, err := hex.DecodeString(s)
	if err != nil {
		return invalid(what+" id", "want %d lower-case hexadecimal digits", 2*len(dst))
	}
	copy(dst, b)
	return nil
}

// String returns the hexadecimal form.
func (id HostID) String() string { return hex.EncodeToString(id[:]) }

// String returns the hexadecimal form.
func (id TenantID) String() string { return hex.EncodeToString(id[:]) }

// String returns the hexadecimal form.
func (id VMID) String() string { return hex.EncodeToString(id[:]) }

// IsZero tells an identity that was never set.
func (id VMID) IsZero() bool { return id == VMID{} }

// MarshalText returns the hexadecimal form.
func (id HostID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// MarshalText returns the hexadecimal form.
func (id TenantID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// MarshalText returns the hexadecimal form.
func (id VMID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads the hexadecimal form.
func (id *HostID) UnmarshalText(b []byte) error { return parseHex("host", id[:], string(b)) }

// UnmarshalText reads the hexadecimal form.
func (id *TenantID) UnmarshalText(b []byte) error { return parseHex("tenant", id[:], string(b)) }

// UnmarshalText reads the hexadecimal form.
func (id *VMID) UnmarshalText(b []byte) error { return parseHex("vm", id[:], string(b)) }

const (
	hostIDLabel       = "uvbond host id v1"
	fingerprintPrefix = "SHA256:"
	fingerprintGroup  = 4
)

var fingerprintEncoding = base32.StdEncoding.WithPadding(base32.NoPadding)

func hostID(public []byte) HostID {
	h := sha256.New()
	h.Write([]byte(hostIDLabel))
	h.Write(public)
	return HostID(h.Sum(nil))
}

// Fingerprint returns the identity as a person compares it: "SHA256:" and 13
// groups of 4 letters and digits (base32, no 0, 1, 8 or 9), with dashes between.
func (id HostID) Fingerprint() string {
	text := fingerprintEncoding.EncodeToString(id[:])
	var sb strings.Builder
	sb.WriteString(fingerprintPrefix)
	for i := 0; i < len(text); i += fingerprintGroup {
		if i > 0 {
			sb.WriteByte('-')
		}
		sb.WriteString(text[i:min(i+fingerprintGroup, len(text))])
	}
	return sb.String()
}

// ParseFingerprint reads what Fingerprint wrote. It forgives lower case, missing dashes and
// spaces between groups, because people type it.
func ParseFingerprint(s string) (id HostID, err error) {
	rest := strings.NewReplacer("-", "", " ", "").Replace(strings.ToUpper(s))
	rest = strings.TrimPrefix(rest, fingerprintPrefix)
	b, err := fingerprintEncoding.DecodeString(rest)
	if err != nil || len(b) != len(id) {
		return id, invalid("host fingerprint", "want %s and 13 groups of 4 letters and digits", fingerprintPrefix)
	}
	// The last character carries unused bits; only the one form is accepted.
	if fingerprintEncoding.EncodeToString(b) != rest {
		return id, invalid("host fingerprint", "the last group is mistyped")
	}
	return HostID(b), nil
}
