package contract

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/uvbond/uvbond/disk"
	"github.com/uvbond/uvbond/disk/disktest"
)

// wrong is a disk with a fault.
type wrong struct {
	onDevice
	forgetFlush bool
	misplace    int64 // writes go to another place
}

func (w wrong) Flush() error {
	if w.forgetFlush {
		return nil
	}
	return w.onDevice.Flush()
}

func (w wrong) WriteForced(p []byte, off int64) error {
	if w.forgetFlush {
		_, err := w.WriteAt(p, off)
		return err
	}
	return w.onDevice.WriteForced(p, off)
}

func (w wrong) WriteAt(p []byte, off int64) (int, error) {
	if o := off + w.misplace; o+int64(len(p)) <= cutSize {
		off = o
	}
	return w.Device.WriteAt(p, off)
}

// TestCutFindsFaults: what a power cut must not show is found when it is there.
func TestCutFindsFaults(t *testing.T) {
	for _, x := range []struct {
		name, want string
		disk       wrong
		spoil      func(*disktest.Backend)
	}{
		{"flush that does nothing", "too old", wrong{forgetFlush: true}, nil},
		{"write to another place", "another one's content", wrong{misplace: block}, nil},
		{"two sectors exchanged by storage", "noise", wrong{}, func(b *disktest.Backend) {
			x, y := make([]byte, 512), make([]byte, 512)
			b.ReadAt(x, offset)
			b.ReadAt(y, offset+512)
			b.WriteAt(y, offset)
			b.WriteAt(x, offset+512)
		}},
	} {
		f := Front{Unit: 1, Serve: func(_ testing.TB, d *disk.Device) Disk {
			x.disk.onDevice = onDevice{d}
			return x.disk
		}}
		c := newCutRun(t, f, 512)
		c.run(4, 40, 1)
		var err error
		r := rand.New(rand.NewPCG(1, 1))
		for at := 0; at <= c.rec.Now() && err == nil; at++ {
			if x.spoil == nil {
				err = c.check(at, 512, r)
				continue
			}
			left := c.rec.Cut(at, 512, r)
			x.spoil(left)
			err = c.look(left, at, 512)
		}
		if err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v", x.name, err)
		}
	}
}

// TestCutFindsMixedSectors: a sector that storage never tears must not be torn.
func TestCutFindsMixedSectors(t *testing.T) {
	c := newCutRun(t, Device, 512)
	c.acts = []*act{{id: 1, n: 512, start: 0, end: 2}, {id: 2, n: 512, start: 2, end: 4}}
	c.covers = make([][]*act, cutSize/block)
	for b := range 32 {
		c.covers[b] = c.acts
	}
	plain := append(stamped(1, 0, 256), stamped(2, 256, 256)...)
	b := disktest.New(offset + cutSize)
	d := device(t, b, 512, cutSize)
	if _, err := d.WriteAt(append(plain, stamped(0, 512, cutSize-512)...), 0); err != nil {
		t.Fatal(err)
	}
	if err := c.look(disktest.NewFrom(b.Bytes()), 4, 512); err == nil || !strings.Contains(err.Error(), "mixed") {
		t.Errorf("%v", err)
	}
	if err := c.look(b, 4, block); err != nil {
		t.Errorf("torn into blocks: %v", err)
	}
}
