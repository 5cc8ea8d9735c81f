package nbdclient

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk/nbd/proto"
)

// bin puts integers and bytes together, big endian.
func bin(parts ...any) []byte {
	var b []byte
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			b = append(b, p...)
		case []byte:
			b = append(b, p...)
		default:
			var err error
			if b, err = binary.Append(b, binary.BigEndian, p); err != nil {
				panic(err)
			}
		}
	}
	return b
}

func greeting(flags uint16) []byte {
	return bin(uint64(proto.MagicInit), uint64(proto.MagicOption), flags)
}

func optReply(code, kind uint32, data []byte) []byte {
	return bin(uint64(proto.MagicOptReply), code, kind, uint32(len(data)), data)
}

const goodFlags = proto.HasFlags | proto.SendFlush | proto.SendFUA | proto.SendTrim

func exportInfo(size uint64, flags uint16) []byte {
	return optReply(proto.OptGo, proto.RepInfo, bin(uint16(proto.InfoExport), size, flags))
}

func blockInfo(least, preferred, most uint32) []byte {
	return optReply(proto.OptGo, proto.RepInfo, bin(uint16(proto.InfoBlockSize), least, preferred, most))
}

var (
	ackGo         = optReply(proto.OptGo, proto.RepAck, nil)
	ackStructured = optReply(proto.OptStructuredReply, proto.RepAck, nil)
	noStructured  = optReply(proto.OptStructuredReply, proto.RepErrUnsup, nil)
	goodHandshake = bin(greeting(3), ackStructured, exportInfo(1<<20, goodFlags), blockInfo(1, 4096, 1<<20), ackGo)
)

// hostile serves every connection with f, after the handshake that says.
func hostile(t *testing.T, says []byte, f func(nc net.Conn)) Config {
	t.Helper()
	return Config{
		Outage:      200 * time.Millisecond,
		Connections: 1,
		Dial: pipeDial(func(nc net.Conn) {
			defer nc.Close()
			go nc.Write(says)
			if f != nil {
				skip := make([]byte, 4+16+16+4+2+2) // flags, two options, the name, one kind
				if _, err := io.ReadFull(nc, skip); err == nil {
					f(nc)
				}
				return
			}
			io.Copy(io.Discard, nc)
		}),
	}
}

