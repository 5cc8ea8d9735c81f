package channel

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/uvbond/uvbond/bond"
)

func params() Params {
	return Params{
		Key: bond.NewSecret(bytes.Repeat([]byte{7}, 32)), VM: bond.VMID{1, 2, 3},
		Descriptor: bytes.Repeat([]byte{9}, 32), Kind: KindForward, Port: 22, Nonce: [32]byte{5},
	}
}

type result struct {
	conn *Conn
	err  error
}

// open makes both ends over the two raw streams.
func open(tenant, host io.ReadWriteCloser, pt, ph Params) (result, result) {
	done := make(chan result)
	go func() {
		c, err := Accept(context.Background(), host, ph)
		done <- result{c, err}
	}()
	c, err := Open(context.Background(), tenant, pt)
	return result{c, err}, <-done
}

// opened is open where it must succeed.
func opened(t testing.TB, tenant, host io.ReadWriteCloser) (*Conn, *Conn) {
	t.Helper()
	a, b := open(tenant, host, params(), params())
	if a.err != nil || b.err != nil {
		t.Fatalf("handshake: %v; %v", a.err, b.err)
	}
	return a.conn, b.conn
}

// operator stands between the ends. Each Write of an end arrives as one piece: the handshake's message
// is number 0 in each direction, records follow. What a function returns is
// passed on in the place of the piece; nil functions change nothing.
type operator struct {
	toHost, toTenant func(n int, piece []byte) [][]byte
	cut              chan struct{} // closed: both streams end
	once             sync.Once
}

func (o *operator) end() { o.once.Do(func() { close(o.cut) }) }

// between returns the raw streams of tenant and hypervisor with the operator in between.
func (o *operator) between() (tenant, host net.Conn) {
	o.cut = make(chan struct{})
	tenant, a := net.Pipe()
	host, b := net.Pipe()
	pump := func(dst, src net.Conn, alter func(int, []byte) [][]byte) {
		buf := make([]byte, 1<<17)
		for n := 0; ; n++ {
			m, err := src.Read(buf)
			if err != nil {
				dst.Close()
				return
			}
			pieces := [][]byte{bytes.Clone(buf[:m])}
			if alter != nil {
				pieces = alter(n, pieces[0])
			}
			for _, p := range pieces {
				dst.Write(p)
			}
		}
	}
	go pump(b, a, o.toHost)
	go pump(a, b, o.toTenant)
	go func() {
		<-o.cut
		a.Close()
		b.Close()
	}()
	return tenant, host
}

// attacked sends three records from the tenant and returns what the hypervisor's
// Read says in the end, and what it had read until then.
func attacked(t *testing.T, toHost func(n int, piece []byte) [][]byte) (got string, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		o := &operator{toHost: toHost}
		defer o.end()
		tenant, host := opened2(t, o)
		go func() {
			for _, s := range []string{"one ", "two ", "three "} {
				tenant.Write([]byte(s))
			}
			tenant.CloseWrite()
		}()
		var b []byte
		b, err = io.ReadAll(host)
		got = string(b)
		if err != nil {
			if _, werr := host.Write([]byte("x")); WhyOf(werr) != WhyOf(err) {
				t.Errorf("a write afterwards says %v", werr)
			}
			if host.Cause() == nil {
				t.Error("the channel goes on")
			}
		}
		host.Close()
		tenant.Close()
	})
	return got, err
}

func opened2(t testing.TB, o *operator) (*Conn, *Conn) {
	t.Helper()
	a, b := o.between()
	return opened(t, a, b)
}

func TestStream(t *testing.T) {
	got, err := attacked(t, nil)
	if err != nil || got != "one two three " {
		t.Fatalf("read %q, %v", got, err)
	}
}

