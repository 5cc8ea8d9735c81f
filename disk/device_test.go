package disk

import (
	"bytes"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/xts"
	"golang.org/x/sys/unix"

	"crypto/aes"

	"github.com/uvbond/uvbond/disk/disktest"
)

// TestCiphertext compares with XTS one sector at a time: dm-crypt counts tweaks
// in units of 512 bytes for all sector sizes.
func TestCiphertext(t *testing.T) {
	for _, keyBytes := range []int{32, 64} {
		for _, sector := range []uint32{512, 4096} {
			b := disktest.New(testOffset + 16384)
			d, err := NewDevice(b, Params{Key: testKey(keyBytes), SectorSize: sector, DataOffset: testOffset, Length: 16384, IVTweak: 1 << 33})
			if err != nil {
				t.Fatal(err)
			}
			plain := bytes.Repeat([]byte("The quick brown fox. "), 1000)[:16384]
			if _, err := d.WriteAt(plain, 0); err != nil {
				t.Fatal(err)
			}
			c, err := xts.NewCipher(aes.NewCipher, testKey(keyBytes))
			if err != nil {
				t.Fatal(err)
			}
			want := make([]byte, 16384)
			for off := 0; off < len(want); off += int(sector) {
				c.Encrypt(want[off:], plain[off:off+int(sector)], 1<<33+uint64(off)/512)
			}
			if got := b.Bytes(); !bytes.Equal(got[testOffset:], want) || !uniform(got[:testOffset], 0) {
				t.Errorf("%d-byte key, sectors of %d: other ciphertext than XTS sector by sector", keyBytes, sector)
			}
		}
	}
}

