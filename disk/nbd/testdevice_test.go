package nbd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// memory is a device in memory: the slow, obvious model.
type memory struct {
	mu      sync.RWMutex
	b       []byte
	flushes atomic.Int64
	trims   atomic.Int64
	fail    atomic.Pointer[error] // every operation fails with it
	block   chan struct{}         // if not nil, reads wait for it to be closed
}

func newMemory(size int) *memory { return &memory{b: make([]byte, size)} }

func (m *memory) failWith(err error) { m.fail.Store(&err) }

func (m *memory) err() error {
	if p := m.fail.Load(); p != nil {
		return *p
	}
	return nil
}

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	if m.block != nil {
		<-m.block
	}
	if err := m.err(); err != nil {
		return 0, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	n := copy(p, m.b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if err := m.err(); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if off < 0 || off+int64(len(p)) > int64(len(m.b)) {
		panic("the server let a write beyond the end through")
	}
	return copy(m.b[off:], p), nil
}

func (m *memory) WriteZeroes(off, n int64) error {
	if err := m.err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.b[off : off+n])
	return nil
}

func (m *memory) Trim(off, n int64) error {
	m.trims.Add(1)
	return m.WriteZeroes(off, n)
}

func (m *memory) Flush() error {
	m.flushes.Add(1)
	return m.err()
}

// bytes returns a copy of the content.
func (m *memory) bytes() []byte {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return bytes.Clone(m.b)
}

func (m *memory) Size() int64 { return int64(len(m.b)) }

// socketPath returns a short path: t.TempDir's may be too long for a socket.
func socketPath(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "uvn")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// serve runs s on a unix socket until the test ends.
func serve(t testing.TB, s *Server) (path string, stop func()) {
	t.Helper()
	path = socketPath(t)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("Serve did not return")
		}
	})
	t.Cleanup(stop)
	return path, stop
}

func tool(t testing.TB, name, pkg string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is missing: apt-get install %s", name, pkg)
	}
	return p
}

func run(t testing.TB, name, pkg string, args ...string) string {
	t.Helper()
	cmd := exec.Command(tool(t, name, pkg), args...)
	cmd.Dir = t.TempDir()
	b, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, b)
	}
	return string(b)
}

var errTest = errors.New("the disk is broken")
