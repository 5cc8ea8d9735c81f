package xts

import (
	"bytes"
	"crypto/aes"
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"

	ref "golang.org/x/crypto/xts"
)

// FuzzSectors compares every path with golang.org/x/crypto.
func FuzzSectors(f *testing.F) {
	fuzz(f, func(t *testing.T, k []byte, sector int, step, first uint64, plain []byte) []byte {
		r, err := ref.NewCipher(aes.NewCipher, k)
		if err != nil {
			t.Fatal(err)
		}
		want := make([]byte, len(plain))
		for i := 0; i < len(plain); i += sector {
			r.Encrypt(want[i:], plain[i:i+sector], first)
			first += step
		}
		return want
	})
}

// FuzzOpenSSL compares every path with OpenSSL's library.
func FuzzOpenSSL(f *testing.F) {
	o := startOpenSSL(f)
	fuzz(f, func(t *testing.T, k []byte, sector int, step, first uint64, plain []byte) []byte {
		return o.encipher(t, k, sector, step, first, plain)
	})
}

// fuzz runs every path on random keys, numbers, sector sizes, lengths and
// positions of source and destination. encipher does the same another way.
func fuzz(f *testing.F, encipher func(t *testing.T, k []byte, sector int, step, first uint64, plain []byte) []byte) {
	seeds, err := filepath.Glob(filepath.Join("testdata", "fuzz", f.Name(), "*"))
	if err != nil || len(seeds) == 0 {
		f.Fatalf("no seeds for %s: %v", f.Name(), err)
	}
	f.Add(key(1, 64), uint64(0), uint16(256), uint16(8), int32(0), bytes.Repeat([]byte{1}, 8192))
	f.Add(key(2, 32), uint64(1<<63), uint16(32), uint16(1), int32(16), bytes.Repeat([]byte{2}, 1024))
	f.Add(key(3, 64), uint64(math.MaxUint64-7), uint16(1), uint16(1), int32(-128), bytes.Repeat([]byte{3}, 16*8))
	f.Add(key(4, 64), uint64(9), uint16(17), uint16(3), int32(-1), bytes.Repeat([]byte{4}, 17*16*3))
	f.Fuzz(func(t *testing.T, k []byte, first uint64, blocks, step uint16, shift int32, plain []byte) {
		// Longer keys are cut to the next length there is, most others are refused.
		for _, n := range []int{64, 32} {
			if len(k) >= n {
				k = k[:n]
				break
			}
		}
		sector := int(blocks) * blockSize
		c, err := New(k, sector, uint64(step))
		if err != nil {
			return
		}
		plain = plain[:len(plain)/sector*sector]
		if n := uint64(len(plain) / sector); n == 0 || (n-1)*uint64(step) > ^first {
			if err := c.EncryptSectors(plain, plain, first); (err == nil) != (n == 0) {
				t.Fatalf("%d sectors from %d in steps of %d: %v", n, first, step, err)
			}
			return
		}
		want := encipher(t, k, sector, uint64(step), first, plain)
		for _, p := range pathsFor(sector) {
			c := on(t, p, k, sector, uint64(step))
			shifted(t, p.String()+", enciphering", c.EncryptSectors, plain, want, first, int(shift))
			shifted(t, p.String()+", deciphering", c.DecryptSectors, want, plain, first, int(shift))
			c.Wipe()
		}
	})
}

// shifted calls crypt with its destination some bytes beside its source, at most
// apart by 64 bytes. It must write what is wanted and nothing else, or refuse to
// write over a part of its source.
func shifted(t *testing.T, name string, crypt func(dst, src []byte, first uint64) error, from, to []byte, first uint64, shift int) {
	t.Helper()
	n := len(from)
	room := n + 64
	shift %= room + 1
	buf := bytes.Repeat([]byte{0xa5}, room+n+room)
	copy(buf[room:], from)
	want := bytes.Clone(buf)
	partly := shift != 0 && shift > -n && shift < n
	if !partly {
		copy(want[room+shift:], to)
	}
	err := crypt(buf[room+shift:][:n], buf[room:][:n], first)
	if partly != errors.Is(err, ErrOverlap) || (err != nil) != partly {
		t.Fatalf("%s, %d bytes, shift %d: %v", name, n, shift, err)
	}
	if !bytes.Equal(buf, want) {
		t.Fatalf("%s, %d bytes, shift %d: wrong bytes", name, n, shift)
	}
}

// TestSeeds: the committed seeds have the shape that the targets take.
func TestSeeds(t *testing.T) {
	for _, target := range []string{"FuzzSectors", "FuzzOpenSSL"} {
		files, err := filepath.Glob(filepath.Join("testdata", "fuzz", target, "*"))
		if err != nil || len(files) < 5 {
			t.Fatalf("%s has %d seeds: %v", target, len(files), err)
		}
		for _, f := range files {
			if text, err := os.ReadFile(f); err != nil || bytes.Count(text, []byte("\n")) != 7 {
				t.Errorf("%s: %v, or not a seed of %s", f, err, target)
			}
		}
	}
}
