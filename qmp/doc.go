// Package qmp speaks the QEMU Machine Protocol: newline-delimited JSON over a
// unix socket, with descriptors of open files beside the messages.
package qmp
