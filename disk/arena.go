package disk

import (
	"fmt"
	"math/bits"

	"golang.org/x/sys/unix"
)

// arenaBlock is the unit of an Arena in bytes: a page, as direct I/O wants it.
const arenaBlock = 4096

// Arena is a fixed piece of memory from which a Queue, and who owns it, take
// their I/O buffers. It is outside of Go's heap: its size bounds what a disk
// costs, the kernel can keep it registered, and pages that were never used cost
// nothing. Only one goroutine may use it.
type Arena struct {
	mem  []byte
	used []uint64 // a bit for each block
	from int      // word in which the next search starts
	free int      // blocks
}

// NewArena returns an Arena of size bytes, a multiple of 256 KiB.
func NewArena(size int) (*Arena, error) {
	if size <= 0 || size%(64*arenaBlock) != 0 {
		return nil, fmt.Errorf("disk: arena of %d bytes is not a multiple of %d", size, 64*arenaBlock)
	}
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("disk: %d bytes of buffers: %w", size, err)
	}
	// Plain text passes through: it belongs into no core file.
	_ = unix.Madvise(mem, unix.MADV_DONTDUMP)
	blocks := size / arenaBlock
	return &Arena{mem: mem, used: make([]uint64, blocks/64), free: blocks}, nil
}

// blocksFor returns how many blocks a buffer of n bytes takes: a power of two, so
// that pieces fit where others were.
func blocksFor(n int) int {
	return 1 << bits.Len(uint((n+arenaBlock-1)/arenaBlock-1))
}

// Get returns n bytes, at most MaxPiece, that start on a page, or nil when there
// is no room: then the caller waits for a Put. Their content is not defined.
func (a *Arena) Get(n int) []byte {
	if n <= 0 || n > MaxPiece {
		panic("disk: arena buffer of an impossible size")
	}
	want := blocksFor(n)
	if want > a.free {
		return nil
	}
	mask := uint64(1)<<want - 1
	for i := range a.used {
		w := a.from + i
		if w >= len(a.used) {
			w -= len(a.used)
		}
		if a.used[w] == ^uint64(0) {
			continue
		}
		for s := 0; s < 64; s += want {
			if a.used[w]>>s&mask == 0 {
				a.used[w] |= mask << s
				a.free -= want
				a.from = w
				at := (w*64 + s) * arenaBlock
				return a.mem[at : at+n : at+want*arenaBlock]
			}
		}
	}
	return nil
}

// Put gives back what Get returned.
func (a *Arena) Put(b []byte) {
	b = b[:cap(b)]
	want := len(b) / arenaBlock
	at, ok := offsetIn(a.mem, b)
	if !ok || at%arenaBlock != 0 || want == 0 {
		panic("disk: a buffer was given back to another arena")
	}
	block := at / arenaBlock
	mask := (uint64(1)<<want - 1) << (block % 64)
	if a.used[block/64]&mask != mask {
		panic("disk: a buffer was given back twice")
	}
	a.used[block/64] &^= mask
	a.free += want
}

// Idle reports whether nothing of the Arena is in use.
func (a *Arena) Idle() bool { return a.free*arenaBlock == len(a.mem) }

// Close wipes and unmaps the memory. No buffer may be in use.
func (a *Arena) Close() error {
	if a.mem == nil {
		return nil
	}
	mem := a.mem
	a.mem, a.used, a.free = nil, nil, 0
	return unix.Munmap(mem)
}
