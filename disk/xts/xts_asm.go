//go:build (amd64 || arm64) && !purego

package xts

// schedule is the round keys, in the order in which the instructions want them.
type schedule struct {
	enc, dec, tweak [15 * blockSize]byte // 10 or 14 rounds
	rounds          int
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
	for {
		n := min(count, c.most)
		c.cryptBatch(&dst[0], &src[0], n, first, decrypt)
		if count -= n; count == 0 {
			return
		}
		dst, src = dst[n*c.sector:], src[n*c.sector:]
		first += uint64(n) * c.step
	}
}

// expandKeys, like all functions in assembly, checks nothing.
//
//go:noescape
func expandKeys(key *byte, rounds int, enc, dec *byte)
