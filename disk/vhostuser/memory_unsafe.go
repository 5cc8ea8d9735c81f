package vhostuser

import (
	"sync/atomic"
	"unsafe"
)

// The functions here look at shared memory as what lies in it. Bounds are those
// of the slices that they are given, or the callers say why not.

// descriptor is struct virtq_desc (VIRTIO 2.7.5).
type descriptor struct {
	addr  uint64
	len   uint32
	flags uint16
	next  uint16
}

// usedElem is struct virtq_used_elem (VIRTIO 2.7.8).
type usedElem struct{ id, len uint32 }

// inflightHead is struct QueueRegionSplit of vhost-user without its descriptors.
// last is last_batch_head, and used_idx in the upper half.
type inflightHead struct {
	features uint64
	version  uint16
	descNum  uint16
	last     uint32
}

// inflightDesc is struct DescStateSplit of vhost-user.
type inflightDesc struct {
	inflight uint8
	_        [5]uint8
	next     uint16
	counter  uint64
}

func descriptors(b []byte) []descriptor {
	return unsafe.Slice((*descriptor)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/16)
}

func usedElems(b []byte) []usedElem {
	return unsafe.Slice((*usedElem)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/8)
}

func halves(b []byte) []uint16 {
	return unsafe.Slice((*uint16)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/2)
}

func words(b []byte) []uint32 {
	return unsafe.Slice((*uint32)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/4)
}

func inflightRegion(b []byte) (*inflightHead, []inflightDesc) {
	b = b[:len(b):len(b)]
	head := (*inflightHead)(unsafe.Pointer(unsafe.SliceData(b)))
	b = b[unsafe.Sizeof(*head):]
	return head, unsafe.Slice((*inflightDesc)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/16)
}

// aligned reports whether b starts on a multiple of n.
func aligned(b []byte, n uintptr) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))%n == 0
}

// half is a 16-bit field that is read and written atomically, as part of the
// 32-bit word that it lies in.
type half struct {
	word  *uint32
	shift uint8
}

// halfAt returns the field at off, an even number. The word may reach two bytes
// beyond b to either side: they are in the same page, so they are mapped.
func halfAt(b []byte, off int) half {
	p := unsafe.Pointer(&b[off : off+2][0])
	in := uintptr(p) % 4
	return half{(*uint32)(unsafe.Add(p, -int(in))), uint8(in * 8)}
}

func (h half) load() uint16 { return uint16(atomic.LoadUint32(h.word) >> h.shift) }

// store orders the field's new value before all later atomic loads. The other half
// of the word may be the guest's: if it never stops changing, store gives up.
func (h half) store(v uint16) {
	for range 1000 {
		old := atomic.LoadUint32(h.word)
		if atomic.CompareAndSwapUint32(h.word, old, old&^(0xffff<<h.shift)|uint32(v)<<h.shift) {
			return
		}
	}
}
