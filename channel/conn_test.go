package channel

import (
	"bytes"
	"crypto/rand"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"golang.org/x/net/nettest"
)

// sockets is a pair of connected unix sockets, as between gate and keeper.
func sockets(t testing.TB) (net.Conn, net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		if conns[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return conns[0], conns[1]
}

// TestNetConn holds both ends against the contract of net.Conn.
func TestNetConn(t *testing.T) {
	raws := map[string]func(testing.TB) (net.Conn, net.Conn){
		"pipe":    func(testing.TB) (net.Conn, net.Conn) { return net.Pipe() },
		"sockets": sockets,
	}
	for name, raw := range raws {
		t.Run(name, func(t *testing.T) {
			nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
				a, b := raw(t)
				x, y := opened(t, a, b)
				return x, y, func() { x.Close(); y.Close() }, nil
			})
		})
	}
}

// TestBulk sends both ways at once by all paths, and compares.
func TestBulk(t *testing.T) {
	a, b := sockets(t)
	tenant, host := opened(t, a, b)
	data := make([]byte, 5<<20)
	rand.Read(data)
	var wg sync.WaitGroup
	send := func(c *Conn, w io.Writer) {
		if _, err := io.Copy(w, bytes.NewReader(data)); err != nil {
			t.Error(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Error(err)
		}
	}
	receive := func(r io.Reader) {
		var got bytes.Buffer
		if _, err := io.Copy(&got, r); err != nil {
			t.Error(err)
		}
		if !bytes.Equal(got.Bytes(), data) {
			t.Errorf("%d bytes came, others than were sent", got.Len())
		}
	}
	wg.Go(func() { send(tenant, tenant) })                  // ReadFrom
	wg.Go(func() { send(host, struct{ io.Writer }{host}) }) // Write
	wg.Go(func() { receive(host) })                         // WriteTo
	wg.Go(func() { receive(struct{ io.Reader }{tenant}) })  // Read
	wg.Wait()
	if in, out := host.Counts(); in != uint64(len(data)) || out != uint64(len(data)) {
		t.Errorf("counted %d in, %d out", in, out)
	}
	tenant.Close()
	host.Close()
}

// TestManyWriters: what one writes in one call stays together, up to a record.
func TestManyWriters(t *testing.T) {
	a, b := sockets(t)
	tenant, host := opened(t, a, b)
	const writers, each, size = 8, 200, 1000
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for range each {
				if _, err := tenant.Write(bytes.Repeat([]byte{byte(w)}, size)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	go func() {
		wg.Wait()
		tenant.Close()
	}()
	got, err := io.ReadAll(host)
	if err != nil || len(got) != writers*each*size {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	for i := 0; i < len(got); i += size {
		if bytes.Count(got[i:i+size], got[i:i+1]) != size {
			t.Fatalf("bytes of two writers are mixed at %d", i)
		}
	}
	host.Close()
}

// TestRekey runs over many changes of keys, with small epochs.
func TestRekey(t *testing.T) {
	a, b := net.Pipe()
	tenant, host := opened(t, a, b)
	tenant.out.every, host.in.every = 3, 3
	go func() {
		for i := range 100 {
			tenant.Write([]byte{byte(i)})
		}
		tenant.Close()
	}()
	got, err := io.ReadAll(host)
	if err != nil || len(got) != 100 {
		t.Fatalf("read %d bytes, %v", len(got), err)
	}
	for i, c := range got {
		if int(c) != i {
			t.Fatalf("byte %d is %d", i, c)
		}
	}
	if n := host.in.now.Load().number; n != 33 {
		t.Errorf("%d changes of the key", n)
	}
	host.Close()
}

// TestWrongAcrossKeys: replayed and reordered records are told also when the key changed in between.
func TestWrongAcrossKeys(t *testing.T) {
	key := [32]byte{1}
	out := newDirection(&key)
	other := newDirection(&[32]byte{2})
	out.every = 2
	var records [][]byte
	for range 9 {
		r, err := out.seal(make([]byte, 64), kindPing, 0)
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, r)
	}
	for next := range records {
		for claimed := range records {
			in := newDirection(&[32]byte{1})
			in.every = 2
			for i := range next {
				if _, _, err := in.openHeader(records[i], other); err != nil {
					t.Fatal(err)
				}
				if _, err := in.openBody(nil); err != nil {
					t.Fatal(err)
				}
			}
			_, _, err := in.openHeader(records[claimed], other)
			want := Why("")
			switch epochs := claimed/2 - int(in.now.Load().number); {
			case claimed == next:
			case epochs > 1 || epochs < -1:
				want = Tampered // too far away to tell
			case claimed > next:
				want = Reordered
			default:
				want = Replayed
			}
			if WhyOf(err) != want {
				t.Errorf("record %d instead of %d: %v", claimed, next, err)
			}
		}
	}
}

func TestLastCounter(t *testing.T) {
	d := newDirection(&[32]byte{1})
	d.every = 1 << 62
	d.next = lastCounter
	d.now.Store(&epoch{number: 1, aead: d.now.Load().aead})
	if _, err := d.seal(make([]byte, 64), kindPing, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := d.seal(make([]byte, 64), kindPing, 0); err != errCounter {
		t.Errorf("one more: %v", err)
	}
}

// TestNoAllocation: a record costs no memory, in either direction.
func TestNoAllocation(t *testing.T) {
	a, b := sockets(t)
	tenant, host := opened(t, a, b)
	buf, data := make([]byte, 64<<10), make([]byte, 20<<10)
	step := func() {
		if _, err := tenant.Write(data); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(host, buf[:len(data)]); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		step()
	}
	// The pool of buffers may be emptied meanwhile; under the race detector it loses some on purpose.
	if n := testing.AllocsPerRun(1000, step); n > 1 {
		t.Errorf("%v allocations for each record", n)
	}
	tenant.Close()
	host.Close()
}

// TestNothingLeft: neither goroutines nor buffers stay, however a channel ends.
func TestNothingLeft(t *testing.T) {
	ways := map[string]func(tenant, host *Conn, o *operator){
		"closed":   func(tenant, host *Conn, o *operator) { tenant.Close() },
		"cut":      func(tenant, host *Conn, o *operator) { o.end() },
		"tampered": func(tenant, host *Conn, o *operator) { tenant.raw.Write(make([]byte, 64)) },
		"unread":   func(tenant, host *Conn, o *operator) { tenant.Write(make([]byte, 64<<10)); tenant.Close() },
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			// A bubble that ends with goroutines in it fails.
			synctest.Test(t, func(t *testing.T) {
				o := &operator{}
				tenant, host := opened2(t, o)
				way(tenant, host, o)
				host.Close()
				tenant.Close()
				<-tenant.gone
				<-host.gone
				if tenant.source.big != nil || host.source.big != nil {
					t.Error("a buffer is still held")
				}
				o.end()
			})
		})
	}
}