func TestRedirected(t *testing.T) {
	others := map[string]func(*Params){
		"key":        func(p *Params) { p.Key = bond.NewSecret(bytes.Repeat([]byte{8}, 32)) },
		"vm":         func(p *Params) { p.VM[15]++ },
		"descriptor": func(p *Params) { p.Descriptor = bytes.Repeat([]byte{10}, 32) },
		"kind":       func(p *Params) { p.Kind, p.Port = KindConsole, 0 },
		"port":       func(p *Params) { p.Port = 23 },
		"nonce":      func(p *Params) { p.Nonce[31]++ },
	}
	for name, change := range others {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := net.Pipe()
				other := params()
				change(&other)
				x, y := open(a, b, params(), other)
				if WhyOf(x.err) != Redirected || WhyOf(y.err) != Redirected {
					t.Errorf("tenant: %v; hypervisor: %v", x.err, y.err)
				}
			})
		})
	}
}

// TestHandshakeTampered flips each bit of both messages of the handshake.
func TestHandshakeTampered(t *testing.T) {
	for i := range messageSize * 8 {
		flip := func(n int, piece []byte) [][]byte {
			if n == 0 {
				piece[i/8] ^= 1 << (i % 8)
			}
			return [][]byte{piece}
		}
		synctest.Test(t, func(t *testing.T) {
			o := &operator{toHost: flip}
			a, b := o.between()
			x, y := open(a, b, params(), params())
			if WhyOf(x.err) != Redirected || WhyOf(y.err) != Redirected {
				t.Errorf("first message, bit %d: %v; %v", i, x.err, y.err)
			}
			o.end()
			o = &operator{toTenant: flip}
			a, b = o.between()
			x, y = open(a, b, params(), params())
			if WhyOf(x.err) != Redirected {
				t.Errorf("second message, bit %d: %v", i, x.err)
			}
			if y.err == nil { // it can find out only from what follows
				if _, err := y.conn.Read(make([]byte, 1)); WhyOf(err) != Truncated {
					t.Errorf("second message, bit %d: the hypervisor says %v", i, err)
				}
			}
			o.end()
		})
	}
}

// TestTampered flips a bit of every byte of a record, its length included.
func TestTampered(t *testing.T) {
	size := headerSize + len("two ") + tagSize
	for i := range size {
		got, err := attacked(t, func(n int, piece []byte) [][]byte {
			if n == 2 {
				if len(piece) != size {
					t.Fatalf("the record has %d bytes, want %d", len(piece), size)
				}
				piece[i] ^= 0x10
			}
			return [][]byte{piece}
		})
		if WhyOf(err) != Tampered || got != "one " {
			t.Errorf("byte %d: read %q, %v", i, got, err)
		}
	}
}

func TestTouched(t *testing.T) {
	var kept [][]byte
	keep := func(n int, piece []byte) {
		if n == 0 {
			kept = nil
		}
		kept = append(kept, piece)
	}
	tests := []struct {
		name  string
		alter func(n int, piece []byte) [][]byte
		why   Why
		got   string
	}{
		{"two records swapped", func(n int, piece []byte) [][]byte {
			keep(n, piece)
			switch n {
			case 1:
				return nil
			case 2:
				return [][]byte{piece, kept[1]}
			}
			return [][]byte{piece}
		}, Reordered, ""},
		{"a record is missing", func(n int, piece []byte) [][]byte {
			if n == 2 {
				return nil
			}
			return [][]byte{piece}
		}, Reordered, "one "},
		{"a record comes again", func(n int, piece []byte) [][]byte {
			return [][]byte{piece, piece}[:1+n%2]
		}, Replayed, "one "},
		{"an old record comes again", func(n int, piece []byte) [][]byte {
			keep(n, piece)
			if n == 3 {
				return [][]byte{kept[1]}
			}
			return [][]byte{piece}
		}, Replayed, "one two "},
		{"one record's body with another's header", func(n int, piece []byte) [][]byte {
			keep(n, piece)
			if n == 2 {
				return [][]byte{append(bytes.Clone(piece[:headerSize]), kept[1][headerSize:]...)}
			}
			return [][]byte{piece}
		}, Tampered, "one "},
		{"an old record under the next counter", func(n int, piece []byte) [][]byte {
			keep(n, piece)
			if n == 2 {
				return [][]byte{append(bytes.Clone(piece[:counterSize]), kept[1][counterSize:]...)}
			}
			return [][]byte{piece}
		}, Tampered, "one "},
		{"garbage", func(n int, piece []byte) [][]byte {
			if n == 2 {
				return [][]byte{bytes.Repeat([]byte("GET / HTTP/1.1\r\n"), 4)}
			}
			return [][]byte{piece}
		}, Tampered, "one "},
		{"a counter far ahead", func(n int, piece []byte) [][]byte {
			if n == 2 {
				copy(piece, bytes.Repeat([]byte{0xff}, counterSize))
			}
			return [][]byte{piece}
		}, Tampered, "one "},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := attacked(t, test.alter)
			if WhyOf(err) != test.why || got != test.got {
				t.Errorf("read %q, %v; want %q, %s", got, err, test.got, test.why)
			}
		})
	}
}

