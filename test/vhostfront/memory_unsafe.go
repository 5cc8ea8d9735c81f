package vhostfront

import "unsafe"

// Desc is a descriptor of a split ring.
type Desc struct {
	Addr        uint64
	Len         uint32
	Flags, Next uint16
}

// UsedElem is an entry of a used ring.
type UsedElem struct{ ID, Len uint32 }

func descs(b []byte) []Desc {
	return unsafe.Slice((*Desc)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/16)
}

func usedElems(b []byte) []UsedElem {
	return unsafe.Slice((*UsedElem)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/8)
}

func halves(b []byte) []uint16 {
	return unsafe.Slice((*uint16)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/2)
}

func words(b []byte) []uint32 {
	return unsafe.Slice((*uint32)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/4)
}

func longs(b []byte) []uint64 {
	return unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/8)
}
