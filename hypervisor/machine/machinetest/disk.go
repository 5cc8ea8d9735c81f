package machinetest

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/disk/luks"
)

// DiskBytes is the size of a test disk's content.
const DiskBytes = 1 << 20

// cheap makes a passphrase weak on purpose: these disks hold nothing.
var cheap = luks.PBKDF{Type: "pbkdf2", Iterations: 1000}

// NewDisk makes a LUKS2 image in dir and returns its path and its registration.
// The caller adds what is not in the header, such as the bus.
func NewDisk(t testing.TB, dir, name string) (string, bond.Disk) {
	t.Helper()
	path := filepath.Join(dir, name+".luks")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(luks.DataOffset + DiskBytes); err != nil {
		t.Fatal(err)
	}
	key := bond.RandomSecret(64)
	h, err := luks.Format(f, luks.FormatOptions{Passphrase: []byte("test"), VolumeKey: key.Bytes(), DataSize: DiskBytes, PBKDF: cheap})
	if err != nil {
		t.Fatal(err)
	}
	return path, bond.Disk{
		Name: name, Bus: "virtio", Cipher: h.Segment.Cipher, SectorSize: h.Segment.SectorSize,
		DataOffset: h.Segment.Offset, Length: DiskBytes, IVTweak: h.Segment.IVTweak, UUID: h.UUID,
		Digest:    bond.DiskDigest{Hash: h.Digest.Hash, Iterations: h.Digest.Iterations, Salt: h.Digest.Salt, Value: h.Digest.Value},
		VolumeKey: key,
	}
}

// CopyDisk copies an image, sparse where it is empty.
func CopyDisk(t testing.TB, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const piece = 64 << 10
	zero := make([]byte, piece)
	for off := 0; off < len(b); off += piece {
		p := b[off:min(off+piece, len(b))]
		if bytes.Equal(p, zero[:len(p)]) {
			continue
		}
		if _, err := f.WriteAt(p, int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(int64(len(b))); err != nil {
		t.Fatal(err)
	}
}

// Register seals a registration of a small VM with these disks, the first of
// which it boots from. The bond is the owner's; volume keys stay the caller's.
func Register(t testing.TB, host *bond.HostPublic, policy string, disks ...bond.Disk) ([]byte, *bond.Bond) {
	t.Helper()
	return RegisterSpec(t, host, policy, func(*bond.Spec) {}, disks...)
}

// RegisterSpec is Register for a VM that the caller changes before it is sealed.
func RegisterSpec(t testing.TB, host *bond.HostPublic, policy string, change func(*bond.Spec), disks ...bond.Disk) ([]byte, *bond.Bond) {
	t.Helper()
	reg := &bond.Registration{
		Offered: bond.Supported, Chosen: bond.Version, IssuedAt: time.Now().Unix(), Secret: bond.RandomSecret(32), Policy: policy,
		Spec: bond.Spec{MemoryBytes: 32 << 20, VCPUs: 1, Firmware: "bios", Machine: "pc"},
	}
	for _, d := range disks {
		d.VolumeKey = d.VolumeKey.Clone()
		d.Boot = len(reg.Spec.Disks) == 0
		reg.Spec.Disks = append(reg.Spec.Disks, d)
	}
	change(&reg.Spec)
	sealed, b, err := bond.SealRegistration(host, bond.NewTenantID(), bond.NewVMID(), reg)
	if err != nil {
		t.Fatal(err)
	}
	return sealed, b
}

// Layout of a LUKS2 header copy, as in the LUKS2 on-disk format, section 2.1.
const (
	copyBytes   = 16 << 10
	binaryBytes = 4096
	offSum      = 448
	sumBytes    = 64
)

// EditHeader replaces text in the JSON of the given copies (0, 1) of an image's
// header and sets their checksums right, as someone does who tampers with care.
func EditHeader(t testing.TB, path, old, new string, copies ...int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, n := range copies {
		b := make([]byte, copyBytes)
		if _, err := f.ReadAt(b, int64(n)*copyBytes); err != nil {
			t.Fatal(err)
		}
		area := b[binaryBytes:]
		text := string(bytes.TrimRight(area, "\x00"))
		changed := strings.Replace(text, old, new, 1)
		if changed == text || len(changed) >= len(area) {
			t.Fatalf("%q cannot be replaced in %s", old, text)
		}
		clear(area)
		copy(area, changed)
		Reseal(b)
		if _, err := f.WriteAt(b, int64(n)*copyBytes); err != nil {
			t.Fatal(err)
		}
	}
}

// Reseal sets the checksum of one header copy right.
func Reseal(b []byte) {
	clear(b[offSum : offSum+sumBytes])
	sum := sha256.Sum256(b)
	copy(b[offSum:], sum[:])
}

// Open opens a disk as the management server does.
func Open(t testing.TB, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(fmt.Errorf("disk: %w", err))
	}
	return f
}

// Passphrase opens the disks of NewBase.
const Passphrase = "test"

// NewBase is the registration of a disk of length bytes that the hypervisor makes
// from a base image with this content.
func NewBase(t testing.TB, name string, content []byte, length uint64) bond.Disk {
	t.Helper()
	key := bond.RandomSecret(64)
	d, err := luks.Derive([]byte(Passphrase), luks.PBKDF{Type: "argon2id", Time: 4, MemoryKiB: 64, Lanes: 1})
	if err != nil {
		t.Fatal(err)
	}
	digest, err := luks.NewDigest(key.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return bond.Disk{
		Name: name, Bus: "virtio", Cipher: bond.CipherAESXTS, SectorSize: 512, DataOffset: luks.DataOffset, Length: length, UUID: luks.NewUUID(),
		Digest:    bond.DiskDigest{Hash: digest.Hash, Iterations: digest.Iterations, Salt: digest.Salt, Value: digest.Value},
		VolumeKey: key,
		Base: &bond.Base{SHA256: sha256.Sum256(content), Size: uint64(len(content)), Keyslot: bond.Keyslot{
			Time: d.KDF.Time, Memory: d.KDF.MemoryKiB, CPUs: uint32(d.KDF.Lanes), Salt: d.KDF.Salt, Key: bond.NewSecret(d.Key)}},
	}
}
