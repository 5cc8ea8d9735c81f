package disk

import (
	"bytes"
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk/disktest"
)

// byHand is a Backend whose Transfers come to their end when the test says so.
type byHand struct {
	*disktest.Backend
	under, ended []*Transfer
}

func (b *byHand) OpenQueue(int, int, []byte) (BackendQueue, error) { return b, nil }
func (b *byHand) Submit(ts []*Transfer)                            { b.under = append(b.under, ts...) }
func (b *byHand) Close() error                                     { return nil }

func (b *byHand) Finished(dst []*Transfer) []*Transfer {
	dst = append(dst, b.ended...)
	b.ended = nil
	return dst
}

// end lets the oldest Transfer come to its end.
func (b *byHand) end() {
	b.under[0].run(b.Backend)
	b.ended = append(b.ended, b.under[0])
	b.under = b.under[1:]
}

// TestLongRequestGetsMemory keeps the arena full with short requests: a long one
// must come through all the same.
func TestLongRequestGetsMemory(t *testing.T) {
	const size = 1 << 20
	b := &byHand{Backend: disktest.New(testOffset + size)}
	d := testDevice(t, b, 4096, size, 0)
	q, err := d.NewQueue(256)
	if err != nil {
		t.Fatal(err)
	}
	short := func() {
		q.Start(&Request{Op: Read, Shared: true, Data: [][]byte{make([]byte, 4096)}})
	}
	for range arenaBytes / arenaBlock {
		short()
	}
	q.Start(&Request{Op: Read, Shared: true, Data: [][]byte{make([]byte, MaxPiece)}, Tag: 1})
	for range 2 * arenaBytes / arenaBlock {
		short()
		q.Submit()
		b.end()
		for _, r := range q.Completed(nil) {
			if r.Err != nil {
				t.Fatal(r.Err)
			}
			if r.Tag == 1 {
				for len(b.under) > 0 {
					b.end()
					q.Completed(nil)
				}
				if err := errors.Join(q.Close(), d.Close()); err != nil {
					t.Error(err)
				}
				return
			}
		}
	}
	t.Error("short requests starve a long one")
}

// readable says whether the owner of q would be woken.
func readable(t *testing.T, q *Queue) bool {
	t.Helper()
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(q.FD()), Events: unix.POLLIN}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return n > 0
}

// TestLateSignal: a signal for what was taken already must wake the owner once,
// not for ever.
func TestLateSignal(t *testing.T) {
	for name, b := range backends(t, testOffset+8192) {
		d := testDevice(t, b, 4096, 8192, 0)
		q, err := d.NewQueue(4)
		if err != nil {
			t.Fatal(err)
		}
		if q.now == nil { // else only workers signal, and never late
			q.do(&Request{Op: Read, Data: [][]byte{make([]byte, 4096)}})
			signal(q.event)
			if done := q.Completed(nil); len(done) != 0 || readable(t, q) {
				t.Errorf("%s: %d requests, and the owner does not sleep again", name, len(done))
			}
		}
		if err := errors.Join(q.Close(), d.Close()); err != nil {
			t.Error(err)
		}
	}
}

// TestCloseDeviceBeforeQueue: who closes in the wrong order waits, and the owner
// of the Queue does not.
func TestCloseDeviceBeforeQueue(t *testing.T) {
	b := &byHand{Backend: disktest.New(testOffset + 8192)}
	d := testDevice(t, b, 4096, 8192, 0)
	q, err := d.NewQueue(4)
	if err != nil {
		t.Fatal(err)
	}
	q.Start(&Request{Op: Write, Data: [][]byte{make([]byte, 4096)}})
	q.Submit()
	closed := make(chan error)
	go func() { closed <- d.Close() }()
	for d.life.TryRLock() { // until Close waits
		d.life.RUnlock()
	}
	q.Start(&Request{Op: Read, Data: [][]byte{make([]byte, 4096)}, Tag: 1})
	if done := q.Completed(nil); len(done) != 1 || !errors.Is(done[0].Err, ErrClosed) {
		t.Errorf("a request while the device is being closed: %+v", done)
	}
	b.end()
	if done := q.Completed(nil); len(done) != 1 || done[0].Err != nil {
		t.Errorf("the request that was under way: %+v", done)
	}
	if err := errors.Join(<-closed, q.Close()); err != nil {
		t.Error(err)
	}
}

// TestCloseDoesNotWaitForLimits: a Queue full of requests that a limit holds back
// for a quarter of an hour can be closed.
func TestCloseDoesNotWaitForLimits(t *testing.T) {
	d := testDevice(t, disktest.New(testOffset+8192), 4096, 8192, 0)
	if err := d.SetLimits(Limits{IOPS: 1}); err != nil {
		t.Fatal(err)
	}
	q, err := d.NewQueue(4)
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		q.Start(&Request{Op: Write, Data: [][]byte{make([]byte, 4096)}})
	}
	q.Submit()
	if err := errors.Join(q.Close(), d.Close()); err != nil {
		t.Error(err)
	}
}

// TestFlushAfterFailedFlush: the kernel tells once that data was lost, and the
// next fdatasync succeeds. A guest must not be told so.
func TestFlushAfterFailedFlush(t *testing.T) {
	for name, b := range backends(t, testOffset+8192) {
		f, ok := b.(*fileBackend)
		if !ok {
			continue
		}
		d := testDevice(t, b, 4096, 8192, 0)
		q, err := d.NewQueue(4)
		if err != nil {
			t.Fatal(err)
		}
		flush := &Request{Op: Flush}
		if q.do(flush); flush.Err != nil {
			t.Errorf("%s: %v", name, flush.Err)
		}
		if err := f.flushed(unix.EIO); !errors.Is(err, unix.EIO) {
			t.Errorf("%s: the failure itself: %v", name, err)
		}
		write := &Request{Op: Write, FUA: true, Data: [][]byte{bytes.Repeat([]byte{1}, 4096)}}
		q.do(write)
		q.do(flush)
		for _, err := range []error{write.Err, flush.Err, d.Flush(), q.Close(), d.Close()} {
			if want := err != nil; want && !errors.Is(err, unix.EIO) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if write.Err == nil || flush.Err == nil || d.Flush() == nil {
			t.Errorf("%s: a flush succeeds after one that lost data", name)
		}
	}
}
