package xts

import (
	"crypto/aes"
	"encoding/binary"
	"sync"
)

func (c *Cipher) expandPortable(key []byte) error {
	half := len(key) / 2
	for i, k := range [][]byte{key[:half], key[half:]} {
		b, err := aes.NewCipher(k)
		if err != nil {
			return err
		}
		c.blocks[i] = b
	}
	return nil
}

// scratch is a block on its way through crypto/aes. It comes from a pool
// because what goes through an interface is allocated.
type scratch [blockSize]byte

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// cryptPortable is the standard as it is written (IEEE 1619, clause 5), a block
// at a time.
func (c *Cipher) cryptPortable(dst, src []byte, first uint64, decrypt bool) {
	s := scratches.Get().(*scratch)
	transform := c.blocks[0].Encrypt
	if decrypt {
		transform = c.blocks[0].Decrypt
	}
	le := binary.LittleEndian
	for ; len(src) > 0; first += c.step {
		le.PutUint64(s[:], first)
		le.PutUint64(s[8:], 0)
		c.blocks[1].Encrypt(s[:], s[:])
		low, high := le.Uint64(s[:]), le.Uint64(s[8:])
		for range c.sector / blockSize {
			le.PutUint64(s[:], le.Uint64(src)^low)
			le.PutUint64(s[8:], le.Uint64(src[8:])^high)
			transform(s[:], s[:])
			le.PutUint64(dst, le.Uint64(s[:])^low)
			le.PutUint64(dst[8:], le.Uint64(s[8:])^high)
			dst, src = dst[blockSize:], src[blockSize:]
			low, high = double(low, high)
		}
	}
	clear(s[:])
	scratches.Put(s)
}

// double multiplies a tweak by x in GF(2^128) modulo x^128+x^7+x^2+x+1.
func double(low, high uint64) (l, h uint64) {
	out := -(high >> 63) // all ones if a bit falls out
	return low<<1 ^ 0x87&out, high<<1 | low>>63
}
