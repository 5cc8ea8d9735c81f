package uring

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Numbers of the kernel's interface: include/uapi/linux/io_uring.h.
const (
	opReadFixed  = 4
	opWriteFixed = 5
	opRead       = 22
	opWrite      = 23

	setupClamp = 1 << 4

	featSingleMmap = 1 << 0
	featNodrop     = 1 << 1

	offSQRing = 0
	offSQEs   = 0x10000000

	enterGetEvents = 1 << 0

	registerBuffers = 0
	registerEventfd = 4

	cqEventfdDisabled = 1 << 0
	sqCQOverflow      = 1 << 1
)

// sqe is struct io_uring_sqe.
type sqe struct {
	opcode   uint8
	flags    uint8
	ioprio   uint16
	fd       int32
	off      uint64
	addr     uint64
	length   uint32
	opFlags  uint32
	userData uint64
	bufIndex uint16
	_        uint16
	_        int32
	_        [2]uint64
}

// cqe is struct io_uring_cqe.
type cqe struct {
	userData uint64
	res      int32
	flags    uint32
}

type sqOffsets struct {
	head, tail, mask, entries, flags, dropped, array, _ uint32
	_                                                   uint64
}

type cqOffsets struct {
	head, tail, mask, entries, overflow, cqes, flags, _ uint32
	_                                                   uint64
}

type params struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFD uint32
	_                                                                      [3]uint32
	sq                                                                     sqOffsets
	cq                                                                     cqOffsets
}

// Ring is one io_uring. Only one goroutine may use it.
type Ring struct {
	fd       int
	ring     []byte // both rings
	sqeMem   []byte
	sqes     []sqe
	cqes     []cqe
	sqHead   *uint32
	sqTail   *uint32
	sqFlags  *uint32
	cqHead   *uint32
	cqTail   *uint32
	cqFlags  *uint32
	tail     uint32 // of the submission queue, not yet published
	fixed    []byte // registered memory
	notified bool   // the eventfd is written to
}

// Probe returns why io_uring cannot be used here, or nil.
func Probe() error {
	r, err := New(1)
	if err != nil {
		return err
	}
	return r.Close()
}

// New returns a Ring for entries operations between two calls of Submit. There may
// be twice as many under way.
func New(entries int) (*Ring, error) {
	var p params
	p.flags = setupClamp
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return nil, fmt.Errorf("uring: set up: %w", errno)
	}
	unix.CloseOnExec(int(fd))
	r := &Ring{fd: int(fd)}
	if p.features&featSingleMmap == 0 || p.features&featNodrop == 0 {
		r.Close()
		return nil, fmt.Errorf("uring: the kernel is too old: %w", errors.ErrUnsupported)
	}
	if err := r.mmap(&p); err != nil {
		r.Close()
		return nil, fmt.Errorf("uring: map: %w", err)
	}
	return r, nil
}

func (r *Ring) mmap(p *params) (err error) {
	size := max(int(p.sq.array+p.sqEntries*4), int(p.cq.cqes)+int(p.cqEntries)*int(unsafe.Sizeof(cqe{})))
	if r.ring, err = unix.Mmap(r.fd, offSQRing, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		return err
	}
	if r.sqeMem, err = unix.Mmap(r.fd, offSQEs, int(p.sqEntries)*int(unsafe.Sizeof(sqe{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		return err
	}
	word := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.ring[off])) }
	r.sqHead, r.sqTail, r.sqFlags = word(p.sq.head), word(p.sq.tail), word(p.sq.flags)
	r.cqHead, r.cqTail, r.cqFlags = word(p.cq.head), word(p.cq.tail), word(p.cq.flags)
	r.sqes = unsafe.Slice((*sqe)(unsafe.Pointer(&r.sqeMem[0])), p.sqEntries)
	r.cqes = unsafe.Slice((*cqe)(unsafe.Pointer(&r.ring[p.cq.cqes])), p.cqEntries)
	// Entries are used in their order, so this never changes.
	array := unsafe.Slice(word(p.sq.array), p.sqEntries)
	for i := range array {
		array[i] = uint32(i)
	}
	r.tail = atomic.LoadUint32(r.sqTail)
	return nil
}

// Close gives the Ring up. Nothing may be under way.
func (r *Ring) Close() error {
	var errs []error
	for _, m := range [][]byte{r.ring, r.sqeMem} {
		if m != nil {
			errs = append(errs, unix.Munmap(m))
		}
	}
	r.ring, r.sqeMem = nil, nil
	return errors.Join(append(errs, unix.Close(r.fd))...)
}

// RegisterEventfd makes the kernel write to an eventfd when something was
// completed, as long as Notify is on. It is off at first.
func (r *Ring) RegisterEventfd(event int) error {
	atomic.StoreUint32(r.cqFlags, cqEventfdDisabled)
	fd := int32(event)
	return r.register(registerEventfd, unsafe.Pointer(&fd), 1)
}

