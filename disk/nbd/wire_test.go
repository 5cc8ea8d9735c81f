package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// client speaks the protocol byte by byte.
type client struct {
	t  testing.TB
	nc net.Conn
}

func dial(t testing.TB, path string) *client {
	t.Helper()
	nc, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(10 * time.Second))
	c := &client{t, nc}
	hello := c.read(18)
	if binary.BigEndian.Uint64(hello) != magicInit || binary.BigEndian.Uint64(hello[8:]) != magicOption || binary.BigEndian.Uint16(hello[16:]) != 3 {
		t.Fatalf("greeting %x", hello)
	}
	return c
}

func (c *client) read(n int) []byte {
	c.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(c.nc, b); err != nil {
		c.t.Fatalf("read: %v", err)
	}
	return b
}

func (c *client) write(parts ...any) {
	c.t.Helper()
	if _, err := c.nc.Write(bin(parts...)); err != nil {
		c.t.Fatalf("write: %v", err)
	}
}

func bin(parts ...any) []byte {
	var b bytes.Buffer
	for _, p := range parts {
		if s, ok := p.(string); ok {
			b.WriteString(s)
		} else if err := binary.Write(&b, binary.BigEndian, p); err != nil {
			panic(err)
		}
	}
	return b.Bytes()
}

func (c *client) expectClosed() {
	c.t.Helper()
	if n, err := c.nc.Read(make([]byte, 1)); n != 0 || (err != io.EOF && !errors.Is(err, syscall.ECONNRESET)) {
		c.t.Fatalf("connection is not closed: %d, %v", n, err)
	}
}

func option2(code uint32, data string) []byte {
	return bin(uint64(magicOption), code, uint32(len(data)), data)
}

func infoData(name string, types ...uint16) string {
	return string(bin(uint32(len(name)), name, uint16(len(types)), types))
}

// optReply reads one reply to an option.
func (c *client) optReply(code uint32) (kind uint32, data []byte) {
	c.t.Helper()
	b := c.read(20)
	if binary.BigEndian.Uint64(b) != magicOptReply || binary.BigEndian.Uint32(b[8:]) != code {
		c.t.Fatalf("reply %x to option %d", b, code)
	}
	return binary.BigEndian.Uint32(b[12:]), c.read(int(binary.BigEndian.Uint32(b[16:])))
}

func (c *client) expectReply(code, kind uint32) []byte {
	c.t.Helper()
	got, data := c.optReply(code)
	if got != kind {
		c.t.Fatalf("option %d: reply %#x, want %#x", code, got, kind)
	}
	return data
}

// open negotiates an export and returns its flags.
func (c *client) open(name string, structured bool) uint16 {
	c.t.Helper()
	c.write(uint32(3))
	if structured {
		c.write(option2(optStructuredReply, ""))
		c.expectReply(optStructuredReply, repAck)
	}
	c.write(option2(optGo, infoData(name)))
	data := c.expectReply(optGo, repInfo)
	c.expectReply(optGo, repInfo)
	c.expectReply(optGo, repAck)
	return binary.BigEndian.Uint16(data[10:])
}

func req(flags, command int, cookie, offset uint64, length uint32) []byte {
	return bin(uint32(magicRequest), uint16(flags), uint16(command), cookie, offset, length)
}

func (c *client) expectSimple(cookie uint64, errno uint32) {
	c.t.Helper()
	b := c.read(16)
	if binary.BigEndian.Uint32(b) != magicSimple || binary.BigEndian.Uint64(b[8:]) != cookie {
		c.t.Fatalf("reply %x to %d", b, cookie)
	}
	if got := binary.BigEndian.Uint32(b[4:]); got != errno {
		c.t.Fatalf("request %d: error %d, want %d", cookie, got, errno)
	}
}

func twoExports(t testing.TB) *Server {
	return &Server{Exports: []Export{{Name: "a", Device: newMemory(t, 1<<20).Device}, {Name: "b", Device: newMemory(t, 4096, readOnly).Device}}}
}

