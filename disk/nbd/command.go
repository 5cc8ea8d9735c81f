package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk"
)

// job is one command of the client. It is worked on in parts, so that what a
// connection holds at a time is bounded, and small enough for a cache.
type job struct {
	flags, command uint16
	cookie, offset uint64
	length         uint32
	taken          uint32 // bytes that parts were made of
	parts          int    // under way
	errno          uint32 // the first failure, or why it is refused
	flushed        bool   // what FUA asks for was done, or is under way
	whole          []byte // of a long read without structured replies
}

// part is one Request of a job, then its reply.
type part struct {
	req     disk.Request
	data1   [1][]byte // for req.Data
	job     *job
	chunk   *chunk // that req's data is in
	buf     []byte // of the arena
	head    [32]byte
	headLen int
	data    []byte // to be sent
}

// take starts as many requests as have arrived and there is memory for.
func (c *conn) take() {
	for !c.quit.Load() {
		if c.feed == nil && (c.ended || !c.parse()) {
			return
		}
		if j := c.feed; j != nil {
			if !c.advance(j) {
				return
			}
			c.feed = nil
			c.settle(j)
		}
	}
}

// wants reports whether something of the client is needed to go on, and makes
// room for it.
func (c *conn) wants() bool {
	j := c.feed
	switch {
	case j == nil:
		return c.jobs < maxJobs && len(c.free)+maxParts-len(c.parts) > 0 && c.in.makeRoom(requestSize)
	case j.command != cmdWrite:
		return false // it waits for memory
	case c.in.fill != nil:
		c.in.makeRoom(requestSize) // for what comes behind
		return c.in.at < len(c.in.fill)
	case j.errno != 0:
		return c.in.makeRoom(1)
	}
	return c.in.len() < c.partLen(j) && c.in.makeRoom(min(c.partLen(j), mostInChunk))
}

// parse takes the header of a request, if it is there.
func (c *conn) parse() bool {
	if c.in.len() < requestSize || c.jobs >= maxJobs {
		return false
	}
	b := c.in.peek()
	if binary.BigEndian.Uint32(b) != magicRequest {
		c.ended, c.err = true, errors.New("request without its magic number")
		return false
	}
	j := c.newJob()
	j.flags, j.command = binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:])
	j.cookie, j.offset = binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])
	j.length = binary.BigEndian.Uint32(b[24:])
	c.in.skip(requestSize)
	if j.command == cmdDisconnect {
		c.ended = true
		c.spare = append(c.spare, j)
		return false
	}
	c.jobs++
	j.errno = c.check(j)
	if j.command == cmdWrite && j.errno != 0 && j.length > maxDrain {
		c.ended, c.err = true, fmt.Errorf("write of %d bytes", j.length)
		j.taken = j.length // what it wants written is not waited for
	}
	c.feed = j
	return true
}

func (c *conn) newJob() *job {
	if n := len(c.spare); n > 0 {
		j := c.spare[n-1]
		c.spare = c.spare[:n-1]
		*j = job{}
		return j
	}
	return &job{}
}

// check returns the error number for a request that is not to be executed, or 0.
func (c *conn) check(j *job) uint32 {
	allowed := uint16(cfFUA) // valid on every command once offered
	beyond := errInvalid
	switch j.command {
	case cmdRead:
		if c.structured {
			allowed |= cfDontFragment
		}
	case cmdWrite:
		beyond = errNoSpace
	case cmdWriteZeroes:
		allowed |= cfNoHole | cfFastZero
		beyond = errNoSpace
	case cmdTrim:
		if d := c.export.Device; !d.CanTrim() && !d.ReadOnly() {
			return errInvalid
		}
	case cmdFlush:
		if j.flags&^allowed != 0 || j.offset != 0 || j.length != 0 {
			return errInvalid
		}
		return 0
	default:
		return errInvalid
	}
	switch {
	case j.command != cmdRead && c.export.Device.ReadOnly():
		return errPerm
	case j.flags&^allowed != 0:
		return errInvalid
	case j.length > MaxRequest && (j.command == cmdRead || j.command == cmdWrite):
		return errInvalid
	case j.offset > c.size || uint64(j.length) > c.size-j.offset:
		return beyond
	case j.flags&cfFastZero != 0:
		return errNotSup // zeroes are encrypted like all else: never faster than a write
	case j.flags&cfDontFragment != 0 && c.split(j):
		return errOverflow // the protocol allows it above 64 KiB
	}
	return 0
}

