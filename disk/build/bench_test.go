package build

import (
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/uvbond/uvbond/disk/luks"
)

// BenchmarkBuild makes a disk from a file; BenchmarkSHA256 hashes such a file, as
// sha256sum does. A build hashes it twice.
func BenchmarkBuild(b *testing.B) {
	const size = 256 << 20
	base := benchBase(b, size)
	key := make([]byte, 64)
	key[0] = 1
	digest, err := luks.NewDigest(key)
	if err != nil {
		b.Fatal(err)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(base, 0, size)); err != nil {
		b.Fatal(err)
	}
	plan := &Plan{SHA256: [32]byte(sum.Sum(nil)), Size: size, Format: luks.FormatOptions{VolumeKey: key, Digest: digest, UUID: luks.NewUUID(),
		Passphrase: []byte("x"), PBKDF: luks.PBKDF{Type: "argon2id", Time: 4, MemoryKiB: 64, Lanes: 1}, SectorSize: 4096, DataSize: size}}
	image, err := os.Create(filepath.Join(b.TempDir(), "image"))
	if err != nil {
		b.Fatal(err)
	}
	defer image.Close()
	b.SetBytes(size)
	for b.Loop() {
		for st := (State{}); st.Phase != Done; {
			if st, err = Step(b.Context(), plan, st, base, image, Budget{Bytes: 1 << 30, Time: 2 * time.Second}, func(uint64) {}); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkSHA256(b *testing.B) {
	const size = 256 << 20
	base := benchBase(b, size)
	b.SetBytes(size)
	for b.Loop() {
		if _, err := io.CopyBuffer(struct{ io.Writer }{sha256.New()}, io.NewSectionReader(base, 0, size), make([]byte, 1<<20)); err != nil {
			b.Fatal(err)
		}
	}
}

func benchBase(b *testing.B, size int64) *os.File {
	f, err := os.Create(filepath.Join(b.TempDir(), "base"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.Close() })
	block := make([]byte, 1<<20)
	for off := int64(0); off < size; off += int64(len(block)) {
		block[0]++
		if _, err := f.WriteAt(block, off); err != nil {
			b.Fatal(err)
		}
	}
	return f
}
