package disk

import (
	"errors"
	"fmt"
	"io"
	"runtime"

	"golang.org/x/sys/unix"
)

// minSector is the least sector of a disk in bytes.
const minSector = 512

// piece is a part of a Request that is transferred at once: whole sectors, or
// one sector that the Request covers partly. Where the caller's memory is
// private and holds the piece in one run, ciphertext is read into and written
// from it; else it goes through a buffer.
type piece struct {
	t    Transfer
	r    *Request
	from place  // where the piece's data starts in the Request
	n    int    // bytes of the Request in it
	buf  []byte // the sectors
	done int    // bytes of buf transferred
	in   int    // where the data starts in buf: only in a part of a sector
	kind pieceKind
	pool *buffer // of buf, if it is from there
}

type pieceKind uint8

const (
	inPlace  pieceKind = iota // buf is the caller's
	buffered                  // buf is from the arena
	part                      // of a sector; buf is from the pool
	partBack                  // the same, on its way back to the Backend
	control                   // no data: Flush, Trim
)

// begin starts r, which has its range.
func (q *Queue) begin(r *Request) {
	switch r.Op {
	case Flush:
		q.sync(r)
	case Trim:
		q.trim(r)
	default:
		q.advance(r)
	}
}

// sync makes a flush of the Backend the last step of r.
func (q *Queue) sync(r *Request) {
	if q.dev.p.ReadOnly {
		q.complete(r)
		return
	}
	q.control(r, Transfer{Op: Flush})
}

func (q *Queue) trim(r *Request) {
	d := q.dev
	first, end := (r.Off+d.sector-1)/d.sector*d.sector, (r.Off+r.Len)/d.sector*d.sector
	if !d.p.Discard || first >= end {
		q.complete(r)
		return
	}
	q.control(r, Transfer{Op: Trim, Off: int64(d.p.DataOffset) + first, Len: end - first})
}

func (q *Queue) control(r *Request, t Transfer) {
	p := q.newPiece(r)
	p.kind, p.t = control, t
	p.t.piece = p
	r.left++
	q.put(&p.t)
}

func (q *Queue) newPiece(r *Request) *piece {
	if n := len(q.spare); n > 0 {
		p := q.spare[n-1]
		q.spare = q.spare[:n-1]
		*p = piece{r: r}
		return p
	}
	return &piece{r: r}
}

// advance starts the pieces of r, as long as there are buffers.
func (q *Queue) advance(r *Request) {
	if !q.cutAll(r) {
		r.starved = true
		q.starved.push(r)
	}
}

// cutAll cuts pieces off r and starts them. It returns false if there are not
// enough buffers; then r is to be starved.
func (q *Queue) cutAll(r *Request) bool {
	r.left++ // r is not completed meanwhile
	for r.at.off < r.Len && r.failed < 0 {
		if !q.cut(r) {
			r.left--
			return false
		}
	}
	r.left--
	q.settle(r)
	return true
}

// feed goes on with the starved Requests now that a buffer is free. As long as the
// first one gets none, no other does: else short ones could take the room that a
// long one waits for, for ever. Those that got some line up again.
func (q *Queue) feed() {
	if q.feeding {
		return // further up the loop goes on
	}
	q.feeding = true
	defer func() { q.feeding = false }()
	for q.starved.first != nil {
		r := q.starved.pop()
		r.starved = false
		before := r.at.off
		if q.cutAll(r) {
			continue
		}
		r.starved = true
		if r.at.off == before {
			q.starved.pushFirst(r)
			return
		}
		q.starved.push(r)
	}
}

