package encrypt

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk"
	"github.com/uvbond/uvbond/disk/luks"
)

func options() Options {
	return Options{Format: luks.FormatOptions{Passphrase: []byte("pass"), PBKDF: luks.PBKDF{Type: "argon2id", Time: 4, MemoryKiB: 64, Lanes: 2}}}
}

func randomBytes(n int) []byte {
	r := rand.New(rand.NewPCG(uint64(n), 9))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// open unlocks an enciphered file and returns its Device.
func open(t *testing.T, name string) (*luks.Header, *disk.Device) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	b, err := disk.FileBackend(f)
	if err != nil {
		t.Fatal(err)
	}
	h, err := luks.ReadHeader(b, b.Size())
	if err != nil {
		t.Fatal(err)
	}
	key, err := h.Unlock([]byte("pass"))
	if err != nil {
		t.Fatal(err)
	}
	s := h.Segment
	d, err := disk.NewDevice(b, disk.Params{Key: key, SectorSize: s.SectorSize, DataOffset: s.Offset, Length: s.Length, IVTweak: s.IVTweak, ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return h, d
}

// only fails if dir has other files than names: half-made ones.
func only(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, e := range entries {
		have = append(have, e.Name())
	}
	if strings.Join(have, " ") != strings.Join(names, " ") {
		t.Errorf("the folder has %q, want %q", have, names)
	}
}

func TestEncrypt(t *testing.T) {
	for _, c := range []struct {
		size, length int64
		sector       uint32
	}{{1, 512, 512}, {512, 512, 512}, {4096, 4096, 4096}, {5<<20 + 4096, 5<<20 + 4096, 4096}, {3<<20 + 700, 3<<20 + 1024, 512}, {1<<20 - 5, 1 << 20, 4096}} {
		dst := filepath.Join(t.TempDir(), "web1.luks")
		plain := randomBytes(int(c.size))
		last := int64(-1)
		err := File(t.Context(), bytes.NewReader(plain), c.size, dst, options(), func(done, total int64) {
			if done <= last || total != c.size {
				t.Errorf("progress %d of %d after %d", done, total, last)
			}
			last = done
		})
		if err != nil {
			t.Fatal(err)
		}
		if last != c.size {
			t.Errorf("progress ended at %d of %d", last, c.size)
		}
		h, d := open(t, dst)
		if d.Size() != c.length || h.Segment.SectorSize != c.sector {
			t.Errorf("%d bytes became %d in sectors of %d", c.size, d.Size(), h.Segment.SectorSize)
		}
		got := make([]byte, d.Size())
		if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got[:c.size], plain) || !zero(got[c.size:]) {
			t.Errorf("%d bytes: %v, or not the source", c.size, err)
		}
		info, err := os.Stat(dst)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
		only(t, filepath.Dir(dst), "web1.luks")
	}
}

// TestEncryptCryptsetup: cryptsetup opens it, and deciphers it back without us.
func TestEncryptCryptsetup(t *testing.T) {
	dir := t.TempDir()
	dst, key := filepath.Join(dir, "d.luks"), filepath.Join(dir, "key")
	if err := os.WriteFile(key, []byte("pass"), 0o600); err != nil {
		t.Fatal(err)
	}
	plain := randomBytes(9 << 20)
	if err := File(t.Context(), bytes.NewReader(plain), int64(len(plain)), dst, options(), nil); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"open", "--test-passphrase", "--key-file", key, dst},
		{"reencrypt", "--decrypt", "--force-offline-reencrypt", "--header", filepath.Join(dir, "header"), "--key-file", key, dst},
	} {
		path, err := exec.LookPath("cryptsetup")
		if err != nil {
			path = "/usr/sbin/cryptsetup"
		}
		out, err := exec.Command(path, append([]string{"--batch-mode"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("cryptsetup (apt-get install cryptsetup-bin) %s: %v\n%s", args[0], err, out)
		}
	}
	got, err := os.ReadFile(dst)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(got, plain) {
		t.Error("cryptsetup deciphers to something else than the source")
	}
}

// TestEncryptZeros: an empty disk looks as full as any.
func TestEncryptZeros(t *testing.T) {
	dst := filepath.Join(t.TempDir(), "d")
	if err := File(t.Context(), bytes.NewReader(make([]byte, 2<<20)), 2<<20, dst, options(), nil); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(dst)
	if err != nil {
		t.Fatal(err)
	}
	for data = data[luks.DataOffset:]; len(data) > 0; data = data[16:] {
		if bytes.Count(data[:16], data[:1]) == 16 {
			t.Fatal("a block of zeros can be told")
		}
	}
}

func TestEncryptCancelled(t *testing.T) {
	dst := filepath.Join(t.TempDir(), "d")
	reason := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(t.Context())
	err := File(ctx, bytes.NewReader(make([]byte, 32<<20)), 32<<20, dst, options(), func(done, _ int64) {
		if done > 0 {
			cancel(reason)
		}
	})
	if !errors.Is(err, reason) {
		t.Errorf("%v, want the reason", err)
	}
	only(t, filepath.Dir(dst))
}

type brokenSource struct{ err error }

func (s brokenSource) ReadAt(p []byte, off int64) (int, error) {
	if off >= 1<<20 {
		return 0, s.err
	}
	return len(p), nil
}

func TestEncryptFails(t *testing.T) {
	dir := t.TempDir()
	dst := filepath.Join(dir, "d")
	run := func(src io.ReaderAt, size int64, opts Options) error {
		t.Helper()
		err := File(t.Context(), src, size, dst, opts, nil)
		if err == nil {
			t.Error("no error")
		}
		only(t, dir)
		return err
	}
	if err := run(brokenSource{unix.EIO}, 4<<20, options()); !errors.Is(err, unix.EIO) {
		t.Error(err)
	}
	if err := run(brokenSource{io.EOF}, 4<<20, options()); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	run(brokenSource{}, 0, options())
	run(brokenSource{}, 512, Options{})
	odd := options()
	odd.Format.SectorSize = 4096
	run(brokenSource{}, 512, odd)
	if err := run(brokenSource{}, 1<<60, options()); !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EFBIG) {
		t.Error(err)
	}
}

func TestEncryptFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=18m"); err != nil {
		t.Skipf("this container cannot mount: %v", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	err := File(t.Context(), bytes.NewReader(make([]byte, 8<<20)), 8<<20, filepath.Join(dir, "d"), options(), nil)
	if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "bytes are needed in") {
		t.Error(err)
	}
	only(t, dir)
}

func TestEncryptExisting(t *testing.T) {
	dir := t.TempDir()
	dst := filepath.Join(dir, "d")
	plain := bytes.Repeat([]byte("keep me!"), 1<<16)
	if err := os.WriteFile(dst, plain, 0o644); err != nil {
		t.Fatal(err)
	}
	src, err := os.Open(dst)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	size := int64(len(plain))
	if err := File(t.Context(), src, size, dst, options(), nil); !errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
	force := options()
	force.Force = true
	if err := File(t.Context(), src, size, dst, force, nil); err == nil || !strings.Contains(err.Error(), "source itself") {
		t.Error(err)
	}
	if got, err := os.ReadFile(dst); err != nil || !bytes.Equal(got, plain) {
		t.Fatalf("the existing file was changed, or %v", err)
	}
	if err := File(t.Context(), bytes.NewReader(plain), size, dst, force, nil); err != nil {
		t.Fatal(err)
	}
	if _, d := open(t, dst); d.Size() != size {
		t.Error("not replaced")
	}
	// A file that appears while the work is done is not replaced either.
	other := filepath.Join(dir, "e")
	err = File(t.Context(), bytes.NewReader(plain), size, other, options(), func(done, total int64) {
		if done == total {
			os.WriteFile(other, []byte("late"), 0o600)
		}
	})
	if got, _ := os.ReadFile(other); !errors.Is(err, fs.ErrExist) || string(got) != "late" {
		t.Errorf("%q, %v", got, err)
	}
	only(t, dir, "d", "e")
	force.Format.Passphrase = []byte("pass")
	if err := os.Mkdir(filepath.Join(dir, "f"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := File(t.Context(), bytes.NewReader(plain), size, filepath.Join(dir, "f"), force, nil); err == nil {
		t.Error("a folder was replaced")
	}
}

func BenchmarkEncrypt(b *testing.B) {
	const size = 16 << 20
	src := bytes.NewReader(make([]byte, size))
	opts := options()
	opts.Force = true
	dst := filepath.Join(b.TempDir(), "d")
	b.SetBytes(size)
	for b.Loop() {
		if err := File(b.Context(), src, size, dst, opts, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func zero(p []byte) bool { return bytes.Count(p, []byte{0}) == len(p) }
