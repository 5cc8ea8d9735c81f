package vhostuser_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/uvbond/uvbond/disk"
	"github.com/uvbond/uvbond/disk/disktest"
	"github.com/uvbond/uvbond/disk/vhostuser"
	"github.com/uvbond/uvbond/test/vhostfront"
)

// model is the slow and obvious back end: it looks at memory byte by byte, and
// does one request at a time (VIRTIO 1.2, sections 2.7 and 5.2).
type model struct {
	mem    []byte // guest memory from vhostfront.GuestBase on
	disk   []byte
	serial string
	sector int64 // what a trim leaves alone a part of
}

// outcome is what a request leads to. The driver finds everything else in memory.
type outcome struct {
	broken  bool
	used    uint32
	trimmed [2]int64 // from, to: what is there is not defined any more
}

var errBroken = errors.New("the driver does not keep to VIRTIO")

// byteAt returns where an address is in memory.
func (m *model) byteAt(addr uint64) (int, bool) {
	at := addr - vhostfront.GuestBase
	return int(at), addr >= vhostfront.GuestBase && at < uint64(len(m.mem))
}

func (m *model) desc(b []byte, i int) (d vhostfront.Desc, ok bool) {
	if i*16+16 > len(b) {
		return d, false
	}
	b = b[i*16:]
	return vhostfront.Desc{Addr: binary.LittleEndian.Uint64(b), Len: binary.LittleEndian.Uint32(b[8:]),
		Flags: binary.LittleEndian.Uint16(b[12:]), Next: binary.LittleEndian.Uint16(b[14:])}, true
}

// chain returns where each byte of a request is, those to read and those to write.
func (m *model) chain(table []byte, head int) (readable, writable []int, err error) {
	indirect := false
	i := head
	for range 1024 {
		d, ok := m.desc(table, i)
		if !ok || d.Len == 0 {
			return nil, nil, errBroken
		}
		first, ok1 := m.byteAt(d.Addr)
		_, ok2 := m.byteAt(d.Addr + uint64(d.Len) - 1)
		if !ok1 || !ok2 || d.Addr+uint64(d.Len) < d.Addr {
			return nil, nil, errBroken
		}
		if d.Flags&vhostfront.Indirect != 0 {
			if indirect || d.Flags&vhostfront.Next != 0 || d.Len%16 != 0 || d.Len > 1024*16 {
				return nil, nil, errBroken
			}
			table, i, indirect = m.mem[first:first+int(d.Len)], 0, true
			continue
		}
		for at := first; at < first+int(d.Len); at++ {
			if d.Flags&vhostfront.Write != 0 {
				writable = append(writable, at)
			} else if len(writable) > 0 {
				return nil, nil, errBroken
			} else {
				readable = append(readable, at)
			}
		}
		if d.Flags&vhostfront.Next == 0 {
			return readable, writable, nil
		}
		i = int(d.Next)
	}
	return nil, nil, errBroken
}

func (m *model) gather(places []int) []byte {
	b := make([]byte, len(places))
	for i, at := range places {
		b[i] = m.mem[at]
	}
	return b
}

func (m *model) scatter(places []int, b []byte) {
	for i, v := range b {
		m.mem[places[i]] = v
	}
}

// request carries one out.
func (m *model) request(table []byte, head int) outcome {
	readable, writable, err := m.chain(table, head)
	if err != nil || len(readable) < 16 || len(writable) < 1 {
		return outcome{broken: true}
	}
	header := m.gather(readable[:16])
	op, sector := binary.LittleEndian.Uint32(header), binary.LittleEndian.Uint64(header[8:])
	out, in, status := readable[16:], writable[:len(writable)-1], writable[len(writable)-1]
	o := outcome{used: 1}
	s := byte(0)
	switch op {
	case vhostfront.BlkIn:
		if s = m.rangeOK(sector, uint64(len(in))); s == 0 {
			m.scatter(in, m.disk[sector*512:][:len(in)])
			o.used = uint32(len(in)) + 1
		}
	case vhostfront.BlkOut:
		if s = m.rangeOK(sector, uint64(len(out))); s == 0 {
			copy(m.disk[sector*512:], m.gather(out))
		}
	case vhostfront.BlkFlushOp:
	case vhostfront.BlkGetID:
		id := make([]byte, 20)
		copy(id, m.serial)
		if o.used = uint32(len(in)) + 1; len(in) > 20 {
			o.used = 20
		}
		m.scatter(in, id[:min(20, len(in))])
	case vhostfront.BlkDiscardOp, vhostfront.BlkWriteZeroOp:
		s = m.zero(op, m.gather(out), &o)
	default:
		s = 2
	}
	m.mem[status] = s
	return o
}

func (m *model) rangeOK(sector, n uint64) byte {
	if n%512 != 0 || sector > uint64(len(m.disk)/512) || n > uint64(len(m.disk))-sector*512 {
		return 1
	}
	return 0
}

