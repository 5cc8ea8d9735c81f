package build

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/uvbond/uvbond/disk/luks"
	"github.com/uvbond/uvbond/disk/xts"
)

const passphrase = "correct horse battery staple"

// small is a budget of one piece.
var small = Budget{Bytes: 1, Time: time.Hour}

// world is a base, a plan for it, and an image that remembers what is written.
type world struct {
	t     *testing.T
	base  []byte
	plan  *Plan
	image *memory
	clean []byte // what the image has to be behind its header
}

func newWorld(t *testing.T, size, room int, sector uint32) *world {
	t.Helper()
	w := &world{t: t, base: make([]byte, size), image: &memory{b: make([]byte, luks.DataOffset+room)}}
	rand.Read(w.base)
	clear(w.base[size/3 : size/2]) // zeros, as images have
	key := make([]byte, 64)
	rand.Read(key)
	derived, err := luks.Derive([]byte(passphrase), luks.PBKDF{Type: "argon2id", Time: 4, MemoryKiB: 64, Lanes: 1})
	if err != nil {
		t.Fatal(err)
	}
	digest, err := luks.NewDigest(key)
	if err != nil {
		t.Fatal(err)
	}
	w.plan = &Plan{SHA256: sha256.Sum256(w.base), Size: uint64(size), Format: luks.FormatOptions{
		Derived: derived, VolumeKey: key, Digest: digest, UUID: luks.NewUUID(), SectorSize: sector, DataSize: uint64(room)}}
	if err := w.plan.Validate(); err != nil {
		t.Fatal(err)
	}
	c, err := xts.New(key, int(sector), uint64(sector)/512)
	if err != nil {
		t.Fatal(err)
	}
	w.clean = make([]byte, (size+int(sector)-1)/int(sector)*int(sector))
	copy(w.clean, w.base)
	if err := c.EncryptSectors(w.clean, w.clean, 0); err != nil {
		t.Fatal(err)
	}
	return w
}

// step is one step of a build, as another process would do it.
func (w *world) step(st State, base io.ReaderAt, b Budget) (State, error) {
	return Step(w.t.Context(), w.plan, st, base, w.image, b, func(uint64) {})
}

// build goes on until it is done, and returns how many steps that took.
func (w *world) build(st State, b Budget) int {
	w.t.Helper()
	for n := 0; ; n++ {
		if st.Phase == Done {
			return n
		}
		var err error
		if st, err = w.step(st, bytes.NewReader(w.base), b); err != nil {
			w.t.Fatal(err)
		}
	}
}

// check looks at what was made.
func (w *world) check() {
	w.t.Helper()
	if !bytes.Equal(w.image.b[luks.DataOffset:luks.DataOffset+len(w.clean)], w.clean) {
		w.t.Error("the disk does not hold the base")
	}
	h, err := luks.ReadHeader(bytes.NewReader(w.image.b), int64(len(w.image.b)))
	if err != nil {
		w.t.Fatal(err)
	}
	key, err := h.Unlock([]byte(passphrase))
	if err != nil || !bytes.Equal(key, w.plan.Format.VolumeKey) {
		w.t.Errorf("the passphrase does not open it: %v", err)
	}
	w.onlyClean()
}

// onlyClean: nothing was ever written over the data but the right ciphertext. It
// is what makes a wrong base harmless.
func (w *world) onlyClean() {
	w.t.Helper()
	for _, x := range w.image.writes {
		if x.off < luks.DataOffset {
			continue
		}
		if at := int(x.off - luks.DataOffset); at+len(x.b) > len(w.clean) || !bytes.Equal(x.b, w.clean[at:at+len(x.b)]) {
			w.t.Fatalf("at %d something else than the base was written as ciphertext", at)
		}
	}
}

// memory is an image, and all that was ever written to it.
type memory struct {
	mu      sync.Mutex
	b       []byte
	writes  []write
	syncs   int
	failing error
}

type write struct {
	off int64
	b   []byte
}

func (m *memory) WriteAt(b []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failing != nil {
		return 0, m.failing
	}
	m.writes = append(m.writes, write{off, bytes.Clone(b)})
	return copy(m.b[off:], b), nil
}

func (m *memory) Sync() error { m.syncs++; return m.failing }

// TestBuild makes disks of several shapes, in few steps and in many.
func TestBuild(t *testing.T) {
	for _, c := range []struct {
		size, room int
		sector     uint32
	}{
		{1, 4096, 4096}, {511, 512, 512}, {4096, 4096, 4096}, {1 << 20, 1 << 20, 512}, {1<<20 + 1, 4 << 20, 4096}, {5<<20 - 700, 5 << 20, 512}, {7 << 20, 9 << 20, 4096},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			w := newWorld(t, c.size, c.room, c.sector)
			if n := w.build(State{}, Budget{Bytes: 1 << 40, Time: time.Hour}); n != 2 {
				t.Errorf("%d steps", n)
			}
			w.check()
			w = newWorld(t, c.size, c.room, c.sector)
			pieces := (c.size + minPiece - 1) / minPiece
			if n := w.build(State{}, small); n != 2*pieces {
				t.Errorf("%d steps, want %d", n, 2*pieces)
			}
			w.check()
			if rest := w.image.b[luks.DataOffset+len(w.clean):]; !bytes.Equal(rest, make([]byte, len(rest))) {
				t.Error("something was written behind the base")
			}
		})
	}
}

