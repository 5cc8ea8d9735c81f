package keeper

import (
	"fmt"
	"os"

	"github.com/uvbond/uvbond/disk"
)

// newDevice makes the encrypted device on f, which it takes over unless there is
// an error.
func newDevice(c *DiskConfig, f *os.File) (*disk.Device, error) {
	b, err := disk.FileBackend(f)
	if err != nil {
		return nil, err
	}
	return newDeviceOn(c, b)
}

// newDeviceOn makes it on b.
func newDeviceOn(c *DiskConfig, b disk.Backend) (*disk.Device, error) {
	if size := b.Size(); size < 0 || uint64(size) < c.DataOffset+c.Length {
		return nil, fmt.Errorf("ciphertext has %d bytes, the registration needs %d", size, c.DataOffset+c.Length)
	}
	d, err := disk.NewDevice(b, disk.Params{
		Key: c.Key.Bytes(), SectorSize: c.SectorSize, DataOffset: c.DataOffset, Length: c.Length,
		IVTweak: c.IVTweak, ReadOnly: c.ReadOnly, Discard: c.Discard,
	})
	if err != nil {
		return nil, err
	}
	return d, d.SetLimits(c.Limits) // valid: it was checked with the rest of the configuration
}
