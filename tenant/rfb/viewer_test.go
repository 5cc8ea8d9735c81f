package rfb

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// comeIn is a viewer's handshake, by hand. It returns the SecurityResult with the
// reason, or what stands in its place.
func comeIn(conn net.Conn, version, password string) (result uint32, reason string) {
	var line [12]byte
	if _, err := io.ReadFull(conn, line[:]); err != nil {
		return 99, err.Error()
	}
	_, _ = io.WriteString(conn, version)
	if strings.Contains(version, "003.003") {
		var kind [4]byte
		_, _ = io.ReadFull(conn, kind[:])
		if kind[3] != securityVNC {
			text, _ := readText(conn)
			return 98, text
		}
	} else {
		var n [1]byte
		_, _ = io.ReadFull(conn, n[:])
		if n[0] != 1 {
			text, _ := readText(conn)
			return 98, text
		}
		_, _ = io.ReadFull(conn, n[:])
		_, _ = conn.Write([]byte{securityVNC})
	}
	var challenge [16]byte
	_, _ = io.ReadFull(conn, challenge[:])
	answer := encipher(password, challenge)
	_, _ = conn.Write(answer[:])
	var b [4]byte
	if _, err := io.ReadFull(conn, b[:]); err != nil {
		return 97, err.Error()
	}
	if result = binary.BigEndian.Uint32(b[:]); result != 0 && version != "RFB 003.003\n" && version != "RFB 003.007\n" {
		reason, _ = readText(conn)
	}
	return result, reason
}

const v38 = "RFB 003.008\n"

func TestGreet(t *testing.T) {
	for _, version := range []string{"RFB 003.003\n", "RFB 003.005\n", "RFB 003.007\n", v38, "RFB 003.889\n", "RFB 004.001\n"} {
		p := NewPassword()
		for try, want := range []struct {
			password string
			err      error
		}{{"wrong", ErrWrongPassword}, {p.Reveal(), nil}, {p.Reveal(), ErrPasswordSpent}} {
			near, far := net.Pipe()
			type outcome struct {
				result uint32
				reason string
			}
			came := make(chan outcome, 1)
			sent := version
			if sent == "RFB 003.005\n" {
				sent = "RFB 003.003\n"
			}
			go func() {
				n, s := comeIn(far, sent, want.password)
				came <- outcome{n, s}
			}()
			v, err := Greet(near, p)
			if !errors.Is(err, want.err) || (err == nil) != (v != nil) {
				t.Fatalf("%q, try %d: %v, want %v", version, try, err, want.err)
			}
			if v != nil {
				_ = v.accept()
			}
			near.Close()
			got := <-came
			if (got.result == 0) != (want.err == nil) {
				t.Errorf("%q, try %d: the viewer has %v", version, try, got)
			}
			if version == v38 && want.err != nil && got.reason != want.err.Error() {
				t.Errorf("try %d: the viewer reads %q", try, got.reason)
			}
		}
	}
}

func TestTooManyTries(t *testing.T) {
	p := NewPassword()
	for try := range MaxTries + 1 {
		near, far := net.Pipe()
		password := "wrong"
		if try == MaxTries {
			password = p.Reveal()
		}
		go comeIn(far, v38, password)
		if _, err := Greet(near, p); err == nil {
			t.Fatalf("try %d got in", try)
		}
		near.Close()
		if p.Spent() != (try >= MaxTries-1) {
			t.Fatalf("after try %d, spent is %v", try, p.Spent())
		}
	}
}

func TestGreetGarbage(t *testing.T) {
	for name, sent := range map[string]string{
		"http":         "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"tls":          "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
		"version":      "RFB 03.0008\n",
		"old":          "RFB 002.999\n",
		"letters":      "RFB abc.def\n",
		"no line":      "RFB 003.008 ",
		"wrong choice": v38 + "\x01",
		"half":         v38 + "\x02" + "answer",
		"nothing":      "",
	} {
		t.Run(name, func(t *testing.T) {
			near, far := net.Pipe()
			defer near.Close()
			go func() { _, _ = io.Copy(io.Discard, far) }()
			go func() {
				_, _ = io.WriteString(far, sent)
				far.Close()
			}()
			p := NewPassword()
			if v, err := Greet(near, p); err == nil {
				t.Fatalf("let in: %v", v)
			}
			if p.Spent() {
				t.Fatal("the password is spent")
			}
		})
	}
}

