package bases

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/server/store"
)

func newStore(t *testing.T) *Store {
	t.Helper()
	dir := t.TempDir()
	st, err := store.Open(t.Context(), filepath.Join(dir, "server.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return &Store{Dir: filepath.Join(dir, "bases"), Records: st}
}

func source(t *testing.T, content []byte) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.raw")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func (s *Store) files(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestAdd: what is offered is the file's content, read-only and with holes, under one
// name at a time.
func TestAdd(t *testing.T) {
	s := newStore(t)
	content := make([]byte, 5<<20+100)
	copy(content[3<<20:], "something")
	var told int64
	b, err := s.Add(t.Context(), "debian-12.raw", source(t, content), func(done, _ int64) { told = done })
	if err != nil {
		t.Fatal(err)
	}
	if b.SHA256 != sha256.Sum256(content) || b.Size != int64(len(content)) || told != b.Size {
		t.Errorf("%+v, told %d", b, told)
	}
	f, err := s.Open(t.Context(), "debian-12.raw")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, content) {
		t.Errorf("another content: %v", err)
	}
	if _, err := f.WriteAt([]byte("x"), 0); err == nil {
		t.Error("it can be written to")
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Mode&0o777 != 0o400 || st.Blocks*512 > 2<<20 {
		t.Errorf("mode %o, %d bytes of room, %v", st.Mode&0o777, st.Blocks*512, err)
	}
	if _, err := s.Add(t.Context(), "debian-12.raw", source(t, content), nil); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("the same name: %v", err)
	}
	if list, err := s.Records.Bases(t.Context()); err != nil || len(list) != 1 || len(s.files(t)) != 1 {
		t.Errorf("%+v, %v", list, s.files(t))
	}
	if err := s.Remove(t.Context(), "debian-12.raw"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(t.Context(), "debian-12.raw"); !errors.Is(err, store.ErrNotFound) || len(s.files(t)) != 0 {
		t.Errorf("removed: %v, %v", err, s.files(t))
	}
	if err := s.Remove(t.Context(), "debian-12.raw"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("%v", err)
	}
	if _, err := s.Add(t.Context(), "debian-12.raw", source(t, []byte("new")), nil); err != nil {
		t.Errorf("the name again: %v", err)
	}
}

func TestAddRefusals(t *testing.T) {
	s := newStore(t)
	for name, c := range map[string]struct {
		name    string
		content []byte
		want    string
	}{
		"empty": {"x", nil, "0 bytes"}, "qcow2": {"x", []byte("QFI\xfbrest"), "qemu-img convert"}, "xz": {"x", []byte("\xfd7zXZ\x00rest"), "unpack"},
		"luks": {"x", []byte("LUKS\xba\xbe\x00\x02"), "encrypted"}, "no name": {"", []byte("x"), "1 to 128"}, "path": {"../x", []byte("x"), "1 to 128"},
		"dot": {".x", []byte("x"), "1 to 128"}, "long": {strings.Repeat("x", 129), []byte("x"), "1 to 128"}, "line": {"a\nb", []byte("x"), "1 to 128"},
	} {
		if _, err := s.Add(t.Context(), c.name, source(t, c.content), nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.FreeSpace = 1 << 62
	if _, err := s.Add(t.Context(), "x", source(t, []byte("x")), nil); err == nil || !strings.Contains(err.Error(), "room for 0 more") {
		t.Errorf("no room: %v", err)
	}
	s.FreeSpace = 0
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Add(ctx, "x", source(t, []byte("x")), nil); err == nil {
		t.Error("a cancelled one was added")
	}
	// One that becomes shorter while it is read.
	src := source(t, make([]byte, 3<<20))
	_, err := s.Add(t.Context(), "x", src, func(done, _ int64) {
		if done == 1<<20 {
			if err := os.Truncate(src.Name(), 1<<20+5); err != nil {
				t.Error(err)
			}
		}
	})
	if err == nil || !strings.Contains(err.Error(), "became shorter") {
		t.Errorf("truncated: %v", err)
	}
	if n := s.files(t); len(n) != 0 {
		t.Errorf("left behind: %v", n)
	}
}

// TestClean: what a killed program left behind goes, what another one is making stays.
func TestClean(t *testing.T) {
	s := newStore(t)
	kept, err := s.Add(t.Context(), "kept", source(t, []byte("kept")), nil)
	if err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(s.Dir, strings.Repeat("a", 32))
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	making, err := s.create()
	if err != nil {
		t.Fatal(err)
	}
	defer making.Close()
	more, err := s.Add(t.Context(), "more", source(t, []byte("more")), nil)
	if err != nil {
		t.Fatal(err)
	}
	have := strings.Join(s.files(t), " ")
	for _, name := range []string{kept.File, more.File, filepath.Base(making.Name())} {
		if !strings.Contains(have, name) {
			t.Errorf("%s is gone", name)
		}
	}
	if strings.Contains(have, filepath.Base(left)) {
		t.Error("the rest of a killed program stays")
	}
}

// TestAddBeside: what one process makes is there when it is done, though another cleans up
// all the time.
func TestAddBeside(t *testing.T) {
	s := newStore(t)
	if err := os.Mkdir(s.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
			if err := s.clean(t.Context()); err != nil {
				stopped <- err
				return
			}
		}
	}()
	var made []*os.File
	for range 200 {
		f, err := s.create()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		made = append(made, f)
	}
	close(stop)
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	for _, f := range made {
		if _, err := os.Lstat(f.Name()); err != nil {
			t.Fatal(err)
		}
	}
}