func (m *model) zero(op uint32, p []byte, o *outcome) byte {
	if len(p) != 16 {
		return map[bool]byte{true: 1, false: 2}[len(p) < 16]
	}
	sector, n, flags := binary.LittleEndian.Uint64(p), uint64(binary.LittleEndian.Uint32(p[8:])), binary.LittleEndian.Uint32(p[12:])
	most := uint64(16 << 10)
	if op == vhostfront.BlkDiscardOp {
		most = 4 << 20
	}
	if flags > 1 || flags == 1 && op == vhostfront.BlkDiscardOp {
		return 2
	}
	if n > most || m.rangeOK(sector, n*512) != 0 {
		return 1
	}
	from, to := int64(sector*512), int64((sector+n)*512)
	if op == vhostfront.BlkWriteZeroOp {
		clear(m.disk[from:to])
	} else if from, to = (from+m.sector-1)/m.sector*m.sector, to/m.sector*m.sector; from < to {
		o.trimmed = [2]int64{from, to}
	}
	return 0
}

// lab is a server, a front end and a model of both.
type lab struct {
	dev   *disk.Device
	f     *vhostfront.Front
	q     *vhostfront.Queue
	model *model

	broken int // requests that ended the queue
}

const labSize = 128 << 10

func newLab(t testing.TB, sector uint32) *lab {
	dev := testDevice(t, disktest.New(labSize), disk.Params{SectorSize: sector, Length: labSize, Discard: true})
	if err := dev.WriteZeroes(0, labSize); err != nil {
		t.Fatal(err)
	}
	s := &vhostuser.Server{Device: dev, Serial: "model", Queues: 2}
	l := &lab{dev: dev, f: dial(t, serve(t, s), vhostfront.Options{Queues: 2, QueueSize: 64, Memory: 256 << 10, NoSeal: true})}
	l.q = l.f.Queues[0]
	l.model = &model{disk: make([]byte, labSize), serial: "model", sector: int64(sector)}
	return l
}

// step sends the request at head and compares all of memory with the model's.
func (l *lab) step(t *testing.T, head uint16) {
	t.Helper()
	l.model.mem = bytes.Clone(l.f.Mem)
	want := outcome{broken: true}
	if int(head) < l.q.Size {
		want = l.model.request(l.model.mem[l.q.DescAt:][:16*l.q.Size], int(head))
	}
	before := l.q.UsedIndex()
	l.q.Post(head)
	l.q.Kick()
	broken := false
	for end := time.Now().Add(10 * time.Second); l.q.UsedIndex() == before && !broken; broken = l.q.Broken() {
		if time.Now().After(end) {
			t.Fatal("no answer")
		}
	}
	if broken != want.broken {
		t.Fatalf("broken: %v, want %v", broken, want.broken)
	}
	if broken {
		l.broken++
		if err := l.f.Again(l.q); err != nil {
			t.Fatal(err)
		}
		// It was used to see whether all is well.
		if _, err := l.dev.ReadAt(l.model.disk, 0); err != nil {
			t.Fatal(err)
		}
		return
	}
	l.q.Reap(func(h uint16, n uint32) {
		if h != head || n != want.used {
			t.Fatalf("used: head %d, %d bytes, want %d, %d", h, n, head, want.used)
		}
	})
	if at := l.f.DataAt; !bytes.Equal(l.f.Mem[at:], l.model.mem[at:]) {
		for i := at; ; i++ {
			if l.f.Mem[i] != l.model.mem[i] {
				t.Fatalf("memory at %d is %#x, want %#x", i-at, l.f.Mem[i], l.model.mem[i])
			}
		}
	}
	if from, to := want.trimmed[0], want.trimmed[1]; from < to {
		if _, err := l.dev.ReadAt(l.model.disk[from:to], from); err != nil {
			t.Fatal(err)
		}
	}
}

func (l *lab) compareDisk(t *testing.T) {
	t.Helper()
	got := make([]byte, labSize)
	if _, err := l.dev.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, l.model.disk) {
		t.Fatal("the disk is not what the model has")
	}
}

// TestModel sends random requests: whole ones, cut into descriptors in any way, with
// and without indirect tables, some of them damaged.
func TestModel(t *testing.T) {
	for _, sector := range []uint32{512, 4096} {
		l := newLab(t, sector)
		r := rand.New(rand.NewPCG(uint64(sector), 99))
		for i := range 1000 {
			l.step(t, l.random(r))
			if i%20 == 0 {
				l.compareDisk(t)
			}
		}
		l.compareDisk(t)
		if l.broken < 50 || l.broken > 300 {
			t.Errorf("%d of 1000 requests were not well-formed: the test looks at one kind only", l.broken)
		}
	}
}

