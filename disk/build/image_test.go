package build

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/uvbond/uvbond/disk/luks"
)

// TestHolds looks at an image after every step: as it was left, changed in the last
// sector that was written, and made anew.
func TestHolds(t *testing.T) {
	for _, sector := range []uint32{512, 4096} {
		w := newWorld(t, 3<<20+700, 4<<20, sector)
		holds := func(st State, want bool, what string) {
			t.Helper()
			got, err := Holds(w.plan, st, bytes.NewReader(w.base), bytes.NewReader(w.image.b))
			if got != want || err != nil {
				t.Errorf("%s, %v at %d: %t, %v", what, st.Phase, st.Done, got, err)
			}
		}
		var st State
		for st.Phase != Done {
			holds(st, true, "as it was left")
			if st.Phase == Write && st.Done > 0 {
				at := luks.DataOffset + int(st.Done) - 1
				w.image.b[at] ^= 1
				holds(st, false, "changed")
				w.image.b[at] ^= 1
				whole := w.image.b
				w.image.b = make([]byte, len(whole))
				holds(st, false, "made anew")
				w.image.b = whole[:at]
				holds(st, false, "cut short")
				w.image.b = whole
			}
			var err error
			if st, err = w.step(st, bytes.NewReader(w.base), small); err != nil {
				t.Fatal(err)
			}
		}
		holds(st, true, "made")
		w.check()
		if _, err := Holds(w.plan, State{Phase: Write, Done: 1 << 20, Last: make([]byte, 32)}, failing{}, failing{}); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("unreadable: %v", err)
		}
	}
}

// TestHoldsNothing looks at an image in which writing began, and of which no more is known.
func TestHoldsNothing(t *testing.T) {
	for _, sector := range []uint32{512, 4096} {
		for _, size := range []int{100, 2<<20 + 700} {
			w := newWorld(t, size, 4<<20, sector)
			var st State
			for st.Phase != Write {
				var err error
				if st, err = w.step(st, bytes.NewReader(w.base), small); err != nil {
					t.Fatal(err)
				}
			}
			made := st
			for made.Phase != Done {
				var err error
				if made, err = w.step(made, bytes.NewReader(w.base), small); err != nil {
					t.Fatal(err)
				}
			}
			whole := bytes.Clone(w.image.b)
			for name, c := range map[string]struct {
				want  bool
				alter func(b []byte)
			}{
				"zeros":                {true, func(b []byte) { clear(b) }},
				"the whole disk":       {true, func([]byte) {}},
				"no header yet":        {true, func(b []byte) { clear(b[:luks.DataOffset]) }},
				"its header alone":     {true, func(b []byte) { clear(b[luks.DataOffset:]) }},
				"another header":       {false, func(b []byte) { b[168] ^= 1 }},
				"no LUKS header":       {false, func(b []byte) { b[0] ^= 1 }},
				"something else":       {false, func(b []byte) { clear(b); b[1<<20] = 1 }},
				"another first sector": {false, func(b []byte) { b[luks.DataOffset] ^= 1 }},
				"half of another disk": {false, func(b []byte) { clear(b[:luks.DataOffset]); b[luks.DataOffset] ^= 1 }},
			} {
				b := bytes.Clone(whole)
				c.alter(b)
				if got, err := Holds(w.plan, st, bytes.NewReader(w.base), bytes.NewReader(b)); got != c.want || err != nil {
					t.Errorf("%s, sectors of %d, base of %d: %t, %v", name, sector, size, got, err)
				}
			}
			var base *BaseError
			if _, err := Holds(w.plan, st, failing{}, bytes.NewReader(whole)); !errors.As(err, &base) {
				t.Errorf("an unreadable base: %v", err)
			}
			if _, err := Holds(w.plan, st, bytes.NewReader(w.base), failing{}); !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("an unreadable image: %v", err)
			}
		}
	}
}

type failing struct{}

func (failing) ReadAt([]byte, int64) (int, error) { return 0, io.ErrClosedPipe }

func TestEmpty(t *testing.T) {
	for _, size := range []int{0, 1, 512, 1<<20 + 1, luks.DataOffset, emptyBytes, emptyBytes + 1, 24 << 20} {
		b := make([]byte, size)
		if empty, err := Empty(bytes.NewReader(b), int64(size)); !empty || err != nil {
			t.Errorf("%d zeros: %t, %v", size, empty, err)
		}
		for _, at := range []int{0, 510, 1 << 20, luks.DataOffset - 1, luks.DataOffset, emptyBytes - 1, emptyBytes, size - 1} {
			if at < 0 || at >= size {
				continue
			}
			b[at] = 1
			if empty, err := Empty(bytes.NewReader(b), int64(size)); empty != (at >= emptyBytes) || err != nil {
				t.Errorf("%d bytes with something at %d: %t, %v", size, at, empty, err)
			}
			b[at] = 0
		}
	}
	if empty, err := Empty(failing{}, 512); empty || !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("unreadable: %t, %v", empty, err)
	}
}
