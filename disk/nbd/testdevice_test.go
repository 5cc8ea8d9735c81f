package nbd

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/uvbond/uvbond/disk"
	"github.com/uvbond/uvbond/disk/disktest"
)

// memory is a device whose ciphertext is in memory.
type memory struct {
	*disk.Device
	ciphertext *ciphertext
	flushes    *atomic.Int64
	trims      *atomic.Int64
}

// ciphertext is the Backend of a memory.
type ciphertext struct {
	*disktest.Backend
	flushes, trims atomic.Int64
	fail           atomic.Pointer[error] // every operation fails with it
	block          chan struct{}         // if not nil, reads wait for it to be closed
}

const testSector = 512

func newMemory(t testing.TB, size int, change ...func(*disk.Params)) *memory {
	t.Helper()
	c := &ciphertext{Backend: disktest.New(int64(size))}
	c.Fail = func(call disktest.Call) disktest.Fault {
		switch call.Op {
		case disktest.Sync:
			c.flushes.Add(1)
		case disktest.Punch:
			c.trims.Add(1)
		case disktest.Read:
			if c.block != nil {
				<-c.block
			}
		}
		if p := c.fail.Load(); p != nil && *p != nil {
			return disktest.Fault{Err: *p}
		}
		return disktest.None
	}
	p := disk.Params{Key: make([]byte, 64), SectorSize: testSector, Length: uint64(size), Discard: true}
	p.Key[0] = 1
	for _, f := range change {
		f(&p)
	}
	d, err := disk.NewDevice(c, p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.failWith(nil); d.Close() })
	return &memory{d, c, &c.flushes, &c.trims}
}

func readOnly(p *disk.Params)  { p.ReadOnly = true }
func noDiscard(p *disk.Params) { p.Discard = false }

func (c *ciphertext) failWith(err error) { c.fail.Store(&err) }

func (m *memory) failWith(err error) { m.ciphertext.failWith(err) }

// bytes returns the content.
func (m *memory) bytes(t testing.TB) []byte {
	t.Helper()
	b := make([]byte, m.Size())
	if _, err := m.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

// set writes content.
func (m *memory) set(t testing.TB, p []byte, off int64) {
	t.Helper()
	if _, err := m.WriteAt(p, off); err != nil {
		t.Fatal(err)
	}
}

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
