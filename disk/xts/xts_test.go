package xts

import (
	"bytes"
	"crypto/aes"
	"encoding/hex"
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	ref "golang.org/x/crypto/xts"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func key(seed byte, n int) []byte {
	k := make([]byte, n)
	for i := range k {
		k[i] = seed + byte(i)*5
	}
	return k
}

func must(t testing.TB, k []byte, sector int, step uint64) *Cipher {
	t.Helper()
	c, err := New(k, sector, step)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// on is New for one path of this CPU.
func on(t testing.TB, p path, k []byte, sector int, step uint64) *Cipher {
	t.Helper()
	c, err := newCipher(k, sector, step, p)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// compare enciphers data at once, on every path, and sector by sector with
// golang.org/x/crypto.
func compare(t *testing.T, k []byte, sector int, step, first uint64, plain []byte) {
	t.Helper()
	r, err := ref.NewCipher(aes.NewCipher, k)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, len(plain))
	for i := 0; i < len(plain)/sector; i++ {
		r.Encrypt(want[i*sector:], plain[i*sector:][:sector], first+uint64(i)*step)
	}
	for _, p := range paths {
		if sector%p.unit() != 0 {
			continue
		}
		c := on(t, p, k, sector, step)
		got := bytes.Clone(plain)
		if err := c.EncryptSectors(got, got, first); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%v, sector %d, step %d, first %d: %v, or other ciphertext", p, sector, step, first, err)
		}
		back := make([]byte, len(plain)+3)
		if err := c.DecryptSectors(back, got, first); err != nil || !bytes.Equal(back[:len(plain)], plain) {
			t.Fatalf("%v, sector %d, step %d, first %d: %v, or other plain text", p, sector, step, first, err)
		}
		if !zero(back[len(plain):]) {
			t.Fatalf("%v, sector %d: wrote beyond the end", p, sector)
		}
	}
}

func TestConsecutiveTweaks(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{32, 64} {
		for _, sector := range []int{16, 48, 256, 512, 528, 768, 1024, 4096} {
			for _, step := range []uint64{1, 8, 1000} {
				plain := make([]byte, sector*9)
				for i := range plain {
					plain[i] = byte(r.Uint32())
				}
				for _, first := range []uint64{0, 1, math.MaxUint32 - 3, 1 << 40, math.MaxUint64 - 8*step} {
					compare(t, key(byte(r.Uint32()), n), sector, step, first, plain)
				}
			}
		}
	}
}

// TestLargestSector: 2^20 blocks is what IEEE 1619 allows, and no block more.
func TestLargestSector(t *testing.T) {
	const most = 1 << 20 * 16
	plain := noise(rand.New(rand.NewPCG(11, 12)), 64<<10)
	plain = bytes.Repeat(plain, most/len(plain))
	k := key(7, 64)
	r, err := ref.NewCipher(aes.NewCipher, k)
	if err != nil {
		t.Fatal(err)
	}
	want, got := make([]byte, most), make([]byte, most)
	for _, sector := range []int{most - blockSize, most} {
		must(t, k, sector, 1).Wipe()
		r.Encrypt(want[:sector], plain[:sector], 5)
		for _, p := range pathsFor(sector) {
			c := on(t, p, k, sector, 1)
			if err := c.EncryptSectors(got, plain[:sector], 5); err != nil || !bytes.Equal(got[:sector], want[:sector]) {
				t.Errorf("%v, a sector of %d bytes: %v, or other ciphertext", p, sector, err)
			}
		}
	}
	for _, sector := range []int{most + 1, most + blockSize, most + 512, 2 * most, math.MaxInt &^ 15} {
		if _, err := New(k, sector, 1); err == nil {
			t.Errorf("a sector of %d bytes was accepted", sector)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, n := range []int{0, 16, 31, 33, 48, 63, 65, 128} {
		if _, err := New(key(0, n), 512, 1); !errors.Is(err, ErrKeySize) {
			t.Errorf("key of %d bytes: %v", n, err)
		}
	}
	for _, n := range []int{32, 64} {
		if _, err := New(append(key(9, n/2), key(9, n/2)...), 512, 1); !errors.Is(err, ErrEqualHalves) {
			t.Errorf("equal halves of %d bytes: %v", n/2, err)
		}
	}
	for _, sector := range []int{-16, 0, 8, 100, MaxSectorSize + 16} {
		if _, err := New(key(0, 64), sector, 1); err == nil {
			t.Errorf("sector size %d accepted", sector)
		}
	}
	for _, step := range []uint64{0, MaxTweakStep + 1} {
		if _, err := New(key(0, 64), 512, step); err == nil {
			t.Errorf("tweak step %d accepted", step)
		}
	}
	c := must(t, key(0, 64), 512, 1)
	buf := make([]byte, 4096)
	for name, f := range map[string]func([]byte, []byte, uint64) error{"encrypt": c.EncryptSectors, "decrypt": c.DecryptSectors} {
		for what, got := range map[string]struct{ err, want error }{
			"odd length":        {f(buf, buf[:513], 0), ErrLength},
			"short destination": {f(buf[:511], buf[:512], 0), ErrLength},
			"nothing":           {f(nil, nil, 0), nil},
			"after":             {f(buf[16:], buf[:1024], 0), ErrOverlap},
			"before":            {f(buf, buf[1023:2047], 0), ErrOverlap},
			"beside":            {f(buf, buf[1024:2048], 0), nil},
			"in place":          {f(buf, buf[:1024], 0), nil},
			"last tweak":        {f(buf, buf[:512], math.MaxUint64), nil},
			"tweak wraps":       {f(buf, buf[:1024], math.MaxUint64), ErrTweak},
		} {
			if !errors.Is(got.err, got.want) {
				t.Errorf("%s, %s: %v, want %v", name, what, got.err, got.want)
			}
		}
	}
}
