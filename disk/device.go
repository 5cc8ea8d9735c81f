package disk

import (
	"errors"
	"fmt"
	"math"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk/xts"
)

// Params are the registered parameters of a disk.
type Params struct {
	Key        []byte // volume key, 32 or 64 bytes; not kept, the caller wipes it
	SectorSize uint32 // bytes: 512, 1024, 2048 or 4096
	DataOffset uint64 // bytes from the start of the Backend, a multiple of SectorSize
	Length     uint64 // bytes, a multiple of SectorSize: the size of the Device
	IVTweak    uint64 // tweak of the first sector, in units of 512 bytes
	ReadOnly   bool
	Discard    bool // trim reaches the Backend
}

// Errors of a Device. Each wraps the errno that fits best.
var (
	ErrRange    = fmt.Errorf("disk: beyond the end of the disk: %w", unix.EINVAL)
	ErrReadOnly = fmt.Errorf("disk: the disk is read-only: %w", unix.EPERM)
	ErrClosed   = fmt.Errorf("disk: the disk is closed: %w", os.ErrClosed)
)

// Device is a disk of plain bytes over a Backend of ciphertext. Who serves it to
// others uses Queues; the methods here wait. All may be called concurrently. A read that runs beside a write to the same sector
// returns all of the old sector or all of the new one; a write that covers
// sectors partly keeps the rest of them. What a Backend returns is deciphered
// as it is: changed ciphertext becomes noise, not an error.
type Device struct {
	backend Backend
	cipher  *xts.Cipher
	p       Params // without the key; of the length, see size
	sector  int64
	size    atomic.Int64 // bytes
	direct  bool         // the Backend takes buffers that start on a page only
	locks   rangeLock
	limit   atomic.Pointer[limiter] // nil: none
	stats   deviceStats
	idle    struct { // Queues for the methods that wait
		sync.Mutex
		queues []*Queue
		closed bool
	}

	// life is held for reading by every operation and for writing by Close.
	life   sync.RWMutex
	closed bool // guarded by life
}

// NewDevice returns the Device on b, which it owns from then on, that p
// describes. The Backend must be long enough now; that it is the registered disk
// is for luks.Check to say.
func NewDevice(b Backend, p Params) (*Device, error) {
	if err := p.validate(); err != nil {
		return nil, err
	}
	if end := p.DataOffset + p.Length; b.Size() < 0 || end > uint64(b.Size()) {
		return nil, fmt.Errorf("disk: the data ends at %d, the disk at %d: it was truncated", end, b.Size())
	}
	c, err := xts.New(p.Key, int(p.SectorSize), uint64(p.SectorSize)/512)
	if err != nil {
		return nil, err
	}
	p.Key = nil
	d := &Device{backend: b, cipher: c, p: p, sector: int64(p.SectorSize)}
	d.size.Store(int64(p.Length))
	if o, ok := b.(interface{ Direct() bool }); ok {
		d.direct = o.Direct()
	}
	return d, nil
}

func (p *Params) validate() error {
	sector := uint64(p.SectorSize)
	switch sector {
	case 512, 1024, 2048, 4096:
	default:
		return fmt.Errorf("disk: sector size %d is not 512, 1024, 2048 or 4096", sector)
	}
	// Half of the range each, so that no later sum overflows.
	const limit = math.MaxInt64 / 2
	switch {
	case p.Length == 0 || p.Length > limit || p.Length%sector != 0:
		return fmt.Errorf("disk: length %d is not a multiple of %d above 0 and below 2^62", p.Length, sector)
	case p.DataOffset > limit || p.DataOffset%sector != 0:
		return fmt.Errorf("disk: data offset %d is not a multiple of %d below 2^62", p.DataOffset, sector)
	case p.IVTweak > limit || p.IVTweak%(sector/512) != 0:
		return fmt.Errorf("disk: iv tweak %d is not a multiple of %d below 2^62", p.IVTweak, sector/512)
	}
	return nil
}

// Size returns the registered length in bytes.
func (d *Device) Size() int64 { return d.size.Load() }

// Grow makes the Device longer, to length bytes, a multiple of the sector size.
// The Backend must have grown before. Requests under way are not disturbed.
func (d *Device) Grow(length uint64) error {
	p := d.p
	p.Length = length
	if err := p.validate(); err != nil {
		return err
	}
	for {
		old := d.size.Load()
		if int64(length) < old {
			return fmt.Errorf("disk: length %d is less than the %d that the disk has", length, old)
		}
		size, err := backendSize(d.backend)
		if err != nil {
			return err
		}
		if end := p.DataOffset + length; end > uint64(size) {
			return fmt.Errorf("disk: the data would end at %d, the disk ends at %d: it must grow first", end, size)
		}
		if d.size.CompareAndSwap(old, int64(length)) {
			return nil
		}
	}
}

// backendSize asks again how long b is, where it can have grown.
func backendSize(b Backend) (int64, error) {
	if r, ok := b.(interface{ Resized() (int64, error) }); ok {
		return r.Resized()
	}
	return b.Size(), nil
}

// SectorSize returns the size of an enciphered sector in bytes. Requests that
// start and end on its multiples need no reading before writing.
func (d *Device) SectorSize() int { return int(d.sector) }

// ReadOnly reports whether writes are refused.
func (d *Device) ReadOnly() bool { return d.p.ReadOnly }

// CanTrim reports whether Trim does anything.
func (d *Device) CanTrim() bool { return d.p.Discard && !d.p.ReadOnly }

// Close waits for what is under way, flushes, wipes the key and closes the
// Backend. Later calls return ErrClosed. Queues are closed before.
func (d *Device) Close() error {
	flushed := d.Flush()
	d.closeIdle()
	d.life.Lock()
	defer d.life.Unlock()
	if d.closed {
		return ErrClosed
	}
	d.closed = true
	d.cipher.Wipe()
	return errors.Join(flushed, d.backend.Close())
}

// tweak of the sector at off.
func (d *Device) tweak(off int64) uint64 { return d.p.IVTweak + uint64(off)/512 }