// TestNothingBeforeTheEnd: while the base is being checked nothing is written, and
// nothing at all when it is another one.
func TestNothingBeforeTheEnd(t *testing.T) {
	w := newWorld(t, 3<<20+5, 4<<20, 512)
	for _, at := range []int{0, 1 << 20, len(w.base) - 1} {
		wrong := bytes.Clone(w.base)
		wrong[at] ^= 1
		var st State
		var err error
		for n := 0; err == nil; n++ {
			if n > 4 {
				t.Fatal("another base is accepted")
			}
			st, err = w.step(st, bytes.NewReader(wrong), small)
		}
		var e *WrongError
		if !errors.As(err, &e) || e.Have != sha256.Sum256(wrong) || e.Want != w.plan.SHA256 || !strings.Contains(err.Error(), fmt.Sprintf("%x", e.Have)) {
			t.Errorf("%v", err)
		}
		if st.Phase != Check || st.Done != 0 || st.Prefixes != nil {
			t.Errorf("after another base: %+v", st)
		}
	}
	if len(w.image.writes) != 0 {
		t.Fatalf("%d writes", len(w.image.writes))
	}
	w.build(State{}, small) // the right one may still come
	w.check()
}

// TestChanging gives a base that changes all the time, and steps that are lost or
// done twice: the right ciphertext is written, or none.
func TestChanging(t *testing.T) {
	for seed := range uint64(24) {
		r := mathrand.New(mathrand.NewPCG(seed, 1))
		w := newWorld(t, 1+r.IntN(4<<20), 4<<20, []uint32{512, 4096}[r.IntN(2)])
		var st State
		for n := 0; st.Phase != Done; n++ {
			base := bytes.Clone(w.base)
			if n < 20 && r.IntN(3) == 0 {
				base[r.IntN(len(base))] ^= byte(1 + r.IntN(255))
			}
			if n < 20 && r.IntN(6) == 0 {
				base = base[:r.IntN(len(base))]
			}
			after, err := w.step(st, bytes.NewReader(base), Budget{Bytes: uint64(1 + r.IntN(3<<20)), Time: time.Hour})
			if err == nil && n < 20 && r.IntN(4) == 0 {
				continue // killed before the state was kept
			}
			st = after
		}
		w.check()
	}
}

// TestChangedBetween: the base that was checked is not the one that is read again.
func TestChangedBetween(t *testing.T) {
	w := newWorld(t, 3<<20, 3<<20, 4096)
	st, err := w.step(State{}, bytes.NewReader(w.base), Budget{Bytes: 1 << 40, Time: time.Hour})
	if err != nil || st.Phase != Write {
		t.Fatal(st.Phase, err)
	}
	other := bytes.Clone(w.base)
	other[1<<20+7] ^= 1
	after, err := w.step(st, bytes.NewReader(other), small)
	if err != nil || after.Done != 1<<20 {
		t.Fatal(after.Done, err)
	}
	kept, err := w.step(after, bytes.NewReader(other), small)
	var e *BaseError
	if !errors.As(err, &e) || !strings.Contains(e.Text, "changed between 1048576 and 2097152") {
		t.Errorf("%v", err)
	}
	if kept.Done != after.Done {
		t.Errorf("at %d", kept.Done)
	}
	w.onlyClean()
	w.build(kept, small) // the right one again
	w.check()
}

// TestTruncated: a base that ends early, in either phase, ends the step with the
// place, and what was done before stays.
func TestTruncated(t *testing.T) {
	w := newWorld(t, 4<<20, 4<<20, 512)
	cut := bytes.NewReader(w.base[:2<<20+100])
	st := State{}
	for _, phase := range []Phase{Check, Write} {
		var err error
		for range 2 {
			if st, err = w.step(st, cut, small); err != nil {
				t.Fatal(err)
			}
		}
		kept, err := w.step(st, cut, small)
		var e *BaseError
		if !errors.As(err, &e) || e.Text != "the base image ended after 2097252 of 4194304 bytes: it was truncated" || kept.Done != 2<<20 {
			t.Fatalf("%v: %v at %d", phase, err, kept.Done)
		}
		if st, err = w.step(kept, bytes.NewReader(w.base), Budget{Bytes: 1 << 40, Time: time.Hour}); err != nil {
			t.Fatal(err)
		}
	}
	if st.Phase != Done {
		t.Fatal(st.Phase)
	}
	w.check()
}

