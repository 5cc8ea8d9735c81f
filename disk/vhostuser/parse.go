package vhostuser

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/uvbond/uvbond/disk"
)

// Types of requests and results (VIRTIO 5.2.6).
const (
	blkIn           = 0
	blkOut          = 1
	blkFlushOp      = 4
	blkGetID        = 8
	blkDiscardOp    = 11
	blkWriteZeroOp  = 13
	zeroUnmap       = 1
	blkHeader       = 16
	zeroSegment     = 16
	serialLen       = 20
	statusOK        = 0
	statusIOErr     = 1
	statusUnsupp    = 2
	blkSector       = 512
	mostZeroSectors = 16 << 10 // 8 MiB in one request
	mostTrimSectors = 4 << 20  // 2 GiB in one request
)

// span is a piece of guest memory that a request writes to.
type span struct {
	addr uint64
	len  uint32
}

// request is one request of the driver, from its descriptors on to its place in the
// used ring.
type request struct {
	disk   disk.Request
	busy   bool // its descriptors are ours
	onDisk bool // it is in the disk's Queue
	head   uint16
	result uint8
	used   uint32 // bytes from the start of the writable part that are written
	from   *view  // whose memory it is in

	segs    [][]byte // all of its memory, readable part first
	out     int      // segs of the readable part
	spans   []span   // the writable part
	status  []byte
	scratch [blkHeader + zeroSegment]byte
}

// reset forgets what the request pointed to: the memory may be unmapped soon, and
// the collector must not meet such pointers.
func (r *request) reset() {
	clear(r.segs)
	r.segs, r.spans, r.out = r.segs[:0], r.spans[:0], 0
	if cap(r.segs) > 2*maxSegments { // no driver does that; it shall not cost for ever
		r.segs, r.spans = nil, nil
	}
	r.disk.Data, r.status, r.from = nil, nil, nil
	r.busy, r.onDisk = false, false
}

// collect takes the descriptors of the chain. An error means that the driver, or
// the guest, does not keep to VIRTIO.
func (r *request) collect(g *ring, m *memory, indirect bool) error {
	err := g.walk(m, r.head, indirect, func(d descriptor) error {
		writable := d.flags&descWrite != 0
		if !writable && len(r.spans) > 0 {
			return errors.New("readable descriptor behind a writable one")
		}
		var ok bool
		if r.segs, ok = m.gather(r.segs, d.addr, d.len); !ok || len(r.segs) > 2*maxChain {
			return fmt.Errorf("descriptor of %d bytes at %#x is not in memory", d.len, d.addr)
		}
		if writable {
			r.spans = append(r.spans, span{d.addr, d.len})
		} else {
			r.out = len(r.segs)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(r.spans) == 0 {
		return errors.New("request without a place for its status")
	}
	last := &r.segs[len(r.segs)-1]
	n := len(*last) - 1
	r.status = (*last)[n:]
	if *last = (*last)[:n]; n == 0 {
		*last = nil
		r.segs = r.segs[:len(r.segs)-1]
	}
	return nil
}

// read takes n bytes from the start of the readable part, which it shortens.
func (r *request) read(p []byte) bool {
	for len(p) > 0 {
		if r.out == 0 {
			return false
		}
		s := &r.segs[0]
		n := copy(p, *s)
		p, *s = p[n:], (*s)[n:]
		if len(*s) == 0 {
			copy(r.segs, r.segs[1:])
			r.segs[len(r.segs)-1] = nil
			r.segs, r.out = r.segs[:len(r.segs)-1], r.out-1
		}
	}
	return true
}

func total(data [][]byte) uint64 {
	var n uint64
	for _, s := range data {
		n += uint64(len(s))
	}
	return n
}

// parse makes a disk's request of what collect found, or a result right away.
func (r *request) parse(w *worker) error {
	h := r.scratch[:blkHeader]
	if !r.read(h) {
		return errors.New("request shorter than its header")
	}
	op, sector := binary.LittleEndian.Uint32(h), binary.LittleEndian.Uint64(h[8:])
	r.used, r.onDisk = 1, false
	d := &r.disk
	d.Shared, d.FUA, d.Data = true, false, nil
	switch op {
	case blkIn:
		d.Op, d.Data = disk.Read, r.segs[r.out:]
		if r.transfer(sector); r.onDisk {
			r.used = uint32(total(d.Data)) + 1
		}
	case blkOut:
		d.Op, d.Data, d.FUA = disk.Write, r.segs[:r.out], w.through
		r.transfer(sector)
	case blkFlushOp:
		d.Op, r.onDisk = disk.Flush, true
	case blkGetID:
		r.used = r.serial(w.srv.Serial)
	case blkDiscardOp:
		d.Op = disk.Trim
		r.zero(w.discard, 0, mostTrimSectors)
	case blkWriteZeroOp:
		d.Op, d.FUA = disk.WriteZeroes, w.through
		r.zero(w.zeroes, zeroUnmap, mostZeroSectors)
	default:
		r.result = statusUnsupp
	}
	return nil
}

// transfer checks a read or write.
func (r *request) transfer(sector uint64) {
	n := total(r.disk.Data)
	if n%blkSector != 0 || n > maxData || sector > 1<<53 {
		r.result = statusIOErr
		return
	}
	r.disk.Off, r.onDisk = int64(sector)*blkSector, true
}

// serial is the answer to GET_ID; it returns how much of the writable part was
// filled.
func (r *request) serial(s string) uint32 {
	var id [serialLen]byte
	copy(id[:], s)
	rest := id[:]
	for _, seg := range r.segs[r.out:] {
		rest = rest[copy(seg, rest):]
	}
	r.result = statusOK
	if n := total(r.segs[r.out:]); n <= serialLen {
		return uint32(n) + 1
	}
	return serialLen
}

// zero checks a discard or write-zeroes, which has one segment.
func (r *request) zero(offered bool, allowed, most uint32) {
	s := r.scratch[blkHeader:]
	switch n := total(r.segs[:r.out]); {
	case !offered || n > zeroSegment:
		r.result = statusUnsupp
		return
	case n < zeroSegment:
		r.result = statusIOErr
		return
	}
	r.read(s)
	sector, sectors, flags := binary.LittleEndian.Uint64(s), binary.LittleEndian.Uint32(s[8:]), binary.LittleEndian.Uint32(s[12:])
	switch {
	case flags&^allowed != 0:
		r.result = statusUnsupp
	case sectors > most || sector > 1<<53:
		r.result = statusIOErr
	default:
		r.disk.Off, r.disk.Len, r.onDisk = int64(sector)*blkSector, int64(sectors)*blkSector, true
	}
}
