//go:build amd64 && !purego

package xts

import "golang.org/x/sys/cpu"

const vaes = 1 << 9 // in extendedFeatures

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

// cryptBatch works on n sectors, 1 to batch.
func (c *Cipher) cryptBatch(dst, src *byte, n int, first uint64, decrypt bool) {
	k := &c.keys
	data, tweak := &k.enc[0], &k.tweak[0]
	if decrypt {
		data = &k.dec[0]
	}
	switch {
	case c.path == vaes512 && decrypt:
		decryptVAES512(data, tweak, k.rounds, dst, src, n, c.groups, first, c.step)
	case c.path == vaes512:
		encryptVAES512(data, tweak, k.rounds, dst, src, n, c.groups, first, c.step)
	case c.path == vaes256 && decrypt:
		decryptVAES256(data, tweak, k.rounds, dst, src, n, c.groups, first, c.step)
	case c.path == vaes256:
		encryptVAES256(data, tweak, k.rounds, dst, src, n, c.groups, first, c.step)
	case decrypt:
		decryptAESNI(data, tweak, k.rounds, dst, src, n, c.groups, first, c.step)
	default:
		encryptAESNI(data, tweak, k.rounds, dst, src, n, c.groups, first, c.step)
	}
}

// The functions below stand in xts_amd64.s, which _asm writes. They check
// nothing: data and tweak are of a schedule, dst and src have sectors*groups
// groups, with 1 <= sectors <= batch and groups >= 1.

func extendedFeatures() uint32

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