// TestPasswordFile: the same bytes as vncpasswd writes for "password".
func TestPasswordFile(t *testing.T) {
	if have := hex.EncodeToString((&Password{text: "password"}).PasswordFile()); have != "dbd83cfd727a1458" {
		t.Fatal(have)
	}
	seen := map[string]bool{}
	for range 1000 {
		s := NewPassword().Reveal()
		if len(s) != 8 || seen[s] || strings.Trim(s, passwordLetters) != "" {
			t.Fatalf("%q", s)
		}
		seen[s] = true
	}
}

// TestRelay: what a viewer sends reaches the VM as it is, and with watch only what looks.
func TestRelay(t *testing.T) {
	look := bytes.Join([][]byte{pixelFormat(), encodings(), {msgUpdateRequest, 1, 0, 0, 0, 0, 0, 9, 0, 9}, {msgFence, 0, 0, 0, 0, 0, 0, 0, 2, 1, 1}}, nil)
	act := bytes.Join([][]byte{
		keyEvent(shift, true, false), keyEvent(shift, false, true), {msgPointer, 1, 0, 1, 0, 1},
		{msgCut, 0, 0, 0, 0, 0, 0, 3, 'a', 'b', 'c'}, {msgCut, 0, 0, 0, 0xff, 0xff, 0xff, 0xfc, 1, 0, 0, 0},
		append([]byte{msgSetDesktopSize, 0, 0, 9, 0, 9, 1, 0}, make([]byte, 16)...), {msgXVP, 0, 1, 2},
	}, nil)
	sound := []byte{msgQEMU, qemuAudio, 0, 0, msgQEMU, qemuAudio, 0, 2, 3, 2, 0, 0, 0, 1}
	for _, watch := range []bool{false, true} {
		want := append([]byte{1}, look...)
		if !watch {
			want = append(want, act...)
		}
		got, down, err := relayed(t, watch, bytes.Join([][]byte{{0}, look, sound, act}, nil))
		if err != nil || down != "from the VM" || !bytes.Equal(got, want) {
			t.Errorf("watch %v: %v, %q\n% x\nwant\n% x", watch, err, down, got, want)
		}
	}
}

// relayed runs a relay whose viewer sends something and leaves.
func relayed(t *testing.T, watch bool, sent []byte) (got []byte, down string, err error) {
	t.Helper()
	viewer, v := visitor(t)
	screen, vm := net.Pipe()
	reached := make(chan []byte, 1)
	go func() {
		go func() {
			_, _ = io.WriteString(vm, v38+"\x01\x01\x00\x00\x00\x00"+"from the VM")
		}()
		_, _ = io.CopyN(io.Discard, vm, 13)
		b, _ := io.ReadAll(vm)
		reached <- b
	}()
	end := make(chan error, 1)
	go func() { end <- Relay(t.Context(), v, screen, watch) }()
	text := make([]byte, 4+len("from the VM"))
	if _, err := io.ReadFull(viewer, text); err != nil {
		t.Fatal(err)
	}
	_, _ = viewer.Write(sent)
	// An RFB viewer just goes; what it sent is handled before that is seen.
	_ = viewer.(*net.TCPConn).CloseWrite()
	err = <-end
	return <-reached, string(text[4:]), err
}

// visitor is a viewer on a TCP connection that was greeted.
func visitor(t *testing.T) (net.Conn, *Visitor) {
	t.Helper()
	near, far := pair(t)
	return near, &Visitor{conn: far, minor: 8}
}

// pair is a TCP connection.
func pair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if near, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if far, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

