package screen

import (
	"context"
	"errors"
	"fmt"
	"image"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/uvbond/uvbond/tenant/rfb"
	"github.com/uvbond/uvbond/tenant/rfb/rfbtest"
)

// port is a Port under test.
type port struct {
	*Port
	number  int
	invited chan string
	done    chan error
	cancel  context.CancelFunc

	mu    sync.Mutex
	notes []string
}

func open(t *testing.T, p Port) *port {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := &port{Port: &p, number: ln.Addr().(*net.TCPAddr).Port, invited: make(chan string, 10), done: make(chan error, 1)}
	p.Invite = func(p *rfb.Password) { o.invited <- p.Reveal() }
	p.Note = func(s string) {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.notes = append(o.notes, s)
	}
	ctx, cancel := context.WithCancel(t.Context())
	o.cancel = cancel
	go func() { o.done <- p.Serve(ctx, ln) }()
	return o
}

func (o *port) noted() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Join(o.notes, "\n")
}

// dial connects and reads up to the version.
func (o *port) dial(t *testing.T) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", o.number))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}

func (o *port) end(t *testing.T, want error) {
	t.Helper()
	select {
	case err := <-o.done:
		if !errors.Is(err, want) {
			t.Fatalf("it ended with %v, want %v", err, want)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it does not end")
	}
	if _, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", o.number)); err == nil {
		t.Fatal("the port is open still")
	}
}

// TestRealViewer: a VNC client that is not ours sees what our screenshot shows, gets
// in once with a password, and again with the next one.
func TestRealViewer(t *testing.T) {
	dial := rfbtest.New(t).Dial
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	o := open(t, Port{Open: dial, Wait: time.Minute})
	for same := false; !same; { // the cursor blinks, and the firmware prints
		theirs, err := rfbtest.Capture(ctx, o.number, <-o.invited)
		if err != nil {
			t.Fatalf("%v\n%s", err, o.noted())
		}
		ours := screenshot(ctx, t, dial)
		same = rfbtest.Lit(ours) > 1000 && rfbtest.Same(ours, theirs)
	}
	if text := o.noted(); !strings.Contains(text, "a viewer is connected (127.0.0.1:") || !strings.Contains(text, "the viewer has left") {
		t.Errorf("noted:\n%s", text)
	}
	o.cancel()
	o.end(t, context.Canceled)
}

func screenshot(ctx context.Context, t *testing.T, dial func(context.Context) (net.Conn, error)) *image.RGBA {
	t.Helper()
	conn, err := dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c, err := rfb.Connect(ctx, conn)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p, err := c.Screenshot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestWrongPassword: a real client with a wrong one sees nothing, and after some more
// tries the port closes.
func TestWrongPassword(t *testing.T) {
	o := open(t, Port{Open: func(context.Context) (net.Conn, error) {
		t.Error("a channel was opened")
		return nil, errors.New("no channel")
	}})
	<-o.invited
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for range rfb.MaxTries {
		if _, err := rfbtest.Capture(ctx, o.number, "wrongone"); err == nil {
			t.Fatal("it got in")
		}
	}
	o.end(t, rfb.ErrTooManyTries)
}

// TestGarbage: whoever does not speak RFB is turned away, and the port stays open for
// the viewer.
func TestGarbage(t *testing.T) {
	o := open(t, Port{Open: rfbtest.New(t).Dial, Once: true})
	password := <-o.invited
	for _, sent := range []string{"GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01", "RFB 003.008\n\x63", strings.Repeat("A", 1<<20)} {
		conn := o.dial(t)
		_, _ = io.WriteString(conn, sent)
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, context.DeadlineExceeded) {
			t.Fatal("the connection stays")
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := rfbtest.Capture(ctx, o.number, password); err != nil {
		t.Fatal(err)
	}
	o.end(t, nil)
	if n := strings.Count(o.noted(), "turned away"); n != 4 {
		t.Errorf("%d were turned away:\n%s", n, o.noted())
	}
}

// TestOneAtATime: while a viewer is there, another is told so.
func TestOneAtATime(t *testing.T) {
	o := open(t, Port{Open: func(context.Context) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			_, _ = io.WriteString(far, "RFB 003.008\n\x01\x01\x00\x00\x00\x00")
			_, _ = io.Copy(io.Discard, far)
		}()
		go func() { _, _ = io.Copy(io.Discard, far) }()
		return near, nil
	}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	password := <-o.invited
	go func() { _, _ = rfbtest.Capture(ctx, o.number, password) }() // it waits for a ServerInit
	for !strings.Contains(o.noted(), "is connected") {
		time.Sleep(10 * time.Millisecond)
	}
	conn := o.dial(t)
	_, _ = io.WriteString(conn, "RFB 003.008\n")
	told, _ := io.ReadAll(conn)
	if want := "RFB 003.008\n\x00\x00\x00\x00\x1banother viewer is connected"; string(told) != want {
		t.Errorf("the second is told %q, want %q", told, want)
	}
	o.cancel()
	o.end(t, context.Canceled)
}

func TestNobodyComes(t *testing.T) {
	o := open(t, Port{Wait: 50 * time.Millisecond})
	conn := o.dial(t) // is there and says nothing
	o.end(t, ErrNobodyCame)
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, context.DeadlineExceeded) {
		t.Error("the connection stays")
	}
}

// TestNoChannel: a channel that cannot be opened ends the port with the reason.
func TestNoChannel(t *testing.T) {
	broken := errors.New("redirected")
	o := open(t, Port{Open: func(context.Context) (net.Conn, error) { return nil, broken }})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := rfbtest.Capture(ctx, o.number, <-o.invited); err == nil {
		t.Error("the viewer saw something")
	}
	o.end(t, broken)
}
