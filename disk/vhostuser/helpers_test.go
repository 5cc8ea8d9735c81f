package vhostuser_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/uvbond/uvbond/disk"
	"github.com/uvbond/uvbond/disk/disktest"
	"github.com/uvbond/uvbond/disk/vhostuser"
	"github.com/uvbond/uvbond/test/vhostfront"
)

const testSize = 8 << 20

func testDevice(t testing.TB, b disk.Backend, p disk.Params) *disk.Device {
	t.Helper()
	p.Key = make([]byte, 64)
	for i := range p.Key {
		p.Key[i] = byte(i*7 + 3)
	}
	if p.SectorSize == 0 {
		p.SectorSize = 4096
	}
	if p.Length == 0 {
		p.Length = testSize
	}
	d, err := disk.NewDevice(b, p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// memoryDisk is a disk in memory with trim.
func memoryDisk(t testing.TB) *disk.Device {
	return testDevice(t, disktest.New(testSize), disk.Params{Discard: true})
}

// socketPath returns a short path: t.TempDir's may be too long for a socket.
func socketPath(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "uvv")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// serveAt runs s at path until stop is called, or the test ends.
func serveAt(t testing.TB, s *vhostuser.Server, path string) (stop func()) {
	t.Helper()
	os.Remove(path)
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
		case <-time.After(30 * time.Second):
			t.Error("Serve did not return")
		}
	})
	t.Cleanup(stop)
	return stop
}

// serve runs s until the test ends and returns where.
func serve(t testing.TB, s *vhostuser.Server) string {
	path := socketPath(t)
	serveAt(t, s, path)
	return path
}

func dial(t testing.TB, path string, o vhostfront.Options) *vhostfront.Front {
	t.Helper()
	f, err := vhostfront.Dial(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

func newDisk(t testing.TB, f *vhostfront.Front) *vhostfront.Disk {
	t.Helper()
	d, err := f.Disk()
	if err != nil {
		t.Fatal(err)
	}
	return d
}
