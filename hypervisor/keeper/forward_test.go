package keeper

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/uvbond/uvbond/channel"
	"github.com/uvbond/uvbond/channel/forward"
	"github.com/uvbond/uvbond/hypervisor/netns"
)

// listenWith listens on the loopback that the keeper of x will have.
func listenWith(t *testing.T, x *fixture) (l net.Listener) {
	t.Helper()
	listen := func() (err error) {
		l, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	}
	if isRoot() {
		if x.Options.Network == nil {
			ns, err := netns.New()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { ns.Close() })
			x.Options.Network = ns
		}
		inHost := listen
		listen = func() error { return netns.Do(x.Options.Network, inHost) }
	}
	if err := listen(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// TestPersist: a connection for which QEMU's listener had no room is tried again at once, and
// one that is refused is not.
func TestPersist(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		attempts := 0
		full := func(ctx context.Context) (net.Conn, error) {
			attempts++
			if attempts == 4 {
				return new(net.TCPConn), nil
			}
			var d net.Dialer
			<-ctx.Done() // what the kernel does with a packet that it drops
			return d.DialContext(ctx, "tcp", "127.0.0.1:1")
		}
		began := time.Now()
		if c, err := persist(t.Context(), full); c == nil || err != nil || time.Since(began) > 200*time.Millisecond {
			t.Errorf("%v, %v after %v", c, err, time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		attempts = 5
		if c, err := persist(ctx, full); c != nil || !errors.Is(err, context.DeadlineExceeded) || attempts > 40 {
			t.Errorf("%v, %v, %d attempts", c, err, attempts)
		}
	})
	// The socket's timer may be faster than the context's.
	attempts := 0
	c, err := persist(t.Context(), func(context.Context) (net.Conn, error) {
		if attempts++; attempts < 3 {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded}
		}
		return new(net.TCPConn), nil
	})
	if c == nil || err != nil || attempts != 3 {
		t.Errorf("%v, %v after %d attempts", c, err, attempts)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	attempts = 0
	_, err = persist(t.Context(), func(ctx context.Context) (net.Conn, error) {
		attempts++
		return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
	})
	if !errors.Is(err, syscall.ECONNREFUSED) || attempts != 1 {
		t.Errorf("%v after %d attempts", err, attempts)
	}
}

// TestForwardChannel: connections of the owner reach the port that the daemon named,
// through a real keeper, and nothing else.
func TestForwardChannel(t *testing.T) {
	x, o := newFixture(t), newOwner()
	x.Options.Config.Dials = true
	listen := func() net.Listener { return listenWith(t, x) }
	guest := listen()
	p := x.start(t)
	reports, _ := listenTo(t, p)
	next(t, reports)
	go func() {
		for {
			c, err := guest.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c) //nolint:errcheck // ends with the connection
			}()
		}
	}()
	conn := o.open(t, p, Channel{Kind: channel.KindForward, Port: 22, Address: guest.Addr().String()})
	wantReport(t, reports, Report{Event: EventOpened, Kind: channel.KindForward, Port: 22, Why: WhyDone, Open: 1})
	c, err := forward.NewClient(conn)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 1<<20)
	rand.Read(data)
	for range 3 {
		s, err := c.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			s.Write(data)  //nolint:errcheck // the reader notices
			s.CloseWrite() //nolint:errcheck // as above
		}()
		if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		s.Close()
	}
	guest.Close()
	var no *forward.NotConnectedError
	if _, err := c.Dial(t.Context()); !errors.As(err, &no) {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	end := next(t, reports)
	if end.Event != EventEnded || end.Why != WhyDone || end.Received < 3<<20 || end.Sent < 3<<20 || end.Open != 0 {
		t.Errorf("report %+v", end)
	}

	// A keeper that ends says so, also in the middle of a conversation.
	guest = listen()
	conn = o.open(t, p, Channel{Kind: channel.KindForward, Port: 22, Address: guest.Addr().String()})
	next(t, reports)
	if c, err = forward.NewClient(conn); err != nil {
		t.Fatal(err)
	}
	s, err := c.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	go p.Stop(t.Context()) //nolint:errcheck // of the test's process
	if _, err := s.Read(make([]byte, 1)); channel.WhyOf(err) != channel.Ended {
		t.Fatalf("a keeper that ends: %v", err)
	}
}
