package xts

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"testing"
)

// openSSL is a running testdata/openssl.c.
type openSSL struct {
	in  io.Writer
	out io.Reader
}

// startOpenSSL builds and starts the program, which ends with the test.
func startOpenSSL(t testing.TB) openSSL {
	t.Helper()
	program := filepath.Join(t.TempDir(), "openssl")
	build := exec.Command("gcc", "-O1", "-o", program, "testdata/openssl.c", "-l:libcrypto.so.3")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s\nto install what it needs: apt-get install gcc libc6-dev libssl3", err, out)
	}
	run := exec.Command(program)
	in, err := run.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := run.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := in.Close(); err != nil {
			t.Error(err)
		}
		if err := run.Wait(); err != nil {
			t.Error(err)
		}
	})
	return openSSL{in, out}
}

// encipher returns OpenSSL's ciphertext.
func (o openSSL) encipher(t testing.TB, k []byte, sector int, step, first uint64, plain []byte) []byte {
	t.Helper()
	var input bytes.Buffer
	for _, x := range []any{uint32(len(k)), uint32(sector), uint32(len(plain) / sector), uint32(0), step, first, k, plain} {
		if err := binary.Write(&input, binary.NativeEndian, x); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := o.in.Write(input.Bytes()); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, len(plain))
	if _, err := io.ReadFull(o.out, want); err != nil {
		t.Fatal(err)
	}
	return want
}

// TestOpenSSL compares every path with OpenSSL, for random keys, numbers, sector
// sizes and lengths.
func TestOpenSSL(t *testing.T) {
	o := startOpenSSL(t)
	cases := 300
	if testing.Short() {
		cases = 50
	}
	r := rand.New(rand.NewPCG(3, 4))
	for i := range cases {
		k := noise(r, 32<<r.IntN(2))
		sector := []int{16, 48, 256, 512, 512, 520 * 2, 1024, 2048, 4096, 4096}[r.IntN(10)]
		step := []uint64{1, 8, 1 + r.Uint64N(MaxTweakStep)}[r.IntN(3)]
		first := r.Uint64() >> r.IntN(64) >> 1
		plain := noise(r, sector*(1+r.IntN(70)))
		theirs := o.encipher(t, k, sector, step, first, plain)
		for _, p := range pathsFor(sector) {
			got := bytes.Clone(plain)
			x := on(t, p, k, sector, step)
			if err := x.EncryptSectors(got, got, first); err != nil || !bytes.Equal(got, theirs) {
				t.Fatalf("case %d, %v, key %x, sector %d, step %d, first %d: %v, or not as OpenSSL", i, p, k, sector, step, first, err)
			}
			if err := x.DecryptSectors(got, theirs, first); err != nil || !bytes.Equal(got, plain) {
				t.Fatalf("case %d, %v: %v, or other plain text", i, p, err)
			}
		}
	}
}
