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
			got, err := Holds(w.plan, st, bytes.NewReader(w.image.b))
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
		if _, err := Holds(w.plan, State{Phase: Write, Done: 1 << 20, Last: make([]byte, 32)}, failing{}); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("unreadable: %v", err)
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
