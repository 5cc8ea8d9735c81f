package nbdclient

import (
	"encoding/binary"
	"net"

	"github.com/uvbond/uvbond/disk/nbd/proto"
)

const (
	copyUpTo    = 4 << 10  // shorter payloads are copied behind their header, longer ones referred to
	inlineBytes = 64 << 10 // as much fits a socket's buffer, so that sending it does not wait
	overhead    = 512      // of one small message in a socket's buffer
)

// sendBuffer is memory for putting a batch together.
type sendBuffer struct {
	headers []byte
	parts   net.Buffers
}

// weight is what r takes of the socket's buffer at most.
func (r *request) weight() int {
	if r.command == proto.CmdWrite {
		return overhead + r.n
	}
	return overhead
}

// push sends what is queued, in this goroutine, all with one system call. If wait
// is false and that could wait for the server, the writer does it.
func (l *link) push(wait bool) {
	l.mu.Lock()
	if l.writing || len(l.queue) == 0 || l.session == nil {
		l.mu.Unlock()
		return
	}
	if !wait && l.unsent > inlineBytes {
		l.mu.Unlock()
		l.wakeWriter()
		return
	}
	late := l.sendLocked()
	more := len(l.queue) > 0
	l.mu.Unlock()
	if more {
		l.wakeWriter()
	}
	l.finish(late)
}

func (l *link) wakeWriter() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// writer sends what others could not.
func (l *link) writer(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-l.kick:
		}
		l.mu.Lock()
		for !l.writing && len(l.queue) > 0 && l.session != nil {
			late := l.sendLocked()
			if len(late) > 0 {
				l.mu.Unlock()
				l.finish(late)
				l.mu.Lock()
			}
		}
		l.mu.Unlock()
	}
}

func (l *link) finish(late []*request) {
	for _, r := range late {
		l.c.finished(l, r)
	}
}

// sendLocked sends the queue, with l.mu unlocked meanwhile. It returns requests
// that were answered before this was over, to be finished without l.mu.
func (l *link) sendLocked() (late []*request) {
	batch, nc := l.queue, l.session.nc
	l.queue, l.spare = l.spare[:0], nil
	for _, r := range batch {
		r.state = sending
	}
	l.writing = true
	l.mu.Unlock()
	err := l.write(nc, batch)
	l.mu.Lock()
	l.writing = false
	for i, r := range batch {
		if r.answered {
			l.dropLocked(r)
			late = append(late, r)
		} else {
			r.state = sent
		}
		batch[i] = nil
	}
	l.spare = batch[:0]
	if err != nil {
		nc.Close() // the reader finds out, and cleans up
	}
	l.idle.Broadcast()
	return late
}

func (l *link) write(nc net.Conn, batch []*request) error {
	b := &l.scratch
	b.headers, b.parts = b.headers[:0], b.parts[:0]
	size := 0
	for _, r := range batch {
		size += proto.RequestSize
		if r.command == proto.CmdWrite && r.n <= copyUpTo {
			size += r.n
		}
	}
	if cap(b.headers) < size {
		b.headers = make([]byte, 0, size) // never grown below: parts point into it
	}
	begin := 0
	for _, r := range batch {
		b.headers = appendRequest(b.headers, r.command, l.c.flagsOf(r), r.cookie, r.off, r.n)
		if r.command != proto.CmdWrite {
			continue
		}
		if r.n <= copyUpTo {
			b.headers = append(b.headers, r.buf...)
			continue
		}
		b.parts = append(b.parts, b.headers[begin:], r.buf)
		begin = len(b.headers)
	}
	if begin == 0 {
		_, err := nc.Write(b.headers)
		return err
	}
	if begin < len(b.headers) {
		b.parts = append(b.parts, b.headers[begin:])
	}
	parts := b.parts
	_, err := parts.WriteTo(nc)
	clear(b.parts)
	return err
}

func appendRequest(b []byte, command, flags uint16, cookie uint64, off int64, n int) []byte {
	b = binary.BigEndian.AppendUint32(b, proto.MagicRequest)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint16(b, command)
	b = binary.BigEndian.AppendUint64(b, cookie)
	b = binary.BigEndian.AppendUint64(b, uint64(off))
	return binary.BigEndian.AppendUint32(b, uint32(n))
}
