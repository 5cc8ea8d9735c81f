// Package bond is what a tenant and a hypervisor agree on: identities, the
// registration that creates a bond, the key schedule, and every message that is
// sealed under it. Both ends use this package; the management domain between
// them relays the sealed bytes and never holds anything that opens them.
//
// The package is pure: no files, no network, no clock. Callers pass times in
// Unix seconds. Randomness comes from crypto/rand only.
//
// What it trusts: the standard library's cryptography (HPKE of RFC 9180 with
// MLKEM768-X25519, HKDF of RFC 5869, AES-256-GCM) and the pinned host key. It
// trusts no byte that it decodes. Sizes are capped before anything is decoded,
// and only the deterministic CBOR encoding (RFC 8949 section 4.2.1) of exactly the
// fields that are expected is accepted: what was decoded is encoded again and has
// to be equal, so unknown, repeated, missing or reordered fields, longer forms of
// a number, indefinite lengths, tags and trailing bytes are all refused.
//
// Imports: the standard library and golang.org/x, with one exception,
// github.com/fxamacker/cbor. The standard library has no CBOR; a decoder of our
// own would be new code on the path of hostile input, while this one is fuzzed,
// audited, and has limits on depth, elements and duplicate keys built in. It sees
// the plaintext of sealed messages, so it belongs to the trusted dependencies. A
// test holds the list.
//
// The wire formats are described in docs/protocol.md, with CDDL; a test
// compares that file with the structs here.
package bond