// split reports whether a read has more than one part.
func (c *conn) split(j *job) bool { return uint64(j.length) > partLen(j.offset, uint64(j.length)) }

// partLen is the length of the first part of n bytes at off. If there are several,
// they end on multiples of their size, so that sectors are not cut.
func partLen(off, n uint64) uint64 {
	if n <= disk.MaxPiece {
		return n
	}
	return disk.MaxPiece - off%disk.MaxPiece
}

// partLen returns the length of j's next part.
func (c *conn) partLen(j *job) int {
	return int(partLen(j.offset+uint64(j.taken), uint64(j.length-j.taken)))
}

// advance starts the parts of j; false: it has to wait for data or memory.
func (c *conn) advance(j *job) bool {
	if j.errno != 0 && j.command != cmdWrite {
		j.taken = j.length
		return true
	}
	switch j.command {
	case cmdRead:
		return c.advanceRead(j)
	case cmdWrite:
		return c.advanceWrite(j)
	case cmdFlush:
		c.startFlush(j)
	default:
		if j.length > 0 {
			c.step(j)
		}
	}
	return true
}

func (c *conn) advanceRead(j *job) bool {
	if !c.structured && c.split(j) {
		return c.readWhole(j)
	}
	for j.taken < j.length {
		n := c.partLen(j)
		p := c.newPart(j)
		if p == nil {
			return false
		}
		if p.buf = c.arena.Get(n); p.buf == nil {
			c.release(p)
			return false
		}
		p.data1[0] = p.buf
		c.start(p, disk.Read, n)
	}
	return true
}

// readWhole reads what must be sent in one piece behind one header that says
// whether it succeeded. Its memory is not the arena's, so there is one at a time.
func (c *conn) readWhole(j *job) bool {
	if c.big {
		return false
	}
	p := c.newPart(j)
	if p == nil {
		return false
	}
	c.big = true
	j.whole = make([]byte, j.length)
	p.data1[0] = j.whole
	c.start(p, disk.Read, int(j.length))
	return true
}

func (c *conn) advanceWrite(j *job) bool {
	for j.taken < j.length {
		if j.errno != 0 && c.in.fill == nil { // thrown away
			n := min(int(j.length-j.taken), c.in.len())
			c.in.skip(n)
			if j.taken += uint32(n); j.taken < j.length {
				return false
			}
			return true
		}
		n := c.partLen(j)
		if c.in.fill == nil && n > mostInChunk {
			b := c.arena.Get(n)
			if b == nil {
				return false
			}
			c.in.startFill(b)
		}
		if c.in.fill == nil && c.in.len() < n {
			return false
		}
		if c.in.fill != nil && c.in.at < len(c.in.fill) {
			return false
		}
		p := c.newPart(j)
		if p == nil {
			return false
		}
		if b, ok := c.in.filled(); ok {
			p.buf, p.data1[0] = b, b
		} else {
			p.data1[0], p.chunk = c.in.lend(n)
		}
		c.start(p, disk.Write, n)
	}
	return true
}

// step starts the next part of a trim or write-zeroes, which go one after the
// other: each may take long, and others shall get their turn.
func (c *conn) step(j *job) {
	p := c.onePart(j)
	op := disk.Trim
	if j.command == cmdWriteZeroes {
		op = disk.WriteZeroes
	}
	n := int(min(j.length-j.taken, zeroStep))
	p.req.Len = int64(n)
	c.start(p, op, n)
}

func (c *conn) startFlush(j *job) {
	j.flushed = true
	c.start(c.onePart(j), disk.Flush, 0)
}

