package keeper

import (
	"errors"
	"fmt"
	"os"
	"regexp"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/disk"
	"github.com/uvbond/uvbond/disk/vhostuser"
)

// Limits of a configuration.
const (
	maxDisks  = 8
	maxConfig = 64<<10 + bond.MaxSeed // bytes, encoded
)

// Front ends of a disk.
const (
	FrontEndNBD       = "nbd"
	FrontEndVhostUser = "vhost-user"
)

var (
	vmName   = regexp.MustCompile(`^[0-9a-f]{32}$`)
	diskName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,15}$`)
)

// DiskConfig is one disk of the VM: its key and every parameter, as registered.
type DiskConfig struct {
	Name       string       // also the NBD export's name
	Key        *bond.Secret // volume key, 32 or 64 bytes; stays the caller's
	SectorSize uint32       // bytes
	DataOffset uint64       // bytes
	Length     uint64       // bytes
	IVTweak    uint64
	ReadOnly   bool
	Discard    bool
	Limits     disk.Limits    // the provider's
	Storage    *StorageConfig // nil: the ciphertext is a file
	// VhostQueues is how many virtqueues a disk offers that is served by vhost-user;
	// 0: it is served by NBD.
	VhostQueues int
}

// Config is what a keeper is told at its start.
type Config struct {
	VM      string // 32 lower-case hexadecimal digits
	QEMUUID uint32 // who may connect to the disks and the console
	Disks   []DiskConfig

	Seed         *bond.Seed // files of the first boot, or nil; stays the caller's
	SeedReadOnly bool       // the seed's disk takes no writes
	// Dials: the keeper connects to TCP ports, those that QEMU forwards to the guest.
	Dials bool
}

func (c *Config) validate() error {
	if !vmName.MatchString(c.VM) {
		return fmt.Errorf("vm %q is not 32 lower-case hexadecimal digits", c.VM)
	}
	if len(c.Disks) == 0 || len(c.Disks) > maxDisks {
		return fmt.Errorf("%d disks, need 1 to %d", len(c.Disks), maxDisks)
	}
	if n := c.Seed.Size(); n > bond.MaxSeed {
		return fmt.Errorf("the seed has %d bytes, there can be %d", n, bond.MaxSeed)
	}
	seen := map[string]bool{bond.SeedDisk: c.Seed != nil}
	for i := range c.Disks {
		d := &c.Disks[i]
		switch {
		case !diskName.MatchString(d.Name):
			return fmt.Errorf("disk name %q does not match %s", d.Name, diskName)
		case seen[d.Name]:
			return fmt.Errorf("two disks are named %q", d.Name)
		case d.Key == nil || (d.Key.Len() != 32 && d.Key.Len() != 64):
			return fmt.Errorf("disk %q: the volume key must have 32 or 64 bytes", d.Name)
		case d.Length == 0 || d.Length > 1<<62 || d.DataOffset > 1<<62:
			return fmt.Errorf("disk %q: offset %d and length %d are not possible", d.Name, d.DataOffset, d.Length)
		}
		if d.VhostQueues < 0 || d.VhostQueues > vhostuser.MaxQueues {
			return fmt.Errorf("disk %q: %d queues, there can be %d", d.Name, d.VhostQueues, vhostuser.MaxQueues)
		}
		if err := d.Limits.Validate(); err != nil {
			return fmt.Errorf("disk %q: %w", d.Name, err)
		}
		seen[d.Name] = true
	}
	return nil
}

func (c *Config) wipe() {
	for i := range c.Disks {
		if c.Disks[i].Key != nil {
			c.Disks[i].Key.Wipe()
		}
	}
	c.Seed.Wipe()
}

// wireConfig is Config on its way to the keeper.
type wireConfig struct {
	VM        string     `cbor:"1,keyasint"`
	QEMUUID   uint32     `cbor:"2,keyasint"`
	DaemonUID uint32     `cbor:"3,keyasint"`
	SocketDir string     `cbor:"4,keyasint"`
	Disks     []wireDisk `cbor:"5,keyasint"`
	Seed      *wireSeed  `cbor:"6,keyasint,omitempty"`
	Dials     bool       `cbor:"7,keyasint,omitempty"`
}

type wireDisk struct {
	Name        string       `cbor:"1,keyasint"`
	Key         []byte       `cbor:"2,keyasint"`
	SectorSize  uint32       `cbor:"3,keyasint"`
	DataOffset  uint64       `cbor:"4,keyasint"`
	Length      uint64       `cbor:"5,keyasint"`
	IVTweak     uint64       `cbor:"6,keyasint"`
	ReadOnly    bool         `cbor:"7,keyasint"`
	Discard     bool         `cbor:"8,keyasint"`
	Limits      disk.Limits  `cbor:"9,keyasint"`
	Storage     *wireStorage `cbor:"10,keyasint,omitempty"`
	VhostQueues int          `cbor:"11,keyasint,omitempty"`
}

func (w *wireConfig) wipe() {
	for i := range w.Disks {
		bond.Wipe(w.Disks[i].Key)
	}
	w.Seed.wipe()
}

// encodeConfig returns the message for the keeper; the caller wipes it.
func encodeConfig(c *Config, socketDir string) ([]byte, error) {
	return encode(c.wire(socketDir))
}

// wire shares the memory of the keys and of the seed with c.
func (c *Config) wire(socketDir string) *wireConfig {
	w := &wireConfig{VM: c.VM, QEMUUID: c.QEMUUID, DaemonUID: uint32(os.Geteuid()), SocketDir: socketDir, Seed: newWireSeed(c), Dials: c.Dials}
	for i := range c.Disks {
		d := &c.Disks[i]
		w.Disks = append(w.Disks, wireDisk{
			Name: d.Name, Key: d.Key.Bytes(), SectorSize: d.SectorSize, DataOffset: d.DataOffset,
			Length: d.Length, IVTweak: d.IVTweak, ReadOnly: d.ReadOnly, Discard: d.Discard, Limits: d.Limits, Storage: d.Storage.wire(),
			VhostQueues: d.VhostQueues,
		})
	}
	return w
}

// encodedSize is more than the encoding has, in bytes: each disk may bring the certificates
// and names of its storage.
func (w *wireConfig) encodedSize() int {
	n := 4096 + len(w.SocketDir) + 4096*len(w.Disks)
	for i := range w.Disks {
		n += len(w.Disks[i].Key)
		if s := w.Disks[i].Storage; s != nil {
			n += len(s.CA) + len(s.Cert) + len(s.Key)
		}
	}
	if s := w.Seed; s != nil {
		n += len(s.UserData) + len(s.MetaData) + len(s.VendorData) + len(s.NetworkConfig)
	}
	return n
}

// decodeConfig is the other side; the caller wipes b.
func decodeConfig(b []byte) (*Config, *wireConfig, error) {
	var w wireConfig
	if len(b) > maxConfig {
		return nil, nil, errors.New("configuration is too long")
	}
	defer w.wipe()
	if err := decode(b, &w); err != nil {
		// The decoder's text could quote what it read.
		return nil, nil, errors.New("configuration is malformed")
	}
	c := &Config{VM: w.VM, QEMUUID: w.QEMUUID, Seed: w.Seed.seed(), Dials: w.Dials}
	if w.Seed != nil {
		c.SeedReadOnly = w.Seed.ReadOnly
	}
	for i := range w.Disks {
		d := &w.Disks[i]
		c.Disks = append(c.Disks, DiskConfig{
			Name: d.Name, Key: bond.NewSecret(d.Key), SectorSize: d.SectorSize, DataOffset: d.DataOffset,
			Length: d.Length, IVTweak: d.IVTweak, ReadOnly: d.ReadOnly, Discard: d.Discard, Limits: d.Limits, Storage: d.Storage.config(),
			VhostQueues: d.VhostQueues,
		})
	}
	if err := c.validate(); err != nil {
		c.wipe()
		return nil, nil, err
	}
	return c, &w, nil
}