// TestHashOfAnotherVersion: a hash that cannot be taken up costs its phase, not more.
func TestHashOfAnotherVersion(t *testing.T) {
	for _, damage := range []func(*State){
		func(st *State) { st.Hash = []byte("something else") },
		func(st *State) { st.Hash = nil },
		func(st *State) { st.Piece = 3 << 20 },
		func(st *State) { st.Prefixes = st.Prefixes[:len(st.Prefixes)-32] },
		func(st *State) { st.Done++ },
		func(st *State) { st.Done += 1 << 30 },
	} {
		for _, steps := range []int{1, 3, 4} {
			w := newWorld(t, 3<<20, 3<<20, 512)
			var st State
			var err error
			for range steps {
				if st, err = w.step(st, bytes.NewReader(w.base), small); err != nil {
					t.Fatal(err)
				}
			}
			damage(&st)
			w.build(st, small)
			w.check()
		}
	}
}

// TestImageErrors: nothing counts as written that was not.
func TestImageErrors(t *testing.T) {
	w := newWorld(t, 2<<20, 2<<20, 512)
	st, err := w.step(State{}, bytes.NewReader(w.base), Budget{Bytes: 1 << 40, Time: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	w.image.failing = errors.New("no space left")
	kept, err := w.step(st, bytes.NewReader(w.base), Budget{Bytes: 1 << 40, Time: time.Hour})
	var e *ImageError
	if !errors.As(err, &e) || !strings.Contains(err.Error(), "no space left") || kept.Done != 0 || kept.Phase != Write {
		t.Errorf("%v at %d", err, kept.Done)
	}
	w.image.failing = nil
	w.build(kept, small)
	w.check()
}

// TestCancelled ends a step at once, also while the base does not answer.
func TestCancelled(t *testing.T) {
	w := newWorld(t, 2<<20, 2<<20, 512)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if st, err := Step(ctx, w.plan, State{}, bytes.NewReader(w.base), w.image, small, func(uint64) {}); !errors.Is(err, context.Canceled) || st.Done != 0 {
		t.Errorf("%v, %+v", err, st.Done)
	}
	if len(w.image.writes) != 0 {
		t.Error("it wrote")
	}
}

func TestValidate(t *testing.T) {
	good := newWorld(t, 1<<20, 1<<20, 512).plan
	for name, change := range map[string]func(*Plan){
		"no base": func(p *Plan) { p.Size = 0 },
		"larger":  func(p *Plan) { p.Size++ },
		"2 TiB":   func(p *Plan) { p.Size, p.Format.DataSize = 2<<40, 2<<40 },
		"no uuid": func(p *Plan) { p.Format.UUID = "x" },
		"no passes": func(p *Plan) {
			p.Format.Derived = &luks.Derived{KDF: luks.KDF{Type: "argon2id"}, Key: make([]byte, 64)}
		},
		"equal key": func(p *Plan) { p.Format.VolumeKey = make([]byte, 64) },
		"bad digest": func(p *Plan) {
			p.Format.Digest = &luks.Digest{Hash: "md5", Iterations: 1000, Salt: make([]byte, 32), Value: make([]byte, 16)}
		},
		"odd sectors": func(p *Plan) { p.Format.SectorSize = 1000 },
	} {
		p := *good
		change(&p)
		if err := p.Validate(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if PieceSize(MaxBase) != 32<<20 || PieceSize(1) != 1<<20 || PieceSize(32<<30) != 1<<20 || PieceSize(32<<30+1) != 2<<20 {
		t.Error("pieces have other sizes than documented")
	}
}

// endless is a base of zeros without an end.
type endless struct{}

func (endless) ReadAt(b []byte, _ int64) (int, error) { clear(b); return len(b), nil }

// TestLargest: a step on the largest base takes no more memory than its pieces and
// the digests of 32768 of them.
func TestLargest(t *testing.T) {
	w := newWorld(t, 1<<20, 1<<20, 4096)
	w.plan.Size, w.plan.Format.DataSize = MaxBase, MaxBase
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	st, err := w.step(State{}, endless{}, small)
	runtime.ReadMemStats(&after)
	if err != nil || st.Done != 32<<20 || len(st.Prefixes) != 32 {
		t.Fatalf("%v, at %d with %d", err, st.Done, len(st.Prefixes))
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 120<<20 {
		t.Errorf("%d bytes of memory", n)
	}
}

// TestCryptsetup: what is made opens with cryptsetup and the owner's passphrase, and
// with no other.
func TestCryptsetup(t *testing.T) {
	w := newWorld(t, 1<<20+9, 2<<20, 4096)
	name := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(luks.DataOffset + 2<<20); err != nil {
		t.Fatal(err)
	}
	for st := (State{}); st.Phase != Done; {
		if st, err = Step(t.Context(), w.plan, st, bytes.NewReader(w.base), f, small, func(uint64) {}); err != nil {
			t.Fatal(err)
		}
	}
	for pass, opens := range map[string]bool{passphrase: true, "another": false} {
		cmd := exec.Command("/usr/sbin/cryptsetup", "--batch-mode", "open", "--test-passphrase", "--key-file", "-", name)
		cmd.Stdin = strings.NewReader(pass)
		if out, err := cmd.CombinedOutput(); (err == nil) != opens {
			t.Errorf("%s: %v, %s", pass, err, out)
		}
	}
}
