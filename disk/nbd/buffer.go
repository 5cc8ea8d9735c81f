package nbd

import (
	"math/bits"
	"sync"

	"github.com/uvbond/uvbond/disk/aligned"
)

// Payload buffers come in powers of two from 4 KiB to MaxRequest, start on a
// page, and are reused.  What one connection holds at any time, requests and
// queued replies together, is at most MaxRequest: the worker that reads takes
// the room for a request before it takes the request's payload, so a client
// that sends faster than the disk works is simply not read from.

const (
	minBuffer = 4 << 10
	classes   = 14 // 4 KiB << 13 = 32 MiB
)

type buffer struct {
	mem   []byte // the whole of it
	class int
}

var pools [classes]sync.Pool

func bufferClass(n int) int {
	return max(0, bits.Len(uint(n-1))-bits.Len(uint(minBuffer-1)))
}

// getBuffer returns a buffer of at least n bytes, 0 < n <= MaxRequest.  What is
// in it is not defined.
func getBuffer(n int) *buffer {
	class := bufferClass(n)
	if b, ok := pools[class].Get().(*buffer); ok {
		return b
	}
	size := minBuffer << class
	return &buffer{aligned.Make(size), class}
}

func (b *buffer) release() { pools[b.class].Put(b) }

// room is the bound on one connection's buffers.
type room struct {
	mu   sync.Mutex
	more sync.Cond
	free int
}

// take waits until a buffer for n bytes fits and returns it.  Only the worker
// that reads calls it, so a long request cannot be overtaken for ever.
func (r *room) take(n int) *buffer {
	size := minBuffer << bufferClass(n)
	r.mu.Lock()
	for r.free < size {
		r.more.Wait()
	}
	r.free -= size
	r.mu.Unlock()
	return getBuffer(n)
}

func (r *room) give(b *buffer) {
	if b == nil {
		return
	}
	size := len(b.mem)
	b.release()
	r.mu.Lock()
	r.free += size
	r.mu.Unlock()
	r.more.Signal()
}
