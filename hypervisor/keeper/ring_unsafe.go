package keeper

import (
	"sync/atomic"
	"unsafe"
)

// counter is the 8-byte counter at an offset of the mapped ring. mem starts on
// a page and offset is a multiple of 8, as atomic access needs.
func counter(mem []byte, offset int) *atomic.Uint64 {
	return (*atomic.Uint64)(unsafe.Pointer(&mem[offset : offset+8][0]))
}
