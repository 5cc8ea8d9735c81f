package nbd

import (
	"encoding/binary"
	"net"
	"sync"
	"sync/atomic"
)

// reply is one answer on its way: a header, and for reads the data.
type reply struct {
	head    [32]byte
	headLen int
	data    []byte
	buf     *buffer // where data is; given back when it has left
}

func simpleReply(r *request, errno uint32) reply {
	var p reply
	binary.BigEndian.PutUint32(p.head[0:], magicSimple)
	binary.BigEndian.PutUint32(p.head[4:], errno)
	binary.BigEndian.PutUint64(p.head[8:], r.cookie)
	p.headLen = 16
	return p
}

func chunk(r *request, kind uint16, length uint32) reply {
	var p reply
	binary.BigEndian.PutUint32(p.head[0:], magicChunk)
	binary.BigEndian.PutUint16(p.head[4:], chunkDone)
	binary.BigEndian.PutUint16(p.head[6:], kind)
	binary.BigEndian.PutUint64(p.head[8:], r.cookie)
	binary.BigEndian.PutUint32(p.head[16:], length)
	p.headLen = 20
	return p
}

func readReply(r *request, structured bool) reply {
	var p reply
	if structured {
		p = chunk(r, chunkOffsetData, 8+r.length)
		binary.BigEndian.PutUint64(p.head[20:], r.offset)
		p.headLen = 28
	} else {
		p = simpleReply(r, 0)
	}
	p.data, p.buf = r.buf.mem[:r.length], r.buf
	return p
}

// structuredEnd answers a read that has no data: it failed, or asked for none.
func structuredEnd(r *request, errno uint32) reply {
	if errno == 0 {
		return chunk(r, 0, 0)
	}
	p := chunk(r, chunkError, 6)
	binary.BigEndian.PutUint32(p.head[20:], errno)
	p.headLen = 26 // the text for people is empty: two zero bytes of length
	return p
}

// replyQueue collects replies; the worker that finds it unattended writes until
// it is empty.  A worker with a reply waits while maxPending are queued.
type replyQueue struct {
	nc   net.Conn
	room *room
	quit *atomic.Bool // set when a write fails

	mu      sync.Mutex
	space   sync.Cond
	pending []reply
	spare   []reply // the other of two slices that take turns
	writing bool
	err     error // of the first write that failed; nothing is sent after it

	vec, rest net.Buffers // of the worker that writes
}

func (q *replyQueue) init(nc net.Conn, room *room, quit *atomic.Bool) {
	q.nc, q.room, q.quit = nc, room, quit
	q.space.L = &q.mu
}

func (q *replyQueue) put(p reply) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.writing && len(q.pending) >= maxPending {
		q.space.Wait()
	}
	q.pending = append(q.pending, p)
	if q.writing {
		return
	}
	q.writing = true
	for len(q.pending) > 0 {
		batch, failed := q.pending, q.err != nil
		q.pending = q.spare[:0]
		q.space.Broadcast()
		q.mu.Unlock()
		var err error
		if !failed {
			err = q.write(batch)
		}
		for i := range batch {
			q.room.give(batch[i].buf)
			batch[i] = reply{}
		}
		q.mu.Lock()
		q.spare = batch
		if err != nil {
			q.err = err
			q.quit.Store(true)
			q.nc.Close() // wakes the worker that reads
		}
	}
	q.writing = false
}

// write sends a batch with as few system calls as it takes.
func (q *replyQueue) write(batch []reply) error {
	vec := q.vec[:0]
	for i := range batch {
		p := &batch[i]
		vec = append(vec, p.head[:p.headLen])
		if len(p.data) > 0 {
			vec = append(vec, p.data)
		}
	}
	q.vec = vec
	q.rest = vec // WriteTo consumes its receiver
	_, err := q.rest.WriteTo(q.nc)
	clear(vec)
	return err
}
