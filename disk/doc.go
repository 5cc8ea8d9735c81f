// Package disk is the enciphered disk: a Device of plain bytes over a Backend of
// ciphertext. Package encrypt below makes such a disk from a plain one.
//
// The Backend belongs to the management domain and is not trusted with anything
// but keeping bytes: it may return any. Where the data starts, its length and
// how it is enciphered come from the owner's registration, never from the
// Backend (package luks compares the two). See docs/disks.md for what the
// format protects and what not.
package disk
