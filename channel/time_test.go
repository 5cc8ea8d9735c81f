package channel

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestIdle: a channel in which nothing is said stays, and costs a ping every 15 s.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var pings atomic.Int64
		o := &operator{toHost: func(n int, piece []byte) [][]byte {
			if len(piece) == headerSize {
				pings.Add(1)
			}
			return [][]byte{piece}
		}}
		tenant, host := opened2(t, o)
		time.Sleep(24*time.Hour + time.Second)
		if err := errors.Join(tenant.Cause(), host.Cause()); err != nil {
			t.Fatal(err)
		}
		if n := pings.Load(); n != 24*60*4 {
			t.Errorf("%d pings in 24 h", n)
		}
		go tenant.Write([]byte("still here"))
		b := make([]byte, 99)
		if n, err := host.Read(b); err != nil || string(b[:n]) != "still here" {
			t.Errorf("read %q, %v", b[:n], err)
		}
		tenant.Close()
		host.Close()
		o.end()
	})
}

// TestSilence: the operator keeps everything back from some time on.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		o := &operator{toHost: func(n int, piece []byte) [][]byte {
			if time.Since(began) > 100*time.Second {
				return nil
			}
			return [][]byte{piece}
		}}
		tenant, host := opened2(t, o)
		_, err := host.Read(make([]byte, 1))
		// The last ping came after 90 s.
		if d := time.Since(began); WhyOf(err) != TimedOut || d < 135*time.Second || d > 136*time.Second {
			t.Errorf("after %v: %v", d, err)
		}
		synctest.Wait()
		var e *Error
		if !errors.As(tenant.Cause(), &e) || e.Why != Ended || e.Reason != string(TimedOut) {
			t.Errorf("the other end says %v", tenant.Cause())
		}
		o.end()
	})
}

// trickling is a stream of which, after the handshake, one byte comes in every 40 s.
type trickling struct {
	net.Conn
	read int
}

func (s *trickling) Read(p []byte) (int, error) {
	if s.read >= messageSize {
		time.Sleep(40 * time.Second)
		p = p[:1]
	}
	n, err := s.Conn.Read(p)
	s.read += n
	return n, err
}

// TestTrickle: bytes of a record that the operator lets through one by one do not keep a
// channel alive.
func TestTrickle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &operator{}
		a, b := o.between()
		tenant, host := opened(t, a, &trickling{Conn: b})
		began := time.Now()
		go tenant.Write(make([]byte, 1000))
		_, err := host.Read(make([]byte, 1))
		if d := time.Since(began); WhyOf(err) != TimedOut || d > deadAfter+time.Second {
			t.Errorf("after %v: %v", d, err)
		}
		o.end()
		tenant.Close()
		<-host.gone
	})
}

// TestStuckReader: a peer that takes nothing any more is dead after 45 s, for a
// writer and for pings.
func TestStuckReader(t *testing.T) {
	for _, writes := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			a, b := net.Pipe()
			stuck := newStopping(b)
			tenant, host := opened(t, a, stuck)
			if err := readOne(tenant, host); err != nil {
				t.Fatal(err)
			}
			close(stuck.stop)
			host.alive.stop() // it would find out itself
			began, want := time.Now(), deadAfter
			var err error
			if writes {
				for err == nil {
					_, err = tenant.Write(make([]byte, 1000))
				}
			} else {
				want += pingEvery // a ping after 15 s, which is not taken
				_, err = tenant.Read(make([]byte, 1))
			}
			if d := time.Since(began); WhyOf(err) != TimedOut || d < deadAfter || d > want+time.Second {
				t.Errorf("writes %v: after %v: %v", writes, d, err)
			}
			host.Close()
		})
	}
}

func readOne(from, to *Conn) error {
	done := make(chan error)
	go func() {
		_, err := from.Write([]byte("x"))
		done <- err
	}()
	if _, err := to.Read(make([]byte, 1)); err != nil {
		return err
	}
	return <-done
}

// stopping is a stream that is not read any more after stop.
type stopping struct {
	net.Conn
	stop, closed chan struct{}
}

func newStopping(c net.Conn) *stopping {
	return &stopping{Conn: c, stop: make(chan struct{}), closed: make(chan struct{})}
}

func (s *stopping) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p[:min(1, len(p))])
	if isClosed(s.stop) {
		<-s.closed
	}
	return n, err
}

func (s *stopping) Close() error {
	if !isClosed(s.closed) {
		close(s.closed)
	}
	return s.Conn.Close()
}

// TestSlowReader: who reads slowly, but reads, keeps the channel.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		tenant, host := opened(t, a, b)
		const total = 1 << 20
		go func() {
			if _, err := tenant.Write(make([]byte, total)); err != nil {
				t.Error(err)
			}
			tenant.Close()
		}()
		got, buf := 0, make([]byte, 70000)
		for {
			time.Sleep(40 * time.Second)
			n, err := host.Read(buf)
			got += n
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if got != total {
			t.Errorf("got %d bytes", got)
		}
		host.Close()
	})
}

func TestHandshakeTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		a, b := net.Pipe()
		_, err := Accept(t.Context(), a, params())
		if d := time.Since(began); WhyOf(err) != TimedOut || d != handshakeTime {
			t.Errorf("after %v: %v", d, err)
		}
		b.Close()

		a, b = net.Pipe()
		go io.Copy(io.Discard, b)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := Open(ctx, a, params()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a context that ends: %v", err)
		}
		b.Close()
	})
}

// TestCloseOfStuck: closing does not hang where the other end takes nothing.
func TestCloseOfStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		stuck := newStopping(b)
		tenant, host := opened(t, a, stuck)
		if err := readOne(tenant, host); err != nil {
			t.Fatal(err)
		}
		close(stuck.stop)
		wrote := make(chan error)
		go func() {
			for {
				if _, err := tenant.Write(make([]byte, 1000)); err != nil {
					wrote <- err
					return
				}
			}
		}()
		synctest.Wait()
		began := time.Now()
		tenant.Close()
		if err := <-wrote; err != net.ErrClosed {
			t.Errorf("the write says %v", err)
		}
		if d := time.Since(began); d > 2*closeTime {
			t.Errorf("closing took %v", d)
		}
		<-tenant.gone // it goes on trying
		if d := time.Since(began); d > deadAfter+time.Second {
			t.Errorf("giving up took %v", d)
		}
		host.Close()
	})
}

// TestExpiredWriteDeadline: pings go out all the same, and nothing is lost or twice.
func TestExpiredWriteDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		tenant, host := opened(t, a, b)
		tenant.SetWriteDeadline(time.Now().Add(time.Second))
		sent := 0
		for { // nobody reads
			n, err := tenant.Write([]byte("0123456789"))
			sent += n
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if n, err := tenant.Write([]byte("x")); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("past the deadline: %d, %v", n, err)
		}
		time.Sleep(time.Second)
		read := make(chan []byte)
		go func() {
			b, err := io.ReadAll(host)
			if err != nil {
				t.Error(err)
			}
			read <- b
		}()
		time.Sleep(10 * time.Minute)
		if err := errors.Join(tenant.Cause(), host.Cause()); err != nil {
			t.Fatal(err)
		}
		tenant.SetWriteDeadline(time.Time{})
		n, err := tenant.Write([]byte("end"))
		if err != nil {
			t.Fatal(err)
		}
		tenant.Close()
		if got := <-read; len(got) != sent+n {
			t.Errorf("%d bytes were sent, %d came", sent+n, len(got))
		}
		host.Close()
	})
}
