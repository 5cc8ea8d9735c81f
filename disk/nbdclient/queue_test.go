package nbdclient

import (
	"bytes"
	"crypto/rand"
	"errors"
	mrand "math/rand/v2"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk"
)

// encrypted is a Device on c.
func encrypted(t testing.TB, c *Client) *disk.Device {
	t.Helper()
	key := make([]byte, 64)
	rand.Read(key)
	d, err := disk.NewDevice(c, disk.Params{Key: key, SectorSize: 512, DataOffset: mib, Length: uint64(c.Size() - mib), Discard: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil && !t.Failed() {
			t.Error(err)
		}
	})
	return d
}

// spin drives a Queue until all of rs are completed.
func spin(t testing.TB, q *disk.Queue, rs ...*disk.Request) {
	t.Helper()
	for _, r := range rs {
		q.Start(r)
	}
	for q.Pending() > 0 {
		q.Submit()
		if len(q.Completed(nil)) == 0 {
			fds := []unix.PollFd{{Fd: int32(q.FD()), Events: unix.POLLIN}}
			unix.Poll(fds, 10_000)
			if fds[0].Revents == 0 {
				t.Fatal("nothing is completed")
			}
		}
	}
}

// A Device's Queue over a server that is killed and started again.
func TestQueue(t *testing.T) {
	for _, options := range [][]string{nil, {"--no-sr", "--filter=blocksize-policy", "blocksize-minimum=512", "blocksize-preferred=4096", "blocksize-maximum=8192", "blocksize-error-policy=error"}} {
		args := append([]string{"file", blank(t, 5*mib)}, options...)
		s := nbdkit(t, args...)
		d := encrypted(t, openFor(t, configOf(s)))
		q, err := d.NewQueue(64)
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		want := make([]byte, d.Size())
		spin(t, q, &disk.Request{Op: disk.Read, Data: [][]byte{want}}) // zeros, deciphered
		r := mrand.New(mrand.NewPCG(1, 2))
		for round := range 30 {
			var rs []*disk.Request
			for slot := range int64(16) { // apart from each other
				part := d.Size() / 16
				n := 1 + r.Int64N(part-1)
				off := slot*part + r.Int64N(part-n)
				p := want[off : off+n]
				rand.Read(p)
				rs = append(rs, &disk.Request{Op: disk.Write, Off: off, Data: [][]byte{bytes.Clone(p)}})
			}
			rs = append(rs, &disk.Request{Op: disk.Flush})
			if round%10 == 5 {
				s.Kill()
				time.AfterFunc(30*time.Millisecond, s.Start)
			}
			spin(t, q, rs...)
			for _, r := range rs {
				if r.Err != nil {
					t.Fatal(r.Err)
				}
			}
			got := &disk.Request{Op: disk.Read, Data: [][]byte{make([]byte, d.Size())}}
			spin(t, q, got)
			if got.Err != nil || !bytes.Equal(got.Data[0], want) {
				t.Fatalf("round %d: content differs: %v", round, got.Err)
			}
		}
		trim := &disk.Request{Op: disk.Trim, Off: 0, Len: mib}
		spin(t, q, trim)
		if trim.Err != nil {
			t.Fatal(trim.Err)
		}
	}
}

// openFor opens a Client that a Device will close.
func openFor(t testing.TB, config Config) *Client {
	t.Helper()
	c, err := Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestQueueErrors(t *testing.T) {
	s := nbdkit(t, "--filter=error", "memory", "2M", "error=ENOSPC", "error-pwrite-rate=100%")
	config := configOf(s)
	config.Outage = 200 * time.Millisecond
	c := openFor(t, config)
	d := encrypted(t, c)
	q, err := d.NewQueue(8)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	w := &disk.Request{Op: disk.Write, Data: [][]byte{make([]byte, 300<<10)}}
	spin(t, q, w)
	if !errors.Is(w.Err, unix.ENOSPC) {
		t.Fatal(w.Err)
	}
	s.Kill()
	r := &disk.Request{Op: disk.Read, Data: [][]byte{make([]byte, 4096)}}
	f := &disk.Request{Op: disk.Flush}
	spin(t, q, r, f)
	if !errors.Is(r.Err, unix.EIO) || !errors.Is(f.Err, unix.EIO) {
		t.Fatal(r.Err, f.Err)
	}
	s.Start()
}

func BenchmarkQueue(b *testing.B) {
	socket := os.Getenv("UVBOND_NBD_SOCKET") // of a server to measure, with a disk of 1 GiB
	if socket == "" {
		b.Skip("UVBOND_NBD_SOCKET names no server")
	}
	for name, op := range map[string]disk.Op{"read": disk.Read, "write": disk.Write} {
		for _, conns := range []int{1, 4} {
			b.Run(name+string(rune('0'+conns)), func(b *testing.B) {
				c := openFor(b, Config{Dial: (&URI{Network: "unix", Address: socket}).Dial, Connections: conns})
				d := encrypted(b, c)
				q, err := d.NewQueue(32)
				if err != nil {
					b.Fatal(err)
				}
				defer q.Close()
				b.SetBytes(4096)
				var idle []*disk.Request
				for range 32 {
					idle = append(idle, &disk.Request{Op: op, Data: [][]byte{make([]byte, 4096)}})
				}
				var done []*disk.Request
				for n := 0; n < b.N; {
					for _, r := range idle {
						r.Off = mrand.Int64N(d.Size()/4096) * 4096
						q.Start(r)
					}
					idle = idle[:0]
					q.Submit()
					if done = q.Completed(done[:0]); len(done) == 0 {
						unix.Poll([]unix.PollFd{{Fd: int32(q.FD()), Events: unix.POLLIN}}, -1)
					}
					idle = append(idle, done...)
					n += len(done)
				}
			})
		}
	}
}
