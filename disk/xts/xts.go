// Package xts enciphers disk sectors with AES-XTS (IEEE Std 1619-2018, NIST
// SP 800-38E), many sectors in a call.
//
// It gives secrecy of one snapshot of a disk, not integrity: whoever can write the
// ciphertext can put back an old sector, or turn any 16-byte block of one into
// noise, and sees which blocks changed. Sectors are whole AES blocks, so there
// is no ciphertext stealing.
//
// The package trusts its caller with keys and nothing else; it does no I/O.
package xts

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"errors"
	"fmt"
	"math/bits"
)

// Limits of a Cipher.
const (
	MaxSectorSize = 1 << 24 // bytes: 2^20 AES blocks, the limit of IEEE 1619
	MaxTweakStep  = MaxSectorSize / 512
	blockSize     = aes.BlockSize
)

// A call of the assembly takes some sectors at once, so that their first tweaks
// are enciphered beside each other; one alone would wait for every round.
const (
	batch      = 64
	batchBytes = 256 << 10 // of data, so that a goroutine can be stopped between calls
)

// Errors of this package.
var (
	// ErrEqualHalves refuses a key whose two AES keys are the same: XTS is then
	// open to a chosen-ciphertext attack (SP 800-38E, FIPS 140 guidance C.I).
	ErrEqualHalves = errors.New("xts: the two halves of the key are equal")
	ErrKeySize     = errors.New("xts: the key must have 32 or 64 bytes")
	ErrLength      = errors.New("xts: not a whole number of sectors")
	ErrOverlap     = errors.New("xts: source and destination overlap partly")
	ErrTweak       = errors.New("xts: sector number beyond 64 bits")
	ErrWiped       = errors.New("xts: the cipher was wiped")
)

// Cipher is an expanded key with the shape of the sectors it is for. All methods
// but Wipe may be called concurrently.
type Cipher struct {
	sector int
	step   uint64
	ready  bool // false once wiped
	path   path
	groups int             // units of the path in a sector
	most   int             // sectors in a call of the assembly
	keys   schedule        // of every path but the portable one, which has
	blocks [2]cipher.Block // the data key and the tweak key of crypto/aes
}

// path is a way to compute. All give the same bytes.
type path uint8

const (
	portable path = iota // Go, on crypto/aes
	armAES               // arm64: one block in a register, eight in flight
	aesNI                // amd64: one block in a register, eight in flight
	vaes256              // two blocks in a register, sixteen in flight
	vaes512              // four blocks in a register, 32 in flight
)

func (p path) String() string {
	return [...]string{"portable", "arm64", "aesni", "vaes256", "vaes512"}[p]
}

// unit is what the size of a sector must be a multiple of, in bytes.
func (p path) unit() int {
	return [...]int{blockSize, blockSize, blockSize, 16 * blockSize, 32 * blockSize}[p]
}

// paths are those of this CPU, the fastest first; portable is the last.
var paths = detect()

// New returns a Cipher for sectors of sectorSize bytes, a multiple of 16 of at
// most MaxSectorSize. key is the data key and the tweak key, 16 or 32 bytes each;
// it is not kept.
//
// tweakStep, 1 to MaxTweakStep, is by how much the tweaks of adjacent sectors
// differ. dm-crypt counts plain64 tweaks in units of 512 bytes whatever the
// sector size is (without its option iv_large_sectors, which LUKS2 never sets):
// there the step is sectorSize/512.
func New(key []byte, sectorSize int, tweakStep uint64) (*Cipher, error) {
	if len(key) != 32 && len(key) != 64 {
		return nil, ErrKeySize
	}
	if sectorSize < blockSize || sectorSize > MaxSectorSize || sectorSize%blockSize != 0 {
		return nil, fmt.Errorf("xts: sector size %d, must be a multiple of %d up to %d", sectorSize, blockSize, MaxSectorSize)
	}
	if tweakStep < 1 || tweakStep > MaxTweakStep {
		return nil, fmt.Errorf("xts: tweak step %d, must be 1 to %d", tweakStep, MaxTweakStep)
	}
	half := len(key) / 2
	if subtle.ConstantTimeCompare(key[:half], key[half:]) == 1 {
		return nil, ErrEqualHalves
	}
	for _, p := range paths {
		if sectorSize%p.unit() == 0 {
			return newCipher(key, sectorSize, tweakStep, p)
		}
	}
	return newCipher(key, sectorSize, tweakStep, portable)
}

// newCipher is New for checked arguments and a path of this CPU whose unit the
// sector has.
func newCipher(key []byte, sector int, step uint64, p path) (*Cipher, error) {
	c := &Cipher{sector: sector, step: step, path: p, ready: true, groups: sector / p.unit()}
	c.most = max(1, min(batch, batchBytes/sector))
	if p != portable {
		c.expandAssembly(key)
		return c, nil
	}
	if err := c.expandPortable(key); err != nil {
		return nil, err
	}
	return c, nil
}

// SectorSize returns the size of a sector in bytes.
func (c *Cipher) SectorSize() int { return c.sector }

// TweakStep returns the difference of the tweaks of adjacent sectors.
func (c *Cipher) TweakStep() uint64 { return c.step }

// EncryptSectors enciphers src, a whole number of sectors, into dst, which has
// at least the length of src. The tweaks are first, first+step, first+2*step ...
// dst and src must overlap entirely or not at all.
func (c *Cipher) EncryptSectors(dst, src []byte, first uint64) error {
	return c.crypt(dst, src, first, false)
}

// DecryptSectors is the inverse of EncryptSectors.
func (c *Cipher) DecryptSectors(dst, src []byte, first uint64) error {
	return c.crypt(dst, src, first, true)
}

func (c *Cipher) crypt(dst, src []byte, first uint64, decrypt bool) error {
	count, err := c.check(dst, src, first)
	switch {
	case err != nil || count == 0:
	case c.path == portable:
		c.cryptPortable(dst, src, first, decrypt)
	default:
		c.cryptAssembly(dst, src, count, first, decrypt)
	}
	return err
}

// check returns how many sectors src has, or why it cannot be worked on.
func (c *Cipher) check(dst, src []byte, first uint64) (int, error) {
	if !c.ready {
		return 0, ErrWiped
	}
	count := len(src) / c.sector
	switch {
	case count*c.sector != len(src) || len(dst) < len(src):
		return 0, ErrLength
	case count == 0:
		return 0, nil
	case partialOverlap(dst[:len(src)], src):
		return 0, ErrOverlap
	}
	// A tweak that wrapped round would be another sector's.
	if high, low := bits.Mul64(uint64(count-1), c.step); high != 0 || low > ^first {
		return 0, ErrTweak
	}
	return count, nil
}

// Wipe zeroes the expanded keys. Nothing else may be using the Cipher; every
// later call of its methods returns ErrWiped. It may be called repeatedly.
func (c *Cipher) Wipe() {
	c.ready = false
	c.keys = schedule{}
	for i, b := range c.blocks {
		if b != nil {
			wipeBlock(b)
		}
		c.blocks[i] = nil
	}
}
