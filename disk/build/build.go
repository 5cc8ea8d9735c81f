package build

import (
	"context"
	"crypto/sha256"
	"encoding"
	"fmt"
	"hash"
	"io"
	"os"
	"time"

	"github.com/uvbond/uvbond/disk/luks"
	"github.com/uvbond/uvbond/disk/xts"
)

// MaxBase is the size of the largest base, in bytes.
const MaxBase = 1 << 40

// Pieces have a size, a power of two, such that there are not too many of them.
const (
	minPiece  = 1 << 20 // bytes
	maxPieces = 32 << 10
)

// Phase is what is being done.
type Phase int

// The phases, in order.
const (
	Check Phase = iota
	Write
	Done
)

// String is the phase for people and programs.
func (p Phase) String() string { return [...]string{"check", "write", "done"}[p] }

// Plan says what is made, and from what.
type Plan struct {
	SHA256 [32]byte // of the base
	Size   uint64   // of the base, bytes
	Format luks.FormatOptions
}

// State is how far a disk is made. The zero State is the beginning.
type State struct {
	Phase    Phase
	Done     uint64 // bytes of the base in this phase
	Hash     []byte // of them: SHA-256 as it marshals itself
	Piece    uint64 // bytes
	Prefixes []byte // SHA-256 of the base up to the end of each piece, 32 bytes each
	Last     []byte // SHA-256 of the last sector that was written; nil: none was, or nobody knows
}

// Image is where the disk is written to.
type Image interface {
	io.WriterAt
	Sync() error
}

// Budget bounds a step. It ends behind the piece in which one of them is used up.
type Budget struct {
	Bytes uint64
	Time  time.Duration
}

// WrongError says that a base is not the owner's.
type WrongError struct{ Have, Want [32]byte }

func (e *WrongError) Error() string {
	return fmt.Sprintf("the base image has SHA-256 %x, its owner registered %x", e.Have, e.Want)
}

// BaseError says that a base cannot be used.
type BaseError struct{ Text string }

func (e *BaseError) Error() string { return e.Text }

// ImageError says that the image cannot be written.
type ImageError struct{ Err error }

func (e *ImageError) Error() string { return "the image cannot be written: " + e.Err.Error() }

// Unwrap is the reason.
func (e *ImageError) Unwrap() error { return e.Err }

// Validate says what no disk can be made of, before anything is read.
func (p *Plan) Validate() error {
	if p.Size == 0 || p.Size > MaxBase || p.Size > p.Format.DataSize {
		return fmt.Errorf("a base image of %d bytes cannot be made into a disk of %d: it has 1 byte to 1 TiB, and no more than the disk", p.Size, p.Format.DataSize)
	}
	_, err := luks.Format(nowhere{}, p.Format)
	return err
}

type nowhere struct{}

func (nowhere) WriteAt(b []byte, _ int64) (int, error) { return len(b), nil }

// PieceSize is how much of a base of size bytes is looked at at once.
func PieceSize(size uint64) uint64 {
	piece := uint64(minPiece)
	for (size+piece-1)/piece > maxPieces {
		piece *= 2
	}
	return piece
}

// Step goes on from st until the budget is used up or the phase is over, and returns
// the new State. What it says was written is on stable storage. The base must be
// p.Size bytes long; its caller has looked.
//
// progress is told st.Done as it grows. After an error st still holds, except after a
// *WrongError: then the beginning does.
func Step(ctx context.Context, p *Plan, st State, base io.ReaderAt, image Image, b Budget, progress func(done uint64)) (State, error) {
	if st.Phase == Done {
		return st, nil
	}
	s := &step{plan: p, base: base, image: image, budget: b, progress: progress, st: st}
	s.resume()
	if s.st.Phase == Write {
		c, err := xts.New(p.Format.VolumeKey, int(p.Format.SectorSize), uint64(p.Format.SectorSize)/512)
		if err != nil {
			return st, err
		}
		defer c.Wipe()
		s.cipher = c
	}
	if err := s.run(ctx); err != nil {
		return st, err
	}
	return s.finish()
}

// resume takes the state of the hash up again. One that does not fit, because another
// version of this program wrote it, only costs the work that was done in this phase.
func (s *step) resume() {
	st := &s.st
	piece := PieceSize(s.plan.Size)
	pieces := (s.plan.Size + piece - 1) / piece
	if st.Piece != piece || st.Phase == Write && uint64(len(st.Prefixes)) != pieces*sha256.Size {
		*st = State{Piece: piece}
	}
	s.hash = sha256.New()
	if st.Done > 0 {
		u, ok := s.hash.(encoding.BinaryUnmarshaler)
		fits := st.Done <= s.plan.Size && (st.Done%st.Piece == 0 || st.Done == s.plan.Size) &&
			(st.Phase == Write || uint64(len(st.Prefixes)) == (st.Done+st.Piece-1)/st.Piece*sha256.Size)
		if !fits || !ok || u.UnmarshalBinary(st.Hash) != nil {
			s.hash, st.Done = sha256.New(), 0
		}
	}
	if st.Phase == Check {
		done := (st.Done + st.Piece - 1) / st.Piece * sha256.Size
		st.Prefixes = append(make([]byte, 0, pieces*sha256.Size), st.Prefixes[:done]...)
	}
}

// finish is what follows on the pieces of a step.
func (s *step) finish() (State, error) {
	st := s.st
	if st.Phase == Write {
		if err := s.image.Sync(); err != nil {
			return st, &ImageError{err}
		}
		st.Last = s.last
	}
	if st.Done < s.plan.Size {
		m, ok := s.hash.(encoding.BinaryMarshaler)
		if !ok {
			return st, fmt.Errorf("%T does not marshal itself", s.hash)
		}
		var err error
		st.Hash, err = m.MarshalBinary()
		return st, err
	}
	st.Done, st.Hash = 0, nil
	if st.Phase == Check {
		if have := [32]byte(s.hash.Sum(nil)); have != s.plan.SHA256 {
			return State{}, &WrongError{have, s.plan.SHA256}
		}
		st.Phase = Write
		return st, nil
	}
	if _, err := luks.Format(s.image, s.plan.Format); err != nil {
		return st, &ImageError{err}
	}
	if err := s.image.Sync(); err != nil {
		return st, &ImageError{err}
	}
	return State{Phase: Done}, nil
}

// step is one call of Step.
type step struct {
	plan     *Plan
	base     io.ReaderAt
	image    Image
	budget   Budget
	progress func(uint64)
	cipher   *xts.Cipher // of the phase Write
	last     []byte      // State.Last of what this step wrote
	st       State
	hash     hash.Hash
}

var _ Image = (*os.File)(nil)