// cut starts the next piece of r. It returns false if there is no buffer.
func (q *Queue) cut(r *Request) bool {
	r.at.skipEmpty(r.Data)
	off, rest := r.Off+r.at.off, r.Len-r.at.off
	in := off % q.dev.sector
	if in != 0 || rest < q.dev.sector {
		q.cutPart(r, off, int(in), int(min(rest, q.dev.sector-in)))
		return true
	}
	rest -= rest % q.dev.sector
	n := int(min(rest, MaxPiece))
	kind := buffered
	if run := q.run(r); run >= int(q.dev.sector) {
		kind, n = inPlace, min(n, run)
	}
	var buf []byte
	if kind == inPlace {
		buf = r.Data[r.at.seg][r.at.in:][:n]
	} else if buf = q.room(n); buf == nil {
		return false
	}
	p := q.newPiece(r)
	p.kind, p.from, p.n, p.buf = kind, r.at, n, buf
	r.left++
	q.forward(r, n)
	if r.Op == Read {
		q.transfer(p, Read)
		return true
	}
	if err := q.dev.encipher(p); err != nil {
		q.pieceDone(p, 0, err)
		return true
	}
	q.transfer(p, Write)
	return true
}

// room returns a buffer, unless others have waited for one for longer.
func (q *Queue) room(n int) []byte {
	if q.starved.first != nil && !q.feeding {
		return nil
	}
	return q.arena.Get(n)
}

// run returns how many bytes of whole sectors can be transferred where they are.
func (q *Queue) run(r *Request) int {
	if r.Shared || r.Op == WriteZeroes {
		return 0
	}
	s := r.Data[r.at.seg][r.at.in:]
	if q.dev.direct && !onPage(s) {
		return 0
	}
	return len(s) - len(s)%int(q.dev.sector)
}

func (q *Queue) forward(r *Request, n int) {
	if r.Op == WriteZeroes {
		r.at.off += int64(n)
	} else {
		r.at.forward(r.Data, n)
	}
}

// cutPart starts a piece within the sector around off. Writing begins with reading.
func (q *Queue) cutPart(r *Request, off int64, in, n int) {
	p := q.newPiece(r)
	p.pool = getBuffer(int(q.dev.sector))
	p.kind, p.from, p.n, p.in, p.buf = part, r.at, n, in, p.pool.mem
	r.left++
	q.forward(r, n)
	q.transfer(p, Read)
}

// transfer starts moving the whole of p.buf.
func (q *Queue) transfer(p *piece, op Op) {
	p.done = 0
	p.t = Transfer{Op: op, Off: q.dev.place(p), Buf: p.buf, piece: p}
	q.put(&p.t)
}

// place is where p's sectors are in the Backend.
func (d *Device) place(p *piece) int64 { return int64(d.p.DataOffset) + p.off() }

// off is where p's sectors are in the Device.
func (p *piece) off() int64 { return p.r.Off + p.from.off - int64(p.in) }

// finished takes a Transfer back.
func (q *Queue) finished(t *Transfer) {
	p := t.piece
	if p.kind == control {
		q.controlDone(p)
		return
	}
	p.done += t.N
	if t.Err == nil && t.N < len(t.Buf) {
		// The rest may come, or an error that says why it does not. Direct I/O cannot
		// be asked for it within a block: there the file ends.
		if t.N > 0 && !(q.dev.direct && t.N%minSector != 0) {
			*t = Transfer{Op: t.Op, Off: t.Off + int64(t.N), Buf: t.Buf[t.N:], piece: p}
			q.put(t)
			return
		}
		if t.Err = io.ErrUnexpectedEOF; t.Op == Write {
			t.Err = io.ErrShortWrite
		}
	}
	whole := p.done - p.done%int(q.dev.sector)
	err := t.Err
	switch {
	case err != nil && t.Op == Read:
		err = fmt.Errorf("disk: reading %d bytes at %d: %w", len(p.buf), p.off(), err)
	case err != nil:
		err = fmt.Errorf("disk: writing %d bytes at %d: %w", len(p.buf), p.off(), err)
	}
	switch {
	case p.kind == part && err == nil:
		q.partRead(p)
		return
	case p.kind == part || p.kind == partBack:
		whole = 0
	case t.Op == Read:
		if e := q.dev.decipher(p, whole); e != nil {
			whole, err = 0, errors.Join(err, e)
		}
	}
	q.pieceDone(p, whole, err)
}