// TestViewerGarbage: a viewer that speaks garbage ends the relay, and none of it
// reaches the VM.
func TestViewerGarbage(t *testing.T) {
	for name, sent := range map[string][]byte{
		"unknown":         {77, 1, 2, 3},
		"http":            []byte("GET / HTTP/1.1\r\n\r\n"),
		"clipboard":       {msgCut, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff},
		"extended":        {msgCut, 0, 0, 0, 0xff, 0xff, 0xff, 0xff},
		"most negative":   {msgCut, 0, 0, 0, 0x80, 0, 0, 0},
		"key":             {msgKey, 7, 0, 0, 0, 0, 0, 0},
		"fence":           {msgFence, 0, 0, 0, 0, 0, 0, 0, 65},
		"QEMU's":          {msgQEMU, 9, 0, 0},
		"sound":           {msgQEMU, qemuAudio, 0, 9},
		"half a message":  {msgKey, 1, 0},
		"half a setting":  {msgSetEncodings, 0, 0xff, 0xff, 1, 2, 3},
		"no message type": {1, 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			got, _, err := relayed(t, false, append([]byte{0}, sent...))
			if !errors.Is(err, ErrGarbage) || !errors.Is(err, ErrProtocol) {
				t.Errorf("the error is %v", err)
			}
			if name != "half a setting" && !bytes.Equal(got, []byte{1}) {
				t.Errorf("the VM got % x", got)
			}
		})
	}
}

// TestSlowChannel: a viewer is let in also when the channel took long to open, longer
// than a viewer's answer may.
func TestSlowChannel(t *testing.T) {
	viewer, v := visitor(t)
	_ = v.conn.SetDeadline(time.Now()) // what Greet left
	screen, vm := net.Pipe()
	go func() { _, _ = io.Copy(io.Discard, vm) }()
	go func() {
		_, _ = io.WriteString(vm, v38+"\x01\x01\x00\x00\x00\x00picture")
		vm.Close()
	}()
	if err := Relay(t.Context(), v, screen, false); !errors.Is(err, ErrScreenGone) {
		t.Fatalf("the error is %v", err)
	}
	if got, _ := io.ReadAll(viewer); string(got) != "\x00\x00\x00\x00picture" {
		t.Fatalf("the viewer has %q", got)
	}
}

// TestStuckViewer: one that reads nothing ends.
func TestStuckViewer(t *testing.T) {
	defer func(d time.Duration) { stuckAfter = d }(stuckAfter)
	stuckAfter = 100 * time.Millisecond
	_, v := visitor(t)
	screen, vm := net.Pipe()
	go func() {
		go func() { _, _ = io.Copy(io.Discard, vm) }()
		_, _ = io.WriteString(vm, v38+"\x01\x01\x00\x00\x00\x00")
		for {
			if _, err := vm.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	}()
	if err := Relay(t.Context(), v, screen, false); !errors.Is(err, ErrViewerStuck) {
		t.Fatalf("the error is %v", err)
	}
	if _, err := vm.Write([]byte{0}); err == nil {
		t.Fatal("the channel is open still")
	}
}

func TestScreenEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for name, c := range map[string]struct {
		says string
		end  func(vm net.Conn)
		want string
	}{
		"closed":    {v38 + "\x01\x01\x00\x00\x00\x00", func(vm net.Conn) { vm.Close() }, ErrScreenGone.Error()},
		"not RFB":   {"garbage garbage", func(net.Conn) {}, "not the RFB protocol"},
		"cancelled": {v38 + "\x01\x01\x00\x00\x00\x00", func(net.Conn) { cancel() }, context.Canceled.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := ctx
			if name != "cancelled" {
				ctx = t.Context()
			}
			viewer, v := visitor(t)
			screen, vm := net.Pipe()
			go func() { _, _ = io.Copy(io.Discard, vm) }()
			go func() {
				_, _ = io.WriteString(vm, c.says)
				c.end(vm)
			}()
			if err := Relay(ctx, v, screen, false); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error is %v", err)
			}
			_ = viewer.SetReadDeadline(time.Now().Add(10 * time.Second))
			if _, err := io.Copy(io.Discard, viewer); errors.Is(err, context.DeadlineExceeded) {
				t.Error("the viewer was not disconnected")
			}
		})
	}
}

