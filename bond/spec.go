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

// Wipe zeroes all volume keys.
func (s *Spec) Wipe() {
	for i := range s.Disks {
		s.Disks[i].VolumeKey.Wipe()
	}
}
