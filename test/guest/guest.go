// Package guest builds small bootable disks for the tests and the demo.
package guest

import (
	"context"
	"errors"
	"io"
)

// Kernel names a flavour of Debian's kernel.
type Kernel string

const (
	Cloud   Kernel = "cloud"   // virtio, PIIX IDE and NVMe
	Generic Kernel = "generic" // AHCI as well
)

// Options of Build. The zero value is a Cloud guest that prints an empty secret.
type Options struct {
	Kernel     Kernel
	Secret     string    // printed as UVBOND-SECRET <text>; one line
	Script     string    // shell, run as root in the guest after its first lines
	Cryptsetup bool      // dm-crypt modules and cryptsetup on the disk
	Fio        bool      // fio on the disk
	Cmdline    string    // added to the kernel's command line
	SizeMiB    int       // of the whole disk, 0: the smallest that fits
	Log        io.Writer // progress, may be nil
}

// Build returns the path of a raw disk in the cache. The caller copies it before it writes.
func Build(ctx context.Context, o Options) (path string, err error) {
	return "", errors.New("guest: not written yet")
}
