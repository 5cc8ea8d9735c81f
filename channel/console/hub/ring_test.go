package hub

import (
	"bytes"
	"sync"
)

// memory is a ring in memory.
type memory struct {
	mu   sync.Mutex
	size int
	all  []byte
}

func (r *memory) print(h *Hub, p []byte) {
	r.mu.Lock()
	r.all = append(r.all, p...)
	r.mu.Unlock()
	h.Printed()
}

func (r *memory) printed(offset uint64, p []byte) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	end := offset + uint64(len(p))
	return end <= uint64(len(r.all)) && bytes.Equal(p, r.all[offset:end])
}

func (r *memory) oldest() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return uint64(max(0, len(r.all)-r.size))
}

func (r *memory) end() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return uint64(len(r.all))
}

func (r *memory) Copy(p []byte, offset uint64) (n int, at, end uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	end = uint64(len(r.all))
	at = max(offset, uint64(max(0, len(r.all)-r.size)))
	if at < end {
		n = copy(p, r.all[at:])
	}
	return n, at, end
}
