// Package aligned allocates buffers that start on a page, as direct I/O and
// the vector instructions of the cipher like them.
package aligned

import "unsafe"

// Page is the alignment of Make, in bytes.
const Page = 4096

// Make returns n zero bytes that start on a page. Memory comes from Go's heap.
func Make(n int) []byte {
	raw := make([]byte, n+Page-1)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(raw)))) & (Page - 1)
	return raw[skip : skip+n : skip+n]
}
