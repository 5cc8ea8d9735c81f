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
//	          (peer.go)     (handshake,   (conn.go, command.go,
//	                         option.go)    reply.go)
//
// In transmission a fixed set of workers takes turns: exactly one of them reads
// from the socket at any time; when it has a whole request it lets the next one
// read, executes the request itself, and queues the reply.  Whichever worker
// finds the queue unattended writes all that is in it with one system call.
package nbd
