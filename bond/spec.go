package bond

// Spec is the VM exactly as its owner registered it. The hypervisor builds this
// and nothing else.
type Spec struct {
	MemoryBytes uint64 // 32 MiB to 1 TiB, whole MiB
	VCPUs       uint32 // 1 to 255
	Firmware    string // "bios" or "uefi"
	Machine     string // "pc" or "q35"
	Disks       []Disk // 1 to 8, the first is the boot disk
	NICs        []NIC  // up to 8

	Screen     bool    // a display, for channels of kind screen
	ChannelMAC [6]byte // of the NIC that only channels of kind forward reach; zero: there is none
	Seed       *Seed   // of the first boot; nil: none
}

// MaxSeed is the limit in bytes of all files of a Seed together.
const MaxSeed = 128 << 10

// SeedDisk is the name of the disk that the hypervisor makes of a Seed, which no
// other disk of such a VM may have.
const SeedDisk = "cidata"

// Seed has the files of a cloud-init NoCloud disk, which the hypervisor makes in
// memory. Nil is an empty file.
type Seed struct {
	UserData, MetaData, VendorData, NetworkConfig *Secret
}

func (s *Seed) files() []*Secret {
	if s == nil {
		return nil
	}
	return []*Secret{s.UserData, s.MetaData, s.VendorData, s.NetworkConfig}
}

// Size is the length in bytes of all files together.
func (s *Seed) Size() int {
	n := 0
	for _, f := range s.files() {
		n += f.Len()
	}
	return n
}

// Wipe zeroes the files.
func (s *Seed) Wipe() {
	for _, f := range s.files() {
		f.Wipe()
	}
}

// Disk is one disk with its volume key and all parameters of its encryption. What
// the disk's own header says has to be equal.
type Disk struct {
	Name       string // unique in the VM, a letter, then letters, digits and dashes, at most 16
	Bus        string // "virtio", "ide", "sata" or "nvme"
	Boot       bool
	ReadOnly   bool
	Discard    bool   // trim reaches the storage, which then sees what is unused
	Cipher     string // "aes-xts-plain64"
	SectorSize uint32 // bytes: 512 or 4096
	DataOffset uint64 // bytes from the start of the image, multiple of the sector size
	Length     uint64 // bytes of data, multiple of the sector size
	IVTweak    uint64 // added to the sector number, in 512-byte sectors
	UUID       string // of the LUKS2 header
	Digest     DiskDigest
	VolumeKey  *Secret // 32 or 64 bytes
	Base       *Base   // nil: the owner encrypted the image
}

// Base is the public image that the hypervisor encrypts into a new disk, with the
// header that the owner's passphrase opens.
type Base struct {
	SHA256  [32]byte // of the image, as its owner knows it
	Size    uint64   // bytes, at most the disk's length
	Keyslot Keyslot
}

// Keyslot is what a LUKS2 keyslot is made of without knowing the passphrase: the
// parameters of argon2id (RFC 9106) and what it gave.
type Keyslot struct {
	Time   uint32  // passes
	Memory uint32  // KiB
	CPUs   uint32  // lanes
	Salt   []byte  // 32 bytes
	Key    *Secret // 64 bytes, derived from the passphrase
}

// DiskDigest is the PBKDF2 digest of the volume key in the LUKS2 header, as the
// owner's client read and verified it.
type DiskDigest struct {
	Hash       string `cbor:"hash"` // as in the header, e.g. "sha256"
	Iterations uint32 `cbor:"iterations"`
	Salt       []byte `cbor:"salt"`
	Value      []byte `cbor:"value"`
}

// NIC is one network card.
type NIC struct {
	MAC   [6]byte `cbor:"mac"`   // unique in the VM, unicast
	Model string  `cbor:"model"` // "virtio" or "e1000"
}

// BootDisk returns the boot disk, or nil when the spec has none.
func (s *Spec) BootDisk() *Disk {
	for i := range s.Disks {
		if s.Disks[i].Boot {
			return &s.Disks[i]
		}
	}
	return nil
}

// Wipe zeroes all keys and the seed.
func (s *Spec) Wipe() {
	for i := range s.Disks {
		s.Disks[i].VolumeKey.Wipe()
		if b := s.Disks[i].Base; b != nil {
			b.Keyslot.Key.Wipe()
		}
	}
	s.Seed.Wipe()
}
