package disk

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// ReadAt is io.ReaderAt. What it could not read is zeros, beside an error that
// wraps the Backend's.
func (d *Device) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, ErrRange
	}
	var atEnd error
	if rest := d.Size() - off; int64(len(p)) > rest {
		if rest <= 0 {
			return 0, io.EOF
		}
		p, atEnd = p[:rest], io.EOF
	}
	s, err := d.begin(off, int64(len(p)), false)
	if err != nil {
		return 0, err
	}
	defer d.end(s)
	n, err := d.pieces(p, off, d.load, d.readPart)
	if err != nil {
		return n, err
	}
	return n, atEnd
}

// WriteAt is io.WriterAt. A write that would run over the end is refused as a
// whole. After an error the bytes beyond those counted are old or new, in
// pieces of 16 bytes or more. Those beside the range are untouched; only where
// the range starts or ends within a 16-byte block, and the Backend tears a write
// within that very block, is the rest of the block lost. Guests write whole
// multiples of 512 bytes.
func (d *Device) WriteAt(p []byte, off int64) (int, error) {
	s, err := d.begin(off, int64(len(p)), true)
	if err != nil {
		return 0, err
	}
	defer d.end(s)
	return d.pieces(p, off, d.writeSectors, d.writePart)
}

// pieces calls part for the sectors that p covers partly, at most the first and
// the last, and whole for what is between. It stops at the first error.
func (d *Device) pieces(p []byte, off int64, whole, part func([]byte, int64) (int, error)) (done int, err error) {
	for done < len(p) {
		rest, at := p[done:], off+int64(done)
		f := whole
		if in := at % d.sector; in != 0 || int64(len(rest)) < d.sector {
			rest = rest[:min(int64(len(rest)), d.sector-in)]
			f = part
		} else {
			rest = rest[:len(rest)-len(rest)%int(d.sector)]
		}
		n, err := f(rest, at)
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// readPart reads within one sector.
func (d *Device) readPart(p []byte, off int64) (int, error) {
	b := getBuffer(int(d.sector))
	defer b.release()
	in := off % d.sector
	if _, err := d.load(b.mem, off-in); err != nil {
		clear(p)
		return 0, err
	}
	copy(p, b.mem[in:])
	clear(b.mem)
	return len(p), nil
}

// writePart writes within one sector, which the caller has locked. The
// ciphertext of the 16-byte blocks beside p does not change by it, so a write
// that is torn by a crash cannot harm them.
func (d *Device) writePart(p []byte, off int64) (int, error) {
	b := getBuffer(int(d.sector))
	defer b.release()
	in := off % d.sector
	if _, err := d.load(b.mem, off-in); err != nil {
		return 0, err
	}
	copy(b.mem[in:], p)
	if _, err := d.store(b.mem, b.mem, off-in); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (d *Device) writeSectors(p []byte, off int64) (done int, err error) {
	b := getBuffer(len(p))
	defer b.release()
	for done < len(p) {
		n, err := d.store(b.mem, p[done:min(len(p), done+len(b.mem))], off+int64(done))
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

var zeros [64 << 10]byte

// WriteZeroes writes n zeros at off, enciphered as everything else: storage
// cannot tell them from data, and nothing is given back to it.
func (d *Device) WriteZeroes(off, n int64) error {
	s, err := d.begin(off, n, true)
	if err != nil {
		return err
	}
	defer d.end(s)
	for n > 0 {
		// The first step ends on a multiple of the step, so the others are whole.
		step := min(n, int64(len(zeros))-off%int64(len(zeros)))
		if _, err := d.pieces(zeros[:step], off, d.writeSectors, d.writePart); err != nil {
			return err
		}
		off, n = off+step, n-step
	}
	return nil
}

// Trim says that n bytes at off are not needed any more. With Params.Discard
// the Backend may free their whole sectors, whose content is undefined from then
// on; else, or where the Backend cannot, nothing happens: it is advice.
func (d *Device) Trim(off, n int64) error {
	s, err := d.begin(off, n, true)
	if err != nil {
		return err
	}
	defer d.end(s)
	first, end := (off+d.sector-1)/d.sector*d.sector, (off+n)/d.sector*d.sector
	if !d.p.Discard || first >= end {
		return nil
	}
	err = d.backend.PunchHole(int64(d.p.DataOffset)+first, end-first)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("disk: trimming %d bytes at %d: %w", n, off, err)
	}
	return nil
}
