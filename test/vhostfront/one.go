package vhostfront

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// area is the memory for the requests of One, for each queue.
const area = 64 << 10

// answerTime is how long a back end may take for something simple.
const answerTime = 5 * time.Second

// Area is where in Mem a queue's requests of One are: the header, the status 64
// bytes behind it, the data 4096 bytes behind it.
func (f *Front) Area(q *Queue) int { return f.DataAt + int(q.Index)*area }

// Chain writes descriptors that follow each other from head on; the last one ends
// the chain.
func (q *Queue) Chain(head uint16, ds ...Desc) {
	for i, d := range ds {
		at := head + uint16(i)
		if i < len(ds)-1 {
			d.Flags |= Next
			d.Next = at + 1
		}
		q.Desc[at] = d
	}
}

// Header writes a request's header to its place.
func (f *Front) Header(q *Queue, op uint32, sector uint64) {
	mem := f.Mem[f.Area(q):]
	binary.LittleEndian.PutUint32(mem, op)
	binary.LittleEndian.PutUint32(mem[4:], 0)
	binary.LittleEndian.PutUint64(mem[8:], sector)
	mem[64] = 0xff
}

// Parts returns the three descriptors of a request: header, n bytes of data that
// the back end writes or reads, status.
func (f *Front) Parts(q *Queue, n int, write bool) (header, data, status Desc) {
	at := f.Area(q)
	header, status = Desc{Addr: f.Guest(at), Len: 16}, Desc{Addr: f.Guest(at + 64), Len: 1, Flags: Write}
	data = Desc{Addr: f.Guest(at + 4096), Len: uint32(n)}
	if write {
		data.Flags = Write
	}
	return header, data, status
}

// One sends one request at head 0 and returns its status.
func (f *Front) One(q *Queue, op uint32, sector uint64, in, out []byte) (byte, error) {
	f.Header(q, op, sector)
	h, d, s := f.Parts(q, len(in)+len(out), in != nil)
	copy(f.Mem[f.Area(q)+4096:], out)
	if len(in)+len(out) > 0 {
		q.Chain(0, h, d, s)
	} else {
		q.Chain(0, h, s)
	}
	q.Post(0)
	q.Kick()
	if err := q.await(0); err != nil {
		return 0, err
	}
	copy(in, f.Mem[f.Area(q)+4096:])
	return f.Mem[f.Area(q)+64], nil
}

// await waits for one used entry, which must be head's.
func (q *Queue) await(head uint16) error {
	if !q.Wait(0, answerTime) {
		return fmt.Errorf("vhostfront: queue %d: no answer in %v: %w", q.Index, answerTime, unix.ETIMEDOUT)
	}
	got := uint16(0xffff)
	if n := q.Reap(func(h uint16, _ uint32) { got = h }); n != 1 || got != head {
		return fmt.Errorf("vhostfront: queue %d: %d used entries, the last is %d", q.Index, n, got)
	}
	return nil
}

// Works writes to the disk by one queue, reads it back and compares.
func (f *Front) Works(q *Queue) error {
	out, in := bytes.Repeat([]byte{byte(time.Now().UnixNano()), byte(q.Index)}, 2048), make([]byte, 4096)
	sector := 8 * (1 + uint64(q.Index))
	if status, err := f.One(q, BlkOut, sector, nil, out); err != nil || status != 0 {
		return fmt.Errorf("vhostfront: queue %d: write: status %d, %w", q.Index, status, err)
	}
	if status, err := f.One(q, BlkIn, sector, in, nil); err != nil || status != 0 {
		return fmt.Errorf("vhostfront: queue %d: read: status %d, %w", q.Index, status, err)
	}
	if !bytes.Equal(in, out) {
		return fmt.Errorf("vhostfront: queue %d: %w", q.Index, ErrContent)
	}
	return nil
}

// Clear makes a stopped queue's ring as new.
func (q *Queue) Clear() {
	clear(q.Desc)
	clear(q.Avail)
	clear(q.Used)
	*q.AvailHead, *q.UsedHead, *q.UsedEvent, *q.KickEvent = 0, 0, 0, 0
	q.next, q.shown, q.lastUsed = 0, 0, 0
	for _, fd := range []int{q.KickFD, q.CallFD, q.ErrFD} {
		var b [8]byte
		_, _ = unix.Read(fd, b[:])
	}
}
