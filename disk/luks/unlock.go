package luks

import (
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"hash"

	"golang.org/x/crypto/argon2"

	"github.com/uvbond/uvbond/disk/xts"
)

// hashes are those of cryptsetup that the standard library has. SHA-1 is there
// for old disks; as a KDF's or a splitter's hash it is not broken.
var hashes = map[string]func() hash.Hash{
	"sha1": sha1.New, "sha224": sha256.New224, "sha256": sha256.New, "sha384": sha512.New384, "sha512": sha512.New,
}

// areaSector is the sector size of keyslot areas, whatever that of the data is.
const areaSector = 512

// Unlock returns the volume key, which the caller wipes. Keyslots are tried in
// the order of their priority; those of priority 0 are not. ErrPassphrase
// means that none opened. An argon2 keyslot takes as much memory as the
// header says, at most 4 GiB.
func (h *Header) Unlock(passphrase []byte) (key []byte, err error) {
	for priority := 2; priority > 0; priority-- {
		for i := range h.Keyslots {
			k := &h.Keyslots[i]
			if k.Priority != priority {
				continue
			}
			key, err := h.open(k, passphrase)
			if err != nil {
				return nil, fmt.Errorf("luks: keyslot %d: %w", k.ID, err)
			}
			if h.VerifyKey(key) {
				return key, nil
			}
			clear(key)
		}
	}
	return nil, ErrPassphrase
}

// VerifyKey reports whether key is the volume key, by the digest.
func (h *Header) VerifyKey(key []byte) bool {
	if len(key) != h.Segment.KeyBytes {
		return false
	}
	sum, err := h.Digest.compute(key)
	return err == nil && subtle.ConstantTimeCompare(sum, h.Digest.Value) == 1
}

func (d *Digest) compute(key []byte) ([]byte, error) {
	return derive(d.Hash, key, d.Salt, d.Iterations, hashes[d.Hash]().Size())
}

// open returns the key in a keyslot if the passphrase is right, and noise if not.
func (h *Header) open(k *Keyslot, passphrase []byte) ([]byte, error) {
	areaKey, err := k.KDF.derive(passphrase, k.AreaKey)
	if err != nil {
		return nil, err
	}
	defer clear(areaKey)
	c, err := xts.New(areaKey, areaSector, 1)
	if err != nil {
		return nil, err
	}
	defer c.Wipe()
	area := make([]byte, splitSize(k.KeyBytes))
	defer clear(area)
	if err := readFull(h.src, area, int64(k.AreaOffset)); err != nil {
		return nil, err
	}
	if err := c.DecryptSectors(area, area, 0); err != nil {
		return nil, err
	}
	return afMerge(area, k.KeyBytes, hashes[k.AFHash]()), nil
}

func (k *KDF) derive(passphrase []byte, n int) ([]byte, error) {
	switch k.Type {
	case "argon2id":
		return argon2.IDKey(passphrase, k.Salt, k.Time, k.MemoryKiB, k.Lanes, uint32(n)), nil
	case "argon2i":
		return argon2.Key(passphrase, k.Salt, k.Time, k.MemoryKiB, k.Lanes, uint32(n)), nil
	}
	return derive(k.Hash, passphrase, k.Salt, k.Iterations, n)
}

func derive(name string, secret, salt []byte, iterations uint32, n int) ([]byte, error) {
	return pbkdf2.Key(hashes[name], string(secret), salt, int(iterations), n)
}

// The anti-forensic splitter of LUKS (TKS1, C. Fruhwirth): stripes blocks of
// which each is needed, so that losing any part of the area loses the key.

// afSplit fills area, of stripes*len(key) bytes or more, with the split key.
func afSplit(area, key []byte, h hash.Hash) {
	n := len(key)
	last := (stripes - 1) * n
	rand.Read(area[:last]) // never fails: the program ends instead
	d := make([]byte, n)
	defer clear(d)
	for off := 0; off < last; off += n {
		subtle.XORBytes(d, d, area[off:off+n])
		afDiffuse(d, h)
	}
	subtle.XORBytes(area[last:last+n], d, key)
}

// afMerge is the inverse of afSplit for a key of n bytes.
func afMerge(area []byte, n int, h hash.Hash) []byte {
	last := (stripes - 1) * n
	d := make([]byte, n)
	for off := 0; off < last; off += n {
		subtle.XORBytes(d, d, area[off:off+n])
		afDiffuse(d, h)
	}
	subtle.XORBytes(d, d, area[last:last+n])
	return d
}

// afDiffuse hashes d in place, block by block, each with its number.
func afDiffuse(d []byte, h hash.Hash) {
	var number [4]byte
	var sum [sha512.Size]byte
	for i, off := 0, 0; off < len(d); i, off = i+1, off+h.Size() {
		block := d[off:min(off+h.Size(), len(d))]
		binary.BigEndian.PutUint32(number[:], uint32(i))
		h.Reset()
		h.Write(number[:])
		h.Write(block)
		copy(block, h.Sum(sum[:0]))
	}
	clear(sum[:])
}
