package vhostfront

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Types of requests.
const (
	BlkIn          = 0
	BlkOut         = 1
	BlkFlushOp     = 4
	BlkGetID       = 8
	BlkDiscardOp   = 11
	BlkWriteZeroOp = 13
)

// diskBuffer is how much one request of a Disk transfers at the most, and
// diskSlots how many there are at a time, on each queue.
const (
	diskBuffer = 128 << 10
	diskSlots  = 16
)

// Disk is the back end's disk as a program sees it. Its methods may be called
// concurrently. A request that the back end fails is EIO, one that it does not know
// EOPNOTSUPP. Offsets and lengths are multiples of 512.
type Disk struct {
	f *Front
	// Timeout of one request; 0 is 30 seconds.
	Timeout time.Duration

	queues chan *diskQueue
}

type diskQueue struct {
	q     *Queue
	mu    sync.Mutex // guards what follows, and q
	free  []uint16   // slots
	done  [diskSlots]bool
	base  int // of the slots in Mem
	ready sync.Cond
	busy  bool // somebody waits for the back end
}

// Disk returns the disk of f, which must have 2 MiB of memory and 64 entries for
// each queue, and is not to be used otherwise.
func (f *Front) Disk() (*Disk, error) {
	const each = diskSlots * (diskBuffer + 4096)
	if f.o.Memory < each*len(f.Queues) || f.o.QueueSize < 3*diskSlots {
		return nil, errors.New("vhostfront: too little memory for a disk")
	}
	// Every call takes a queue off the channel and puts it back at once, so they
	// take turns.
	d := &Disk{f: f, queues: make(chan *diskQueue, len(f.Queues))}
	for i, q := range f.Queues {
		dq := &diskQueue{q: q, base: f.DataAt + i*each}
		dq.ready.L = &dq.mu
		for s := range uint16(diskSlots) {
			dq.free = append(dq.free, s)
		}
		d.queues <- dq
	}
	return d, nil
}

// Size is the capacity in bytes.
func (d *Disk) Size() int64 { return d.f.Config.Capacity }

// ReadAt is io.ReaderAt.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	return d.pieces(p, off, func(p []byte, off int64) error { return d.do(BlkIn, off, p, nil) })
}

// WriteAt is io.WriterAt.
func (d *Disk) WriteAt(p []byte, off int64) (int, error) {
	return d.pieces(p, off, func(p []byte, off int64) error { return d.do(BlkOut, off, nil, p) })
}

func (d *Disk) pieces(p []byte, off int64, f func([]byte, int64) error) (int, error) {
	if off%512 != 0 || len(p)%512 != 0 {
		return 0, unix.EINVAL
	}
	for done := 0; done < len(p); {
		n := min(len(p)-done, diskBuffer)
		if err := f(p[done:done+n], off+int64(done)); err != nil {
			return done, err
		}
		done += n
	}
	return len(p), nil
}

// Flush returns when everything that was written before is on stable storage.
func (d *Disk) Flush() error { return d.do(BlkFlushOp, 0, nil, nil) }

// WriteZeroes writes zeros.
func (d *Disk) WriteZeroes(off, n int64) error {
	return d.ranges(BlkWriteZeroOp, off, n, d.f.Config.MaxZeroes)
}

// Trim discards.
func (d *Disk) Trim(off, n int64) error {
	return d.ranges(BlkDiscardOp, off, n, d.f.Config.MaxDiscard)
}

func (d *Disk) ranges(op uint32, off, n int64, most uint32) error {
	if most == 0 {
		return unix.EOPNOTSUPP
	}
	for n > 0 {
		sectors := min(n/512, int64(most))
		p := append(U64s(uint64(off/512)), U32s(uint32(sectors), 0)...)
		if err := d.do(op, 0, nil, p); err != nil {
			return err
		}
		off, n = off+sectors*512, n-sectors*512
	}
	return nil
}

// ID is the serial number.
func (d *Disk) ID() (string, error) {
	var p [20]byte
	err := d.do(BlkGetID, 0, p[:], nil)
	return string(p[:]), err
}

// do sends one request: it fills in, or sends out.
func (d *Disk) do(op uint32, off int64, in, out []byte) error {
	dq := <-d.queues
	d.queues <- dq
	limit := d.Timeout
	if limit == 0 {
		limit = 30 * time.Second
	}
	dq.mu.Lock()
	defer dq.mu.Unlock()
	for len(dq.free) == 0 {
		dq.ready.Wait()
	}
	slot := dq.free[len(dq.free)-1]
	dq.free = dq.free[:len(dq.free)-1]
	at := dq.base + int(slot)*(diskBuffer+4096)
	mem, data := d.f.Mem[at:], d.f.Mem[at+4096:]
	binary.LittleEndian.PutUint32(mem, op)
	binary.LittleEndian.PutUint64(mem[8:], uint64(off/512))
	mem[16] = 0xff
	head := 3 * slot
	desc := dq.q.Desc[head : head+3]
	next := head + 1
	desc[0] = Desc{d.f.Guest(at), 16, Next, next}
	if len(in)+len(out) > 0 {
		flags := uint16(Next)
		if in != nil {
			flags |= Write
		}
		copy(data, out)
		desc[1] = Desc{d.f.Guest(at + 4096), uint32(len(in) + len(out)), flags, head + 2}
		next++
	}
	dq.q.Desc[next] = Desc{d.f.Guest(at + 16), 1, Write, 0}
	dq.done[slot] = false
	dq.q.Post(head)
	dq.q.Kick()
	if err := dq.wait(slot, limit); err != nil {
		return err // the slot is lost
	}
	copy(in, data)
	status := mem[16]
	dq.free = append(dq.free, slot)
	dq.ready.Broadcast()
	switch status {
	case 0:
		return nil
	case 1:
		return unix.EIO
	case 2:
		return unix.EOPNOTSUPP
	}
	return fmt.Errorf("vhostfront: status %d", status)
}

// wait returns when the request in slot is done. One of those who wait looks at
// the queue for all.
func (dq *diskQueue) wait(slot uint16, limit time.Duration) error {
	end := time.Now().Add(limit)
	for !dq.done[slot] {
		if dq.busy {
			dq.ready.Wait()
			continue
		}
		dq.busy = true
		dq.mu.Unlock()
		ok := dq.q.Wait(10*time.Microsecond, 10*time.Millisecond)
		dq.mu.Lock()
		dq.busy = false
		dq.q.Reap(func(head uint16, _ uint32) { dq.done[head/3] = true })
		dq.ready.Broadcast()
		if !ok && !dq.done[slot] && time.Now().After(end) {
			return fmt.Errorf("vhostfront: no answer in %v: %w", limit, unix.ETIMEDOUT)
		}
	}
	return nil
}
