package xts

import (
	"crypto/cipher"
	"reflect"
	"unsafe"
)

// partialOverlap reports whether a and b, of equal length above 0, share memory
// without starting at the same byte.
func partialOverlap(a, b []byte) bool {
	pa, pb := uintptr(unsafe.Pointer(unsafe.SliceData(a))), uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	return pa != pb && pa < pb+uintptr(len(b)) && pb < pa+uintptr(len(a))
}

// wipeBlock zeroes the round keys inside of a cipher of crypto/aes, which has no
// method for it. A type that holds pointers is left alone (the garbage collector
// would read them), and reported.
func wipeBlock(b cipher.Block) bool {
	v := reflect.ValueOf(b)
	if v.Kind() != reflect.Pointer || v.IsNil() || !plainMemory(v.Type().Elem()) {
		return false
	}
	clear(unsafe.Slice((*byte)(v.UnsafePointer()), v.Type().Elem().Size()))
	return true
}

func plainMemory(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Array:
		return plainMemory(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if !plainMemory(t.Field(i).Type) {
				return false
			}
		}
		return true
	case reflect.Bool, reflect.Int, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return true
	}
	return false
}