func TestOptions(t *testing.T) {
	path, _ := serve(t, twoExports(t))
	c := dial(t, path)
	c.write(uint32(3))
	for _, x := range []struct {
		name string
		code uint32
		data string
		want uint32
	}{
		{"TLS", optStartTLS, "", repErrUnsup},
		{"list meta context", 9, "", repErrUnsup},
		{"set meta context", 10, "\x00\x00\x00\x01a\x00\x00\x00\x00", repErrUnsup},
		{"extended headers", 11, "", repErrUnsup},
		{"unknown", 0xdeadbeef, "whatever", repErrUnsup},
		{"zero", 0, "", repErrUnsup},
		{"list with data", optList, "x", repErrInvalid},
		{"structured with data", optStructuredReply, "x", repErrInvalid},
		{"structured", optStructuredReply, "", repAck},
		{"structured again", optStructuredReply, "", repAck},
		{"info without data", optInfo, "", repErrInvalid},
		{"go with short data", optGo, "\x00\x00\x00\x00\x00", repErrInvalid},
		{"go with long name", optGo, "\xff\xff\xff\xff\x00\x00", repErrInvalid},
		{"go with name beyond", optGo, "\x00\x00\x00\x02a\x00\x00", repErrInvalid},
		{"go with types missing", optGo, "\x00\x00\x00\x01a\x00\x02\x00\x00", repErrInvalid},
		{"go with trailing data", optGo, infoData("a") + "x", repErrInvalid},
		{"go to unknown", optGo, infoData("c"), repErrUnknown},
		{"info of unknown", optInfo, infoData("a\x00"), repErrUnknown},
		{"default of two", optGo, infoData(""), repErrUnknown},
		{"too long", optGo, string(make([]byte, maxOptionData+1)), repErrTooBig},
		{"longest drained", 77, string(make([]byte, maxOptionDrain)), repErrTooBig},
	} {
		c.write(option2(x.code, x.data))
		if got, _ := c.optReply(x.code); got != x.want {
			t.Errorf("%s: reply %#x, want %#x", x.name, got, x.want)
		}
	}
	c.write(option2(optList, ""))
	for _, name := range []string{"a", "b"} {
		if got := c.expectReply(optList, repServer); string(got) != string(bin(uint32(1), name)) {
			t.Errorf("listed %q", got)
		}
	}
	c.expectReply(optList, repAck)
	c.write(option2(optInfo, infoData("a", infoName, infoBlockSize, 2, 999)))
	if got := c.expectReply(optInfo, repInfo); !bytes.Equal(got, bin(uint16(infoExport), uint64(1<<20), uint16(0x9ed))) {
		t.Errorf("export %x", got)
	}
	if got := c.expectReply(optInfo, repInfo); !bytes.Equal(got, bin(uint16(infoBlockSize), uint32(1), uint32(4096), uint32(32<<20))) {
		t.Errorf("block size %x", got)
	}
	if got := c.expectReply(optInfo, repInfo); !bytes.Equal(got, bin(uint16(infoName), "a")) {
		t.Errorf("name %x", got)
	}
	c.expectReply(optInfo, repAck)
	c.write(option2(optAbort, ""))
	c.expectReply(optAbort, repAck)
	c.expectClosed()
}

func TestExportName(t *testing.T) {
	path, _ := serve(t, twoExports(t))
	for _, flags := range []uint32{1, 3} {
		c := dial(t, path)
		c.write(flags, option2(optExportName, "b"))
		got := c.read(10)
		if !bytes.Equal(got, bin(uint64(4096), uint16(tfHasFlags|tfReadOnly|tfFlush|tfFUA|tfMultiConn))) {
			t.Fatalf("%x", got)
		}
		if flags == 1 && !bytes.Equal(c.read(124), make([]byte, 124)) {
			t.Fatal("no zeroes")
		}
		c.write(req(0, cmdRead, 5, 0, 16))
		c.expectSimple(5, 0)
		c.read(16)
		c.write(req(0, cmdDisconnect, 6, 0, 0))
		c.expectClosed()
	}
	c := dial(t, path)
	c.write(uint32(3), option2(optExportName, "c"))
	c.expectClosed()
}

