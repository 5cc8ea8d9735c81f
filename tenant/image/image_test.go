package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/disk/luks"
	"github.com/uvbond/uvbond/disk/xts"
	"github.com/uvbond/uvbond/tenant/fail"
)

func cheap(pass string) Options {
	return Options{Passphrase: bond.NewSecret([]byte(pass)), KeySize: 64, SectorSize: 4096, Cost: luks.PBKDF{Type: "pbkdf2", Iterations: 1000}}
}

func writeFile(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// pattern is a disk whose every sector differs.
func pattern(size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i>>9) ^ byte(i*7)
	}
	return b
}

func decrypt(t *testing.T, path, pass string, size int) []byte {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, err := luks.ReadHeader(f, int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	key, err := h.Unlock([]byte(pass))
	if err != nil {
		t.Fatal(err)
	}
	c, err := xts.New(key, int(h.Segment.SectorSize), uint64(h.Segment.SectorSize)/512)
	if err != nil {
		t.Fatal(err)
	}
	plain := raw[h.Segment.Offset:]
	if err := c.DecryptSectors(plain, plain, h.Segment.IVTweak); err != nil {
		t.Fatal(err)
	}
	if tail := plain[size:]; !bytes.Equal(tail, make([]byte, len(tail))) {
		t.Fatal("the padding is not zero")
	}
	return plain[:size]
}

func TestEncrypt(t *testing.T) {
	for name, size := range map[string]int{"whole": 3 << 20, "odd": 1<<20 + 4321, "tiny": 1} {
		t.Run(name, func(t *testing.T) {
			want := pattern(size)
			in := writeFile(t, "in", want)
			src, err := OpenSource(in, Auto)
			if err != nil {
				t.Fatal(err)
			}
			defer src.Close()
			out := filepath.Join(filepath.Dir(in), "out")
			last := int64(0)
			if _, err := Encrypt(t.Context(), src, out, cheap("p"), func(n int64) { last = n }); err != nil {
				t.Fatal(err)
			}
			if got := decrypt(t, out, "p", size); !bytes.Equal(got, want) {
				t.Fatal("it does not decrypt to the input")
			}
			if last == 0 {
				t.Fatal("no progress was shown")
			}
			if after, err := os.ReadFile(in); err != nil || !bytes.Equal(after, want) {
				t.Fatal("the input changed")
			}
		})
	}
}

func TestQcow2(t *testing.T) {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Fatal("qemu-img is missing: apt-get install qemu-utils")
	}
	want := pattern(2 << 20)
	in := writeFile(t, "in", want)
	for _, opts := range [][]string{{"-c"}, {"-o", "cluster_size=4096"}, {"-o", "compat=0.10"}, {"-o", "extended_l2=on,cluster_size=128k"}} {
		q := filepath.Join(t.TempDir(), "q")
		if text, err := exec.Command("qemu-img", append(append([]string{"convert", "-f", "raw", "-O", "qcow2"}, opts...), in, q)...).CombinedOutput(); err != nil {
			t.Fatalf("%s", text)
		}
		src, err := OpenSource(q, Auto)
		if err != nil {
			t.Fatal(opts, err)
		}
		got := make([]byte, src.Size)
		if _, err := src.ReadAt(got, 0); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(opts, err)
		}
		src.Close()
		if src.Format != Qcow2 || !bytes.Equal(got, want) {
			t.Fatal(opts, "it does not read as the disk it was made of")
		}
	}
}

func TestCancelledLeavesNothing(t *testing.T) {
	in := writeFile(t, "in", pattern(8<<20))
	src, err := OpenSource(in, Raw)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	ctx, cancel := context.WithCancel(t.Context())
	_, err = Encrypt(ctx, src, filepath.Join(filepath.Dir(in), "out"), cheap("p"), func(int64) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Dir(in))
	if err != nil || len(entries) != 1 {
		t.Fatalf("left behind: %v, %v", entries, err)
	}
}

func TestProbe(t *testing.T) {
	for magic, word := range map[string]string{"LUKS\xba\xbe": "encrypted already", "KDMV": "qemu-img convert", "\x1f\x8b": "unpack"} {
		path := writeFile(t, "in", append([]byte(magic), make([]byte, 600)...))
		if _, err := OpenSource(path, Auto); err == nil {
			t.Errorf("%q was taken", magic)
		} else if h := hint(err); !strings.Contains(h, word) {
			t.Errorf("%q: hint %q", magic, h)
		}
		if s, err := OpenSource(path, Raw); err != nil {
			t.Errorf("%q as raw: %v", magic, err)
		} else {
			s.Close()
		}
	}
	if _, err := OpenSource(writeFile(t, "in", nil), Auto); err == nil {
		t.Error("an empty file was taken")
	}
	if _, err := OpenSource(t.TempDir(), Auto); err == nil {
		t.Error("a folder was taken")
	}
}

// FuzzQcow2 feeds broken images: they may be refused or read, and never more.
func FuzzQcow2(f *testing.F) {
	head := make([]byte, 200)
	copy(head, qcow2Magic)
	head[7], head[23], head[31] = 3, 16, 1
	f.Add(head)
	f.Add([]byte(qcow2Magic))
	f.Add([]byte{})
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(dir, "q")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := OpenSource(path, Qcow2)
		if err != nil {
			return
		}
		defer s.Close()
		buf := make([]byte, 4096)
		_, _ = s.ReadAt(buf, 0)
	})
}

func hint(err error) string { return fail.HintOf(err) }