func TestHostileHandshake(t *testing.T) {
	info := exportInfo(1<<20, goodFlags)
	for name, x := range map[string]struct {
		says []byte
		want string
	}{
		"not nbd":              {bin("SSH-2.0-OpenSSH_9.2p1 Debian"), "greet"},
		"oldstyle":             {bin(uint64(proto.MagicInit), uint64(0x00420281861253), uint64(1<<20), make([]byte, 128)), "oldstyle"},
		"not fixed":            {greeting(0), "fixed newstyle"},
		"other option":         {bin(greeting(3), optReply(proto.OptList, proto.RepAck, nil)), "reply to option 3"},
		"no magic":             {bin(greeting(3), make([]byte, 64)), "magic"},
		"huge reply":           {bin(greeting(3), uint64(proto.MagicOptReply), uint32(proto.OptStructuredReply), uint32(proto.RepAck), uint32(0xffffffff)), "of 4294967295 bytes"},
		"data with an ack":     {bin(greeting(3), optReply(proto.OptStructuredReply, proto.RepAck, []byte("x"))), "reply 0x1 of 1 bytes"},
		"ack without size":     {bin(greeting(3), ackStructured, ackGo), "without saying its size"},
		"size twice":           {bin(greeting(3), ackStructured, info, info, ackGo), "twice"},
		"huge size":            {bin(greeting(3), ackStructured, exportInfo(1<<63, goodFlags)), "export of 9223372036854775808 bytes"},
		"no flags":             {bin(greeting(3), ackStructured, exportInfo(1<<20, 0)), "flags 0x0"},
		"short info":           {bin(greeting(3), ackStructured, optReply(proto.OptGo, proto.RepInfo, []byte{0})), "without a type"},
		"short export":         {bin(greeting(3), ackStructured, optReply(proto.OptGo, proto.RepInfo, bin(uint16(0), uint32(1)))), "has 4 bytes"},
		"long block info":      {bin(greeting(3), ackStructured, optReply(proto.OptGo, proto.RepInfo, bin(uint16(3), uint32(1), uint32(4096), uint64(1)))), "block sizes have"},
		"block size 0":         {bin(greeting(3), ackStructured, info, blockInfo(0, 4096, 1<<20)), "block sizes 0"},
		"block size 3":         {bin(greeting(3), ackStructured, info, blockInfo(3, 4096, 1<<20)), "block sizes 3"},
		"least above most":     {bin(greeting(3), ackStructured, info, blockInfo(4096, 4096, 512)), "block sizes 4096"},
		"most not a multiple":  {bin(greeting(3), ackStructured, info, blockInfo(512, 4096, 5000)), "block sizes 512"},
		"most below a sector":  {bin(greeting(3), ackStructured, info, blockInfo(1, 512, 100), ackGo), "at most 100"},
		"information for ever": {bin(greeting(3), ackStructured, bytes.Repeat(optReply(proto.OptGo, proto.RepInfo, bin(uint16(9))), maxOptReplies)), "replies to one option"},
		"server reply":         {bin(greeting(3), ackStructured, optReply(proto.OptGo, proto.RepServer, bin(uint32(0)))), "reply 0x2"},
		"error with control":   {bin(greeting(3), ackStructured, optReply(proto.OptGo, proto.RepErrUnknown, []byte("no\x1b[2J such"))), `"no[2J such"`},
		"tls wanted":           {bin(greeting(3), noStructured, optReply(proto.OptGo, proto.RepErrTLSReqd, nil)), "wants TLS"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Open(t.Context(), hostile(t, x.says, nil))
			if err == nil {
				c.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), x.want) {
				t.Fatalf("%v, want %q", err, x.want)
			}
		})
	}
}

// nextRequest reads one request of the client and passes a write's data over.
func nextRequest(nc net.Conn) (cookie uint64, b []byte, err error) {
	b = make([]byte, proto.RequestSize)
	if _, err = io.ReadFull(nc, b); err != nil {
		return 0, nil, err
	}
	if binary.BigEndian.Uint16(b[6:]) == proto.CmdWrite {
		_, err = io.CopyN(io.Discard, nc, int64(binary.BigEndian.Uint32(b[24:])))
	}
	return binary.BigEndian.Uint64(b[8:]), b, err
}

func chunk(flags, kind uint16, cookie uint64, data ...any) []byte {
	d := bin(data...)
	return bin(uint32(proto.MagicChunk), flags, kind, cookie, uint32(len(d)), d)
}

