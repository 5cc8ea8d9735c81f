package disk

import (
	"sync"

	"github.com/uvbond/uvbond/disk/aligned"
)

// Buffers start on a page, so that direct I/O takes them, and are reused. They
// go back to the pool with ciphertext or zeros in them, never with plain text.
const (
	smallBuffer = 16 << 10
	largeBuffer = 1 << 20
)

type buffer struct {
	mem  []byte
	pool *sync.Pool
}

var smallBuffers, largeBuffers sync.Pool

// getBuffer returns a buffer of n bytes, or of largeBuffer bytes if n is more.
func getBuffer(n int) *buffer {
	size, pool := smallBuffer, &smallBuffers
	if n > smallBuffer {
		size, pool = largeBuffer, &largeBuffers
	}
	b, ok := pool.Get().(*buffer)
	if !ok {
		b = &buffer{aligned.Make(size), pool}
	}
	b.mem = b.mem[:min(n, size)]
	return b
}

func (b *buffer) release() {
	b.mem = b.mem[:cap(b.mem)]
	b.pool.Put(b)
}
