package rfb

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// hello is what a VNC server says before it waits for messages: version, security
// types, result, and a screen of a size.
func hello(w, h uint16) []byte {
	b := []byte("RFB 003.008\n\x01\x01\x00\x00\x00\x00")
	b = binary.BigEndian.AppendUint16(b, w)
	b = binary.BigEndian.AppendUint16(b, h)
	b = append(b, make([]byte, 16)...)
	return append(b, "\x00\x00\x00\x04test"...)
}

func rect(x, y, w, h uint16, encoding int32, data ...byte) []byte {
	var b []byte
	for _, n := range []uint16{x, y, w, h} {
		b = binary.BigEndian.AppendUint16(b, n)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(encoding))
	return append(b, data...)
}

func update(rects ...[]byte) []byte {
	b := binary.BigEndian.AppendUint16([]byte{msgServerUpdate, 0}, uint16(len(rects)))
	return append(b, bytes.Join(rects, nil)...)
}

// serve gives a client the said bytes and then, for each message it sends, the next
// reply. Replies are written at once when the client asked for pixels.
func serve(t *testing.T, greeting []byte, replies ...[]byte) net.Conn {
	t.Helper()
	near, far := net.Pipe()
	t.Cleanup(func() { near.Close(); far.Close() })
	go func() {
		defer far.Close()
		go far.Write(greeting)
		skip := len("RFB 003.008\n") + 1 + 1 + len(pixelFormat()) + len(encodings())
		if _, err := io.CopyN(io.Discard, far, int64(skip)); err != nil {
			return
		}
		for _, r := range replies {
			if _, err := io.CopyN(io.Discard, far, 10); err != nil {
				return
			}
			if _, err := far.Write(r); err != nil {
				return
			}
		}
		_, _ = io.Copy(io.Discard, far)
	}()
	return near
}

