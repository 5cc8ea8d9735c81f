// Package interop holds UVBond's disks against the kernel's own dm-crypt: what one
// has written the other must read, byte for byte. And it has a guest look at disks
// whose storage fails. It consists of tests, which boot a guest.
package interop