func FuzzViewerMessages(f *testing.F) {
	f.Add(pixelFormat(), false)
	f.Add(encodings(), true)
	f.Add(keyEvent(shift, true, true), true)
	f.Add(keyEvent(shift, true, false), false)
	f.Add([]byte{msgCut, 0, 0, 0, 0xff, 0xff, 0xff, 0xfc, 1, 0, 0, 0}, true)
	f.Add([]byte{msgSetDesktopSize, 0, 0, 9, 0, 9, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 9, 0, 0, 0, 0}, false)
	f.Add([]byte{msgQEMU, qemuAudio, 0, 2, 3, 2, 0, 0, 0, 1, msgFence, 0, 0, 0, 0, 0, 0, 0, 1, 1}, false)
	f.Fuzz(func(t *testing.T, sent []byte, watch bool) {
		got := filtered(sent, watch)
		if len(got) > len(sent) {
			t.Fatalf("%d bytes became %d", len(sent), len(got))
		}
		// What comes out is made of messages that come out of it again.
		if again := filtered(got, watch); !bytes.Equal(again, got) {
			t.Fatalf("% x became % x, and that % x", sent, got, again)
		}
		if watch && len(got) > 0 && !bytes.Contains([]byte{msgSetPixelFormat, msgSetEncodings, msgUpdateRequest, msgContinuous, msgFence}, got[:1]) {
			t.Fatalf("a message of type %d came through", got[0])
		}
	})
}

func filtered(sent []byte, watch bool) []byte {
	var out bytes.Buffer
	m := messages{r: bufio.NewReader(bytes.NewReader(sent)), w: bufio.NewWriter(&out), watch: watch}
	for m.next() == nil {
	}
	_ = m.w.Flush()
	return out.Bytes()
}

func FuzzServer(f *testing.F) {
	var z deflated
	f.Add(update(rect(0, 0, 2, 1, encodingRaw, 1, 2, 3, 0, 4, 5, 6, 0)))
	f.Add(update(rect(0, 0, 1, 1, encodingZlib, z.part([]byte{7, 8, 9, 0})...), rect(0, 0, 4, 4, encodingDesktopSize)))
	f.Add(update(rect(0, 0, 9, 9, encodingExtDesktop, append([]byte{1, 0, 0, 0}, make([]byte, 16)...)...), rect(0, 0, 0, 0, encodingLastRect)))
	f.Add([]byte{msgServerBell, msgServerCut, 0, 0, 0, 0, 0, 0, 1, 'x'})
	f.Add(update(rect(0, 0, 0, 0, encodingExtKey)))
	f.Fuzz(func(t *testing.T, sent []byte) {
		if len(sent) > 1<<16 {
			return
		}
		c := &Client{size: size{16, 16}, news: make(chan struct{}, 1)}
		d := &reader{r: bufio.NewReader(bytes.NewReader(sent)), c: c}
		if err := d.run(); err == nil {
			t.Fatal("it ended without a reason")
		}
		if c.size.w < 1 || c.size.h < 1 || c.size.w*c.size.h > MaxPixels {
			t.Fatalf("the screen is %v", c.size)
		}
	})
}

func FuzzHandshake(f *testing.F) {
	f.Add(hello(4, 4))
	f.Add([]byte("RFB 003.008\n\x00\x00\x00\x00\x03why"))
	f.Add([]byte("RFB 003.889\n\x02\x02\x01\x00\x00\x00\x01\x00\x00\x00\x03why"))
	f.Fuzz(func(t *testing.T, sent []byte) {
		var written bytes.Buffer
		rw := struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(sent), &written}
		if err := clientHandshake(rw); err == nil {
			if _, err := readServerInit(rw); err == nil && len(sent) < 42 {
				t.Fatal("there is not that much")
			}
		}
		if written.Len() > 13 {
			t.Fatalf("%d bytes were said", written.Len())
		}
	})
}

func FuzzParseKeys(f *testing.F) {
	f.Add("ctrl-alt-delete")
	f.Add("KEY_LEFTCTRL+f1")
	f.Add("--")
	f.Fuzz(func(t *testing.T, text string) {
		keys, err := ParseKeys(text)
		if err == nil && (len(keys) == 0 || len(keys) > MaxCombination) {
			t.Fatalf("%q is %d keys", text, len(keys))
		}
	})
}