func TestHandshakeEnds(t *testing.T) {
	s := twoExports(t)
	s.HandshakeTimeout = 300 * time.Millisecond
	path, _ := serve(t, s)
	for name, b := range map[string][]byte{
		"no flags":         bin(uint32(0)),
		"unknown flags":    bin(uint32(7)),
		"wrong magic":      bin(uint32(3), uint64(magicInit), uint32(optList), uint32(0)),
		"giant option":     bin(uint32(3), uint64(magicOption), uint32(optGo), uint32(0xffffffff)),
		"just too giant":   bin(uint32(3), uint64(magicOption), uint32(optGo), uint32(maxOptionDrain+1)),
		"long export name": bin(uint32(3), uint64(magicOption), uint32(optExportName), uint32(maxOptionData+1)),
		"silence":          nil,
		"half an option":   bin(uint32(3), uint64(magicOption), uint32(optGo)),
		"data missing":     bin(uint32(3), uint64(magicOption), uint32(optGo), uint32(100)),
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, path)
			c.write(b)
			c.expectClosed()
		})
	}
	t.Run("endless options", func(t *testing.T) {
		c := dial(t, path)
		c.write(uint32(3))
		for range maxOptions {
			c.write(option2(99, ""))
			c.expectReply(99, repErrUnsup)
		}
		c.expectClosed()
	})
}

func TestCommands(t *testing.T) {
	path, _ := serve(t, &Server{Exports: []Export{{Name: "a", Device: newMemory(t, 1<<20).Device}, {Name: "b", Device: newMemory(t, 4096, noDiscard).Device},
		{Name: "ro", Device: newMemory(t, 4096, readOnly).Device}}})
	const size, huge = 1 << 20, 1<<64 - 1
	for _, x := range []struct {
		name           string
		export         string
		flags, command int
		offset         uint64
		length         uint32
		payload        int
		want           uint32
	}{
		{"read", "a", 0, cmdRead, 0, 0, 0, 0},
		{"read with FUA", "a", cfFUA, cmdRead, 0, 0, 0, 0},
		{"read nothing at the end", "a", 0, cmdRead, size, 0, 0, 0},
		{"read at the end", "a", 0, cmdRead, size, 1, 0, errInvalid},
		{"read across the end", "a", 0, cmdRead, size - 1, 2, 0, errInvalid},
		{"read far out", "a", 0, cmdRead, huge, 1, 0, errInvalid},
		{"read wrapping round", "a", 0, cmdRead, huge, 0xffffffff, 0, errInvalid},
		{"read too long", "a", 0, cmdRead, 0, MaxRequest + 1, 0, errInvalid},
		{"read unfragmented without structured replies", "a", cfDontFragment, cmdRead, 0, 1, 0, errInvalid},
		{"read with unknown flag", "a", 1 << 9, cmdRead, 0, 1, 0, errInvalid},
		{"write", "a", 0, cmdWrite, 100, 50, 50, 0},
		{"write with FUA", "a", cfFUA, cmdWrite, 100, 50, 50, 0},
		{"write nothing", "a", 0, cmdWrite, 100, 0, 0, 0},
		{"write at the end", "a", 0, cmdWrite, size, 1, 1, errNoSpace},
		{"write across the end", "a", 0, cmdWrite, size - 10, 20, 20, errNoSpace},
		{"write far out", "a", 0, cmdWrite, huge, 20, 20, errNoSpace},
		{"write too long", "a", 0, cmdWrite, 0, MaxRequest + 1, MaxRequest + 1, errInvalid},
		{"write with unknown flag", "a", cfNoHole, cmdWrite, 0, 20, 20, errInvalid},
		{"write read-only", "ro", 0, cmdWrite, 0, 20, 20, errPerm},
		{"flush", "a", 0, cmdFlush, 0, 0, 0, 0},
		{"flush read-only", "ro", 0, cmdFlush, 0, 0, 0, 0},
		{"flush with a length", "a", 0, cmdFlush, 0, 5, 0, errInvalid},
		{"flush with an offset", "a", 0, cmdFlush, 5, 0, 0, errInvalid},
		{"trim", "a", 0, cmdTrim, 0, 8192, 0, 0},
		{"trim not offered", "b", 0, cmdTrim, 0, 4096, 0, errInvalid},
		{"trim read-only", "ro", 0, cmdTrim, 0, 4096, 0, errPerm},
		{"trim out of range", "a", 0, cmdTrim, size, 4096, 0, errInvalid},
		{"zero", "a", 0, cmdWriteZeroes, 0, size, 0, 0},
		{"zero without a hole, FUA", "a", cfNoHole | cfFUA, cmdWriteZeroes, 0, size, 0, 0},
		{"zero fast", "a", cfFastZero, cmdWriteZeroes, 0, size, 0, errNotSup},
		{"zero read-only", "ro", 0, cmdWriteZeroes, 0, 4096, 0, errPerm},
		{"zero out of range", "a", 0, cmdWriteZeroes, 0, 0xffffffff, 0, errNoSpace},
		{"cache", "a", 0, 5, 0, 4096, 0, errInvalid},
		{"block status", "a", 0, 7, 0, 4096, 0, errInvalid},
		{"unknown", "a", 0, 0xffff, 0, 4096, 0, errInvalid},
	} {
		t.Run(x.name, func(t *testing.T) {
			c := dial(t, path)
			c.open(x.export, false)
			c.write(req(x.flags, x.command, 0x1122334455667788, x.offset, x.length), make([]byte, x.payload))
			c.expectSimple(0x1122334455667788, x.want)
			// Whatever it was, the connection goes on.
			c.write(req(0, cmdRead, 2, 0, 4096))
			c.expectSimple(2, 0)
			c.read(4096)
		})
	}
}

