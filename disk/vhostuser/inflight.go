package vhostuser

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	inflightVersion = 1
	inflightAlign   = 64
)

// inflightBytes is what one queue takes in the shared memory that outlives us.
func inflightBytes(size int) int {
	return (16 + 16*size + inflightAlign - 1) / inflightAlign * inflightAlign
}

// shared is memory that the front end keeps for us: the requests under way, or the
// log of dirty pages.
type shared struct {
	mem   []byte
	whole []byte
}

func mapLog(fd int, offset, size uint64) (*shared, error) {
	if size == 0 || size%4 != 0 || offset%8 != 0 {
		return nil, fmt.Errorf("shared memory of %d bytes at %d", size, offset)
	}
	whole, mem, err := mapShared(fd, offset, size)
	if err != nil {
		return nil, fmt.Errorf("shared memory: %w", err)
	}
	return &shared{mem, whole}, nil
}

func (s *shared) close() {
	if s != nil {
		_ = unix.Munmap(s.whole)
	}
}

// newInflight makes the memory for the requests under way.
func newInflight(queues, size int) (fd int, bytes uint64, err error) {
	fd, err = unix.MemfdCreate("uvbond-inflight", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, 0, fmt.Errorf("memory for requests under way: %w", err)
	}
	n := queues * inflightBytes(size)
	err = unix.Ftruncate(fd, int64(n))
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	}
	if err != nil {
		unix.Close(fd)
		return -1, 0, fmt.Errorf("memory for requests under way: %w", err)
	}
	return fd, uint64(n), nil
}

// inflight is one queue's record of the requests under way (vhost-user, "Inflight
// I/O tracking"). If this process dies at any instruction, the next one finds
// from it which requests were taken from the ring and not put back. We only
// write to it, but for once at the start.
type inflight struct {
	head    *inflightHead
	desc    []inflightDesc
	counter uint64
	batch   uint16 // last_batch_head
	used    uint16 // used_idx
}

// openInflight reads what a predecessor left in mem, given the index of the used
// ring. It returns the heads of requests to carry out again, in their order.
func openInflight(mem []byte, size, used uint16) (*inflight, []uint16, error) {
	f := &inflight{used: used}
	f.head, f.desc = inflightRegion(mem)
	if len(f.desc) < int(size) {
		return nil, nil, errors.New("the memory for requests under way is made for shorter queues")
	}
	f.desc = f.desc[:size]
	version, last := f.head.version, atomic.LoadUint32(&f.head.last)
	if version == 0 {
		for i := range f.desc {
			f.desc[i].inflight = 0
		}
		f.head.descNum, f.head.version = size, inflightVersion
		f.mark()
		return f, nil, nil
	}
	if version != inflightVersion {
		return nil, nil, fmt.Errorf("requests under way in version %d", version)
	}
	f.batch = uint16(last)
	// Died between publishing a batch and taking it out of here.
	at := f.batch
	for n := used - uint16(last>>16); n != 0; n-- {
		if at >= size {
			return nil, nil, errors.New("requests under way: the last batch runs out of the table")
		}
		f.desc[at].inflight = 0
		if at = f.desc[at].next; n > size {
			return nil, nil, errors.New("requests under way: the last batch is longer than the ring")
		}
	}
	f.mark()
	return f, f.again(), nil
}

func (f *inflight) again() []uint16 {
	type left struct {
		head    uint16
		counter uint64
	}
	var all []left
	for i := range f.desc {
		if d := f.desc[i]; d.inflight != 0 {
			all = append(all, left{uint16(i), d.counter})
			f.counter = max(f.counter, d.counter)
		}
	}
	f.counter++
	slices.SortFunc(all, func(a, b left) int { return cmp.Compare(a.counter, b.counter) })
	heads := make([]uint16, len(all))
	for i, l := range all {
		heads[i] = l.head
	}
	return heads
}

// mark writes last_batch_head and used_idx.
func (f *inflight) mark() { atomic.StoreUint32(&f.head.last, uint32(f.batch)|uint32(f.used)<<16) }

// taken is called before anything is done for the request.
func (f *inflight) taken(head uint16) {
	d := &f.desc[head]
	d.counter = f.counter
	f.counter++
	d.inflight = 1
}

// done is called when the request is in the used ring, not published yet; mark is
// called before it is published.
func (f *inflight) done(head uint16) {
	f.desc[head].next = f.batch
	f.batch = head
}

// published is called when the used ring's index is that.
func (f *inflight) published(heads []uint16, used uint16) {
	for _, h := range heads {
		f.desc[h].inflight = 0
	}
	f.used = used
	f.mark()
}
