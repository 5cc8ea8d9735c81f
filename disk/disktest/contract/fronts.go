package contract

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk"
)

// Device is the Device's own methods, which wait.
var Device = Front{Unit: 1, Errno: true, Serve: func(_ testing.TB, d *disk.Device) Disk { return onDevice{d} }}

// Queue is a Queue of the Device for each connection.
var Queue = Front{Unit: 1, Errno: true, Serve: newOnQueue}

// onDevice is the Device's methods that wait.
type onDevice struct{ *disk.Device }

func (d onDevice) WriteForced(p []byte, off int64) error {
	if _, err := d.WriteAt(p, off); err != nil {
		return err
	}
	return d.Flush()
}

// onQueue is a Queue with an owner that collects for whoever started.
type onQueue struct {
	*disk.Device
	requests chan *waited
	wake     int // eventfd: there is something in requests
}

// waited is a Request that somebody waits for.
type waited struct {
	disk.Request
	done chan struct{}
}

func newOnQueue(t testing.TB, d *disk.Device) Disk {
	t.Helper()
	q, err := d.NewQueue(32)
	if err != nil {
		t.Fatal(err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	o := &onQueue{d, make(chan *waited, 64), wake}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		o.own(t, q)
	}()
	t.Cleanup(func() {
		close(o.requests)
		o.knock()
		<-ended
		unix.Close(wake)
	})
	return o
}

func (o *onQueue) knock() { _, _ = unix.Write(o.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }

// own starts and collects until there are no more requests.
func (o *onQueue) own(t testing.TB, q *disk.Queue) {
	byTag := map[uint64]*waited{}
	next := uint64(0)
	open := true
	for open || q.Pending() > 0 {
		for more := open; more; {
			select {
			case w, ok := <-o.requests:
				if open, more = ok, ok; ok {
					next++
					w.Tag = next
					byTag[next] = w
					q.Start(&w.Request)
				}
			default:
				more = false
			}
		}
		q.Submit()
		done := q.Completed(nil)
		for _, r := range done {
			w := byTag[r.Tag]
			delete(byTag, r.Tag)
			close(w.done)
		}
		if len(done) == 0 && (open || q.Pending() > 0) {
			fds := []unix.PollFd{{Fd: int32(q.FD()), Events: unix.POLLIN}, {Fd: int32(o.wake), Events: unix.POLLIN}}
			_, _ = unix.Poll(fds, -1)
			_, _ = unix.Read(o.wake, make([]byte, 8))
		}
	}
	if err := q.Close(); err != nil {
		t.Error(err)
	}
}

func (o *onQueue) do(r disk.Request) (int, error) {
	w := &waited{r, make(chan struct{})}
	o.requests <- w
	o.knock()
	<-w.done
	return int(w.N), w.Err
}

// parts cuts p as a guest's memory is cut, at places that suit nothing.
func parts(p []byte) [][]byte {
	if n := len(p) / 3; n > 0 {
		return [][]byte{p[:n:n], p[n : 2*n : 2*n], nil, p[2*n:]}
	}
	return [][]byte{p}
}

func (o *onQueue) ReadAt(p []byte, off int64) (int, error) {
	return o.do(disk.Request{Op: disk.Read, Off: off, Data: parts(p), Shared: true})
}

func (o *onQueue) WriteAt(p []byte, off int64) (int, error) {
	return o.do(disk.Request{Op: disk.Write, Off: off, Data: parts(p), Shared: true})
}

func (o *onQueue) WriteForced(p []byte, off int64) error {
	// Not shared: ciphertext is left in it.
	_, err := o.do(disk.Request{Op: disk.Write, Off: off, Data: parts(append([]byte(nil), p...)), FUA: true})
	return err
}

func (o *onQueue) WriteZeroesForced(off, n int64) error {
	_, err := o.do(disk.Request{Op: disk.WriteZeroes, Off: off, Len: n, FUA: true})
	return err
}

func (o *onQueue) WriteZeroes(off, n int64) error {
	_, err := o.do(disk.Request{Op: disk.WriteZeroes, Off: off, Len: n})
	return err
}

func (o *onQueue) Trim(off, n int64) error {
	_, err := o.do(disk.Request{Op: disk.Trim, Off: off, Len: n})
	return err
}

func (o *onQueue) Flush() error {
	_, err := o.do(disk.Request{Op: disk.Flush})
	return err
}