func TestParams(t *testing.T) {
	good := Params{Key: testKey(64), SectorSize: 4096, DataOffset: 8192, Length: 8192, IVTweak: 8}
	for name, change := range map[string]func(*Params){
		"sector size 0":    func(p *Params) { p.SectorSize = 0 },
		"sector size 3072": func(p *Params) { p.SectorSize = 3072 },
		"sector size 8192": func(p *Params) { p.SectorSize = 8192 },
		"no length":        func(p *Params) { p.Length = 0 },
		"odd length":       func(p *Params) { p.Length = 8191 },
		"long":             func(p *Params) { p.Length = 12288 },
		"overflow":         func(p *Params) { p.Length = math.MaxUint64 - 4095 },
		"overflowing sum":  func(p *Params) { p.DataOffset = math.MaxUint64 - 4095 },
		"odd offset":       func(p *Params) { p.DataOffset = 512 },
		"odd tweak":        func(p *Params) { p.IVTweak = 1 },
		"large tweak":      func(p *Params) { p.IVTweak = math.MaxUint64 - 7 },
		"short key":        func(p *Params) { p.Key = p.Key[:48] },
		"equal halves":     func(p *Params) { p.Key = make([]byte, 64) },
	} {
		p := good
		change(&p)
		if d, err := NewDevice(disktest.New(16384), p); err == nil || d != nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := NewDevice(disktest.New(16384), good); err != nil {
		t.Error(err)
	}
}

func TestBounds(t *testing.T) {
	d := testDevice(t, disktest.New(testOffset+8192+4096), 4096, 8192, 0)
	p := make([]byte, 1000)
	if n, err := d.ReadAt(p, 8192-300); n != 300 || err != io.EOF {
		t.Errorf("read over the end = %d, %v", n, err)
	}
	if n, err := d.ReadAt(p, 8192); n != 0 || err != io.EOF {
		t.Errorf("read at the end = %d, %v", n, err)
	}
	if n, err := d.ReadAt(p, math.MaxInt64); n != 0 || err != io.EOF {
		t.Errorf("read far beyond = %d, %v", n, err)
	}
	_, e1 := d.ReadAt(p, -1)
	_, e2 := d.WriteAt(p, 8192-300)
	_, e3 := d.WriteAt(p, math.MaxInt64)
	_, e4 := d.WriteAt(p, -1)
	for i, err := range []error{e1, e2, e3, e4, d.WriteZeroes(8000, 500), d.WriteZeroes(0, -1), d.Trim(0, math.MaxInt64), d.Trim(-5, 3)} {
		if !errors.Is(err, ErrRange) || !errors.Is(err, unix.EINVAL) {
			t.Errorf("%d: %v, want ErrRange", i, err)
		}
	}
	if n, err := d.WriteAt(nil, 8192); n != 0 || err != nil {
		t.Errorf("writing nothing at the end = %d, %v", n, err)
	}
}

func TestReadOnly(t *testing.T) {
	b := disktest.New(testOffset + 8192)
	d, err := NewDevice(b, Params{Key: testKey(64), SectorSize: 512, DataOffset: testOffset, Length: 8192, ReadOnly: true, Discard: true})
	if err != nil {
		t.Fatal(err)
	}
	_, we := d.WriteAt(make([]byte, 512), 0)
	for _, err := range []error{we, d.WriteZeroes(0, 512), d.Trim(0, 512)} {
		if !errors.Is(err, ErrReadOnly) || !errors.Is(err, unix.EPERM) {
			t.Errorf("%v, want ErrReadOnly", err)
		}
	}
	if d.CanTrim() || !d.ReadOnly() {
		t.Error("a read-only disk can be trimmed")
	}
	if err := errors.Join(d.Flush(), d.Close()); err != nil {
		t.Error(err)
	}
	if b.Count(disktest.Write)+b.Count(disktest.Sync)+b.Count(disktest.Punch) != 0 {
		t.Error("a read-only disk wrote")
	}
}

func TestTrim(t *testing.T) {
	for _, discard := range []bool{false, true} {
		b := disktest.New(testOffset + 16384)
		d, err := NewDevice(b, Params{Key: testKey(64), SectorSize: 4096, DataOffset: testOffset, Length: 16384, Discard: discard})
		if err != nil {
			t.Fatal(err)
		}
		plain := bytes.Repeat([]byte{7}, 16384)
		if _, err := d.WriteAt(plain, 0); err != nil {
			t.Fatal(err)
		}
		if err := d.Trim(1000, 8000); err != nil { // covers the second sector, and parts of two
			t.Fatal(err)
		}
		if err := d.Trim(4096, 100); err != nil {
			t.Fatal(err)
		}
		punched := b.Count(disktest.Punch)
		if freed := uniform(b.Bytes()[testOffset+4096:][:4096], 0); freed != discard || punched != map[bool]int64{true: 1}[discard] {
			t.Errorf("discard %v: freed %v by %d calls", discard, freed, punched)
		}
		got := make([]byte, 16384)
		if _, err := d.ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		if !uniform(got[:4096], 7) || !uniform(got[8192:], 7) {
			t.Error("trim touched sectors that it covers partly")
		}
		b.Fail = func(disktest.Call) disktest.Fault { return disktest.Fault{Err: unix.EOPNOTSUPP} }
		if err := d.Trim(0, 16384); err != nil {
			t.Errorf("a Backend that cannot: %v", err)
		}
	}
}

func TestWriteZeroesIsEnciphered(t *testing.T) {
	b := disktest.New(testOffset + 1<<20)
	d := testDevice(t, b, 4096, 1<<20, 0)
	if err := d.WriteZeroes(100, 1<<20-200); err != nil {
		t.Fatal(err)
	}
	seen := map[[16]byte]bool{}
	// The blocks beside the range were never written and are left out.
	for data := b.Bytes()[testOffset+112 : testOffset+1<<20-112]; len(data) > 0; data = data[16:] {
		if k := [16]byte(data); seen[k] {
			t.Fatal("two blocks of zeros look the same")
		} else {
			seen[k] = true
		}
	}
	got := make([]byte, 1<<20-200)
	if _, err := d.ReadAt(got, 100); err != nil || !uniform(got, 0) {
		t.Errorf("not zeros, or %v", err)
	}
}

func TestTruncatedUnderway(t *testing.T) {
	for name, flag := range map[string]int{"cached": 0, "direct": unix.O_DIRECT} {
		t.Run(name, func(t *testing.T) { truncatedUnderway(t, flag) })
	}
}

// truncatedUnderway ends the file within a sector, and within a block of direct I/O.
func truncatedUnderway(t *testing.T, flag int) {
	dir := t.TempDir()
	if flag == unix.O_DIRECT {
		dir = disktest.DirectDir(t)
	}
	path := filepath.Join(dir, "disk")
	if err := os.WriteFile(path, make([]byte, testOffset+16384), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|flag, 0)
	if err != nil {
		t.Fatal(err)
	}
	b, err := FileBackend(f)
	if err != nil {
		t.Fatal(err)
	}
	d := testDevice(t, b, 4096, 16384, 0)
	defer d.Close()
	if err := d.WriteZeroes(0, 16384); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, testOffset+6000); err != nil {
		t.Fatal(err)
	}
	p := bytes.Repeat([]byte{9}, 16384)
	n, err := d.ReadAt(p, 0)
	if n != 4096 || !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		t.Errorf("ReadAt = %d, %v", n, err)
	}
	if !uniform(p, 0) {
		t.Error("something else than zeros was returned")
	}
	if _, err := d.WriteAt(p[:10], 5000); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a partial write over the end: %v", err)
	}
}

