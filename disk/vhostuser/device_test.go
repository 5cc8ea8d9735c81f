package vhostuser_test

import (
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk"
	"github.com/uvbond/uvbond/disk/disktest"
	"github.com/uvbond/uvbond/disk/vhostuser"
	"github.com/uvbond/uvbond/test/vhostfront"
)

// TestDirtyLog: with logging on, exactly the pages that were written are marked.
func TestDirtyLog(t *testing.T) {
	g := dial(t, serve(t, &vhostuser.Server{Device: memoryDisk(t)}), vhostfront.Options{})
	const page, size = 4096, 64 << 10 // of the log: 2 GiB of guest memory
	fd, err := vhostfront.Memfd(size, true)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	log, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(log)
	q := g.Queues[0]
	marked := func() map[uint64]bool {
		m := map[uint64]bool{}
		for i, b := range log {
			for bit := range 8 {
				if b>>bit&1 == 1 {
					m[uint64(i*8+bit)] = true
				}
			}
		}
		clear(log)
		return m
	}
	request := func(op uint32, want ...uint64) {
		t.Helper()
		p := make([]byte, 4096)
		in, out := p, []byte(nil)
		if op == vhostfront.BlkOut {
			in, out = nil, p
		}
		if status, err := g.One(q, op, 0, in, out); status != 0 || err != nil {
			t.Fatalf("status %d, %v", status, err)
		}
		got := marked()
		for _, w := range want {
			if !got[w/page] {
				t.Errorf("request %d: %#x is not marked", op, w)
			}
			delete(got, w/page)
		}
		if len(got) > 0 {
			t.Errorf("request %d: pages %v are marked, too", op, got)
		}
	}
	area := g.Guest(g.Area(q))
	request(vhostfront.BlkIn)
	if p, _, err := g.Conn.Ask(vhostfront.SetLogBase, vhostfront.U64s(size, 0), fd); err != nil || len(p) != 8 {
		t.Fatalf("SET_LOG_BASE: %v, %v", p, err)
	}
	request(vhostfront.BlkIn)
	if err := g.Do(vhostfront.SetFeatures, vhostfront.U64(g.Features|vhostfront.LogAll)); err != nil {
		t.Fatal(err)
	}
	request(vhostfront.BlkIn, area+4096, area)
	request(vhostfront.BlkOut, area)
	addr := q.Addr()
	addr[4] = 1 // log the used ring
	used := g.Guest(q.UsedAt)
	copy(addr[32:], vhostfront.U64(used))
	if err := g.Do(vhostfront.SetVringAddr, addr); err != nil {
		t.Fatal(err)
	}
	request(vhostfront.BlkIn, area+4096, area, used)
	if err := g.Do(vhostfront.SetFeatures, vhostfront.U64(g.Features)); err != nil {
		t.Fatal(err)
	}
	request(vhostfront.BlkIn)
}

