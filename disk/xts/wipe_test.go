package xts

import (
	"bytes"
	"crypto/cipher"
	"errors"
	"reflect"
	"testing"
	"unsafe"
)

func TestWipe(t *testing.T) {
	for _, p := range paths {
		for _, n := range []int{32, 64} {
			c := on(t, p, key(3, n), 512, 1)
			secrets := [][]byte{memory(reflect.ValueOf(&c.keys))}
			for _, b := range c.blocks {
				if b != nil {
					secrets = append(secrets, memory(reflect.ValueOf(b)))
				}
			}
			if (p == portable) != (len(secrets) == 3) {
				t.Fatalf("%v: %d schedules", p, len(secrets)-1)
			}
			if p == portable {
				secrets = secrets[1:]
			}
			for i, s := range secrets {
				if len(s) == 0 || zero(s) {
					t.Fatalf("%v: schedule %d is empty before Wipe", p, i)
				}
			}
			c.Wipe()
			for i, s := range secrets {
				if !zero(s) {
					t.Errorf("%v: Wipe left bytes of schedule %d", p, i)
				}
			}
			if c.blocks != [2]cipher.Block{} {
				t.Errorf("%v: Wipe kept crypto/aes", p)
			}
			buf := make([]byte, 512)
			for _, err := range []error{c.EncryptSectors(buf, buf, 0), c.DecryptSectors(buf, buf, 0), c.EncryptSectors(nil, nil, 0)} {
				if !errors.Is(err, ErrWiped) {
					t.Errorf("%v: after Wipe: %v", p, err)
				}
			}
			if !zero(buf) {
				t.Errorf("%v: a wiped Cipher wrote", p)
			}
			c.Wipe()
		}
	}
}

// memory is what the pointer p points to.
func memory(p reflect.Value) []byte {
	return unsafe.Slice((*byte)(p.UnsafePointer()), p.Type().Elem().Size())
}

// zero compares each byte with the next, which is faster than a loop where the
// tests are emulated.
func zero(b []byte) bool {
	return len(b) == 0 || b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1])
}