func TestFileBackend(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	b, err := FileBackend(f)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.WriteAt([]byte("hello"), 4096); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.Sync(), b.PunchHole(0, 8192)); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 5)
	if _, err := b.ReadAt(p, 4096); err != nil || !uniform(p, 0) {
		t.Errorf("%q, %v after a hole was punched", p, err)
	}
	if b.Size() != 1<<20 {
		t.Errorf("Size = %d", b.Size())
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Sync(); err == nil {
		t.Error("Sync after Close succeeds")
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if _, err := FileBackend(r); err == nil {
		t.Error("a pipe was accepted")
	}
}

func TestClose(t *testing.T) {
	b := disktest.New(testOffset + 8192)
	entered, release := make(chan struct{}), make(chan struct{})
	b.Fail = func(c disktest.Call) disktest.Fault {
		if c.Op == disktest.Write {
			close(entered)
			<-release
		}
		return disktest.None
	}
	d := testDevice(t, b, 4096, 8192, 0)
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := d.WriteAt(make([]byte, 4096), 0); err != nil {
			t.Error(err)
		}
	})
	<-entered
	closed := make(chan error)
	go func() { closed <- d.Close() }()
	select {
	case <-closed:
		t.Error("Close did not wait for a write under way")
	case <-time.After(20 * time.Millisecond):
	}
	close(release)
	wg.Wait()
	if err := <-closed; err != nil {
		t.Error(err)
	}
	_, re := d.ReadAt(make([]byte, 512), 0)
	for _, err := range []error{re, d.Flush(), d.WriteZeroes(0, 512), d.Close()} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%v, want ErrClosed", err)
		}
	}
}

type waiter chan struct{}

func (w waiter) granted(*Request) { close(w) }

func TestRangeLock(t *testing.T) {
	var l rangeLock
	ask := func(first, end int64, write bool) (*span, waiter, bool) {
		w := make(waiter)
		s := &span{first: first, end: end, write: write, owner: w}
		return s, w, l.lock(s)
	}
	a, _, ok1 := ask(0, 4, false)
	b, _, ok2 := ask(2, 6, false)
	c, cw, ok3 := ask(3, 5, true)  // waits for a and b
	d, dw, ok4 := ask(4, 5, false) // waits for c: no overtaking
	e, _, ok5 := ask(6, 7, true)
	if !ok1 || !ok2 || ok3 || ok4 || !ok5 {
		t.Fatalf("held: %v %v %v %v %v", ok1, ok2, ok3, ok4, ok5)
	}
	l.unlock(a)
	select {
	case <-cw:
		t.Fatal("a writer went in beside a reader")
	default:
	}
	l.unlock(b)
	<-cw
	l.unlock(c)
	<-dw
	l.unlock(d)
	l.unlock(e)
	if len(l.queue) != 0 {
		t.Errorf("%d left", len(l.queue))
	}
}

func BenchmarkDevice(b *testing.B) {
	const size = 8 << 20
	f, err := os.CreateTemp(b.TempDir(), "")
	if err != nil {
		b.Fatal(err)
	}
	if err := f.Truncate(testOffset + size); err != nil {
		b.Fatal(err)
	}
	back, err := FileBackend(f)
	if err != nil {
		b.Fatal(err)
	}
	d := testDevice(b, back, 4096, size, 0)
	defer d.Close()
	for _, c := range []struct {
		name string
		n    int64
		f    func([]byte, int64) (int, error)
	}{
		{"read/4KiB", 4 << 10, d.ReadAt}, {"read/1MiB", 1 << 20, d.ReadAt},
		{"write/512", 512, d.WriteAt}, {"write/4KiB", 4 << 10, d.WriteAt}, {"write/1MiB", 1 << 20, d.WriteAt},
	} {
		b.Run(c.name, func(b *testing.B) {
			p := make([]byte, c.n)
			b.SetBytes(c.n)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := c.f(p, int64(i)*c.n%size); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