func TestFlushes(t *testing.T) {
	m := newMemory(t, 1<<20)
	path, _ := serve(t, &Server{Exports: []Export{{Device: m.Device}}})
	c := dial(t, path)
	c.open("", false)
	for i, command := range []int{cmdWrite, cmdTrim, cmdWriteZeroes} {
		before := m.flushes.Load()
		b := req(cfFUA, command, 1, 0, 8)
		if command == cmdWrite {
			b = append(b, "abcdefgh"...)
		}
		c.write(b)
		c.expectSimple(1, 0)
		if m.flushes.Load() != before+1 {
			t.Errorf("%d: FUA did not flush", i)
		}
	}
}

func TestStructuredReplies(t *testing.T) {
	m := newMemory(t, 1<<20)
	m.set(t, []byte("hello"), 4096)
	path, _ := serve(t, &Server{Exports: []Export{{Device: m.Device}}})
	c := dial(t, path)
	if flags := c.open("", true); flags&tfDontFragment == 0 {
		t.Errorf("flags %#x", flags)
	}
	c.write(req(cfDontFragment, cmdRead, 7, 4096, 5))
	if got := c.read(33); !bytes.Equal(got, bin(uint32(magicChunk), uint16(chunkDone), uint16(chunkOffsetData), uint64(7), uint32(13), uint64(4096), "hello")) {
		t.Fatalf("%x", got)
	}
	c.write(req(0, cmdRead, 8, 4096, 0))
	if got := c.read(20); !bytes.Equal(got, bin(uint32(magicChunk), uint16(chunkDone), uint16(0), uint64(8), uint32(0))) {
		t.Fatalf("%x", got)
	}
	failed := func(cookie uint64, errno uint32) []byte {
		return bin(uint32(magicChunk), uint16(chunkDone), uint16(chunkError), cookie, uint32(6), errno, uint16(0))
	}
	c.write(req(0, cmdRead, 9, 1<<20, 1))
	if got := c.read(26); !bytes.Equal(got, failed(9, errInvalid)) {
		t.Fatalf("%x", got)
	}
	m.failWith(errTest)
	c.write(req(0, cmdRead, 10, 0, 1))
	if got := c.read(26); !bytes.Equal(got, failed(10, errIO)) {
		t.Fatalf("%x", got)
	}
}

func TestErrors(t *testing.T) {
	m := newMemory(t, 1<<20)
	path, _ := serve(t, &Server{Exports: []Export{{Device: m.Device}}})
	c := dial(t, path)
	c.open("", false)
	for _, x := range []struct {
		err  error
		want uint32
	}{
		{errTest, errIO}, {unix.EIO, errIO}, {io.ErrUnexpectedEOF, errIO}, {unix.ENOSPC, errNoSpace}, {fmt.Errorf("x: %w", unix.EDQUOT), errNoSpace},
		{&fs.PathError{Op: "write", Err: unix.EFBIG}, errNoSpace}, {unix.EROFS, errPerm}, {unix.EACCES, errPerm}, {unix.EOPNOTSUPP, errNotSup},
		{unix.ENOMEM, errNoMem}, {unix.EINVAL, errInvalid}, {fs.ErrClosed, errShutdown}, {unix.ENODEV, errIO}, {unix.EBADF, errIO},
	} {
		m.failWith(x.err)
		for _, command := range []int{cmdRead, cmdWrite, cmdFlush, cmdTrim, cmdWriteZeroes} {
			b := req(0, command, 3, 0, 4)
			switch command {
			case cmdWrite:
				b = append(b, "data"...)
			case cmdFlush:
				b = req(0, command, 3, 0, 0)
			case cmdTrim:
				b = req(0, command, 3, 0, testSector)
			}
			want := x.want
			if command == cmdTrim && want == errNotSup {
				want = 0 // it is advice
			}
			c.write(b)
			c.expectSimple(3, want)
		}
	}
}

