package disk

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk/disktest"
)

// backends are all ways in which a Queue gets its data moved.
func backends(t testing.TB, size int64) map[string]Backend {
	t.Helper()
	file := func(dir string, e Engine, direct bool) Backend {
		path := filepath.Join(dir, "disk")
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		if direct {
			if f, err = Direct(f, 512); err != nil {
				t.Fatal(err)
			}
		}
		b, err := OpenFile(f, e)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if !ringWorks() {
		t.Log("io_uring is not to be had here: its tests fall back to threads")
	}
	all := map[string]Backend{
		"memory":  disktest.New(size),
		"waiting": file(t.TempDir(), Waiting, false),
		"threads": file(t.TempDir(), Threads, false),
		"ring":    file(t.TempDir(), Ring, false),
	}
	if dir := disktest.FindDirectDir(t); dir != "" {
		all["direct"] = file(dir, Ring, true)
	}
	return all
}

// TestQueueModel runs random requests, many at a time, against plain bytes. Each
// has a place of its own, but neighbours share sectors.
func TestQueueModel(t *testing.T) {
	const size = 4 << 20
	for _, sector := range []uint32{512, 4096} {
		for name, b := range backends(t, testOffset+size) {
			t.Run(fmt.Sprintf("%s/%d", name, sector), func(t *testing.T) {
				d := testDevice(t, b, sector, size, 8)
				if err := d.WriteZeroes(0, size); err != nil {
					t.Fatal(err)
				}
				var owners sync.WaitGroup
				m := newModel(size)
				m.know(0, size, true)
				for i := range 2 {
					owners.Go(func() { queueModel(t, d, m, i*size/2, size/2, rand.New(rand.NewPCG(uint64(i), uint64(sector)))) })
				}
				owners.Wait()
				whole := make([]byte, size)
				if _, err := d.ReadAt(whole, 0); err != nil {
					t.Fatal(err)
				}
				m.check(t, whole, 0)
				if s := d.Stats(); s.Pending != 0 || s.Ops[Write].Count == 0 || s.Ops[Read].Errors != 0 {
					t.Errorf("stats: %+v", s)
				}
				if err := d.Close(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func queueModel(t *testing.T, d *Device, m *model, start, size int, r *rand.Rand) {
	const depth = 16
	q, err := d.NewQueue(depth)
	if err != nil {
		t.Error(err)
		return
	}
	defer func() {
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	}()
	place := size / depth
	wants := make([][]byte, depth)
	begin := func(req *Request) {
		off := r.IntN(place)
		n := r.IntN(place-off) + 1
		if r.IntN(2) == 0 {
			n = min(n, 9000)
		}
		if r.IntN(3) == 0 {
			off, n = off/512*512, (n+511)/512*512
		}
		off += start + int(req.Tag)*place
		*req = Request{Tag: req.Tag, Off: int64(off), Shared: r.IntN(2) == 0, FUA: r.IntN(8) == 0}
		switch req.Op = []Op{Read, Read, Write, Write, WriteZeroes, Flush}[r.IntN(6)]; req.Op {
		case Read:
			req.Data = split(r, bytes.Repeat([]byte{0xee}, n))
		case Write:
			p := make([]byte, n)
			for i := range p {
				p[i] = byte(r.Uint32())
			}
			m.write(p, off)
			req.Data = split(r, p)
		case WriteZeroes:
			req.Len = int64(n)
			m.write(make([]byte, n), off)
		}
		wants[req.Tag] = nil
		if req.Op == Write && req.Shared {
			wants[req.Tag] = append([]byte(nil), m.data[off:off+n]...)
		}
		q.Start(req)
	}
	end := func(req *Request) {
		if req.Err != nil {
			t.Errorf("%v at %d: %v", req.Op, req.Off, req.Err)
			return
		}
		got := bytes.Join(req.Data, nil)
		if req.Op == Read && !bytes.Equal(got, m.data[req.Off:req.Off+int64(len(got))]) {
			t.Errorf("read of %d bytes at %d is wrong", len(got), req.Off)
		}
		if w := wants[req.Tag]; w != nil && !bytes.Equal(got, w) {
			t.Error("shared memory was written to")
		}
	}
	for i := range uint64(depth) {
		begin(&Request{Tag: i})
	}
	left := 600
	if testing.Short() {
		left = 100
	}
	for q.Pending() > 0 {
		q.Submit()
		done := q.Completed(nil)
		if len(done) == 0 {
			q.wait()
		}
		for _, req := range done {
			if end(req); left > 0 {
				left--
				begin(req)
			}
		}
	}
}

// split cuts p into parts, some of them empty.
func split(r *rand.Rand, p []byte) (parts [][]byte) {
	if r.IntN(2) == 0 {
		return [][]byte{p}
	}
	for len(p) > 0 {
		n := r.IntN(len(p) + 1)
		if r.IntN(2) == 0 {
			n = min(len(p), n/512*512)
		}
		parts = append(parts, p[:n:n])
		p = p[n:]
	}
	return parts
}

// TestQueueErrors fails random transfers: what a request says was done must be
// there, and what it does not cover must not change.
func TestQueueErrors(t *testing.T) {
	const size = 2 << 20
	b := disktest.New(testOffset + size)
	d := testDevice(t, b, 4096, size, 0)
	if err := d.WriteZeroes(0, size); err != nil {
		t.Fatal(err)
	}
	q, err := d.NewQueue(8)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	var mu sync.Mutex
	b.Fail = func(c disktest.Call) disktest.Fault {
		mu.Lock()
		defer mu.Unlock()
		if r.IntN(6) == 0 {
			return disktest.Fault{Err: errBreak, Short: r.IntN(c.Len+1) / 16 * 16}
		}
		return disktest.None
	}
	failed, most := 0, 200
	if testing.Short() {
		most = 40
	}
	for i := range most {
		n := 1 << 20
		p := bytes.Repeat([]byte{byte(i)}, n)
		req := &Request{Op: Write, Off: int64(512 * (i % 7)), Data: [][]byte{p}, Shared: i%2 == 0}
		if i%3 == 0 {
			req.Op = Read
		}
		q.do(req)
		if req.Err == nil {
			if req.N != req.Len {
				t.Fatalf("%d of %d bytes without an error", req.N, req.Len)
			}
			continue
		}
		failed++
		if !errors.Is(req.Err, unix.EIO) || req.N < 0 || req.N >= req.Len {
			t.Fatalf("%d bytes, %v", req.N, req.Err)
		}
		if req.Op == Read && !uniform(p[req.N:], 0) {
			t.Fatal("what was not read is not zeros")
		}
	}
	if failed == 0 {
		t.Error("nothing failed")
	}
	b.Fail = nil
	if err := errors.Join(q.Close(), d.Close()); err != nil {
		t.Error(err)
	}
}

// TestQueueWaits has one Queue wait for another's range.
func TestQueueWaits(t *testing.T) {
	b := disktest.New(testOffset + 8192)
	release := make(chan struct{})
	b.Fail = func(c disktest.Call) disktest.Fault {
		if c.Op == disktest.Write {
			<-release
		}
		return disktest.None
	}
	d := testDevice(t, b, 4096, 8192, 0)
	writer, err1 := d.NewQueue(1)
	reader, err2 := d.NewQueue(1)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	writer.Start(&Request{Op: Write, Data: [][]byte{bytes.Repeat([]byte{5}, 4096)}})
	writer.Submit()
	got := make([]byte, 100)
	reader.Start(&Request{Op: Read, Off: 1000, Data: [][]byte{got}})
	reader.Submit()
	if len(reader.Completed(nil)) != 0 {
		t.Fatal("a read went in beside a write")
	}
	close(release)
	writer.wait()
	if len(writer.Completed(nil)) != 1 {
		t.Fatal("the write is not completed")
	}
	reader.wait()
	for len(reader.Completed(nil)) == 0 {
		reader.Submit()
		reader.wait()
	}
	if !uniform(got, 5) {
		t.Error("the read does not see the write before it")
	}
	if err := errors.Join(writer.Close(), reader.Close(), d.Close()); err != nil {
		t.Error(err)
	}
}

// TestMemoryOfQueue reads more at once than the arena holds.
func TestMemoryOfQueue(t *testing.T) {
	const size = 16 << 20
	for name, b := range backends(t, testOffset+size) {
		d := testDevice(t, b, 4096, size, 0)
		if err := d.WriteZeroes(0, size); err != nil {
			t.Fatal(err)
		}
		q, err := d.NewQueue(128)
		if err != nil {
			t.Fatal(err)
		}
		for i := range int64(16) {
			p := bytes.Repeat([]byte{1}, 1<<20)
			q.Start(&Request{Op: Read, Off: i << 20, Data: [][]byte{p[:100], p[100:]}, Shared: true})
		}
		n := 0
		for q.Pending() > 0 {
			q.Submit()
			done := q.Completed(nil)
			if len(done) == 0 {
				q.wait()
			}
			for _, r := range done {
				if n++; r.Err != nil || !uniform(bytes.Join(r.Data, nil), 0) {
					t.Errorf("%s: read at %d: %v", name, r.Off, r.Err)
				}
			}
		}
		if n != 16 || !q.arena.Idle() {
			t.Errorf("%s: %d completed, arena idle: %v", name, n, q.arena.Idle())
		}
		if err := errors.Join(q.Close(), d.Close()); err != nil {
			t.Error(err)
		}
	}
}

func TestLimits(t *testing.T) {
	d := testDevice(t, disktest.New(testOffset+1<<20), 4096, 1<<20, 0)
	defer d.Close()
	if err := d.SetLimits(Limits{IOPS: 100, Burst: -1}); err == nil {
		t.Error("a negative burst was accepted")
	}
	if err := d.SetLimits(Limits{Bytes: 1}); err == nil {
		t.Error("a byte per second was accepted")
	}
	if err := d.SetLimits(Limits{IOPS: 200, Burst: 0.05}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	p := make([]byte, 4096)
	for range 30 { // ten at once, twenty at 5 ms
		if _, err := d.ReadAt(p, 0); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took < 80*time.Millisecond {
		t.Errorf("30 requests at 200 per second, 10 of them saved up, took %v", took)
	}
	if d.Limits().IOPS != 200 {
		t.Errorf("%+v", d.Limits())
	}
	if err := d.SetLimits(Limits{Bytes: 1 << 20, Burst: 0.01}); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	for range 3 { // each takes more than was saved up, and the next pays
		if _, err := d.WriteAt(make([]byte, 64<<10), 0); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took < 100*time.Millisecond {
		t.Errorf("192 KiB at 1 MiB per second took %v", took)
	}
	if err := d.SetLimits(Limits{}); err != nil || d.limit.Load() != nil {
		t.Errorf("limits remain: %v", err)
	}
}

func TestGrow(t *testing.T) {
	for name, b := range backends(t, testOffset+8192) {
		d := testDevice(t, b, 4096, 8192, 0)
		if err := d.Grow(16384); err == nil {
			t.Errorf("%s: grew beyond the Backend", name)
		}
		f, ok := b.(*fileBackend)
		if !ok {
			continue
		}
		if err := f.f.Truncate(testOffset + 16384); err != nil {
			t.Fatal(err)
		}
		for length, good := range map[uint64]bool{4096: false, 16384 + 512: false, 20480: false} {
			if err := d.Grow(length); (err == nil) != good {
				t.Errorf("%s: grow to %d: %v", name, length, err)
			}
		}
		if err := d.Grow(16384); err != nil || d.Size() != 16384 {
			t.Errorf("%s: grow: %v, size %d", name, err, d.Size())
		}
		if _, err := d.WriteAt(make([]byte, 4096), 12288); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestArena(t *testing.T) {
	a, err := NewArena(64 * arenaBlock)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(3, 4))
	var held [][]byte
	rounds := 10000
	if testing.Short() {
		rounds = 1000
	}
	for i := range rounds {
		if len(held) > 0 && r.IntN(2) == 0 {
			k := r.IntN(len(held))
			b := held[k]
			for _, v := range b {
				if v != b[0] {
					t.Fatal("two buffers share memory")
				}
			}
			a.Put(b)
			held[k] = held[len(held)-1]
			held = held[:len(held)-1]
			continue
		}
		if b := a.Get(r.IntN(MaxPiece) + 1); b != nil {
			if !onPage(b) {
				t.Fatal("not on a page")
			}
			for k := range b {
				b[k] = byte(i)
			}
			held = append(held, b)
		}
	}
	for _, b := range held {
		a.Put(b)
	}
	if !a.Idle() || len(a.Get(MaxPiece)) != MaxPiece || a.Get(MaxPiece) == nil || a.Get(1) != nil {
		t.Error("memory was lost")
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

// TestDirect checks when O_DIRECT is used.
func TestDirect(t *testing.T) {
	f, err := os.CreateTemp(disktest.DirectDir(t), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := Direct(f, 16); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("O_DIRECT for pieces of 16 bytes: %v", err)
	}
	again, err := Direct(f, 4096)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		f    *os.File
		want bool
	}{{f, false}, {again, true}} {
		b, err := OpenFile(c.f, Auto)
		if err != nil {
			t.Fatal(err)
		}
		if got := b.(*fileBackend).Direct(); got != c.want {
			t.Errorf("direct is %v", got)
		}
	}
	again.Close()
}

func BenchmarkQueue(b *testing.B) {
	const size, depth = 64 << 20, 32
	for name, back := range backends(b, testOffset+size) {
		d := testDevice(b, back, 4096, size, 0)
		if err := d.WriteZeroes(0, size); err != nil {
			b.Fatal(err)
		}
		for _, op := range []Op{Read, Write} {
			for _, shared := range []bool{false, true} {
				b.Run(fmt.Sprintf("%s/%v/shared=%v", name, op, shared), func(b *testing.B) {
					q, err := d.NewQueue(depth)
					if err != nil {
						b.Fatal(err)
					}
					defer q.Close()
					buf, err := NewArena(depth * MaxPiece)
					if err != nil {
						b.Fatal(err)
					}
					rs := make([]Request, depth)
					done := make([]*Request, 0, depth)
					for i := range rs {
						rs[i] = Request{Op: op, Shared: shared, Data: [][]byte{buf.Get(4096)}}
						done = append(done, &rs[i])
					}
					r := rand.New(rand.NewPCG(5, 6))
					b.SetBytes(4096)
					b.ReportAllocs()
					for n := 0; n < b.N; {
						for _, req := range done {
							req.Off = r.Int64N(size/4096) * 4096
							q.Start(req)
						}
						q.Submit()
						if done = q.Completed(done[:0]); len(done) == 0 {
							q.wait()
							done = q.Completed(done[:0])
						}
						n += len(done)
					}
				})
			}
		}
		d.Close()
	}
}
