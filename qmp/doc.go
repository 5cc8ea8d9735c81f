// Package qmp speaks the QEMU Machine Protocol: newline-delimited JSON over a
// unix stream socket, with descriptors of open files beside the messages.
//
// It serves three ends: the management server talking to the gate, the gate
// itself, and the hypervisor domain talking to QEMU's monitor. Nothing that is
// received is trusted. Lines, descriptors, nesting and numbers of values are
// capped before anything is built from them, and a request is decoded
// strictly, so that the bytes have one reading only.
//
// # Which line a descriptor belongs to
//
// A unix stream has no message boundaries, but the kernel ties descriptors to
// the first byte of the sendmsg call that carried them, and never returns two
// sets of descriptors, nor bytes of two writers once SO_PASSCRED is on, from
// one recvmsg. Conn therefore looks ahead (MSG_PEEK) for the end of the line
// and reads no further: whatever that read yields belongs to this line.
//
// # Who sent a line
//
// With EnableCredentials every line carries the pid, uid and gid that the
// kernel recorded when its bytes were written. A connection that was inherited
// or passed on is so seen for what it is. A process with CAP_SYS_ADMIN,
// CAP_SETUID or CAP_SETGID in the initial user namespace may forge these
// values; a management domain must not hold them there.
package qmp
