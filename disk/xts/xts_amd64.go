//go:build amd64 && !purego

package xts

import "golang.org/x/sys/cpu"

const vaes = 1 << 9 // in extendedFeatures

// schedule is the round keys, for AESENC and AESDEC.
type schedule struct {
	enc, dec, tweak [15 * blockSize]byte // 10 or 14 rounds
	rounds          int
}

func detect() []path {
	x := &cpu.X86
	var p []path
	if x.HasAVX512F && x.HasAVX512DQ && x.HasAVX512VAES {
		p = append(p, vaes512)
	}
	if x.HasAVX2 && x.HasAES && extendedFeatures()&vaes != 0 {
		p = append(p, vaes256)
	}
	if x.HasAES {
		p = append(p, aesNI)
	}
	return append(p, portable)
}

// expandAssembly expands a key of 32 or 64 bytes. The other way of the tweak
// key is not needed.
func (c *Cipher) expandAssembly(key []byte) {
	k := &c.keys
	half := len(key) / 2
	k.rounds = half/4 + 6
	expandKeys(&key[half], k.rounds, &k.tweak[0], &k.dec[0])
	expandKeys(&key[0], k.rounds, &k.enc[0], &k.dec[0])
}

// cryptAssembly works on count sectors, at least one, on any path but portable.
func (c *Cipher) cryptAssembly(dst, src []byte, count int, first uint64, decrypt bool) {
	k := &c.keys
	data, tweak := &k.enc[0], &k.tweak[0]
	if decrypt {
		data = &k.dec[0]
	}
	for {
		n := min(count, c.most)
		switch {
		case c.path == vaes512 && decrypt:
			decryptVAES512(data, tweak, k.rounds, &dst[0], &src[0], n, c.groups, first, c.step)
		case c.path == vaes512:
			encryptVAES512(data, tweak, k.rounds, &dst[0], &src[0], n, c.groups, first, c.step)
		case c.path == vaes256 && decrypt:
			decryptVAES256(data, tweak, k.rounds, &dst[0], &src[0], n, c.groups, first, c.step)
		case c.path == vaes256:
			encryptVAES256(data, tweak, k.rounds, &dst[0], &src[0], n, c.groups, first, c.step)
		case decrypt:
			decryptAESNI(data, tweak, k.rounds, &dst[0], &src[0], n, c.groups, first, c.step)
		default:
			encryptAESNI(data, tweak, k.rounds, &dst[0], &src[0], n, c.groups, first, c.step)
		}
		if count -= n; count == 0 {
			return
		}
		dst, src = dst[n*c.sector:], src[n*c.sector:]
		first += uint64(n) * c.step
	}
}

// The functions below stand in xts_amd64.s, which _asm writes. They check
// nothing: data and tweak are of a schedule, dst and src have sectors*groups
// groups, with 1 <= sectors <= batch and groups >= 1.

func extendedFeatures() uint32

//go:noescape
func expandKeys(key *byte, rounds int, enc, dec *byte)

//go:noescape
func encryptAESNI(data, tweak *byte, rounds int, dst, src *byte, sectors, groups int, first, step uint64)

//go:noescape
func decryptAESNI(data, tweak *byte, rounds int, dst, src *byte, sectors, groups int, first, step uint64)

//go:noescape
func encryptVAES256(data, tweak *byte, rounds int, dst, src *byte, sectors, groups int, first, step uint64)

//go:noescape
func decryptVAES256(data, tweak *byte, rounds int, dst, src *byte, sectors, groups int, first, step uint64)

//go:noescape
func encryptVAES512(data, tweak *byte, rounds int, dst, src *byte, sectors, groups int, first, step uint64)

//go:noescape
func decryptVAES512(data, tweak *byte, rounds int, dst, src *byte, sectors, groups int, first, step uint64)
