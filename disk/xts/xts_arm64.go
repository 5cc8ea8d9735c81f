//go:build arm64 && !purego

package xts

import "golang.org/x/sys/cpu"

func detect() []path {
	if cpu.ARM64.HasAES {
		return []path{armAES, portable}
	}
	return []path{portable}
}

// cryptBatch works on n sectors, 1 to batch.
func (c *Cipher) cryptBatch(dst, src *byte, n int, first uint64, decrypt bool) {
	k := &c.keys
	if decrypt {
		decryptARM64(&k.dec[0], &k.tweak[0], k.rounds, dst, src, n, c.groups, first, c.step)
	} else {
		encryptARM64(&k.enc[0], &k.tweak[0], k.rounds, dst, src, n, c.groups, first, c.step)
	}
}

// The functions below stand in xts_arm64.s, which _asm/arm64 writes. They check
// nothing: data and tweak are of a schedule, dst and src have sectors*groups
// blocks, with 1 <= sectors <= batch and groups >= 1.

//go:noescape
func encryptARM64(data, tweak *byte, rounds int, dst, src *byte, sectors, groups int, first, step uint64)

//go:noescape
func decryptARM64(data, tweak *byte, rounds int, dst, src *byte, sectors, groups int, first, step uint64)