// TestGrow: the front end is told, sees the new size, and can use it at once.
func TestGrow(t *testing.T) {
	dev := testDevice(t, disktest.New(2*testSize), disk.Params{})
	s := &vhostuser.Server{Device: dev}
	s.Resized() // nobody listens
	g := dial(t, serve(t, s), vhostfront.Options{})
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	err = g.Do(vhostfront.SetBackendReqFD, nil, pair[1])
	unix.Close(pair[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := dev.Grow(2 * testSize); err != nil {
		t.Fatal(err)
	}
	s.Resized()
	var b [64]byte
	if n, err := unix.Read(pair[0], b[:]); n != 12 || err != nil || b[0] != 2 || b[4] != 1 || b[8] != 0 {
		t.Fatalf("the front end was told % x, %v", b[:max(n, 0)], err)
	}
	if err := g.ReadConfig(); err != nil || g.Config.Capacity != 2*testSize {
		t.Errorf("capacity %d, %v", g.Config.Capacity, err)
	}
	d := newDisk(t, g)
	if _, err := d.WriteAt(b[:0:0], 0); err != nil {
		t.Error(err)
	}
	if _, err := d.WriteAt(make([]byte, 4096), 2*testSize-4096); err != nil {
		t.Error(err)
	}
	// A front end that does not read stops nobody.
	for range 10000 {
		s.Resized()
	}
}

// TestGrowMissed: a front end that was not listening when the disk grew is told when
// its queues start again, as QEMU forgets it while the VM is paused.
func TestGrowMissed(t *testing.T) {
	dev := testDevice(t, disktest.New(2*testSize), disk.Params{})
	g := dial(t, serve(t, &vhostuser.Server{Device: dev}), vhostfront.Options{})
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	err = g.Do(vhostfront.SetBackendReqFD, nil, pair[1])
	unix.Close(pair[1])
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []uint64{testSize + 4096, testSize + 8192} {
		if err := dev.Grow(size); err != nil {
			t.Fatal(err)
		}
		if _, err := g.Stop(g.Queues[0]); err != nil {
			t.Fatal(err)
		}
		if err := g.Start(g.Queues[0]); err != nil {
			t.Fatal(err)
		}
		var b [64]byte
		if n, err := unix.Read(pair[0], b[:]); n != 12 || err != nil || b[0] != 2 {
			t.Fatalf("the front end was told % x, %v", b[:max(n, 0)], err)
		}
		if err := g.ReadConfig(); err != nil || uint64(g.Config.Capacity) != size {
			t.Errorf("capacity %d, %v", g.Config.Capacity, err)
		}
	}
}

// TestWriteThrough: without a way to flush, or when the driver asks for it, a write is
// on stable storage when it is answered.
func TestWriteThrough(t *testing.T) {
	for name, o := range map[string]vhostfront.Options{"cached": {}, "no flush": {Without: vhostfront.BlkFlush}, "switched": {}} {
		b := disktest.New(testSize)
		g := dial(t, serve(t, &vhostuser.Server{Device: testDevice(t, b, disk.Params{})}), o)
		if name == "switched" {
			if err := g.Do(vhostfront.SetConfig, append(vhostfront.U32s(32, 1, 0), 0)); err != nil {
				t.Fatal(err)
			}
			if err := g.ReadConfig(); err != nil || g.Config.Writeback {
				t.Errorf("writeback is still on, %v", err)
			}
		}
		d := newDisk(t, g)
		if _, err := d.WriteAt(make([]byte, 8192), 0); err != nil {
			t.Fatal(err)
		}
		if err := d.WriteZeroes(0, 4096); err != nil {
			t.Fatal(err)
		}
		want := int64(2)
		if name == "cached" {
			want = 0
		}
		if got := b.Count(disktest.Sync); got != want {
			t.Errorf("%s: %d syncs, want %d", name, got, want)
		}
	}
}

// fileDisk is a disk in a file in memory, as the fastest storage.
func fileDisk(t testing.TB) *disk.Device {
	t.Helper()
	fd, err := vhostfront.Memfd(testSize, false)
	if err != nil {
		t.Fatal(err)
	}
	b, err := disk.FileBackend(os.NewFile(uintptr(fd), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	return testDevice(t, b, disk.Params{})
}

// TestNoAllocation: a request costs no memory that has to be collected.
func TestNoAllocation(t *testing.T) {
	for _, poll := range []time.Duration{0, vhostuser.DefaultPoll} {
		g := dial(t, serve(t, &vhostuser.Server{Device: fileDisk(t), Poll: poll}), vhostfront.Options{})
		load := vhostfront.Load{WritePart: 50, Depth: 32, Duration: 100 * time.Millisecond}
		if _, err := g.Run(load); err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		requests := uint64(0)
		for requests < 2000 {
			r, err := g.Run(load)
			if err != nil {
				t.Fatal(err)
			}
			requests += r.Requests
		}
		runtime.ReadMemStats(&after)
		// A few are the load's own, and the runtime's.
		if n := after.Mallocs - before.Mallocs; n > requests/2 {
			t.Errorf("%d allocations for %d requests", n, requests)
		}
	}
}

// TestIdle: when there is nothing to do, nothing is done.
func TestIdle(t *testing.T) {
	s := &vhostuser.Server{Device: fileDisk(t), Queues: 2, Poll: vhostuser.DefaultPoll}
	g := dial(t, serve(t, s), vhostfront.Options{Queues: 2})
	if _, err := g.Run(vhostfront.Load{Duration: 50 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	settled := func() uint64 {
		for before := s.Stats().Sleeps; ; {
			time.Sleep(50 * time.Millisecond)
			now := s.Stats().Sleeps
			if now == before {
				return now
			}
			before = now
		}
	}
	before := settled()
	time.Sleep(300 * time.Millisecond)
	if now := s.Stats().Sleeps; now != before {
		t.Errorf("woken %d times", now-before)
	}
}

// TestReset stops all queues; they can be set up anew.
func TestReset(t *testing.T) {
	for name, request := range map[string]struct {
		id      uint32
		payload []byte
	}{"RESET_DEVICE": {vhostfront.ResetDevice, nil}, "status 0": {vhostfront.SetStatus, vhostfront.U64(0)}} {
		g := dial(t, serve(t, &vhostuser.Server{Device: memoryDisk(t)}), vhostfront.Options{})
		q := g.Queues[0]
		if err := g.Works(q); err != nil {
			t.Fatal(err)
		}
		if err := g.Do(request.id, request.payload); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		q.Post(0)
		q.Kick()
		q.Notify()
		time.Sleep(20 * time.Millisecond)
		if q.UsedIndex() != 2 {
			t.Errorf("%s: the queue goes on", name)
		}
		if err := g.Start(q); err != nil {
			t.Fatal(err)
		}
		if !q.Wait(0, 5*time.Second) {
			t.Errorf("%s: the queue does not start again", name)
		}
	}
}
