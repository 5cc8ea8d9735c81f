package vhostuser_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk"
	"github.com/uvbond/uvbond/disk/disktest"
	"github.com/uvbond/uvbond/disk/vhostuser"
	"github.com/uvbond/uvbond/test/vhostfront"
)

// TestMain is also the back end that TestKill kills.
func TestMain(m *testing.M) {
	if file := os.Getenv("UVBOND_VHOST_FILE"); file != "" {
		if err := victim(file, os.Getenv("UVBOND_VHOST_SOCKET")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// slow is a Backend without a queue of its own that takes its time, so that there is
// always something under way.
type slow struct{ disk.Backend }

func (s slow) ReadAt(p []byte, off int64) (int, error) {
	time.Sleep(200 * time.Microsecond)
	return s.Backend.ReadAt(p, off)
}

func (s slow) WriteAt(p []byte, off int64) (int, error) {
	time.Sleep(300 * time.Microsecond)
	return s.Backend.WriteAt(p, off)
}

func victim(file, socket string) error {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	b, err := disk.FileBackend(f)
	if err != nil {
		return err
	}
	d, err := disk.NewDevice(slow{b}, disk.Params{Key: append(make([]byte, 63), 1), SectorSize: 4096, Length: testSize})
	if err != nil {
		return err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	s := &vhostuser.Server{Device: d, Queues: 2, Poll: vhostuser.DefaultPoll}
	return s.Serve(context.Background(), l)
}

// load runs a load that checks what it reads, while f does something.
func load(t *testing.T, g *vhostfront.Front, d time.Duration, f func()) *vhostfront.Result {
	t.Helper()
	type answer struct {
		r   *vhostfront.Result
		err error
	}
	done := make(chan answer, 1)
	go func() {
		r, err := g.Run(vhostfront.Load{Duration: d, WritePart: 60, Verify: true, Depth: 32, Flush: 40, Seed: 3})
		done <- answer{r, err}
	}()
	f()
	a := <-done
	if a.err != nil || a.r.Errors > 0 {
		t.Fatalf("%d errors of %d, %v", a.r.Errors, a.r.Requests, a.err)
	}
	return a.r
}

// TestKill kills the back end again and again under load. What was under way is
// carried out by the next one, and nothing is lost.
func TestKill(t *testing.T) {
	socket := socketPath(t)
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, make([]byte, testSize), 0o600); err != nil {
		t.Fatal(err)
	}
	var child *exec.Cmd
	start := func() {
		os.Remove(socket)
		child = exec.Command("/proc/self/exe")
		child.Env = append(os.Environ(), "UVBOND_VHOST_FILE="+file, "UVBOND_VHOST_SOCKET="+socket)
		child.Stderr = os.Stderr
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
	}
	kill := func() {
		_ = child.Process.Kill()
		_ = child.Wait()
	}
	start()
	defer func() { kill() }()
	g, err := vhostfront.New(vhostfront.Options{Queues: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	connect(t, g, socket)
	r := load(t, g, 2*time.Second, func() {
		for range 6 {
			time.Sleep(250 * time.Millisecond)
			kill()
			g.Disconnect()
			start()
			connect(t, g, socket)
		}
	})
	t.Logf("%d requests", r.Requests)
}

func connect(t *testing.T, g *vhostfront.Front, socket string) {
	t.Helper()
	var err error
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err = g.Connect(socket); err == nil {
			return
		}
		g.Disconnect()
	}
	t.Fatal(err)
}

// TestDrain ends the server under load, in order, and starts another one. All that
// was taken from the ring is answered; nothing is begun twice.
func TestDrain(t *testing.T) {
	dev := testDevice(t, slow{disktest.New(testSize)}, disk.Params{})
	path := socketPath(t)
	s := &vhostuser.Server{Device: dev, Queues: 2}
	stop := serveAt(t, s, path)
	g, err := vhostfront.New(vhostfront.Options{Queues: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	connect(t, g, path)
	load(t, g, 1200*time.Millisecond, func() {
		for range 4 {
			time.Sleep(200 * time.Millisecond)
			stop()
			if got := s.Stats(); got.Resumed != 0 {
				t.Errorf("%d requests had to be done again", got.Resumed)
			}
			g.Disconnect()
			s = &vhostuser.Server{Device: dev, Queues: 2}
			stop = serveAt(t, s, path)
			connect(t, g, path)
		}
	})
}

// TestFrontEndGone breaks the connection under load, as QEMU does when it dies, and
// connects another time.
func TestFrontEndGone(t *testing.T) {
	dev := testDevice(t, slow{disktest.New(testSize)}, disk.Params{})
	path := serve(t, &vhostuser.Server{Device: dev, Queues: 2, Poll: vhostuser.DefaultPoll})
	g, err := vhostfront.New(vhostfront.Options{Queues: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	connect(t, g, path)
	load(t, g, time.Second, func() {
		for range 8 {
			time.Sleep(80 * time.Millisecond)
			g.Disconnect()
			connect(t, g, path)
		}
	})
}

// TestStopUnderLoad stops and starts queues, which drains them.
func TestStopUnderLoad(t *testing.T) {
	dev := testDevice(t, slow{disktest.New(testSize)}, disk.Params{})
	g := dial(t, serve(t, &vhostuser.Server{Device: dev, Queues: 2}), vhostfront.Options{Queues: 2})
	load(t, g, time.Second, func() {
		for i := range 20 {
			time.Sleep(20 * time.Millisecond)
			q := g.Queues[i%2]
			base, err := g.Stop(q)
			if err != nil {
				t.Error(err)
			}
			if used := q.UsedIndex(); base != used {
				t.Errorf("stopped at %d, used up to %d: something is under way", base, used)
			}
			if err := g.Start(q); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestRemap changes guest memory under load.
func TestRemap(t *testing.T) {
	dev := testDevice(t, slow{disktest.New(testSize)}, disk.Params{})
	g := dial(t, serve(t, &vhostuser.Server{Device: dev, Queues: 2}), vhostfront.Options{Queues: 2})
	size := uint64(len(g.Mem))
	more := vhostfront.Region(1<<40, 1<<20, 1<<40, 0)
	load(t, g, 700*time.Millisecond, func() {
		for range 20 {
			time.Sleep(5 * time.Millisecond)
			table := append(vhostfront.U32s(2, 0), vhostfront.U64s(vhostfront.GuestBase, size, vhostfront.UserBase, 0, 0, 4096, 0, 0)...)
			err := errors.Join(g.Do(vhostfront.AddMemReg, more, g.MemFD), g.Do(vhostfront.RemMemReg, more),
				g.Do(vhostfront.SetMemTable, table, g.MemFD, g.MemFD))
			if err != nil {
				t.Error(err)
			}
		}
	})
}

// TestSecondFrontEnd: there is one at a time, and the next one when it is gone.
func TestSecondFrontEnd(t *testing.T) {
	s := &vhostuser.Server{Device: memoryDisk(t)}
	path := serve(t, s)
	first := dial(t, path, vhostfront.Options{})
	if _, err := vhostfront.Dial(path, vhostfront.Options{}); err == nil {
		t.Fatal("two at a time")
	}
	if err := first.Works(first.Queues[0]); err != nil {
		t.Error(err)
	}
	first.Disconnect()
	second := dial(t, path, vhostfront.Options{})
	if err := second.Works(second.Queues[0]); err != nil {
		t.Error(err)
	}
	if got := s.Stats(); got.Accepted != 2 || got.Refused != 1 {
		t.Errorf("%+v", got)
	}
}

func TestCheckPeer(t *testing.T) {
	s := &vhostuser.Server{Device: memoryDisk(t), CheckPeer: func(_ context.Context, c *unix.Ucred) error {
		if int(c.Pid) != os.Getpid() || int(c.Uid) != os.Getuid() {
			t.Errorf("%+v connected", c)
		}
		return errors.New("not you")
	}}
	if _, err := vhostfront.Dial(serve(t, s), vhostfront.Options{}); err == nil {
		t.Error("a refused peer is served")
	}
}
