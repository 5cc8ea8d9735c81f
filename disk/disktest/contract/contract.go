// Package contract says, as tests, what every way to a disk must do: the Device
// itself, and whatever serves it to a guest. One suite, so that no front end is
// less careful than another. It is for tests only, and trusts what they give it.
//
// What a disk should hold is always said by something slow and obvious beside it:
// plain bytes, or a list of who wrote what when.
package contract

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/uvbond/uvbond/disk"
)

// Disk is one connection to a disk. Its methods wait, and are called concurrently.
type Disk interface {
	Size() int64
	ReadAt(p []byte, off int64) (int, error)
	WriteAt(p []byte, off int64) (int, error)
	WriteZeroes(off, n int64) error
	Trim(off, n int64) error
	Flush() error
}

// Forcer is a Disk that can make a write stable by itself.
type Forcer interface {
	WriteForced(p []byte, off int64) error
}

// ZeroForcer is a Disk that can do so with zeros.
type ZeroForcer interface {
	WriteZeroesForced(off, n int64) error
}

// Front is a way to a disk.
type Front struct {
	// Serve returns a connection to d, which ends with the test. It is called
	// several times with one Device.
	Serve func(t testing.TB, d *disk.Device) Disk
	// Unit is what offsets and lengths of requests are multiples of, in bytes.
	Unit int
	// Errno says that errors tell which errno the storage had.
	Errno bool
}

// Back makes a back end of size bytes, which need not be zeros.
type Back func(t testing.TB, size int64) disk.Backend

// Run runs all of the suite: over every back end, over storage with faults, and
// over storage that loses its power.
func Run(t *testing.T, f Front, backs map[string]Back) {
	RunOver(t, f, backs)
	for _, sector := range []uint32{512, 4096} {
		t.Run(fmt.Sprintf("faults/%d", sector), func(t *testing.T) {
			s := &suite{T: t, f: f, sector: sector}
			s.run("errors", s.errors)
			s.run("model", s.faultyModel)
			s.run("hanging", s.hanging)
			s.run("stable", s.stable)
		})
		t.Run(fmt.Sprintf("power cut/%d", sector), func(t *testing.T) { Cut(t, f, sector) })
	}
}

// RunOver runs the parts of the suite that need no faults over every back end.
func RunOver(t *testing.T, f Front, backs map[string]Back) {
	for name, back := range backs {
		for _, sector := range []uint32{512, 4096} {
			t.Run(fmt.Sprintf("%s/%d", name, sector), func(t *testing.T) {
				s := &suite{T: t, f: f, back: back, sector: sector}
				s.run("model", s.model)
				s.run("overlap", s.overlap)
				if testing.Short() { // the rest does one thing at a time: nothing for the race detector
					return
				}
				s.run("sizes", s.sizes)
				s.run("bounds", s.bounds)
				s.run("zeroes and trim", s.zeroes)
				s.run("read-only", s.readOnly)
				s.run("grow", s.grow)
			})
		}
	}
}

// offset is where the data of the suite's disks starts.
const offset = 64 << 10

type suite struct {
	*testing.T
	f      Front
	back   Back
	sector uint32
}

func (s *suite) run(name string, f func(*suite)) {
	s.Helper()
	s.T.Run(name, func(t *testing.T) { f(&suite{t, s.f, s.back, s.sector}) })
}

// device returns a Device of size bytes on b, closed with the test.
func device(t testing.TB, b disk.Backend, sector uint32, size int64, change ...func(*disk.Params)) *disk.Device {
	t.Helper()
	d, err := newDevice(b, sector, size, change...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func newDevice(b disk.Backend, sector uint32, size int64, change ...func(*disk.Params)) (*disk.Device, error) {
	key := make([]byte, 64)
	for i := range key {
		key[i] = byte(i*11 + 5)
	}
	p := disk.Params{Key: key, SectorSize: sector, DataOffset: offset, Length: uint64(size), IVTweak: 8 << 20, Discard: true}
	for _, f := range change {
		f(&p)
	}
	return disk.NewDevice(b, p)
}

// open returns a Device full of zeros on the suite's back end, and a connection.
func (s *suite) open(size int64) (*disk.Device, Disk) {
	s.Helper()
	d := device(s, s.back(s, offset+size), s.sector, size)
	if err := d.WriteZeroes(0, size); err != nil {
		s.Fatal(err)
	}
	return d, s.serve(d)
}

func (s *suite) serve(d *disk.Device) Disk {
	s.Helper()
	c := s.f.Serve(s, d)
	if c.Size() != d.Size() {
		s.Fatalf("the front end says %d bytes, the disk has %d", c.Size(), d.Size())
	}
	return c
}

// align rounds n down.
func (s *suite) align(n int64) int64 { return n / int64(s.f.Unit) * int64(s.f.Unit) }

func (s *suite) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *suite) write(c Disk, p []byte, off int64) {
	s.Helper()
	if n, err := c.WriteAt(p, off); err != nil || n != len(p) {
		s.Fatalf("write of %d bytes at %d: %d, %v", len(p), off, n, err)
	}
}

// expect reads and compares.
func (s *suite) expect(c Disk, want []byte, off int64) {
	s.Helper()
	got := bytes.Repeat([]byte{0xee}, len(want))
	if n, err := c.ReadAt(got, off); err != nil || n != len(got) {
		s.Fatalf("read of %d bytes at %d: %d, %v", len(got), off, n, err)
	}
	for i := range got {
		if got[i] != want[i] {
			s.Fatalf("read of %d bytes at %d: byte %d is %#x, not %#x", len(got), off, i, got[i], want[i])
		}
	}
}

func noise(r *rand.Rand, n int64) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return p
}