// Each of these answers to a read of 4096 bytes at 8192 must cost the connection,
// and never complete the read.
func TestHostileAnswers(t *testing.T) {
	const at, n = 8192, 4096
	data := bytes.Repeat([]byte{0xee}, n)
	whole := func(c uint64) []byte { return chunk(1, 1, c, uint64(at), data) }
	for name, answer := range map[string]func(c uint64) []byte{
		"no magic":           func(c uint64) []byte { return make([]byte, 64) },
		"simple reply":       func(c uint64) []byte { return bin(uint32(proto.MagicSimple), uint32(0), c, data) },
		"unknown cookie":     func(c uint64) []byte { return chunk(1, 1, c+1, uint64(at), data) },
		"cookie of the past": func(c uint64) []byte { return chunk(1, 1, c-1<<16, uint64(at), data) },
		"slot out of range":  func(c uint64) []byte { return chunk(1, 1, c|0xffff, uint64(at), data) },
		"before the start":   func(c uint64) []byte { return chunk(1, 1, c, uint64(at-1), data) },
		"beyond the end":     func(c uint64) []byte { return chunk(1, 1, c, uint64(at+1), data) },
		"far beyond":         func(c uint64) []byte { return chunk(1, 1, c, uint64(1<<63), data) },
		"around":             func(c uint64) []byte { return chunk(1, 1, c, ^uint64(0), data) },
		"surplus":            func(c uint64) []byte { return chunk(1, 1, c, uint64(at), data, byte(1)) },
		"too short":          func(c uint64) []byte { return chunk(1, 1, c, uint64(at), data[1:]) },
		"nothing":            func(c uint64) []byte { return chunk(1, 0, c) },
		"empty data":         func(c uint64) []byte { return bin(chunk(0, 1, c, uint64(at)), whole(c)) },
		"twice":              func(c uint64) []byte { return bin(chunk(0, 1, c, uint64(at), data), whole(c)) },
		"overlap": func(c uint64) []byte {
			return bin(chunk(0, 1, c, uint64(at), data[:100]), chunk(1, 1, c, uint64(at+99), data[99:]))
		},
		"overlap backwards": func(c uint64) []byte {
			return bin(chunk(0, 1, c, uint64(at+99), data[99:]), chunk(1, 1, c, uint64(at), data[:100]))
		},
		"gap": func(c uint64) []byte {
			return bin(chunk(0, 1, c, uint64(at), data[:99]), chunk(1, 1, c, uint64(at+100), data[100:]))
		},
		"hole over data": func(c uint64) []byte {
			return bin(chunk(0, 1, c, uint64(at), data), chunk(1, 2, c, uint64(at), uint32(n)))
		},
		"hole too long":       func(c uint64) []byte { return chunk(1, 2, c, uint64(at), uint32(n+1)) },
		"hole of nothing":     func(c uint64) []byte { return bin(chunk(0, 2, c, uint64(at), uint32(0)), whole(c)) },
		"hole malformed":      func(c uint64) []byte { return chunk(1, 2, c, uint64(at), uint64(n)) },
		"none with data":      func(c uint64) []byte { return bin(chunk(1, 0, c, data)) },
		"none in the middle":  func(c uint64) []byte { return bin(chunk(0, 0, c), whole(c)) },
		"unknown type":        func(c uint64) []byte { return chunk(1, 77, c, data) },
		"block status":        func(c uint64) []byte { return chunk(1, 5, c, uint32(0), uint32(n), uint32(0)) },
		"unknown flags":       func(c uint64) []byte { return chunk(3, 1, c, uint64(at), data) },
		"error 0":             func(c uint64) []byte { return chunk(1, proto.ChunkError, c, uint32(0), uint16(0)) },
		"error cut":           func(c uint64) []byte { return chunk(1, proto.ChunkError, c, uint32(5)) },
		"error's message cut": func(c uint64) []byte { return chunk(1, proto.ChunkError, c, uint32(5), uint16(9), "abc") },
		"error huge": func(c uint64) []byte {
			return bin(uint32(proto.MagicChunk), uint16(1), uint16(proto.ChunkError), c, uint32(1<<31))
		},
		"error elsewhere": func(c uint64) []byte { return chunk(1, proto.ChunkErrorOffset, c, uint32(5), uint16(0), uint64(0)) },
		"data huge": func(c uint64) []byte {
			return bin(uint32(proto.MagicChunk), uint16(1), uint16(1), c, uint32(1<<31), uint64(at))
		},
		"answered twice":  func(c uint64) []byte { return bin(chunk(1, proto.ChunkError, c+1, uint32(5), uint16(0)), whole(c)) },
		"hangs up midway": func(c uint64) []byte { return chunk(1, 1, c, uint64(at), data)[:100] },
		"shutting down":   func(c uint64) []byte { return chunk(1, proto.ChunkError, c, uint32(proto.ESHUTDOWN), uint16(0)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := open(t, hostile(t, goodHandshake, func(nc net.Conn) {
				for {
					cookie, _, err := nextRequest(nc)
					if err != nil {
						return
					}
					nc.Write(answer(cookie))
					if name == "hangs up midway" {
						return
					}
				}
			}))
			if k, err := c.ReadAt(make([]byte, n), at); k != 0 || !errors.Is(err, unix.EIO) {
				t.Fatalf("read %d, %v", k, err)
			}
			s := c.Stats()
			if s.Lost == 0 || s.Reads != 0 || s.Violations == 0 && !strings.Contains("hangs up midway, shutting down", name) {
				t.Fatalf("%+v", s)
			}
		})
	}
}

