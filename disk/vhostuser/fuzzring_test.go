package vhostuser_test

import (
	"testing"
	"time"

	"github.com/uvbond/uvbond/test/vhostfront"
)

// ringScript is what FuzzRing makes a ring of: descriptors of 8 bytes each, and what
// the header and an indirect table start with.
func (l *lab) ringScript(in []byte) (head uint16, ok bool) {
	const fixed = 2 + 24
	if len(in) < fixed {
		return 0, false
	}
	clear(l.q.Desc)
	base := l.f.DataAt
	head = uint16(in[0])
	// Header and a segment of discard or write-zeroes behind it.
	copy(l.f.Mem[base:], in[2:fixed])
	table := int(in[1]) % 64
	for i := 0; len(in) >= fixed+8*(i+1) && i < 128; i++ {
		b := in[fixed+8*i:]
		d := vhostfront.Desc{Addr: l.f.Guest(base) + uint64(b[0]) | uint64(b[1])<<8, Len: uint32(b[2]) | uint32(b[3])<<8, Flags: uint16(b[4]) & 7, Next: uint16(b[5])}
		switch b[6] % 8 {
		case 0:
			d.Addr = uint64(b[0]) | uint64(b[7])<<56
		case 1:
			d.Len |= uint32(b[7]) << 24
		case 2:
			d.Next |= uint16(b[7]) << 8
		}
		if i < 64 {
			l.q.Desc[i] = d
		} else {
			put(l.f.Mem[base+4096+table*16+16*(i-64):], d)
		}
	}
	return head, true
}

func ringSeed(head, table byte, op uint32, sector uint64, ds ...[8]byte) []byte {
	b := append([]byte{head, table}, vhostfront.U32s(op, 0)...)
	b = append(b, vhostfront.U64(sector)...)
	b = append(b, vhostfront.U32s(8, 0)...)
	for _, d := range ds {
		b = append(b, d[:]...)
	}
	return b
}

// FuzzRing compares what a whole ring leads to with the model.
func FuzzRing(f *testing.F) {
	const next, write, indirect, plain = 1, 2, 4, 7
	seeds := [][]byte{
		ringSeed(0, 0, 0, 8, [8]byte{0, 0, 16, 0, next, 1, plain}, [8]byte{0, 32, 0, 2, next | write, 2, plain}, [8]byte{0, 64, 1, 0, write, 0, plain}),
		ringSeed(2, 0, 1, 3, [8]byte{}, [8]byte{0, 64, 1, 0, write, 0, plain}, [8]byte{0, 0, 16, 2, next, 1, plain}),
		ringSeed(0, 0, 4, 0, [8]byte{0, 0, 16, 0, next, 1, plain}, [8]byte{0, 64, 1, 0, write, 0, plain}),
		ringSeed(0, 0, 8, 0, [8]byte{0, 0, 16, 0, next, 1, plain}, [8]byte{0, 64, 21, 0, write, 0, plain}),
		ringSeed(0, 0, 0, 0, [8]byte{0, 0, 16, 0, next, 0, plain}),
		ringSeed(0, 0, 0, 0, [8]byte{0, 0, 16, 0, next, 200, plain}),
		ringSeed(0, 0, 0, 0, [8]byte{0, 0, 16, 0, 0, 0, 0}),
		ringSeed(0, 0, 0, 0, [8]byte{0, 0, 16, 0, next, 1, plain}, [8]byte{0, 32, 0, 2, next | write, 2, 1, 255}, [8]byte{0, 64, 1, 0, write, 0, plain}),
		ringSeed(255, 0, 0, 0),
	}
	withTable := ringSeed(0, 0, 0, 1, [8]byte{0, 16, 48, 0, indirect, 0, plain})
	for range 63 {
		withTable = append(withTable, make([]byte, 8)...)
	}
	for _, d := range [][8]byte{{0, 0, 16, 0, next, 1, plain}, {0, 32, 0, 4, next | write, 2, plain}, {0, 64, 1, 0, write, 0, plain}} {
		withTable = append(withTable, d[:]...)
	}
	if seeds = append(seeds, withTable); len(seeds) < 10 {
		f.Fatal("no seeds")
	}
	for _, s := range seeds {
		f.Add(s)
	}
	l := newLab(f, 512)
	f.Fuzz(func(t *testing.T, in []byte) {
		if head, ok := l.ringScript(in); ok {
			l.step(t, head)
		}
	})
}

// FuzzRingMemory fills the whole ring, its indexes too, with any bytes while the back
// end looks at it. It may be given up; nothing else may happen.
func FuzzRingMemory(f *testing.F) {
	for _, s := range [][]byte{{0}, {1, 2, 3, 4, 5, 6, 7, 8}, make([]byte, 2048), append(make([]byte, 1024), 0, 0, 9, 0, 1, 2)} {
		f.Add(s)
	}
	l := newLab(f, 4096)
	f.Fuzz(func(t *testing.T, in []byte) {
		ring := l.f.Mem[l.q.DescAt : l.q.UsedAt+4+8*l.q.Size+2]
		for i := range ring {
			if len(in) > 0 {
				ring[i] = in[i%len(in)]
			}
		}
		l.q.Notify()
		time.Sleep(100 * time.Microsecond)
		if err := l.f.Works(l.f.Queues[1]); err != nil {
			t.Fatal(err)
		}
		if err := l.f.Again(l.q); err != nil {
			t.Fatal(err)
		}
	})
}