// partRead goes on with a sector that was read, in which p has some bytes.
func (q *Queue) partRead(p *piece) {
	d := q.dev
	err := d.cipher.DecryptSectors(p.buf, p.buf, d.tweak(p.off()))
	if err == nil && p.r.Op == Read {
		err = copySegments(p.r, p.from, p.buf[p.in:p.in+p.n], true)
	} else if err == nil {
		// The ciphertext of the 16-byte blocks beside the data does not change,
		// so a write that is torn by a crash cannot harm them.
		if p.r.Op == WriteZeroes {
			clear(p.buf[p.in : p.in+p.n])
		} else {
			err = copySegments(p.r, p.from, p.buf[p.in:p.in+p.n], false)
		}
		err = errors.Join(err, d.cipher.EncryptSectors(p.buf, p.buf, d.tweak(p.off())))
		if err == nil {
			p.kind = partBack
			q.transfer(p, Write)
			return
		}
	}
	q.pieceDone(p, 0, err)
}

func (q *Queue) controlDone(p *piece) {
	r, err := p.r, p.t.Err
	q.recycle(p)
	r.left--
	switch {
	case err == nil:
	case r.Op == Trim && (errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, errors.ErrUnsupported)):
	case r.Op == Trim:
		r.Err = fmt.Errorf("disk: trimming %d bytes at %d: %w", r.Len, r.Off, err)
	default:
		r.Err = fmt.Errorf("disk: flush: %w", err)
	}
	q.complete(r)
}

// pieceDone takes note that done bytes of a piece are there, and err.
func (q *Queue) pieceDone(p *piece, done int, err error) {
	r := p.r
	if err != nil {
		if at := p.from.off + int64(done); r.failed < 0 || at < r.failed {
			r.failed, r.Err = at, err
		}
	} else {
		q.stats.enciphered(len(p.buf))
	}
	switch p.kind {
	case buffered:
		q.arena.Put(p.buf)
	case part, partBack:
		clear(p.buf)
		p.pool.release()
	}
	freed := p.kind == buffered
	q.recycle(p)
	r.left--
	q.settle(r)
	if freed {
		q.feed()
	}
}

func (q *Queue) recycle(p *piece) {
	p.r, p.pool, p.buf, p.t = nil, nil, nil, Transfer{}
	q.spare = append(q.spare, p)
}

// settle ends r when nothing of it is left to be done.
func (q *Queue) settle(r *Request) {
	if r.left > 0 || r.starved || (r.failed < 0 && r.at.off < r.Len) {
		return
	}
	if r.failed >= 0 {
		r.N = r.failed
		if r.Op == Read {
			clearFrom(r.Data, r.N)
		}
		q.complete(r)
		return
	}
	if !r.FUA || r.Op == Read {
		q.complete(r)
		return
	}
	r.locked = false
	q.dev.locks.unlock(&r.span)
	q.sync(r)
}

// clearFrom zeroes data from its n-th byte on.
func clearFrom(data [][]byte, n int64) {
	defer func() { _ = recovered(recover()) }()
	for _, s := range data {
		skip := min(n, int64(len(s)))
		n -= skip
		clear(s[skip:])
	}
}

// recovered turns a fault in memory that somebody has taken away into an error. It
// can happen only where the owner asked for panics, with debug.SetPanicOnFault.
func recovered(v any) error {
	if v == nil {
		return nil
	}
	if e, ok := v.(runtime.Error); ok {
		if _, fault := v.(interface{ Addr() uintptr }); fault {
			return fmt.Errorf("disk: the memory of a request is gone (%w): %w", e, unix.EFAULT)
		}
	}
	panic(v)
}