// TestReflected sends the hypervisor its own records.
func TestReflected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &operator{}
		mirror := make(chan []byte, 1)
		o.toTenant = func(n int, piece []byte) [][]byte {
			if n == 1 {
				mirror <- piece
			}
			return [][]byte{piece}
		}
		o.toHost = func(n int, piece []byte) [][]byte {
			if n == 1 {
				return [][]byte{<-mirror}
			}
			return [][]byte{piece}
		}
		defer o.end()
		tenant, host := opened2(t, o)
		go io.Copy(io.Discard, tenant)
		host.Write([]byte("mine"))
		tenant.Write([]byte("yours"))
		if _, err := host.Read(make([]byte, 9)); WhyOf(err) != Reflected {
			t.Errorf("read: %v", err)
		}
		// The other end is told, under the seal.
		synctest.Wait()
		var e *Error
		if !errors.As(tenant.Cause(), &e) || e.Why != Ended || e.Reason != string(Reflected) || !e.Suspicious() {
			t.Errorf("the other end says %v", tenant.Cause())
		}
		host.Close()
		tenant.Close()
	})
}

// TestSpliced gives the tenant the records of another channel of the same VM.
func TestSpliced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := make(chan []byte, 1)
		one := &operator{toHost: func(n int, piece []byte) [][]byte {
			if n == 1 {
				first <- piece
				return nil
			}
			return [][]byte{piece}
		}}
		two := &operator{toHost: func(n int, piece []byte) [][]byte {
			if n == 1 {
				return [][]byte{<-first}
			}
			return [][]byte{piece}
		}}
		tenant, host := opened2(t, one)
		tenant2, host2 := opened2(t, two)
		tenant.Write([]byte("for the first"))
		tenant2.Write([]byte("for the second"))
		if _, err := host2.Read(make([]byte, 99)); WhyOf(err) != Tampered {
			t.Errorf("read: %v", err)
		}
		one.end()
		two.end()
		for _, c := range []*Conn{tenant, host, tenant2, host2} {
			c.Close()
		}
	})
}

// TestTruncated cuts the stream after every byte of a record, and between records.
func TestTruncated(t *testing.T) {
	size := headerSize + len("two ") + tagSize
	for i := range size + 1 {
		synctest.Test(t, func(t *testing.T) {
			o := &operator{}
			o.toHost = func(n int, piece []byte) [][]byte {
				if n == 2 {
					go func() {
						synctest.Wait()
						o.end()
					}()
					return [][]byte{piece[:i]}
				}
				return [][]byte{piece}
			}
			tenant, host := opened2(t, o)
			go func() {
				tenant.Write([]byte("one "))
				tenant.Write([]byte("two "))
			}()
			got, err := io.ReadAll(host)
			want := "one "
			if i == size {
				want = "one two "
			}
			if WhyOf(err) != Truncated || string(got) != want {
				t.Errorf("cut after %d bytes: read %q, %v", i, got, err)
			}
			tenant.Close()
		})
	}
}

