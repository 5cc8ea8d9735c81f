//go:build (amd64 || arm64) && !purego

package xts

import (
	"bytes"
	"crypto/aes"
	"encoding/binary"
	"runtime/debug"
	"testing"
	"unsafe"
)

// TestStackIsClear looks for round keys and tweaks in the stack below this
// function after the assembly has returned.
func TestStackIsClear(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // it would move the stack
	const sector, sectors = 512, 3
	for _, p := range paths {
		if p == portable {
			continue
		}
		for _, n := range []int{32, 64} {
			k := key(17, n)
			secrets := tweaks(t, k[n/2:], sector, sectors+17) // some read ahead
			c := on(t, p, k, sector, 1)
			for i := 0; i < len(c.keys.bytes()); i += blockSize {
				secrets = append(secrets, c.keys.bytes()[i:i+blockSize])
			}
			// vaes512 keeps tweaks with the last round key added.
			secrets = append(secrets, sums(secrets, c.keys.enc[c.keys.rounds*blockSize:])...)
			buf := make([]byte, sector*sectors)
			stack := make([]byte, 12<<10)
			for name, f := range map[string]func(dst, src []byte, first uint64) error{"encrypt": c.EncryptSectors, "decrypt": c.DecryptSectors} {
				grow()
				if err := f(buf, buf, 0); err != nil {
					t.Fatal(err)
				}
				below(stack)
				if i := found(stack, secrets); i >= 0 {
					t.Errorf("%v, key of %d, %s: left secret %d of %d on the stack", p, n, name, i, len(secrets))
				}
			}
		}
	}
	// The search finds what is there.
	grow()
	secret := bytes.Repeat([]byte{0xc3}, blockSize)
	stack := make([]byte, 12<<10)
	leave(secret)
	below(stack)
	if found(stack, [][]byte{secret}) < 0 {
		t.Error("a secret that was left on the stack was not found")
	}
}

// tweaks returns those of all blocks of sectors from number 0 on, each also with
// its halves swapped.
func tweaks(t *testing.T, k []byte, sector, sectors int) [][]byte {
	t.Helper()
	b, err := aes.NewCipher(k)
	if err != nil {
		t.Fatal(err)
	}
	var all [][]byte
	le := binary.LittleEndian
	for i := range sectors {
		x := make([]byte, blockSize)
		x[0] = byte(i)
		b.Encrypt(x, x)
		for range sector / blockSize {
			all = append(all, bytes.Clone(x), append(bytes.Clone(x[8:]), x[:8]...))
			low, high := double(le.Uint64(x), le.Uint64(x[8:]))
			le.PutUint64(x, low)
			le.PutUint64(x[8:], high)
		}
	}
	return all
}

func sums(of [][]byte, k []byte) [][]byte {
	var all [][]byte
	for _, x := range of {
		sum := make([]byte, blockSize)
		for i := range sum {
			sum[i] = x[i] ^ k[i]
		}
		if !zero(sum) {
			all = append(all, sum)
		}
	}
	return all
}

// found returns which secret is in the stack, or -1. Round keys that AES-128 does
// not use are zero, and no secret.
func found(stack []byte, secrets [][]byte) int {
	for i, s := range secrets {
		if !zero(s) && bytes.Contains(stack, s) {
			return i
		}
	}
	return -1
}

// grow makes room on the stack and zeroes it.
//
//go:noinline
func grow() {
	var room [32 << 10]byte
	if !zero(room[:]) {
		panic("not zero")
	}
}

// below copies what lies in the stack below the caller.
//
//go:noinline
func below(to []byte) {
	var mark byte
	from := unsafe.Add(unsafe.Pointer(&mark), -len(to))
	for i := range to {
		to[i] = *(*byte)(unsafe.Add(from, i))
	}
}

//go:noinline
func leave(secret []byte) byte {
	var room [1 << 10]byte
	copy(room[512:], secret)
	return room[secret[0]]
}

func (k *schedule) bytes() []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(k)), unsafe.Sizeof(*k)/blockSize*blockSize)
}
