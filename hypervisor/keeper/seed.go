package keeper

import (
	"crypto/rand"
	"fmt"
	"io"
	"sync"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/disk"
	"github.com/uvbond/uvbond/disk/nocloud"
	"github.com/uvbond/uvbond/disk/xts"
)

// The seed is one more disk, bond.SeedDisk: the files of the guest's first boot as
// cloud-init expects them, made anew by every keeper and nowhere but in its memory.
// The way from there to QEMU knows enciphered disks only, so this one is enciphered
// too, under a key that is drawn here and that nobody else ever has. What the guest writes, where
// its bus has no read-only disks, changes this memory and ends with the keeper.

type wireSeed struct {
	UserData      []byte `cbor:"1,keyasint"`
	MetaData      []byte `cbor:"2,keyasint"`
	VendorData    []byte `cbor:"3,keyasint"`
	NetworkConfig []byte `cbor:"4,keyasint"`
	ReadOnly      bool   `cbor:"5,keyasint"`
}

func newWireSeed(c *Config) *wireSeed {
	s := c.Seed
	if s == nil {
		return nil
	}
	return &wireSeed{s.UserData.Bytes(), s.MetaData.Bytes(), s.VendorData.Bytes(), s.NetworkConfig.Bytes(), c.SeedReadOnly}
}

func (w *wireSeed) seed() *bond.Seed {
	if w == nil {
		return nil
	}
	return &bond.Seed{UserData: bond.NewSecret(w.UserData), MetaData: bond.NewSecret(w.MetaData),
		VendorData: bond.NewSecret(w.VendorData), NetworkConfig: bond.NewSecret(w.NetworkConfig)}
}

func (w *wireSeed) wipe() {
	if w == nil {
		return
	}
	for _, b := range [][]byte{w.UserData, w.MetaData, w.VendorData, w.NetworkConfig} {
		bond.Wipe(b)
	}
}

// openSeed takes over descriptor fd, the listener.
func openSeed(c *Config, fd int, k *keeper) (*served, error) {
	l, err := listener(fd)
	if err != nil {
		return nil, fmt.Errorf("listener: %w", err)
	}
	s := &served{listener: l, config: &DiskConfig{Name: bond.SeedDisk, ReadOnly: c.SeedReadOnly, Length: nocloud.Size, SectorSize: nocloud.SectorSize}}
	if s.dev, err = seedDevice(c.Seed, c.SeedReadOnly); err != nil {
		return nil, err
	}
	s.front = newFrontEnd(s.config, s.dev, k)
	return s, nil
}

// seedDevice makes the disk of the files; the caller wipes these.
func seedDevice(s *bond.Seed, readOnly bool) (*disk.Device, error) {
	image, err := nocloud.Image(&nocloud.Files{
		UserData: s.UserData.Bytes(), MetaData: s.MetaData.Bytes(), VendorData: s.VendorData.Bytes(), NetworkConfig: s.NetworkConfig.Bytes(),
	})
	if err != nil {
		return nil, err
	}
	var key [64]byte
	rand.Read(key[:])
	defer bond.Wipe(key[:])
	c, err := xts.New(key[:], nocloud.SectorSize, 1)
	if err == nil {
		err = c.EncryptSectors(image, image, 0)
		c.Wipe()
	}
	if err != nil {
		bond.Wipe(image)
		return nil, err
	}
	return disk.NewDevice(&memory{data: image}, disk.Params{Key: key[:], SectorSize: nocloud.SectorSize, Length: nocloud.Size, ReadOnly: readOnly})
}

// memory is a disk.Backend.
type memory struct {
	mu   sync.RWMutex
	data []byte // its length is constant
}

// ReadAt is io.ReaderAt.
func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if off < 0 || off >= int64(len(m.data)) {
		return 0, io.EOF
	}
	n := copy(p, m.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt is io.WriterAt.
func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if off < 0 || off > int64(len(m.data)) {
		return 0, io.ErrShortWrite
	}
	n := copy(m.data[off:], p)
	if n < len(p) {
		return n, io.ErrShortWrite
	}
	return n, nil
}

// Sync has nothing to do: there is no storage.
func (m *memory) Sync() error { return nil }

// Size is the length in bytes.
func (m *memory) Size() int64 { return int64(len(m.data)) }

// PunchHole gives nothing back.
func (m *memory) PunchHole(int64, int64) error { return nil }

// Close wipes the memory.
func (m *memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	bond.Wipe(m.data)
	return nil
}
