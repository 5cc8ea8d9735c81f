package bond

import (
	"crypto/subtle"
	"fmt"
	"regexp"
	"slices"
)

// Limits of a specification.
const (
	MinMemory     = 32 << 20 // bytes
	MaxMemory     = 1 << 40  // bytes
	MaxVCPUs      = 255
	MaxDisks      = 8
	MaxNICs       = 8
	maxIDE        = 4       // two channels, two devices each
	maxSATA       = 6       // ports of the ICH9 AHCI
	maxImage      = 1 << 56 // bytes, offset and length
	maxIVTweak    = 1 << 62
	maxIterations = 50_000_000
	minDigestPart = 8
	maxDigestPart = 64
	mebibyte      = 1 << 20
	ivSector      = 512

	keyslotSalt   = 32      // bytes, as cryptsetup makes them
	keyslotKey    = 64      // bytes, for aes-xts-plain64 with 512 bits
	maxArgonTime  = 1 << 16 // passes
	maxArgonCPUs  = 255
	maxArgonBytes = 4 << 20 // KiB, as cryptsetup
)

// CipherAESXTS is the only disk cipher.
const CipherAESXTS = "aes-xts-plain64"

var (
	diskName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,15}$`)
	luksUUID = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
	hashName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
)

// Validate checks every limit and combination. Errors are *InvalidError.
func (s *Spec) Validate() error {
	switch {
	case s.MemoryBytes < MinMemory || s.MemoryBytes > MaxMemory:
		return invalid("spec: memory", "is %d bytes, want 32 MiB to 1 TiB", s.MemoryBytes)
	case s.MemoryBytes%mebibyte != 0:
		return invalid("spec: memory", "is %d bytes, want whole MiB", s.MemoryBytes)
	case s.VCPUs < 1 || s.VCPUs > MaxVCPUs:
		return invalid("spec: vcpus", "is %d, want 1 to %d", s.VCPUs, MaxVCPUs)
	case s.Firmware != "bios" && s.Firmware != "uefi":
		return invalid("spec: firmware", "is %q, want bios or uefi", clip(s.Firmware))
	case s.Machine != "pc" && s.Machine != "q35":
		return invalid("spec: machine", "is %q, want pc or q35", clip(s.Machine))
	case len(s.Disks) < 1 || len(s.Disks) > MaxDisks:
		return invalid("spec: disks", "are %d, want 1 to %d", len(s.Disks), MaxDisks)
	case len(s.NICs) > MaxNICs:
		return invalid("spec: nics", "are %d, want at most %d", len(s.NICs), MaxNICs)
	}
	if err := s.validateDisks(); err != nil {
		return err
	}
	if n := s.Seed.Size(); n > MaxSeed {
		return invalid("spec: seed", "has %d bytes, want at most %d", n, MaxSeed)
	}
	if s.Seed != nil && slices.ContainsFunc(s.Disks, func(d Disk) bool { return d.Name == SeedDisk }) {
		return invalid("spec: disks", "the name %q is that of the first boot's disk; choose another", SeedDisk)
	}
	return s.validateNICs()
}

func (s *Spec) validateDisks() error {
	buses := map[string]int{}
	for i := range s.Disks {
		d := &s.Disks[i]
		where := fmt.Sprintf("spec: disk %d", i)
		if err := d.validate(where); err != nil {
			return err
		}
		if err := s.validateBus(where, d); err != nil {
			return err
		}
		if d.Boot != (i == 0) {
			return invalid(where, "the first disk, and no other, must be the boot disk")
		}
		for j := range i {
			if s.Disks[j].Name == d.Name {
				return invalid(where, "name %q is used twice", d.Name)
			}
			// With one key for two disks, swapping them would not be noticed.
			if s.Disks[j].VolumeKey.Equal(d.VolumeKey) {
				return invalid(where, "has the volume key of disk %d; encrypt it with a key of its own", j)
			}
		}
		buses[d.Bus]++
	}
	if buses["ide"] > maxIDE || buses["sata"] > maxSATA {
		return invalid("spec: disks", "want at most %d on ide and %d on sata", maxIDE, maxSATA)
	}
	return nil
}

// validateBus refuses what QEMU's machines cannot build.
func (s *Spec) validateBus(where string, d *Disk) error {
	switch d.Bus {
	case "virtio", "nvme":
		return nil
	case "ide":
		if s.Machine != "pc" {
			return invalid(where, "bus ide needs machine pc")
		}
		if s.Firmware == "uefi" {
			return invalid(where, "bus ide does not work with uefi; take virtio, nvme or sata")
		}
	case "sata":
		if s.Machine != "q35" {
			return invalid(where, "bus sata needs machine q35")
		}
	default:
		return invalid(where, "bus is %q, want virtio, ide, sata or nvme", clip(d.Bus))
	}
	if d.ReadOnly {
		return invalid(where, "bus %s has no read-only disks; take virtio or nvme", d.Bus)
	}
	return nil
}

func (d *Disk) validate(where string) error {
	size := uint64(d.SectorSize)
	switch {
	case !diskName.MatchString(d.Name):
		return invalid(where, "name is %q, want a lower-case letter, then up to 15 letters, digits or dashes", clip(d.Name))
	case d.Cipher != CipherAESXTS:
		return invalid(where, "cipher is %q, want %s", clip(d.Cipher), CipherAESXTS)
	case size != 512 && size != 4096:
		return invalid(where, "sector size is %d, want 512 or 4096", size)
	case d.DataOffset%size != 0 || d.DataOffset > maxImage:
		return invalid(where, "data offset %d is not a multiple of the sector size, or too large", d.DataOffset)
	case d.Length == 0 || d.Length%size != 0 || d.Length > maxImage:
		return invalid(where, "length %d is not a positive multiple of the sector size, or too large", d.Length)
	case d.IVTweak > maxIVTweak-d.Length/ivSector:
		return invalid(where, "iv tweak %d is too large", d.IVTweak)
	case !luksUUID.MatchString(d.UUID):
		return invalid(where, "uuid is %q, want 8-4-4-4-12 hexadecimal digits", clip(d.UUID))
	}
	if err := d.Digest.validate(where + ": digest"); err != nil {
		return err
	}
	if err := d.validateBase(where + ": base"); err != nil {
		return err
	}
	return validateVolumeKey(where, d.VolumeKey)
}

func (d *Disk) validateBase(where string) error {
	b := d.Base
	if b == nil {
		return nil
	}
	k := &b.Keyslot
	switch {
	case b.Size == 0 || b.Size > d.Length:
		return invalid(where, "has %d bytes, want 1 to the disk's %d", b.Size, d.Length)
	case k.Time < 1 || k.Time > maxArgonTime || k.CPUs < 1 || k.CPUs > maxArgonCPUs:
		return invalid(where, "argon2id with %d passes and %d lanes is not possible", k.Time, k.CPUs)
	case k.Memory < 8*k.CPUs || k.Memory > maxArgonBytes:
		return invalid(where, "argon2id with %d KiB is not possible", k.Memory)
	case len(k.Salt) != keyslotSalt || k.Key.Len() != keyslotKey:
		return invalid(where, "salt and key are %d and %d bytes, want %d and %d", len(k.Salt), k.Key.Len(), keyslotSalt, keyslotKey)
	}
	return nil
}

func (g *DiskDigest) validate(where string) error {
	switch {
	case !hashName.MatchString(g.Hash):
		return invalid(where, "hash is %q", clip(g.Hash))
	case g.Iterations < 1 || g.Iterations > maxIterations:
		return invalid(where, "has %d iterations, want 1 to %d", g.Iterations, maxIterations)
	case len(g.Salt) < minDigestPart || len(g.Salt) > maxDigestPart:
		return invalid(where, "salt is %d bytes, want %d to %d", len(g.Salt), minDigestPart, maxDigestPart)
	case len(g.Value) < minDigestPart || len(g.Value) > maxDigestPart:
		return invalid(where, "value is %d bytes, want %d to %d", len(g.Value), minDigestPart, maxDigestPart)
	}
	return nil
}

// validateVolumeKey also refuses equal halves: XTS with them is not secure (FIPS 140
// implementation guidance C.I).
func validateVolumeKey(where string, k *Secret) error {
	b := k.Bytes()
	if len(b) != 32 && len(b) != 64 {
		return invalid(where, "volume key is %d bytes, want 32 or 64", len(b))
	}
	half := len(b) / 2
	if subtle.ConstantTimeCompare(b[:half], b[half:]) == 1 {
		return invalid(where, "volume key has two equal halves")
	}
	return nil
}

func (s *Spec) validateNICs() error {
	var seen [][6]byte
	for i, n := range s.NICs {
		where := fmt.Sprintf("spec: nic %d", i)
		switch {
		case n.Model != "virtio" && n.Model != "e1000":
			return invalid(where, "model is %q, want virtio or e1000", clip(n.Model))
		case n.MAC[0]&1 != 0 || n.MAC == [6]byte{}:
			return invalid(where, "mac %x is not a unicast address", n.MAC)
		case slices.Contains(seen, n.MAC):
			return invalid(where, "mac %x is used twice", n.MAC)
		}
		seen = append(seen, n.MAC)
	}
	if s.ChannelMAC[0]&1 != 0 || slices.Contains(seen, s.ChannelMAC) {
		return invalid("spec: channel mac", "%x is not a unicast address of its own", s.ChannelMAC)
	}
	return nil
}