func connect(t *testing.T, conn net.Conn) *Client {
	t.Helper()
	c, err := Connect(within(t, 10*time.Second), conn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// deflated is one part of a zlib stream, flushed as QEMU does.
type deflated struct {
	buf bytes.Buffer
	z   *zlib.Writer
}

func (d *deflated) part(p []byte) []byte {
	if d.z == nil {
		d.z = zlib.NewWriter(&d.buf)
	}
	d.buf.Reset()
	_, _ = d.z.Write(p)
	_ = d.z.Flush()
	return append(binary.BigEndian.AppendUint32(nil, uint32(d.buf.Len())), d.buf.Bytes()...)
}

func TestScreenshot(t *testing.T) {
	var z deflated
	whole := update(
		rect(0, 0, 2, 1, encodingRaw, 1, 2, 3, 0, 4, 5, 6, 0),
		rect(0, 1, 1, 1, encodingZlib, z.part([]byte{7, 8, 9, 0})...),
		rect(1, 1, 1, 1, encodingZlib, z.part([]byte{10, 11, 12, 99})...))
	want := []byte{1, 2, 3, 255, 4, 5, 6, 255, 7, 8, 9, 255, 10, 11, 12, 255}
	half := update(rect(0, 0, 2, 1, encodingRaw, make([]byte, 8)...))
	for name, replies := range map[string][][]byte{
		"in one update":      {whole},
		"in two updates":     {append(half, update(rect(0, 1, 2, 1, encodingRaw, make([]byte, 8)...), rect(0, 0, 2, 2, encodingRaw, flat(want)...))...)},
		"of another size":    {append(update(rect(0, 0, 2, 2, encodingDesktopSize)), whole...), update(rect(0, 0, 2, 2, encodingRaw, flat(want)...))},
		"with screens":       {append(update(rect(0, 0, 2, 2, encodingExtDesktop, append([]byte{1, 0, 0, 0}, make([]byte, 16)...)...)), whole...), update(rect(0, 0, 2, 2, encodingRaw, flat(want)...))},
		"with a last one":    {append([]byte{0, 0, 0xff, 0xff}, append(rect(0, 0, 2, 2, encodingRaw, flat(want)...), rect(0, 0, 0, 0, encodingLastRect)...)...)},
		"among other things": {append([]byte{msgServerBell, msgServerCut, 0, 0, 0, 0, 0, 0, 3, 'a', 'b', 'c'}, append(update(rect(0, 0, 0, 0, encodingExtKey)), whole...)...)},
	} {
		t.Run(name, func(t *testing.T) {
			w := uint16(2)
			if name == "of another size" || name == "with screens" {
				w = 4
			}
			c := connect(t, serve(t, hello(w, 2), replies...))
			p, err := c.Screenshot(within(t, 10*time.Second))
			if err != nil {
				t.Fatal(err)
			}
			if name == "in two updates" {
				want := append(make([]byte, 0), want...)
				if p.Pix[3] != 255 || len(p.Pix) != len(want) {
					t.Fatalf("the picture is %v", p.Pix)
				}
				return
			}
			if !bytes.Equal(p.Pix, want) || c.Size() != p.Rect.Max {
				t.Fatalf("the picture is %v, want %v", p.Pix, want)
			}
		})
	}
}

// flat is pixels as a server sends them: its fourth byte is nothing.
func flat(p []byte) []byte {
	b := bytes.Clone(p)
	for i := 3; i < len(b); i += 4 {
		b[i] = 0
	}
	return b
}

// TestPartialPicture: a picture of which a part never comes is not taken for whole.
func TestPartialPicture(t *testing.T) {
	c := connect(t, serve(t, hello(2, 2), update(rect(0, 0, 2, 1, encodingRaw, make([]byte, 8)...))))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := c.Screenshot(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the error is %v", err)
	}
}

func TestHostileServer(t *testing.T) {
	var z deflated
	bomb := z.part(make([]byte, 1<<20))
	for name, reply := range map[string][]byte{
		"unknown message":         {77},
		"colour map":              {msgServerColours, 0, 0, 0, 0, 0},
		"endless clipboard":       {msgServerCut, 0, 0, 0, 0xff, 0xff, 0xff, 0xff},
		"encoding not asked for":  update(rect(0, 0, 1, 1, 7, 0)),
		"pseudo encoding":         update(rect(0, 0, 1, 1, -239, 0)),
		"copy rectangle":          update(rect(0, 0, 1, 1, encodingCopy, 0, 0, 0, 0)),
		"outside to the right":    update(rect(1, 0, 4, 1, encodingRaw, make([]byte, 16)...)),
		"outside below":           update(rect(0, 3, 1, 2, encodingRaw, make([]byte, 8)...)),
		"largest rectangle":       update(rect(0xffff, 0xffff, 0xffff, 0xffff, encodingRaw)),
		"huge screen":             update(rect(0, 0, 0xffff, 0xffff, encodingDesktopSize)),
		"no screen":               update(rect(0, 0, 0, 4, encodingDesktopSize)),
		"more pixels than wanted": update(rect(0, 0, 8192, 8192, encodingExtDesktop, 0, 0, 0, 0)),
		"compressed length":       update(rect(0, 0, 1, 1, encodingZlib, 0xff, 0xff, 0xff, 0xff)),
		"not compressed":          update(rect(0, 0, 1, 1, encodingZlib, 0, 0, 0, 4, 1, 2, 3, 4)),
		"compressed too short":    update(rect(0, 0, 4, 4, encodingZlib, new(deflated).part([]byte{1, 2, 3})...)),
		"more than the rectangle": append(update(rect(0, 0, 1, 1, encodingZlib, bomb...)), update(rect(0, 0, 1, 1, 7))...),
	} {
		t.Run(name, func(t *testing.T) {
			c := connect(t, serve(t, hello(4, 4), reply))
			_, err := c.Screenshot(within(t, 10*time.Second))
			if !errors.Is(err, ErrProtocol) {
				t.Fatalf("the error is %v", err)
			}
			if err := c.Type(within(t, 10*time.Second), "a", 0); !errors.Is(err, ErrProtocol) {
				t.Fatalf("later the error is %v", err)
			}
		})
	}
}

func TestHostileGreeting(t *testing.T) {
	good := string(hello(4, 4))
	for name, c := range map[string]struct{ greeting, want string }{
		"http":           {"HTTP/1.1 400 Bad Request\r\n", "no version"},
		"old":            {"RFB 003.003\n", "3.3"},
		"password":       {"RFB 003.008\n\x01\x02", "password"},
		"refused":        {"RFB 003.008\n\x00\x00\x00\x00\x05no\x1b[m", `"no?[m"`},
		"long refusal":   {"RFB 003.008\n\x00\xff\x00\x00\x05", "bytes"},
		"result":         {"RFB 003.008\n\x01\x01\x00\x00\x00\x01\x00\x00\x00\x03why", `"why"`},
		"huge screen":    {strings.Replace(good, "\x00\x04\x00\x04", "\xff\xff\xff\xff", 1), "65535x65535"},
		"long name":      {strings.Replace(good, "\x00\x04test", "\xff\xff", 1), "bytes"},
		"ends":           {good[:30], "ends inside"},
		"ends in a name": {good[:len(good)-1], "ends inside"},
	} {
		t.Run(name, func(t *testing.T) {
			near, far := pair(t)
			_, _ = io.WriteString(far, c.greeting)
			_ = far.(*net.TCPConn).CloseWrite()
			if _, err := Connect(within(t, 10*time.Second), near); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("the error is %v, want %q", err, c.want)
			}
		})
	}
}

// TestSilentServer: one that says nothing ends with the context.
func TestSilentServer(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Connect(ctx, near); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the error is %v", err)
	}
}

// TestDeafServer: one that takes nothing ends with the context too.
func TestDeafServer(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	go func() {
		go far.Write(hello(4, 4))
		_, _ = io.CopyN(io.Discard, far, int64(12+1+1+len(pixelFormat())+len(encodings())))
	}()
	c := connect(t, near)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Type(ctx, "a", 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the error is %v", err)
	}
}
