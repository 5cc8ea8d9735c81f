// Package nbdclient is a disk.Backend on an NBD server: a provider's distributed
// storage, or anything that nbdkit, qemu-storage-daemon or another server of the
// NBD project's doc/proto.md exports, keeps the ciphertext.
//
//	ReadAt, WriteAt, ... ─┐             ┌─▶ link 0 ─▶ send ─▶ server
//	queue (OpenQueue) ────┴─▶ dispatch ─┤      ▲          receive
//	                       (client.go)  └─▶ link n        (send.go, receive.go)
//	                                     (link.go)
//
// # What is trusted
//
// Dial and the TLS configuration, which come from whoever runs the host. The
// server is not trusted with more than keeping bytes. What it sends is capped
// before anything is allocated. A read is complete when each of its bytes came
// exactly once. A message that is malformed, surplus, or answers what was not
// asked ends the connection, and is counted. An answer to a request that is not
// yet on its way is such a message; without that a server could make the caller
// reuse a buffer that is still to be sent.
//
// # When a connection breaks
//
// A link connects again, with growing pauses, until Close. Requests that it had
// not answered go to another link or wait. One that was not answered within
// Config.Outage fails with EIO. All requests are idempotent, so to send one twice
// is safe as long as the server has given up the broken connection; a write that
// a server still carries out long after its connection broke could undo a newer
// one. Linux's and QEMU's clients have that limit too.
//
// # What a completed Sync promises
//
// That every write which was completed before is on stable storage, also where
// the server crashed in between. Linux's nbd driver and QEMU's do not promise
// that: they send the flush to the new server and take its success as theirs,
// though writes that the old server had only acknowledged may be gone. Here a keyed
// hash of every sector that was written since the last flush is kept (64 bits,
// bounded by Config.MaxUnflushed; when there are more, a flush is sent early).
// When a connection was lost, or a flush failed, the next Sync first reads those
// sectors back. What is as it was written is written once more, over the
// connections that there are now, so that their flush covers it, whatever the server
// does across connections and restarts. What is not was lost: that Sync fails with
// EIO, and reads of these sectors fail with EIO until they are written anew, as a
// disk's bad sectors do. A read in between is held against the hashes as well.
//
// The hashes are gone when the process ends. If it and the server crash between a
// write and its flush, nobody notices; a flush that was completed holds.
//
// Requests in flight at the same time must not overlap unless both are reads. A
// disk.Device sees to that.
package nbdclient
