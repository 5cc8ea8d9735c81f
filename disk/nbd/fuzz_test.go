package nbd

import (
	"bytes"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// wire is a connection whose client has said all it will say.
type wire struct {
	in  *bytes.Reader
	out bytes.Buffer
}

func (w *wire) Read(p []byte) (int, error)       { return w.in.Read(p) }
func (w *wire) Write(p []byte) (int, error)      { return w.out.Write(p) }
func (w *wire) Close() error                     { return nil }
func (w *wire) LocalAddr() net.Addr              { return nil }
func (w *wire) RemoteAddr() net.Addr             { return nil }
func (w *wire) SetDeadline(time.Time) error      { return nil }
func (w *wire) SetReadDeadline(time.Time) error  { return nil }
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

// addSeeds adds seeds to f, and fails when there are none.
func addSeeds(f *testing.F, seeds [][]byte) {
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	for _, s := range seeds {
		f.Add(s)
	}
}

func FuzzHandshake(f *testing.F) {
	addSeeds(f, [][]byte{
		bin(uint32(3), option2(optGo, infoData("a", infoName, infoBlockSize))),
		bin(uint32(3), option2(optStructuredReply, ""), option2(optList, ""), option2(optInfo, infoData("b")), option2(optAbort, "")),
		bin(uint32(1), option2(optExportName, "b")),
		bin(uint32(3), option2(optStartTLS, ""), option2(10, "\x00\x00\x00\x01a\x00\x00\x00\x00"), option2(optGo, "\xff\xff\xff\xff\x00\x00")),
		bin(uint32(3), uint64(magicOption), uint32(optGo), uint32(0xffffffff)),
	})
	f.Fuzz(func(t *testing.T, in []byte) {
		s := twoExports(t)
		w := &wire{in: bytes.NewReader(in)}
		c := newConn(s, w)
		if err := c.handshake(); err == nil && c.export == nil {
			t.Fatal("negotiated nothing")
		}
		if w.out.Len() > 64*len(in)+1024 {
			t.Fatalf("%d bytes answered to %d", w.out.Len(), len(in))
		}
	})
}

func FuzzTransmission(f *testing.F) {
	addSeeds(f, [][]byte{
		bin(req(0, cmdRead, 1, 0, 4096), req(0, cmdDisconnect, 2, 0, 0)),
		bin(req(cfFUA, cmdWrite, 1, 100, 5), "hello", req(0, cmdFlush, 2, 0, 0)),
		bin(req(0, cmdWrite, 1, 1<<62, 5), "hello", req(0, cmdTrim, 2, 0, 512)),
		bin(req(cfNoHole, cmdWriteZeroes, 1, 0, 1<<16), req(cfFastZero, cmdWriteZeroes, 1, 0, 1<<16)),
		bin(req(0, cmdRead, 1, 1<<64-1, 0xffffffff), req(0, 7, 1, 0, 0), req(0, cmdWrite, 1, 0, 0xffffffff)),
	})
	f.Fuzz(func(t *testing.T, in []byte) {
		m := newMemory(t, 64<<10)
		s := &Server{Exports: []Export{{Device: m.Device}}, DrainTimeout: time.Second}
		ours, theirs := socketPair(t)
		c := newConn(s, ours)
		c.structured = len(in)%2 == 1
		c.choose(&s.Exports[0])
		if err := c.begin(); err != nil {
			t.Fatal(err)
		}
		// The client has said all it will say, and takes what comes.
		go func() { theirs.Write(in); theirs.CloseWrite() }()
		taken := make(chan struct{})
		go func() { defer close(taken); io.Copy(io.Discard, theirs) }()
		_ = c.transmit()
		if n := c.queue.Pending(); n != 0 {
			t.Fatalf("%d requests are under way", n)
		}
		if err := c.stop(); err != nil {
			t.Fatal(err)
		}
		<-taken
	})
}

func socketPair(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "pair")
		nc, err := net.FileConn(file)
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nc.Close() })
		conns[i] = nc.(*net.UnixConn)
	}
	return conns[0], conns[1]
}
