package nbd

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// outbox is what is to be sent, in its order: parts, each with a header and perhaps
// with data.
type outbox struct {
	queue []*part
	first int // of queue
	sent  int // bytes of the first part
	data  int // bytes of all parts' data
	iov   vector
}

// size returns how many parts are to be sent, and how many bytes of data.
func (o *outbox) size() (parts, data int) { return len(o.queue) - o.first, o.data }

func (o *outbox) empty() bool { return o.first == len(o.queue) }

func (o *outbox) put(p *part) {
	if o.empty() {
		o.queue, o.first = o.queue[:0], 0
	}
	o.queue = append(o.queue, p)
	o.data += len(p.data)
}

// send sends as much as the socket takes, and releases the parts that have left.
func (o *outbox) send(s socket, release func(*part)) error {
	for !o.empty() {
		o.iov = o.iov[:0]
		skip := o.sent
		for _, p := range o.queue[o.first:min(len(o.queue), o.first+maxSend)] {
			for _, b := range [2][]byte{p.head[:p.headLen], p.data} {
				drop := min(skip, len(b))
				skip -= drop
				o.iov.add(b[drop:])
			}
		}
		n, err := s.send(o.iov)
		if err == unix.EAGAIN {
			return nil
		}
		if err != nil {
			return fmt.Errorf("send: %w", err)
		}
		o.left(n, release)
	}
	return nil
}

// left takes note that n bytes have been sent.
func (o *outbox) left(n int, release func(*part)) {
	n += o.sent
	for !o.empty() {
		p := o.queue[o.first]
		size := p.headLen + len(p.data)
		if n < size {
			break
		}
		n -= size
		o.data -= len(p.data)
		o.queue[o.first] = nil
		o.first++
		release(p)
	}
	o.sent = n
}

func (p *part) simpleHead(cookie uint64, errno uint32) {
	binary.BigEndian.PutUint32(p.head[0:], magicSimple)
	binary.BigEndian.PutUint32(p.head[4:], errno)
	binary.BigEndian.PutUint64(p.head[8:], cookie)
	p.headLen = 16
}

func (p *part) chunkHead(cookie uint64, kind uint16, length uint32, last bool) {
	var flags uint16
	if last {
		flags = chunkDone
	}
	binary.BigEndian.PutUint32(p.head[0:], magicChunk)
	binary.BigEndian.PutUint16(p.head[4:], flags)
	binary.BigEndian.PutUint16(p.head[6:], kind)
	binary.BigEndian.PutUint64(p.head[8:], cookie)
	binary.BigEndian.PutUint32(p.head[16:], length)
	p.headLen = 20
}

func (p *part) dataHead(cookie, offset uint64, length uint32, last bool) {
	p.chunkHead(cookie, chunkOffsetData, 8+length, last)
	binary.BigEndian.PutUint64(p.head[20:], offset)
	p.headLen = 28
}

// endHead ends a structured reply that has no data left to send.
func (p *part) endHead(cookie uint64, errno uint32) {
	if errno == 0 {
		p.chunkHead(cookie, 0, 0, true)
		return
	}
	p.chunkHead(cookie, chunkError, 6, true)
	binary.BigEndian.PutUint32(p.head[20:], errno)
	binary.BigEndian.PutUint16(p.head[24:], 0) // no text for people
	p.headLen = 26
}
