package forward

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
)

// pair is a client, and a keeper that dials serve's listener.
func pair(t *testing.T, serve func(*net.TCPConn)) (*Client, <-chan error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer c.Close()
				serve(c.(*net.TCPConn))
			})
		}
	})
	c, ended := over(t, func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", l.Addr().String())
	})
	t.Cleanup(func() {
		c.Close()
		l.Close()
		work.Wait()
	})
	return c, ended
}

// over joins both ends with a socket pair, as between client, server and keeper.
func over(t *testing.T, dial Dialer) (*Client, <-chan error) {
	t.Helper()
	a, b := sockets(t)
	ended := make(chan error, 1)
	go func() {
		defer b.Close()
		ended <- Serve(context.Background(), b, dial)
	}()
	c, err := NewClient(a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, ended
}

func sockets(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("unix", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

func dial(t *testing.T, c *Client) *Stream {
	t.Helper()
	s, err := c.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func echo(c *net.TCPConn) { io.Copy(c, c) } //nolint:errcheck // ends with the connection

// TestHalfClose: the end of one direction is passed on behind the last byte, and the
// other direction goes on, in both ways.
func TestHalfClose(t *testing.T) {
	c, _ := pair(t, func(c *net.TCPConn) {
		all, err := io.ReadAll(c)
		if err != nil {
			t.Error(err)
		}
		c.Write(all)           //nolint:errcheck // the reader notices
		c.CloseWrite()         //nolint:errcheck // as above
		io.Copy(io.Discard, c) //nolint:errcheck // as above
	})
	data := make([]byte, 2<<20)
	rand.Read(data)
	for range 3 {
		s := dial(t, c)
		if _, err := s.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := s.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(s)
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%d bytes came back, %v", len(got), err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	c2, _ := pair(t, func(c *net.TCPConn) {
		c.Write([]byte("bye")) //nolint:errcheck // the reader notices
		c.CloseWrite()         //nolint:errcheck // as above
		all, err := io.ReadAll(c)
		if string(all) != "still here" || err != nil {
			t.Errorf("after its own end the guest read %q, %v", all, err)
		}
	})
	s := dial(t, c2)
	if got, err := io.ReadAll(s); err != nil || string(got) != "bye" {
		t.Fatal(err, got)
	}
	if _, err := s.Write([]byte("still here")); err != nil {
		t.Fatal(err)
	}
	s.CloseWrite() //nolint:errcheck // the guest notices
	s.Close()
}

// TestStalledStream: one that nobody reads holds neither the others nor the memory.
func TestStalledStream(t *testing.T) {
	c, _ := pair(t, func(c *net.TCPConn) {
		var kind [1]byte
		if _, err := io.ReadFull(c, kind[:]); err != nil {
			return
		}
		if kind[0] == 'f' {
			zero := make([]byte, 1<<16)
			for {
				if _, err := c.Write(zero); err != nil {
					return
				}
			}
		}
		echo(c)
	})
	for range 5 {
		s := dial(t, c) // flooded, and never read
		if _, err := s.Write([]byte("f")); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(200 * time.Millisecond)
	s := dial(t, c)
	data := make([]byte, 4<<20)
	rand.Read(data)
	go func() {
		s.Write([]byte("e"))      //nolint:errcheck // the reader notices
		s.Write(data)             //nolint:errcheck // as above
		_ = s.CloseWrite() == nil // as above
	}()
	got, err := io.ReadAll(s)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("beside stalled ones: %d bytes, %v", len(got), err)
	}
}

// TestResets: a connection that breaks at one end breaks at the other, at once, also
// when nothing is sent and when the window is full.
func TestResets(t *testing.T) {
	seen := make(chan error, 1)
	c, _ := pair(t, func(c *net.TCPConn) {
		var kind [1]byte
		if _, err := io.ReadFull(c, kind[:]); err != nil {
			return
		}
		switch kind[0] {
		case 'r': // the guest resets
			c.SetLinger(0) //nolint:errcheck // a test's
		case 'w': // waits for the tenant's reset
			_, err := c.Read(kind[:])
			seen <- err
		case 'f': // floods until the tenant's reset
			zero := make([]byte, 1<<16)
			for {
				if _, err := c.Write(zero); err != nil {
					seen <- err
					return
				}
			}
		}
	})
	s := dial(t, c)
	s.Write([]byte("r")) //nolint:errcheck // the read tells
	if _, err := io.ReadAll(s); !errors.Is(err, ErrReset) {
		t.Fatalf("the guest's reset is %v", err)
	}
	s.Close()
	for _, kind := range []string{"w", "f"} {
		s = dial(t, c)
		s.Write([]byte(kind)) //nolint:errcheck // the other end tells
		time.Sleep(100 * time.Millisecond)
		s.Close() // with both directions open
		if err := <-seen; err == nil || errors.Is(err, io.EOF) {
			t.Fatalf("%s: the guest saw %v, no reset", kind, err)
		}
	}
	for i := 0; c.mux.session.NumStreams() > 1; i++ {
		if i > 500 {
			t.Fatalf("%d streams are left", c.mux.session.NumStreams())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestNotConnected(t *testing.T) {
	fails := errors.New("first")
	c, _ := over(t, func(context.Context) (net.Conn, error) { return nil, fails })
	for err, want := range map[error]string{
		&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", os.ErrDeadlineExceeded)}: "no answer",
		fmt.Errorf("nobody \x1b[31mthere"):                                                   "nobody [31mthere",
		errors.New(strings.Repeat("x", 1000)):                                                strings.Repeat("x", maxReason),
	} {
		fails = err
		var no *NotConnectedError
		if _, err := c.Dial(t.Context()); !errors.As(err, &no) || no.Reason != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	real := func(ctx context.Context) (net.Conn, error) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		l.Close()
		var d net.Dialer
		return d.DialContext(ctx, "tcp", l.Addr().String())
	}
	c, _ = over(t, real)
	if _, err := c.Dial(t.Context()); err == nil || err.Error() != "connection refused" {
		t.Fatal(err)
	}
}

// TestGivenUp: who stops waiting for a connection does not leave the dial behind.
func TestGivenUp(t *testing.T) {
	given := make(chan error, 1)
	c, _ := over(t, func(ctx context.Context) (net.Conn, error) {
		<-ctx.Done()
		given <- ctx.Err()
		return nil, ctx.Err()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Dial(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if err := <-given; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func TestLimit(t *testing.T) {
	c, ended := pair(t, echo)
	var open []*Stream
	for range MaxStreams {
		open = append(open, dial(t, c))
	}
	var no *NotConnectedError
	if _, err := c.Dial(t.Context()); !errors.As(err, &no) || !strings.Contains(no.Reason, "128") {
		t.Fatal(err)
	}
	open[0].Close()
	for i := 0; ; i++ {
		s, err := c.Dial(t.Context())
		if err == nil {
			s.Close()
			break
		}
		if i > 500 {
			t.Fatal("no place became free: ", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	// A client that does not stop loses the channel.
	for {
		if _, err := c.mux.session.OpenStream(); err != nil {
			break
		}
	}
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "limit") {
		t.Fatal(err)
	}
}

// TestPing: yamux would answer in a goroutine each, for as long as the client reads
// nothing. The frame is found wherever it stands, and however it comes.
func TestPing(t *testing.T) {
	open := []byte{0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0}
	ping := []byte{0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9}
	inBody := append([]byte{0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 12}, ping...) // is none
	for _, piece := range []int{1, 5, 1000} {
		a, b := sockets(t)
		ended := make(chan error, 1)
		go func() {
			defer b.Close()
			ended <- Serve(context.Background(), b, func(context.Context) (net.Conn, error) { return nil, errors.New("no") })
		}()
		defer a.Close()
		for all := bytes.Join([][]byte{open, inBody, ping}, nil); len(all) > 0; {
			n := min(piece, len(all))
			if _, err := a.Write(all[:n]); err != nil {
				t.Fatal(err)
			}
			all = all[n:]
		}
		if err := <-ended; !errors.Is(err, errPing) {
			t.Errorf("in pieces of %d bytes: %v", piece, err)
		}
	}
	var f frames
	if err := f.follow(append(open, inBody...)); err != nil {
		t.Error(err)
	}
}

// TestReusedNumber: a client that resets a connection while it is dialled for, and opens
// another under its number, would have any number of dials under way.
func TestReusedNumber(t *testing.T) {
	a, b := sockets(t)
	defer a.Close()
	ended, dialled := make(chan error, 1), make(chan struct{}, 2)
	go func() {
		defer b.Close()
		ended <- Serve(context.Background(), b, func(ctx context.Context) (net.Conn, error) {
			dialled <- struct{}{}
			<-ctx.Done()
			return nil, ctx.Err()
		})
	}()
	open := func(id byte) []byte { return []byte{0, 1, 0, 1, 0, 0, 0, id, 0, 0, 0, 0} }
	reset := []byte{0, 1, 0, 8, 0, 0, 0, 3, 0, 0, 0, 0}
	a.Write(append(open(1), open(3)...)) //nolint:errcheck // the dial does not come then
	<-dialled
	a.Write(append(reset, open(3)...)) //nolint:errcheck // Serve's end tells
	select {
	case err := <-ended:
		if !errors.Is(err, errReused) {
			t.Error(err)
		}
	case <-dialled:
		t.Error("one number is dialled for twice")
	}
}

// TestGoodbyes: a client that says goodbye without end, and reads no answer, gets one.
func TestGoodbyes(t *testing.T) {
	a, b := sockets(t)
	m := newMux(b)
	session, err := yamux.Server(m.under, config())
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	m.session = session
	c, err := NewClient(a)
	if err != nil {
		t.Fatal(err)
	}
	defer c.mux.session.Close()
	if m.control, err = session.AcceptStream(); err != nil {
		t.Fatal(err)
	}
	m.sending.Lock() // as long as the client takes nothing
	before := runtime.NumGoroutine()
	for range 1000 {
		m.leave()
	}
	if n := runtime.NumGoroutine() - before; n > 10 {
		t.Errorf("%d goroutines wait to answer", n)
	}
	m.sending.Unlock()
	<-c.mux.bye
}

// broken is a channel whose read fails for a reason.
type broken struct {
	net.Conn
	why chan error
}

func (b *broken) Read([]byte) (int, error) { return 0, <-b.why }

// TestChannelEnds: the channel's reason is what every connection shows.
func TestChannelEnds(t *testing.T) {
	why := errors.New("the channel was tampered with")
	a, b := sockets(t)
	ended := make(chan error, 1)
	go func() {
		defer b.Close()
		ended <- Serve(context.Background(), b, func(context.Context) (net.Conn, error) { return nil, errors.New("no") })
	}()
	under := &broken{a, make(chan error, 1)}
	c, err := NewClient(under)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		time.Sleep(50 * time.Millisecond)
		under.why <- why
	}()
	if _, err := c.Dial(t.Context()); !errors.Is(err, why) {
		t.Fatalf("a connection ended with %v", err)
	}
	<-c.Done()
	if err := c.Err(); !errors.Is(err, why) {
		t.Fatal(err)
	}
	if _, err := c.Dial(t.Context()); !errors.Is(err, why) {
		t.Fatal(err)
	}
	<-ended
	c, end := pair(t, echo)
	s := dial(t, c)
	c.Close()
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) && !errors.Is(err, ErrReset) {
		t.Fatal(err)
	}
	if err := <-end; err != nil || c.Err() != nil {
		t.Fatal(err, c.Err())
	}
}

// TestJoin: a local connection and the guest's are one.
func TestJoin(t *testing.T) {
	c, _ := pair(t, echo)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	joined := make(chan error, 1)
	go func() {
		local, err := l.Accept()
		if err != nil {
			joined <- err
			return
		}
		joined <- Join(local.(*net.TCPConn), dial(t, c))
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	data := make([]byte, 1<<20)
	rand.Read(data)
	go func() {
		conn.Write(data)                 //nolint:errcheck // the reader notices
		conn.(*net.TCPConn).CloseWrite() //nolint:errcheck // as above
	}()
	if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if err := <-joined; err != nil {
		t.Fatal(err)
	}
}

// FuzzServe: whatever a client sends, the keeper's end ends with its stream.
func FuzzServe(f *testing.F) {
	open := []byte{0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0}
	f.Add(open)
	f.Add(append(bytes.Clone(open), 0, 1, 0, 1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 2, 'h', 'i', 0, 1, 0, 4, 0, 0, 0, 3, 0, 0, 0, 0))
	f.Add(append(bytes.Clone(open), 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 3))
	f.Add([]byte{0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1})
	f.Add([]byte("SSH-2.0-OpenSSH_9.2p1\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, b := net.Pipe()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			defer b.Close()
			Serve(context.Background(), b, func(context.Context) (net.Conn, error) { return nil, errors.New("no") }) //nolint:errcheck // any end will do
		}()
		go io.Copy(io.Discard, a) //nolint:errcheck // ends with the pipe
		a.Write(data)             //nolint:errcheck // the keeper may have ended
		a.Close()
		<-ended
	})
}
