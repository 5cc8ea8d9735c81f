package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/uvbond/uvbond/disk/aligned"
	"github.com/uvbond/uvbond/disk/luks"
)

// piece is one on its way: read, hashed, then enciphered and written.
type piece struct {
	mem []byte // room for a whole one
	n   int    // bytes of the base
	off uint64
	err error
}

// depth is how many pieces are under way at once: one in each stage.
const depth = 3

// run moves pieces through the stages until the budget is used up or the base is at
// its end. Hashing cannot be divided, so it has this goroutine to itself; reading,
// and enciphering with writing, have others.
func (s *step) run(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer stop(nil)
	free, read, checked := make(chan []byte, depth), make(chan piece), make(chan piece, depth)
	for range depth {
		free <- aligned.Make(int(s.st.Piece))
	}
	work.Go(func() { s.read(ctx, s.st.Done, free, read) })
	written := make(chan struct{})
	go func() {
		defer close(written)
		for p := range checked {
			if ctx.Err() == nil {
				if err := s.write(&p); err != nil {
					stop(err)
				}
			}
			free <- p.mem
		}
	}()
	err := s.hashAll(ctx, read, checked)
	close(checked)
	<-written
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx) // what was hashed counts only when it is written as well
	}
	return err
}

// read brings the base, from one offset to its end.
func (s *step) read(ctx context.Context, off uint64, free chan []byte, out chan<- piece) {
	for off < s.plan.Size {
		var mem []byte
		select {
		case mem = <-free:
		case <-ctx.Done():
			return
		}
		p := piece{mem: mem, n: int(min(s.st.Piece, s.plan.Size-off)), off: off}
		n, err := s.base.ReadAt(mem[:p.n], int64(off))
		switch {
		case n == p.n:
		case err == nil || errors.Is(err, io.EOF):
			p.err = &BaseError{fmt.Sprintf("the base image ended after %d of %d bytes: it was truncated", off+uint64(max(n, 0)), s.plan.Size)}
		default:
			p.err = &BaseError{fmt.Sprintf("the base image cannot be read at %d: %v", off, err)}
		}
		select {
		case out <- p:
		case <-ctx.Done():
			return
		}
		if p.err != nil {
			return
		}
		off += uint64(p.n)
	}
}

// hashAll takes pieces as they come, and lets go of what is right.
func (s *step) hashAll(ctx context.Context, in <-chan piece, out chan<- piece) error {
	end, most := time.Now().Add(s.budget.Time), s.st.Done+s.budget.Bytes
	for s.st.Done < s.plan.Size {
		var p piece
		select {
		case p = <-in:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if p.err != nil {
			return p.err
		}
		s.hash.Write(p.mem[:p.n]) // never fails
		sum := s.hash.Sum(nil)
		if s.st.Phase == Check {
			s.st.Prefixes = append(s.st.Prefixes, sum...)
		} else if i := p.off / s.st.Piece * sha256.Size; !bytes.Equal(sum, s.st.Prefixes[i:i+sha256.Size]) {
			return &BaseError{fmt.Sprintf("the base image is not what it was when it was checked: it changed between %d and %d", p.off, p.off+uint64(p.n))}
		}
		out <- p // has room for all that there are
		s.st.Done += uint64(p.n)
		s.progress(s.st.Done)
		if s.st.Done >= most || !time.Now().Before(end) {
			return nil
		}
	}
	return nil
}

// write enciphers a piece, with zeros up to the end of its last sector, in place.
func (s *step) write(p *piece) error {
	if s.st.Phase != Write {
		return nil
	}
	sector := int(s.plan.Format.SectorSize)
	whole := (p.n + sector - 1) / sector * sector
	clear(p.mem[p.n:whole])
	if err := s.cipher.EncryptSectors(p.mem[:whole], p.mem[:whole], p.off/512); err != nil {
		return err
	}
	if _, err := s.image.WriteAt(p.mem[:whole], luks.DataOffset+int64(p.off)); err != nil {
		return &ImageError{err}
	}
	sum := sha256.Sum256(p.mem[whole-sector : whole])
	s.last = sum[:]
	return nil
}
