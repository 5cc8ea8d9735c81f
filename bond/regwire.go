package bond

import (
	"fmt"
	"slices"
)

// The wire structs of a registration hold secrets as plain bytes, which Secret
// itself refuses to marshal. They live for one call and are wiped.

type wireRegistration struct {
	Offered  []uint16 `cbor:"offered"`
	Known    []uint16 `cbor:"known"`
	Chosen   uint16   `cbor:"chosen"`
	IssuedAt int64    `cbor:"issued-at"`
	Secret   []byte   `cbor:"secret"`
	Spec     wireSpec `cbor:"spec"`
	Policy   string   `cbor:"policy"`
}

type wireSpec struct {
	MemoryBytes uint64     `cbor:"memory-bytes"`
	VCPUs       uint32     `cbor:"vcpus"`
	Firmware    string     `cbor:"firmware"`
	Machine     string     `cbor:"machine"`
	Disks       []wireDisk `cbor:"disks"`
	NICs        []NIC      `cbor:"nics"`
	Screen      bool       `cbor:"screen,omitempty"`
	ChannelMAC  []byte     `cbor:"channel-mac,omitempty"`
	Seed        *wireSeed  `cbor:"seed,omitempty"`
}

type wireSeed struct {
	UserData      []byte `cbor:"user-data"`
	MetaData      []byte `cbor:"meta-data"`
	VendorData    []byte `cbor:"vendor-data"`
	NetworkConfig []byte `cbor:"network-config"`
}

type wireDisk struct {
	Name       string     `cbor:"name"`
	Bus        string     `cbor:"bus"`
	Boot       bool       `cbor:"boot"`
	ReadOnly   bool       `cbor:"read-only"`
	Discard    bool       `cbor:"discard"`
	Cipher     string     `cbor:"cipher"`
	SectorSize uint32     `cbor:"sector-size"`
	DataOffset uint64     `cbor:"data-offset"`
	Length     uint64     `cbor:"length"`
	IVTweak    uint64     `cbor:"iv-tweak"`
	UUID       string     `cbor:"uuid"`
	Digest     DiskDigest `cbor:"digest"`
	VolumeKey  []byte     `cbor:"volume-key"`
	Base       *wireBase  `cbor:"base,omitempty"`
}

type wireBase struct {
	SHA256  [32]byte    `cbor:"sha256"`
	Size    uint64      `cbor:"size"`
	Keyslot wireKeyslot `cbor:"keyslot"`
}

type wireKeyslot struct {
	Time   uint32 `cbor:"time"`
	Memory uint32 `cbor:"memory"`
	CPUs   uint32 `cbor:"cpus"`
	Salt   []byte `cbor:"salt"`
	Key    []byte `cbor:"key"`
}

// wire returns views of the secrets, not copies.
func (s *Seed) wire() *wireSeed {
	if s == nil {
		return nil
	}
	return &wireSeed{s.UserData.Bytes(), s.MetaData.Bytes(), s.VendorData.Bytes(), s.NetworkConfig.Bytes()}
}

func (w *wireSeed) seed() *Seed {
	if w == nil {
		return nil
	}
	return &Seed{NewSecret(w.UserData), NewSecret(w.MetaData), NewSecret(w.VendorData), NewSecret(w.NetworkConfig)}
}

func (b *Base) wire() *wireBase {
	if b == nil {
		return nil
	}
	k := &b.Keyslot
	return &wireBase{SHA256: b.SHA256, Size: b.Size, Keyslot: wireKeyslot{Time: k.Time, Memory: k.Memory, CPUs: k.CPUs, Salt: k.Salt, Key: k.Key.Bytes()}}
}

func (w *wireBase) base() *Base {
	if w == nil {
		return nil
	}
	k := &w.Keyslot
	return &Base{SHA256: w.SHA256, Size: w.Size, Keyslot: Keyslot{Time: k.Time, Memory: k.Memory, CPUs: k.CPUs, Salt: k.Salt, Key: NewSecret(k.Key)}}
}

// registrationSlack is more than all fields but the texts can take, so that the
// buffer of a registration never grows and leaves copies of secrets behind.
const registrationSlack = 16 << 10

