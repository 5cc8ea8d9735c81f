// Package interop holds UVBond's disks against the kernel's own dm-crypt: what one
// has written the other must read, byte for byte. It consists of tests, which boot a
// guest for dm-crypt.
package interop
