// Package nbd is the server side of the NBD protocol (the NBD project's
// doc/proto.md): fixed newstyle negotiation, simple and structured replies,
// several connections to one export.  QEMU is its client: this is how the
// plaintext of a VM's disk reaches the VM, and nothing else is meant to connect.
//
// The client is not trusted: a guest may have taken QEMU over.  Every length
// that it sends is checked before anything is allocated, negotiation has a time
// limit, and a connection's memory has a fixed upper bound (see buffer.go).
// The Device behind an export is trusted.
//
// Stages of one connection:
//
//	accept ─▶ peer check ─▶ handshake ─▶ transmission ─▶ drain ─▶ close
//	          (peer.go)     (handshake.go)
//
// Transmission is one goroutine's work, in rounds:
//
//	receive ─▶ parse ─▶ Queue of the Device ─▶ replies ─▶ send
//	(inbox.go) (command.go)                   (outbox.go)
//
// One system call brings many requests, and one takes many replies away. Data is
// enciphered where it arrived and deciphered where it is sent from; long requests
// are worked on in parts that fit a cache. What a connection holds is bounded: a
// client that sends faster than the disk works, or does not take its replies, is
// not read from.
package nbd
