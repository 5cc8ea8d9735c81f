// Package state is the trusted daemon's memory on disk: the host's identity,
// the bonds, used VM ids and nonces, running instances and the audit logs.
//
// # What it trusts
//
// The folder belongs to the daemon alone (0700, files 0600). Whoever reads a
// copy of the database without the state key learns VM ids, nonces and sizes,
// and no secret. Whoever edits it gets it refused: Open checks every page and
// every record except the bodies of audit records, which are checked when they
// are read. What nothing here detects is an old copy of the whole folder put
// back, or a record removed by someone who can rewrite the file; a state key
// source with a counter (a TPM) can, and is the place for it.
//
// # Format, version 3
//
// One bbolt file, buckets as listed in store.go. The value "format" in bucket
// "meta" is the version as 4 bytes, big-endian. Every other value is
//
//	nonce (12) ‖ AES-256-GCM ciphertext ‖ tag (16)
//
// under HKDF-SHA256(state key, info "uvbond v1 state database"); associated data
// is 1 (4 bytes) ‖ length of the bucket's name (2) ‖ name ‖ key, and for audit
// records "audit" ‖ VM id ‖ number. Plaintexts are deterministic CBOR maps with
// small integers as keys, decoded strictly.
//
// # Promises
//
//   - Update is all or nothing and on stable storage when it returns nil, so a
//     crash at any moment leaves what was answered for, and nothing by halves.
//   - A VM id is registered once, for ever; a nonce is used once; instance
//     numbers only grow. Nonces are forgotten after their validity, and from
//     then on nothing of that age is accepted, even if the clock is set back.
//   - Deleting a bond removes its keys from the file, by rewriting the file and
//     overwriting the old one, and not only from the tree. What a copying file
//     system or flash keeps underneath is out of its reach.
//
// # Audit logs
//
// Each bond has one log and HostLog is one more: a chain of bond.AuditRecord.
// Records are never changed. Others than the owner could fill a log at will, so:
//
//   - An Entry marked Coalesce that equals the last such record, or comes when the
//     log's budget (64 records, one more every 30 s) is spent, is only counted.
//     Counts become records, the entry with the fields "repeated", "first" and
//     "last" (Unix ms), before the next ordinary record, before the log is read,
//     and at the latest with the next coalesced entry ten minutes on. At most 8 different
//     entries are counted apart; the rest share one count, "others".
//   - A log has a cap in bytes. Above it the oldest records go, 1/64 of the cap at
//     a time, and a record of kind "dropped" says which. The rest stays
//     verifiable from the chain value before the oldest kept; an owner who read the
//     log before holds heads that show what is missing.
package state

import "encoding/binary"

// FormatVersion of the database. On-disk format:
//
//  1. the first.
//  2. bucket "grants": what was used of policies and delegations.
//  3. bucket "builds": how far disks are made from their base images.
//
// Open brings a database of an earlier format to the last.
const FormatVersion uint32 = 3

func formatRecord() []byte { return binary.BigEndian.AppendUint32(nil, FormatVersion) }