// encode returns the plaintext of the sealed registration; the caller wipes it.
func (r *Registration) encode() ([]byte, error) {
	w := wireRegistration{
		Offered: r.Offered, Known: r.Known, Chosen: r.Chosen, IssuedAt: r.IssuedAt, Secret: r.Secret.Bytes(),
		Spec: wireSpec{
			MemoryBytes: r.Spec.MemoryBytes, VCPUs: r.Spec.VCPUs,
			Firmware: r.Spec.Firmware, Machine: r.Spec.Machine, NICs: r.Spec.NICs,
			Screen: r.Spec.Screen, Seed: r.Spec.Seed.wire(),
		},
		Policy: r.Policy,
	}
	if r.Spec.ChannelMAC != [6]byte{} {
		w.Spec.ChannelMAC = r.Spec.ChannelMAC[:]
	}
	for _, d := range r.Spec.Disks {
		w.Spec.Disks = append(w.Spec.Disks, wireDisk{
			Name: d.Name, Bus: d.Bus, Boot: d.Boot, ReadOnly: d.ReadOnly, Discard: d.Discard,
			Cipher: d.Cipher, SectorSize: d.SectorSize, DataOffset: d.DataOffset, Length: d.Length,
			IVTweak: d.IVTweak, UUID: d.UUID, Digest: d.Digest, VolumeKey: d.VolumeKey.Bytes(), Base: d.Base.wire(),
		})
	}
	return encode(w, registrationSlack+len(r.Policy)+r.Spec.Seed.Size())
}

// decodeRegistration copies everything out of plain, which the caller wipes.
func decodeRegistration(plain []byte) (*Registration, error) {
	var w wireRegistration
	defer w.wipe()
	if err := decodeStrict(plain, &w); err != nil {
		return nil, fmt.Errorf("%w: registration", err)
	}
	if len(w.Spec.Disks) > MaxDisks || len(w.Spec.NICs) > MaxNICs {
		return nil, invalid("registration: spec", "has %d disks and %d nics, want at most %d and %d",
			len(w.Spec.Disks), len(w.Spec.NICs), MaxDisks, MaxNICs)
	}
	if n := len(w.Spec.ChannelMAC); n != 0 && n != 6 {
		return nil, fmt.Errorf("%w: registration", ErrMalformed)
	}
	r := &Registration{
		Offered: w.Offered, Known: w.Known, Chosen: w.Chosen, IssuedAt: w.IssuedAt,
		Secret: NewSecret(w.Secret), Policy: w.Policy,
		Spec: Spec{
			MemoryBytes: w.Spec.MemoryBytes, VCPUs: w.Spec.VCPUs,
			Firmware: w.Spec.Firmware, Machine: w.Spec.Machine, NICs: slices.Clip(w.Spec.NICs),
			Screen: w.Spec.Screen, Seed: w.Spec.Seed.seed(),
		},
	}
	copy(r.Spec.ChannelMAC[:], w.Spec.ChannelMAC)
	for _, d := range w.Spec.Disks {
		r.Spec.Disks = append(r.Spec.Disks, Disk{
			Name: d.Name, Bus: d.Bus, Boot: d.Boot, ReadOnly: d.ReadOnly, Discard: d.Discard,
			Cipher: d.Cipher, SectorSize: d.SectorSize, DataOffset: d.DataOffset, Length: d.Length,
			IVTweak: d.IVTweak, UUID: d.UUID, Digest: d.Digest, VolumeKey: NewSecret(d.VolumeKey), Base: d.Base.base(),
		})
	}
	return r, nil
}

func (w *wireRegistration) wipe() {
	Wipe(w.Secret)
	for i := range w.Spec.Disks {
		Wipe(w.Spec.Disks[i].VolumeKey)
		if b := w.Spec.Disks[i].Base; b != nil {
			Wipe(b.Keyslot.Key)
		}
	}
	if s := w.Spec.Seed; s != nil {
		for _, file := range [][]byte{s.UserData, s.MetaData, s.VendorData, s.NetworkConfig} {
			Wipe(file)
		}
	}
}

// Export returns the registration for storage. It is as secret as the keys in it.
func (r *Registration) Export() (*Secret, error) {
	raw, err := r.encode()
	if err != nil {
		return nil, err
	}
	defer Wipe(raw)
	return NewSecret(raw), nil
}

// ImportRegistration reads what Export wrote, and validates it.
func ImportRegistration(s *Secret) (*Registration, error) {
	if s.Len() > MaxRegistration {
		return nil, tooLarge("stored registration", s.Len(), MaxRegistration)
	}
	r, err := decodeRegistration(s.Bytes())
	if err != nil {
		return nil, err
	}
	if err := r.Validate(); err != nil {
		r.Wipe()
		return nil, err
	}
	return r, nil
}
