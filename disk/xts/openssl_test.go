package xts

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestOpenSSL compares every path with OpenSSL, for random keys, numbers, sector
// sizes and lengths.
func TestOpenSSL(t *testing.T) {
	program := filepath.Join(t.TempDir(), "openssl")
	build := exec.Command("gcc", "-O1", "-o", program, "testdata/openssl.c", "-l:libcrypto.so.3")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s\nto install what it needs: apt-get install gcc libc6-dev libssl3", err, out)
	}
	cases := 300
	if testing.Short() {
		cases = 50
	}
	r := rand.New(rand.NewPCG(3, 4))
	var input, want, got bytes.Buffer
	type one struct {
		key, plain  []byte
		sector      int
		step, first uint64
	}
	var all []one
	for range cases {
		c := one{
			key:    noise(r, 32<<r.IntN(2)),
			sector: []int{16, 48, 256, 512, 512, 520 * 2, 1024, 2048, 4096, 4096}[r.IntN(10)],
			step:   []uint64{1, 8, 1 + r.Uint64N(MaxTweakStep)}[r.IntN(3)],
			first:  r.Uint64() >> r.IntN(64) >> 1,
		}
		c.plain = noise(r, c.sector*(1+r.IntN(70)))
		all = append(all, c)
		for _, x := range []any{uint32(len(c.key)), uint32(c.sector), uint32(len(c.plain) / c.sector), uint32(0), c.step, c.first, c.key, c.plain} {
			if err := binary.Write(&input, binary.NativeEndian, x); err != nil {
				t.Fatal(err)
			}
		}
	}
	run := exec.Command(program)
	run.Stdin, run.Stdout = &input, &want
	if err := run.Run(); err != nil {
		t.Fatal(err)
	}
	for i, c := range all {
		theirs := want.Next(len(c.plain))
		for _, p := range pathsFor(c.sector) {
			got.Reset()
			got.Write(c.plain)
			x := on(t, p, c.key, c.sector, c.step)
			if err := x.EncryptSectors(got.Bytes(), got.Bytes(), c.first); err != nil || !bytes.Equal(got.Bytes(), theirs) {
				t.Fatalf("case %d, %v, key %x, sector %d, step %d, first %d: %v, or not as OpenSSL", i, p, c.key, c.sector, c.step, c.first, err)
			}
			if err := x.DecryptSectors(got.Bytes(), theirs, c.first); err != nil || !bytes.Equal(got.Bytes(), c.plain) {
				t.Fatalf("case %d, %v: %v, or other plain text", i, p, err)
			}
		}
	}
}
