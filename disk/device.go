package disk

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"sync"

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

// Device is a disk of plain bytes over a Backend of ciphertext. All methods may
// be called concurrently. A read that runs beside a write to the same sector
// returns all of the old sector or all of the new one; a write that covers
// sectors partly keeps the rest of them. What a Backend returns is deciphered
// as it is: changed ciphertext becomes noise, not an error.
type Device struct {
	backend Backend
	cipher  *xts.Cipher
	p       Params // without the key
	sector  int64
	locks   rangeLock

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
	return &Device{backend: b, cipher: c, p: p, sector: int64(p.SectorSize)}, nil
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
func (d *Device) Size() int64 { return int64(d.p.Length) }

// SectorSize returns the size of an enciphered sector in bytes. Requests that
// start and end on its multiples need no reading before writing.
func (d *Device) SectorSize() int { return int(d.sector) }

// ReadOnly reports whether writes are refused.
func (d *Device) ReadOnly() bool { return d.p.ReadOnly }

// CanTrim reports whether Trim does anything.
func (d *Device) CanTrim() bool { return d.p.Discard && !d.p.ReadOnly }

// begin starts an operation on n bytes at off and locks their sectors. Without
// an error, end must follow.
func (d *Device) begin(off, n int64, write bool) (*span, error) {
	if off < 0 || n < 0 || off > d.Size() || n > d.Size()-off {
		return nil, ErrRange
	}
	if write && d.p.ReadOnly {
		return nil, ErrReadOnly
	}
	d.life.RLock()
	if d.closed {
		d.life.RUnlock()
		return nil, ErrClosed
	}
	s := &span{first: off / d.sector, end: (off + n + d.sector - 1) / d.sector, write: write}
	d.locks.lock(s)
	return s, nil
}

func (d *Device) end(s *span) {
	d.locks.unlock(s)
	d.life.RUnlock()
}

// Flush returns when everything whose write had returned before is on stable
// storage.
func (d *Device) Flush() error {
	d.life.RLock()
	defer d.life.RUnlock()
	if d.closed {
		return ErrClosed
	}
	if d.p.ReadOnly {
		return nil
	}
	if err := d.backend.Sync(); err != nil {
		return fmt.Errorf("disk: flush: %w", err)
	}
	return nil
}

// Close waits for what is under way, flushes, wipes the key and closes the
// Backend. Later calls return ErrClosed.
func (d *Device) Close() error {
	flushed := d.Flush()
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

// load reads and deciphers whole sectors at off into p. It returns how many
// bytes of p, from the start, are plain text; the others are zeros.
func (d *Device) load(p []byte, off int64) (int, error) {
	n, err := d.backend.ReadAt(p, int64(d.p.DataOffset)+off)
	n = max(0, min(n, len(p)))
	if n == len(p) {
		err = nil // io.ReaderAt allows io.EOF with the last byte
	} else if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	n -= n % int(d.sector)
	if e := d.cipher.DecryptSectors(p[:n], p[:n], d.tweak(off)); e != nil {
		n, err = 0, errors.Join(err, e)
	}
	clear(p[n:])
	if err != nil {
		return n, fmt.Errorf("disk: reading %d bytes at %d: %w", len(p), off, err)
	}
	return n, nil
}

// store enciphers whole sectors of src into work, which may be src itself, and
// writes them at off. It returns how many bytes are written, in whole sectors.
func (d *Device) store(work, src []byte, off int64) (int, error) {
	if err := d.cipher.EncryptSectors(work[:len(src)], src, d.tweak(off)); err != nil {
		return 0, err
	}
	n, err := d.backend.WriteAt(work[:len(src)], int64(d.p.DataOffset)+off)
	n = max(0, min(n, len(src)))
	if err == nil && n < len(src) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return n - n%int(d.sector), fmt.Errorf("disk: writing %d bytes at %d: %w", len(src), off, err)
	}
	return n, nil
}
