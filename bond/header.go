package bond

import "slices"

// Purpose says what a sealed message is for. Each has a key of its own, so a
// message of one purpose never opens as another.
type Purpose string

// The purposes, and who seals: the tenant makes registrations, tickets, delegations
// and grants, a delegate delegated tickets, the hypervisor everything else.
const (
	PurposeRegistration Purpose = "registration" // tenant to hypervisor
	PurposeConfirmation Purpose = "confirmation" // hypervisor to tenant
	PurposeBootTicket   Purpose = "boot-ticket"  // tenant to hypervisor
	PurposeDescriptor   Purpose = "descriptor"   // hypervisor to tenant
	PurposeTicket       Purpose = "ticket"       // tenant to hypervisor
	PurposeReceipt      Purpose = "receipt"      // hypervisor to tenant
	PurposeAudit        Purpose = "audit"        // hypervisor to tenant
	PurposeConsole      Purpose = "console"      // hypervisor to tenant

	PurposeDelegation       Purpose = "delegation"        // tenant to hypervisor, by way of the delegate
	PurposeGrant            Purpose = "grant"             // tenant to delegate
	PurposeDelegatedTicket  Purpose = "delegated-ticket"  // delegate to hypervisor
	PurposeDelegatedReceipt Purpose = "delegated-receipt" // hypervisor to delegate
)

// Limits of sealed messages in bytes, envelope included.
const (
	MaxRegistration = 256 << 10
	MaxTicket       = 128 << 10 // tickets and boot tickets
	MaxReceipt      = 256 << 10
	MaxChunk        = 1 << 20  // audit and console chunks
	MaxSmall        = 96 << 10 // confirmations (which repeat the policy) and descriptors
	maxSealed       = MaxChunk
)

var purposeLimits = map[Purpose]int{
	PurposeRegistration: MaxRegistration,
	PurposeConfirmation: MaxSmall,
	PurposeBootTicket:   MaxTicket,
	PurposeDescriptor:   MaxSmall,
	PurposeTicket:       MaxTicket,
	PurposeReceipt:      MaxReceipt,
	PurposeAudit:        MaxChunk,
	PurposeConsole:      MaxChunk,

	PurposeDelegation:       MaxDelegation,
	PurposeGrant:            MaxGrant,
	PurposeDelegatedTicket:  MaxTicket,
	PurposeDelegatedReceipt: MaxReceipt,
}

// Header stands in clear before every sealed message and is its associated data:
// whoever changes it makes the message useless.
type Header struct {
	Version uint16
	Purpose Purpose
	Tenant  TenantID
	Host    HostID
	VM      VMID
}

// wireHeader is the associated data.
type wireHeader struct {
	_       struct{} `cbor:",toarray"`
	Version uint16
	Purpose Purpose
	Tenant  TenantID
	Host    HostID
	VM      VMID
}

// wireEnvelope is a header with the sealed body behind it.
type wireEnvelope struct {
	_       struct{} `cbor:",toarray"`
	Version uint16
	Purpose Purpose
	Tenant  TenantID
	Host    HostID
	VM      VMID
	Body    []byte
}

// associatedData returns the deterministic encoding of the header.
func (h Header) associatedData() []byte {
	return mustEncode(wireHeader{Version: h.Version, Purpose: h.Purpose, Tenant: h.Tenant, Host: h.Host, VM: h.VM})
}

// encodeEnvelope joins header and body and applies the size limit of the purpose.
func encodeEnvelope(h Header, body []byte) ([]byte, error) {
	out := mustEncode(wireEnvelope{Version: h.Version, Purpose: h.Purpose, Tenant: h.Tenant, Host: h.Host, VM: h.VM, Body: body})
	if limit := purposeLimits[h.Purpose]; len(out) > limit {
		return nil, tooLarge(h.Purpose, len(out), limit)
	}
	return out, nil
}

// decodeEnvelope is the reverse; the body still has to be opened.
func decodeEnvelope(sealed []byte) (Header, []byte, error) {
	if len(sealed) > maxSealed {
		return Header{}, nil, tooLarge("sealed", len(sealed), maxSealed)
	}
	var w wireEnvelope
	if err := decodeStrict(sealed, &w); err != nil {
		return Header{}, nil, err
	}
	limit, known := purposeLimits[w.Purpose]
	if !known {
		return Header{}, nil, ErrMalformed
	}
	if len(sealed) > limit {
		return Header{}, nil, tooLarge(w.Purpose, len(sealed), limit)
	}
	if !slices.Contains(Supported, w.Version) {
		return Header{}, nil, &VersionError{Have: []uint16{w.Version}, Supported: slices.Clone(Supported)}
	}
	return Header{Version: w.Version, Purpose: w.Purpose, Tenant: w.Tenant, Host: w.Host, VM: w.VM}, w.Body, nil
}

// PeekHeader reads the header of a sealed message without opening it. Nothing in
// it is authenticated: use it to find the bond to try, and for nothing else. Errors:
// ErrMalformed, ErrTooLarge, *VersionError.
func PeekHeader(sealed []byte) (Header, error) {
	h, _, err := decodeEnvelope(sealed)
	return h, err
}
