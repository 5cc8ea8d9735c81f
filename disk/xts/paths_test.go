package xts

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
)

// pathsFor are the paths of this CPU that take sectors of this size.
func pathsFor(sector int) []path {
	var p []path
	for _, x := range paths {
		if sector%x.unit() == 0 {
			p = append(p, x)
		}
	}
	return p
}

func noise(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func TestPathsOfThisCPU(t *testing.T) {
	t.Logf("paths here, the fastest first: %v", paths)
	if paths[len(paths)-1] != portable {
		t.Fatalf("no portable path in %v", paths)
	}
	for sector, want := range map[int]int{16: 16, 48: 16, 256: 256, 768: 256, 512: 512, 4096: 512} {
		c := must(t, key(1, 64), sector, 1)
		if best := pathsFor(sector)[0]; c.path != best {
			t.Errorf("sector of %d: %v, want %v", sector, c.path, best)
		}
		if want%c.path.unit() != 0 {
			t.Errorf("sector of %d: %v works on %d bytes", sector, c.path, c.path.unit())
		}
	}
}

// TestPathsAgree holds every path to the portable one, which compare holds to
// golang.org/x/crypto: all lengths up to beyond a batch, then some up to 1 MiB.
func TestPathsAgree(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	plain := noise(r, 1<<20)
	for _, sector := range []int{16, 128, 512, 528, 4096, 65536, 1 << 19} {
		for _, n := range []int{32, 64} {
			k := noise(r, n)
			ref := on(t, portable, k, sector, 3)
			want := make([]byte, len(plain))
			if err := ref.EncryptSectors(want, plain[:len(plain)/sector*sector], 7); err != nil {
				t.Fatal(err)
			}
			for _, p := range pathsFor(sector) {
				c := on(t, p, k, sector, 3)
				got := make([]byte, len(plain))
				most := len(plain) / sector
				for count := 1; count <= most; count = next(count, most) {
					size := count * sector
					if err := c.EncryptSectors(got, plain[:size], 7); err != nil || !bytes.Equal(got[:size], want[:size]) || !zero(got[size:]) {
						t.Fatalf("%v, %d sectors of %d: %v, or other ciphertext", p, count, sector, err)
					}
					if err := c.DecryptSectors(got, want[:size], 7); err != nil || !bytes.Equal(got[:size], plain[:size]) || !zero(got[size:]) {
						t.Fatalf("%v, %d sectors of %d: %v, or other plain text", p, count, sector, err)
					}
					clear(got[:size])
				}
			}
		}
	}
}

// next goes through 1 to 20, and through few numbers around 64 and beyond.
func next(count, most int) int {
	switch {
	case count < 20:
		return count + 1
	case count >= 60 && count < 68:
		return count + 1
	case count == most:
		return count + 1
	}
	return min(most, max(60, count*2+1))
}

// TestAlignment moves source and destination through a cache line, and looks
// for writes beside the destination and into the source.
func TestAlignment(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	const sector, size, room = 512, 3 * 512, 3*512 + 192
	k := noise(r, 64)
	plain := noise(r, size)
	want := make([]byte, size)
	if err := on(t, portable, k, sector, 1).EncryptSectors(want, plain, 9); err != nil {
		t.Fatal(err)
	}
	src, dst := make([]byte, room), make([]byte, room)
	for _, p := range paths {
		c := on(t, p, k, sector, 1)
		for s := range 64 {
			for d := range 64 {
				clear(dst)
				copy(src[s:], plain)
				if err := c.EncryptSectors(dst[d:d+size], src[s:s+size], 9); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(dst[d:d+size], want) || !zero(dst[:d]) || !zero(dst[d+size:]) || !bytes.Equal(src[s:s+size], plain) {
					t.Fatalf("%v: source at %d, destination at %d", p, s, d)
				}
				if s == d { // in place
					if err := c.DecryptSectors(dst[d:], dst[d:d+size], 9); err != nil || !bytes.Equal(dst[d:d+size], plain) || !zero(dst[:d]) || !zero(dst[d+size:]) {
						t.Fatalf("%v: in place at %d: %v", p, d, err)
					}
				}
			}
		}
	}
}

// TestOverlaps: every partial overlap is refused, and nothing is written.
func TestOverlaps(t *testing.T) {
	const sector, size = 512, 1024
	for _, p := range paths {
		c := on(t, p, key(4, 64), sector, 1)
		buf := make([]byte, 3*size)
		for shift := -size - 1; shift <= size+1; shift++ {
			src := buf[size+1 : size+1+size]
			if shift+size+1 < 0 {
				continue
			}
			dst := buf[size+1+shift:][:min(size, len(buf)-size-1-shift)]
			if len(dst) < size {
				continue
			}
			err := c.EncryptSectors(dst, src, 0)
			partly := shift != 0 && shift > -size && shift < size
			if partly != errors.Is(err, ErrOverlap) || (err != nil) != partly {
				t.Fatalf("%v, shift %d: %v", p, shift, err)
			}
			if partly && !zero(buf) {
				t.Fatalf("%v, shift %d: a refused call wrote", p, shift)
			}
			clear(buf)
		}
	}
}

// TestTweakRange crosses 2^32, comes up to 2^64, and is refused beyond, with
// more sectors than a batch has.
func TestTweakRange(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	const sector, count = 512, 200
	plain := noise(r, sector*count)
	for _, step := range []uint64{1, 8, MaxTweakStep} {
		last := math.MaxUint64 - (count-1)*step
		for _, first := range []uint64{math.MaxUint32 - 100*step, 1<<63 - 100*step, last - 1, last} {
			compare(t, key(byte(step), 64), sector, step, first, plain)
		}
		for _, p := range paths {
			c := on(t, p, key(1, 64), sector, step)
			if err := c.EncryptSectors(plain, plain, last+1); !errors.Is(err, ErrTweak) {
				t.Errorf("%v, step %d, beyond 2^64: %v", p, step, err)
			}
		}
	}
}

func TestNoAllocations(t *testing.T) {
	buf := make([]byte, 64<<10)
	for _, p := range paths {
		c := on(t, p, key(5, 64), 512, 1)
		for name, f := range map[string]func(dst, src []byte, first uint64) error{"encrypt": c.EncryptSectors, "decrypt": c.DecryptSectors} {
			n := testing.AllocsPerRun(20, func() {
				if err := f(buf, buf, 1); err != nil {
					t.Fatal(err)
				}
			})
			if n != 0 {
				t.Errorf("%v: %v allocations to %s", p, n, name)
			}
		}
	}
}

// TestConcurrent uses a Cipher from several goroutines while the collector
// moves their stacks.
func TestConcurrent(t *testing.T) {
	for _, p := range paths {
		c := on(t, p, key(6, 64), 512, 1)
		plain := noise(rand.New(rand.NewPCG(1, 1)), 16<<10)
		want := make([]byte, len(plain))
		if err := c.EncryptSectors(want, plain, 5); err != nil {
			t.Fatal(err)
		}
		var g sync.WaitGroup
		for range 8 {
			g.Go(func() {
				for range 20 {
					if got := deep(c, plain, 30); !bytes.Equal(got, want) {
						t.Errorf("%v: other ciphertext", p)
					}
				}
			})
		}
		g.Wait()
	}
}

// deep enciphers at the end of a stack that has to grow.
func deep(c *Cipher, plain []byte, n int) []byte {
	var pad [512]byte
	if n > 0 {
		pad[n] = byte(n)
		return deep(c, plain, n-int(pad[n])/n)
	}
	got := make([]byte, len(plain))
	if c.EncryptSectors(got, plain, 5) != nil {
		return nil
	}
	return got
}

func TestZeroValue(t *testing.T) {
	var c Cipher
	if err := c.EncryptSectors(make([]byte, 16), make([]byte, 16), 0); !errors.Is(err, ErrWiped) {
		t.Errorf("a Cipher without key: %v", err)
	}
	c.Wipe()
}