// random builds a request and returns its head.
func (l *lab) random(r *rand.Rand) uint16 {
	base, size := l.f.DataAt, len(l.f.Mem)-l.f.DataAt
	// Four parts of memory for the parts of a request, so that mostly they do not
	// overlap.
	place := func(part, n int) uint64 { return l.f.Guest(base + part*size/4 + r.IntN(size/4-n)) }
	for range 64 {
		l.f.Mem[base+r.IntN(size)] = byte(r.Uint32())
	}
	ops := []uint32{0, 0, 0, 1, 1, 1, 4, 8, 11, 13, 13, r.Uint32N(32)}
	op := ops[r.IntN(len(ops))]
	n := 512 * r.IntN(24)
	if r.IntN(10) == 0 {
		n = r.IntN(8192)
	}
	if op >= 11 && r.IntN(8) > 0 {
		n = 16
	}
	sector := uint64(r.IntN(labSize / 512))
	if r.IntN(20) == 0 {
		sector = r.Uint64()
	}
	header := append(vhostfront.U32s(op, 0), vhostfront.U64(sector)...)
	var ds []vhostfront.Desc
	add := func(addr uint64, n int, flags uint16) { ds = append(ds, l.cut(r, addr, n, flags)...) }
	in := op == 0 || op == 8
	readable := place(0, 16)
	copy(l.f.Mem[readable-vhostfront.GuestBase:], header)
	data := place(1, n+16)
	if op >= 11 {
		copy(l.f.Mem[data-vhostfront.GuestBase:], append(vhostfront.U64(sector), vhostfront.U32s(r.Uint32N(64), r.Uint32N(64)/62)...))
	}
	if !in && r.IntN(3) == 0 { // header and data in one piece
		readable = place(0, n+16)
		copy(l.f.Mem[readable-vhostfront.GuestBase:], header)
		add(readable, 16+n, 0)
	} else {
		add(readable, 16, 0)
		if !in {
			add(data, n, 0)
		}
	}
	if in && r.IntN(3) == 0 { // data and status in one piece
		add(data, n+1, vhostfront.Write)
	} else {
		if in {
			add(data, n, vhostfront.Write)
		}
		add(place(2, 1), 1, vhostfront.Write)
	}
	return l.place(r, ds)
}

// cut makes a few descriptors of one.
func (l *lab) cut(r *rand.Rand, addr uint64, n int, flags uint16) []vhostfront.Desc {
	var ds []vhostfront.Desc
	for n > 0 {
		step := n
		if r.IntN(3) == 0 {
			step = 1 + r.IntN(n)
		}
		ds = append(ds, vhostfront.Desc{Addr: addr, Len: uint32(step), Flags: flags})
		addr, n = addr+uint64(step), n-step
	}
	return ds
}

// place puts descriptors into the ring and maybe the last of them into an indirect
// table, and damages some.
func (l *lab) place(r *rand.Rand, ds []vhostfront.Desc) uint16 {
	order := r.Perm(l.q.Size)
	inRing := min(len(ds), l.q.Size)
	table := -1
	if r.IntN(2) == 0 {
		table = r.IntN(min(len(ds), l.q.Size-1))
		inRing = table + 1
	}
	for i := range inRing {
		d := vhostfront.Desc{}
		if i == table {
			at := len(l.f.Mem) - 64<<10
			for j, d := range ds[i:] {
				if j < len(ds[i:])-1 {
					d.Flags, d.Next = d.Flags|vhostfront.Next, uint16(j+1)
				}
				put(l.f.Mem[at+16*j:], d)
			}
			d = vhostfront.Desc{Addr: l.f.Guest(at), Len: uint32(16 * len(ds[i:])), Flags: vhostfront.Indirect}
		} else if d = ds[i]; i < inRing-1 {
			d.Flags, d.Next = d.Flags|vhostfront.Next, uint16(order[i+1])
		}
		if r.IntN(30) == 0 {
			damage(r, &d)
		}
		l.q.Desc[order[i]] = d
	}
	if r.IntN(100) == 0 {
		return uint16(r.Uint32())
	}
	return uint16(order[0])
}

func put(b []byte, d vhostfront.Desc) {
	binary.LittleEndian.PutUint64(b, d.Addr)
	binary.LittleEndian.PutUint32(b[8:], d.Len)
	binary.LittleEndian.PutUint16(b[12:], d.Flags)
	binary.LittleEndian.PutUint16(b[14:], d.Next)
}

// damage changes a descriptor, but lets it not reach the rings.
func damage(r *rand.Rand, d *vhostfront.Desc) {
	switch r.IntN(5) {
	case 0:
		d.Addr ^= 1 << (20 + r.IntN(44))
	case 1:
		d.Len = r.Uint32() >> r.IntN(32)
	case 2:
		d.Flags ^= 1 << r.IntN(3)
	case 3:
		d.Next = uint16(r.Uint32N(80))
	case 4:
		d.Len = 0
	}
}