// A server that answers a write before it can have read it all must not make the
// client give the buffer back.
func TestAnsweredEarly(t *testing.T) {
	const n = 1 << 20
	started, release := make(chan struct{}), make(chan struct{})
	c := open(t, hostile(t, goodHandshake, func(nc net.Conn) {
		b := make([]byte, proto.RequestSize)
		if _, err := io.ReadFull(nc, b); err != nil {
			return
		}
		nc.Write(bin(uint32(proto.MagicSimple), uint32(0), binary.BigEndian.Uint64(b[8:])))
		close(started)
		<-release
		io.Copy(io.Discard, nc)
	}))
	c.config.Outage = time.Hour
	done := make(chan error, 1)
	go func() {
		_, err := c.WriteAt(make([]byte, n), 0)
		done <- err
	}()
	<-started
	select {
	case <-done:
		t.Fatal("completed while it is being sent")
	case <-time.After(100 * time.Millisecond):
	}
	close(release)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// Answers in any order and in parts, holes among them, are what the protocol
// allows.
func TestScattered(t *testing.T) {
	const n = 64 << 10
	c := open(t, hostile(t, goodHandshake, func(nc net.Conn) {
		for {
			cookie, b, err := nextRequest(nc)
			if err != nil {
				return
			}
			at := binary.BigEndian.Uint64(b[16:])
			for i := 15; i > 0; i-- {
				if i%4 == 0 {
					nc.Write(chunk(0, 2, cookie, at+uint64(i)*4096, uint32(4096)))
				} else {
					nc.Write(chunk(0, 1, cookie, at+uint64(i)*4096, bytes.Repeat([]byte{byte(i)}, 4096)))
				}
			}
			nc.Write(chunk(0, 1, cookie, at, bytes.Repeat([]byte{16}, 4096)))
			nc.Write(chunk(1, 0, cookie))
		}
	}))
	p := bytes.Repeat([]byte{0xff}, n)
	if _, err := c.ReadAt(p, 4096); err != nil {
		t.Fatal(err)
	}
	for i, b := range p {
		want := byte(i / 4096)
		switch {
		case want == 0:
			want = 16
		case want%4 == 0:
			want = 0
		}
		if b != want {
			t.Fatalf("byte %d is %d, want %d", i, b, want)
		}
	}
	if s := c.Stats(); s.Violations != 0 {
		t.Fatalf("%+v", s)
	}
}

// An error is remembered whatever comes beside it.
func TestErrorAmongData(t *testing.T) {
	c := open(t, hostile(t, goodHandshake, func(nc net.Conn) {
		for {
			cookie, b, err := nextRequest(nc)
			if err != nil {
				return
			}
			at := binary.BigEndian.Uint64(b[16:])
			nc.Write(chunk(0, proto.ChunkErrorOffset, cookie, uint32(unix.ENOSPC), uint16(3), "bad", at))
			nc.Write(chunk(0, proto.ChunkErr|99, cookie, uint32(unix.EPERM), uint16(0), "what else"))
			nc.Write(chunk(1, 1, cookie, at, make([]byte, 4096)))
		}
	}))
	if _, err := c.ReadAt(make([]byte, 4096), 0); !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	if s := c.Stats(); s.Violations != 0 || s.Lost != 0 {
		t.Fatalf("%+v", s)
	}
}
