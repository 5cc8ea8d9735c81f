package nbd

import "github.com/uvbond/uvbond/disk"

// chunk is memory that requests arrive in. The data of short writes stays in it
// until the device has taken them.
type chunk struct {
	buf  []byte
	uses int // writes whose data is in it, and one for the inbox
}

// inbox is what has arrived and was not yet taken.
type inbox struct {
	arena *disk.Arena
	cur   *chunk
	r, w  int    // cur.buf[r:w] has arrived
	fill  []byte // data of a long write goes here first
	at    int    // fill[:at] has arrived
	spare []*chunk
	iov   vector
}

func (b *inbox) init(a *disk.Arena) {
	b.arena = a
	b.cur = b.newChunk()
}

// newChunk returns nil if there is no memory.
func (b *inbox) newChunk() *chunk {
	buf := b.arena.Get(chunkSize)
	if buf == nil {
		return nil
	}
	var c *chunk
	if n := len(b.spare); n > 0 {
		c, b.spare = b.spare[n-1], b.spare[:n-1]
	} else {
		c = &chunk{}
	}
	c.buf, c.uses = buf, 1
	return c
}

func (b *inbox) drop(c *chunk) {
	if c.uses--; c.uses == 0 {
		b.arena.Put(c.buf)
		c.buf = nil
		b.spare = append(b.spare, c)
	}
}

// len is how much has arrived in the chunk.
func (b *inbox) len() int { return b.w - b.r }

// peek returns what has arrived.
func (b *inbox) peek() []byte { return b.cur.buf[b.r:b.w] }

func (b *inbox) skip(n int) { b.r += n }

// put adds data, of which there is room for less than a chunk.
func (b *inbox) put(p []byte) { b.w += copy(b.cur.buf[b.w:], p) }

// lend returns the next n bytes, which have arrived, and the chunk that is to be
// dropped when they are not needed any more.
func (b *inbox) lend(n int) ([]byte, *chunk) {
	p := b.cur.buf[b.r : b.r+n : b.r+n]
	b.r += n
	b.cur.uses++
	return p, b.cur
}

// startFill makes the next len(p) bytes go to p.
func (b *inbox) startFill(p []byte) {
	b.at = copy(p, b.peek())
	b.fill = p
	b.skip(b.at)
}

// filled returns the memory of startFill when everything is there.
func (b *inbox) filled() ([]byte, bool) {
	if b.fill == nil || b.at < len(b.fill) {
		return nil, false
	}
	p := b.fill
	b.fill, b.at = nil, 0
	return p, true
}

// makeRoom makes room for need bytes from r on, and for more if that is easy. It
// returns false if there is no memory.
func (b *inbox) makeRoom(need int) bool {
	if b.r == b.w && b.cur.uses == 1 {
		b.r, b.w = 0, 0
	}
	if len(b.cur.buf)-b.w >= chunkSize/4 && b.r+need <= len(b.cur.buf) {
		return true
	}
	if b.cur.uses == 1 {
		b.w = copy(b.cur.buf, b.peek())
		b.r = 0
	} else if c := b.newChunk(); c != nil {
		n := copy(c.buf, b.peek())
		b.drop(b.cur)
		b.cur, b.r, b.w = c, 0, n
	}
	return b.r+need <= len(b.cur.buf) && b.w < len(b.cur.buf)
}

// vector is where to receive.
func (b *inbox) vector() vector {
	b.iov = b.iov[:0]
	if b.fill != nil {
		b.iov.add(b.fill[b.at:])
	}
	b.iov.add(b.cur.buf[b.w:])
	return b.iov
}

// got takes note that n bytes were received.
func (b *inbox) got(n int) {
	if b.fill != nil {
		f := min(n, len(b.fill)-b.at)
		b.at += f
		n -= f
	}
	b.w += n
}
