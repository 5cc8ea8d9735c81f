package vhostfront

import (
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Flags of descriptors.
const (
	Next     = 1
	Write    = 2
	Indirect = 4
)

// Queue is the driver's side of one split virtqueue in shared memory. One
// goroutine uses it. All of it can be changed by hand, which is how the attacks
// are made.
type Queue struct {
	Index uint32
	Size  int
	// Where its parts are in the shared memory.
	DescAt, AvailAt, UsedAt int

	Desc      []Desc
	AvailHead *uint32 // flags and index, in one word
	Avail     []uint16
	UsedEvent *uint16
	UsedHead  *uint32
	Used      []UsedElem
	KickEvent *uint16

	KickFD, CallFD, ErrFD int

	next     uint16 // index of the available ring, not yet published
	shown    uint16
	lastUsed uint16
	eventIdx bool
	Kicks    int // notifications of the back end
	Sleeps   int // times that Wait slept
}

// ringBytes is the memory that a ring takes, with room between its parts.
func ringBytes(size int) int { return (16*size + 4096 + 8*size + 4096 + 4096) &^ 4095 }

func newQueue(mem []byte, at, size int, index uint32) (*Queue, error) {
	q := &Queue{Index: index, Size: size, DescAt: at, KickFD: -1, CallFD: -1, ErrFD: -1}
	q.AvailAt = at + 16*size
	q.UsedAt = (q.AvailAt + 4 + 2*size + 2 + 3) &^ 3
	q.Desc = descs(mem[q.DescAt:][:16*size])
	q.AvailHead = &words(mem[q.AvailAt:][:4])[0]
	h := halves(mem[q.AvailAt:][:4+2*size+2])
	q.Avail, q.UsedEvent = h[2:2+size], &h[2+size]
	q.UsedHead = &words(mem[q.UsedAt:][:4])[0]
	q.Used = usedElems(mem[q.UsedAt+4:][:8*size])
	q.KickEvent = &halves(mem[q.UsedAt+4+8*size:][:2])[0]
	for _, fd := range []*int{&q.KickFD, &q.CallFD, &q.ErrFD} {
		var err error
		if *fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
			q.close()
			return nil, fmt.Errorf("vhostfront: eventfd: %w", err)
		}
	}
	return q, nil
}

func (q *Queue) close() {
	for _, fd := range []*int{&q.KickFD, &q.CallFD, &q.ErrFD} {
		if *fd >= 0 {
			unix.Close(*fd)
			*fd = -1
		}
	}
}

// Post puts a chain into the available ring; Kick shows it to the back end.
func (q *Queue) Post(head uint16) {
	q.Avail[int(q.next)&(q.Size-1)] = head
	q.next++
}

// Kick publishes what was posted, and notifies the back end if it wants to be.
func (q *Queue) Kick() {
	before := q.shown
	q.SetIndex(q.next)
	if q.eventIdx {
		if q.next-*q.KickEvent-1 >= q.next-before {
			return
		}
	} else if atomic.LoadUint32(q.UsedHead)&1 != 0 {
		return
	}
	q.Notify()
}

// SetIndex publishes an index of the available ring.
func (q *Queue) SetIndex(i uint16) {
	q.next, q.shown = i, i
	q.change(0xffff, uint32(i)<<16)
}

// change keeps some bits of the available ring's head and sets others. Flags and
// index may be changed by two goroutines.
func (q *Queue) change(keep, set uint32) {
	for {
		old := atomic.LoadUint32(q.AvailHead)
		if atomic.CompareAndSwapUint32(q.AvailHead, old, old&keep|set) {
			return
		}
	}
}

// Notify kicks, wanted or not.
func (q *Queue) Notify() {
	q.Kicks++
	_, _ = unix.Write(q.KickFD, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

// UsedIndex is the back end's index.
func (q *Queue) UsedIndex() uint16 { return uint16(atomic.LoadUint32(q.UsedHead) >> 16) }

// Reap calls f for what the back end has given back, and returns how many.
func (q *Queue) Reap(f func(head uint16, n uint32)) int {
	end, n := q.UsedIndex(), 0
	for ; q.lastUsed != end; n++ {
		e := q.Used[int(q.lastUsed)&(q.Size-1)]
		q.lastUsed++
		f(uint16(e.ID), e.Len)
	}
	return n
}

// Wait sleeps until the back end has given something back. It looks for it for
// spin before that. It returns false when timeout has passed.
func (q *Queue) Wait(spin, timeout time.Duration) bool {
	began := time.Now()
	for spin > 0 {
		for range 64 {
			if q.UsedIndex() != q.lastUsed {
				return true
			}
		}
		if time.Since(began) > spin {
			break
		}
	}
	for {
		if q.eventIdx {
			*q.UsedEvent = q.lastUsed
			atomic.AddUint32(q.AvailHead, 0) // orders it before the next load
		} else {
			q.change(0xffff0000, 0)
		}
		if q.UsedIndex() != q.lastUsed {
			q.quiet()
			return true
		}
		rest := timeout - time.Since(began)
		if rest <= 0 {
			return false
		}
		q.Sleeps++
		fds := []unix.PollFd{{Fd: int32(q.CallFD), Events: unix.POLLIN}}
		if n, _ := unix.Poll(fds, int(rest.Milliseconds())+1); n > 0 {
			var b [8]byte
			_, _ = unix.Read(q.CallFD, b[:])
		}
	}
}

// quiet tells the back end not to call.
func (q *Queue) quiet() {
	if !q.eventIdx {
		q.change(0xffff0000, 1)
	}
}

// Called reports whether the back end has called since the last time.
func (q *Queue) Called() bool {
	var b [8]byte
	n, _ := unix.Read(q.CallFD, b[:])
	return n == 8
}

// Broken reports whether the back end has given the queue up.
func (q *Queue) Broken() bool {
	var b [8]byte
	n, _ := unix.Read(q.ErrFD, b[:])
	return n == 8
}