func TestTruncatedHandshake(t *testing.T) {
	for i := range messageSize {
		synctest.Test(t, func(t *testing.T) {
			a, b := net.Pipe()
			go func() {
				b.Write(make([]byte, i))
				b.Close()
			}()
			if _, err := Accept(t.Context(), a, params()); WhyOf(err) != Truncated {
				t.Errorf("after %d bytes: %v", i, err)
			}
		})
	}
}

func TestReasons(t *testing.T) {
	for _, reason := range []string{Done, "the instance ended", "a\nb\x1b[31m\xff"} {
		synctest.Test(t, func(t *testing.T) {
			a, b := net.Pipe()
			tenant, host := opened(t, a, b)
			go func() {
				host.Write([]byte("last words"))
				host.CloseWith(reason)
			}()
			got, err := io.ReadAll(tenant)
			if string(got) != "last words" {
				t.Errorf("read %q before the end", got)
			}
			var e *Error
			switch {
			case reason == Done && (err != nil || tenant.Cause() != io.EOF):
				t.Errorf("closed in order: %v, %v", err, tenant.Cause())
			case reason != Done && (!errors.As(err, &e) || e.Why != Ended || e.Reason != cleanReason(reason)):
				t.Errorf("closed with %q: %v", reason, err)
			}
			if _, err := tenant.Write([]byte("x")); WhyOf(err) != Ended {
				t.Errorf("write to a closed channel: %v", err)
			}
			if err := tenant.Close(); err != nil {
				t.Error(err)
			}
			if _, err := host.Read(make([]byte, 1)); err != net.ErrClosed {
				t.Errorf("read after Close: %v", err)
			}
		})
	}
	if s := cleanReason("a\nb\x1b[31m\xff" + string(make([]byte, 999))); len(s) != maxReason || s[:9] != "a?b?[31m?" {
		t.Errorf("cleaned: %q", s)
	}
}

func TestHalfClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		tenant, host := opened(t, a, b)
		go func() {
			tenant.Write([]byte("question"))
			tenant.CloseWrite()
			if _, err := tenant.Write([]byte("more")); err != net.ErrClosed {
				t.Errorf("write after CloseWrite: %v", err)
			}
		}()
		q, err := io.ReadAll(host)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			host.Write(append(q, " answered"...))
			host.Close()
		}()
		got, err := io.ReadAll(tenant)
		if err != nil || string(got) != "question answered" {
			t.Errorf("read %q, %v", got, err)
		}
		tenant.Close()
	})
}

func TestWrongParameters(t *testing.T) {
	for name, change := range map[string]func(*Params){
		"no key":            func(p *Params) { p.Key = nil },
		"short key":         func(p *Params) { p.Key = bond.NewSecret(make([]byte, 31)) },
		"no descriptor":     func(p *Params) { p.Descriptor = nil },
		"long descriptor":   func(p *Params) { p.Descriptor = make([]byte, 33) },
		"no nonce":          func(p *Params) { p.Nonce = [32]byte{} },
		"no kind":           func(p *Params) { p.Kind = "" },
		"unknown kind":      func(p *Params) { p.Kind = "sound" },
		"long kind":         func(p *Params) { p.Kind = string(bytes.Repeat([]byte{'k'}, 300)) },
		"forward, no port":  func(p *Params) { p.Port = 0 },
		"console with port": func(p *Params) { p.Kind = KindConsole },
	} {
		p := params()
		change(&p)
		a, b := net.Pipe()
		if _, err := Open(t.Context(), a, p); err == nil {
			t.Errorf("%s: no error", name)
		}
		if _, err := a.Write([]byte("x")); err != io.ErrClosedPipe {
			t.Errorf("%s: the stream is still open: %v", name, err)
		}
		b.Close()
	}
}