func TestTransmissionEnds(t *testing.T) {
	path, _ := serve(t, twoExports(t))
	for name, b := range map[string][]byte{
		"wrong magic":    bin(uint32(magicSimple), make([]byte, 24)),
		"half a request": req(0, cmdRead, 1, 0, 1)[:20],
		"half a payload": append(req(0, cmdWrite, 1, 0, 100), 1, 2, 3),
		"half a refused": append(req(0, cmdWrite, 1, 1<<40, 100), 1, 2, 3),
	} {
		c := dial(t, path)
		c.open("a", false)
		c.write(b)
		c.nc.(*net.UnixConn).CloseWrite()
		c.expectClosed()
		_ = name
	}
	c := dial(t, path)
	c.open("a", false)
	c.write(req(0, cmdWrite, 9, 0, 0xffffffff)) // too long to be drained: answered, then closed
	c.expectSimple(9, errInvalid)
	c.expectClosed()
}

// A client that asks for much and reads nothing holds a bounded amount of memory
// and nobody else up.
func TestGreedyClient(t *testing.T) {
	m := newMemory(t, 64<<20)
	path, stop := serve(t, &Server{Exports: []Export{{Device: m.Device}}, DrainTimeout: 200 * time.Millisecond})
	greedy := dial(t, path)
	greedy.open("", false)
	greedy.nc.SetDeadline(time.Now().Add(500 * time.Millisecond))
	sent := 0
	for ; sent < 100000; sent++ {
		if _, err := greedy.nc.Write(req(0, cmdRead, uint64(sent), 0, MaxRequest)); err != nil {
			break
		}
	}
	if sent == 100000 {
		t.Fatal("the server took every request")
	}
	c := dial(t, path)
	c.open("", false)
	c.write(req(0, cmdRead, 1, 0, 4096))
	c.expectSimple(1, 0)
	stop() // and it does not hold up the end
}

func TestDrain(t *testing.T) {
	m := newMemory(t, 1<<20)
	m.ciphertext.block = make(chan struct{})
	path, stop := serve(t, &Server{Exports: []Export{{Device: m.Device}}})
	c := dial(t, path)
	c.open("", false)
	c.write(req(0, cmdRead, 1, 0, 512))
	time.Sleep(50 * time.Millisecond)
	done := make(chan struct{})
	go func() { stop(); close(done) }()
	time.Sleep(50 * time.Millisecond)
	close(m.ciphertext.block)
	c.expectSimple(1, 0) // what was being executed is answered
	c.read(512)
	c.expectClosed()
	<-done
}

func TestMaxConnections(t *testing.T) {
	path, _ := serve(t, &Server{Exports: []Export{{Device: newMemory(t, 512).Device}}, MaxConnections: 2})
	first := dial(t, path)
	dial(t, path)
	nc, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	(&client{t, nc}).expectClosed()
	first.nc.Close()
	for range 100 {
		nc, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		n, _ := nc.Read(make([]byte, 18))
		nc.Close()
		if n > 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("a closed connection still counts")
}

func TestCheckPeer(t *testing.T) {
	refuse := errors.New("not you")
	var got atomic.Pointer[unix.Ucred]
	s := &Server{Exports: []Export{{Device: newMemory(t, 512).Device}}, CheckPeer: func(_ context.Context, c *unix.Ucred) error {
		if !got.CompareAndSwap(nil, c) {
			return refuse
		}
		return nil
	}}
	path, _ := serve(t, s)
	dial(t, path)
	if c := got.Load(); int(c.Pid) != syscall.Getpid() || int(c.Uid) != syscall.Geteuid() {
		t.Fatalf("%+v", c)
	}
	nc, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	(&client{t, nc}).expectClosed()
	if st := s.Stats(); st.Refused != 1 || st.Accepted != 1 {
		t.Fatalf("%+v", st)
	}
}