// start hands a part of n bytes to the device.
func (c *conn) start(p *part, op disk.Op, n int) {
	j := p.job
	p.req.Op, p.req.Off = op, int64(j.offset)+int64(j.taken)
	if p.data1[0] != nil {
		p.req.Data = p.data1[:]
	}
	if op == disk.Write && n == int(j.length) && j.flags&cfFUA != 0 {
		p.req.FUA, j.flushed = true, true
	}
	j.taken += uint32(n)
	j.parts++
	c.queue.Start(&p.req)
}

// newPart returns nil if there are too many.
func (c *conn) newPart(j *job) *part {
	if n := len(c.free); n > 0 {
		p := c.free[n-1]
		c.free = c.free[:n-1]
		p.job = j
		return p
	}
	if len(c.parts) >= maxParts {
		return nil
	}
	return c.onePart(j)
}

// onePart returns a part however many there are: to end a job, which one is enough
// for.
func (c *conn) onePart(j *job) *part {
	if len(c.free) > 0 {
		return c.newPart(j)
	}
	p := &part{job: j}
	p.req.Tag = uint64(len(c.parts))
	c.parts = append(c.parts, p)
	return p
}

// release gives a part and its memory back.
func (c *conn) release(p *part) {
	if p.chunk != nil {
		c.in.drop(p.chunk)
	}
	if p.buf != nil {
		c.arena.Put(p.buf)
	}
	tag := p.req.Tag
	*p = part{}
	p.req.Tag = tag
	c.free = append(c.free, p)
}

// completed takes a part back from the device.
func (c *conn) completed(p *part, r *disk.Request) {
	j := p.job
	j.parts--
	if r.Err != nil && j.errno == 0 {
		j.errno = errnoOf(r.Err)
	}
	last := j.parts == 0 && j.taken == j.length && c.feed != j
	if j.whole != nil {
		c.big = false
	}
	if r.Op != disk.Read || r.Err != nil {
		c.release(p)
		c.settle(j)
		return
	}
	p.data = p.data1[0]
	if !c.structured {
		p.simpleHead(j.cookie, 0)
	} else {
		last = last && j.errno == 0
		p.dataHead(j.cookie, uint64(r.Off), uint32(len(p.data)), last)
	}
	c.out.put(p)
	if last || !c.structured {
		c.finish(j)
		return
	}
	c.settle(j)
}

// settle goes on with a job none of whose parts is under way.
func (c *conn) settle(j *job) {
	if j.parts > 0 || c.feed == j {
		return
	}
	if j.errno == 0 && j.taken < j.length {
		c.step(j)
		return
	}
	if j.errno == 0 && j.flags&cfFUA != 0 && j.command != cmdRead && !j.flushed {
		c.startFlush(j)
		return
	}
	c.answer(j)
}

// answer ends a job that has no data to send.
func (c *conn) answer(j *job) {
	p := c.onePart(j)
	if j.command == cmdRead && c.structured {
		p.endHead(j.cookie, j.errno)
	} else {
		p.simpleHead(j.cookie, j.errno)
	}
	c.out.put(p)
	c.finish(j)
}

// finish forgets a job whose reply is on its way.
func (c *conn) finish(j *job) {
	c.srv.stats.count(j)
	c.jobs--
	c.spare = append(c.spare, j)
}

// errnoOf maps an error to one that the protocol has; what it does not know is
// an I/O error.
func errnoOf(err error) uint32 {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, unix.EFBIG):
		return errNoSpace
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EROFS):
		return errPerm
	case errors.Is(err, errors.ErrUnsupported):
		return errNotSup
	case errors.Is(err, fs.ErrClosed), errors.Is(err, unix.ESHUTDOWN):
		return errShutdown
	case errors.Is(err, unix.ENOMEM):
		return errNoMem
	case errors.Is(err, fs.ErrInvalid), errors.Is(err, unix.EINVAL):
		return errInvalid
	default:
		return errIO
	}
}