// Notify switches the writing to the eventfd. Having switched it on, look whether
// something came before.
func (r *Ring) Notify(on bool) {
	if on == r.notified {
		return
	}
	r.notified = on
	var v uint32
	if !on {
		v = cqEventfdDisabled
	}
	atomic.StoreUint32(r.cqFlags, v)
}

// RegisterBuffers tells the kernel of memory that most operations use, which it
// keeps in place from then on: it counts as locked memory.
func (r *Ring) RegisterBuffers(mem []byte) error {
	v := unix.Iovec{Base: &mem[0]}
	v.SetLen(len(mem))
	if err := r.register(registerBuffers, unsafe.Pointer(&v), 1); err != nil {
		return err
	}
	r.fixed = mem
	return nil
}

func (r *Ring) register(what uintptr, arg unsafe.Pointer, n uintptr) error {
	_, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(r.fd), what, uintptr(arg), n, 0, 0)
	if errno != 0 {
		return fmt.Errorf("uring: register %d: %w", what, errno)
	}
	return nil
}

// Room returns how many operations can be prepared before the next Submit.
func (r *Ring) Room() int { return len(r.sqes) - int(r.tail-atomic.LoadUint32(r.sqHead)) }

// next returns a cleared entry; there must be Room.
func (r *Ring) next(opcode uint8, fd int, userData uint64) *sqe {
	if r.Room() == 0 {
		panic("uring: more operations than there is room for")
	}
	e := &r.sqes[r.tail&uint32(len(r.sqes)-1)]
	*e = sqe{opcode: opcode, fd: int32(fd), userData: userData}
	r.tail++
	return e
}

// Read prepares reading into b. The result is the number of bytes.
func (r *Ring) Read(fd int, b []byte, off int64, userData uint64) {
	r.transfer(opRead, opReadFixed, fd, b, off, userData)
}

// Write prepares writing b. The result is the number of bytes.
func (r *Ring) Write(fd int, b []byte, off int64, userData uint64) {
	r.transfer(opWrite, opWriteFixed, fd, b, off, userData)
}

func (r *Ring) transfer(opcode, fixed uint8, fd int, b []byte, off int64, userData uint64) {
	if r.holds(b) {
		opcode = fixed
	}
	e := r.next(opcode, fd, userData)
	e.addr, e.length, e.off = uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))), uint32(len(b)), uint64(off)
}

func (r *Ring) holds(b []byte) bool {
	start, p := uintptr(unsafe.Pointer(unsafe.SliceData(r.fixed))), uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	return len(r.fixed) > 0 && p >= start && p-start <= uintptr(len(r.fixed)) && uintptr(len(b)) <= uintptr(len(r.fixed))-(p-start)
}

// Submit hands everything that was prepared to the kernel. It waits as long as the
// kernel is out of memory; another error means that the Ring is misused.
func (r *Ring) Submit() error {
	atomic.StoreUint32(r.sqTail, r.tail)
	for {
		n := r.tail - atomic.LoadUint32(r.sqHead)
		if n == 0 {
			return nil
		}
		switch _, errno := r.enter(n, 0, 0); errno {
		case 0, unix.EINTR:
		case unix.EAGAIN, unix.EBUSY:
			time.Sleep(time.Millisecond)
		default:
			return fmt.Errorf("uring: submit: %w", errno)
		}
	}
}

// Wait sleeps until something is completed.
func (r *Ring) Wait() error {
	for {
		if atomic.LoadUint32(r.cqTail) != *r.cqHead {
			return nil
		}
		if _, errno := r.enter(0, 1, enterGetEvents); errno != 0 && errno != unix.EINTR {
			return fmt.Errorf("uring: wait: %w", errno)
		}
	}
}

func (r *Ring) enter(submit, wait, flags uint32) (int, unix.Errno) {
	n, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(submit), uintptr(wait), uintptr(flags), 0, 0)
	return int(n), errno
}

// Reap calls f for everything that is completed, with the result: not negative, or
// an errno.
func (r *Ring) Reap(f func(userData uint64, n int, err error)) int {
	if atomic.LoadUint32(r.sqFlags)&sqCQOverflow != 0 {
		_, _ = r.enter(0, 0, enterGetEvents) // the kernel moves what did not fit
	}
	head, tail := *r.cqHead, atomic.LoadUint32(r.cqTail)
	count := int(tail - head)
	for ; head != tail; head++ {
		e := r.cqes[head&uint32(len(r.cqes)-1)]
		atomic.StoreUint32(r.cqHead, head+1)
		if e.res < 0 {
			f(e.userData, 0, unix.Errno(-e.res))
		} else {
			f(e.userData, int(e.res), nil)
		}
	}
	return count
}
