package nbdclient

import (
	"bytes"
	"net"
	"testing"
	"time"

	"github.com/uvbond/uvbond/disk/nbd/proto"
)

// script is a connection whose server has said all it will say.
type script struct {
	in  *bytes.Reader
	out bytes.Buffer
}

func (s *script) Read(p []byte) (int, error)       { return s.in.Read(p) }
func (s *script) Write(p []byte) (int, error)      { return s.out.Write(p) }
func (s *script) Close() error                     { return nil }
func (s *script) LocalAddr() net.Addr              { return nil }
func (s *script) RemoteAddr() net.Addr             { return nil }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

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
		goodHandshake,
		bin(greeting(1), noStructured, exportInfo(1<<40, proto.HasFlags|proto.ReadOnly|proto.CanMultiConn), ackGo),
		bin(greeting(3), ackStructured, optReply(proto.OptGo, proto.RepInfo, bin(uint16(1), "name")), optReply(proto.OptGo, proto.RepErrUnknown, []byte("no"))),
		bin(greeting(3), ackStructured, blockInfo(512, 65536, 0xffffffff), exportInfo(1<<63-1, goodFlags), ackGo),
	})
	f.Fuzz(func(t *testing.T, in []byte) {
		w := &script{in: bytes.NewReader(in)}
		var c Config
		s, err := c.handshake(t.Context(), w)
		if err != nil {
			return
		}
		if s.Size < 0 || s.MinBlock < 1 || s.MinBlock > mostMinBlock || s.MaxBlock < s.MinBlock || s.MaxBlock > maxBlock {
			t.Fatalf("agreed to %+v", s)
		}
	})
}

// FuzzReplies lets a server say anything to requests that are on their way, and
// holds what is completed against an obvious reading of the same bytes.
func FuzzReplies(f *testing.F) {
	cookie := func(i int) uint64 { return uint64(i+1)<<16 | uint64(i) }
	data := bytes.Repeat([]byte{7}, 4096)
	addSeeds(f, [][]byte{
		bin(chunk(1, 1, cookie(0), uint64(8192), data), bin(uint32(proto.MagicSimple), uint32(0), cookie(1))),
		bin(chunk(0, 2, cookie(0), uint64(8192), uint32(4000)), chunk(0, 1, cookie(0), uint64(12192), data[:96]), chunk(1, 0, cookie(0))),
		bin(bin(uint32(proto.MagicSimple), uint32(5), cookie(1)), chunk(1, proto.ChunkError, cookie(0), uint32(5), uint16(2), "no")),
		bin(chunk(0, 1, cookie(0), uint64(8192), data), chunk(1, 1, cookie(0), uint64(8192), data)),
		bin(bin(uint32(proto.MagicSimple), uint32(0), cookie(2)), bin(uint32(proto.MagicSimple), uint32(108), cookie(1))),
		chunk(1, proto.ChunkErrorOffset, cookie(0), uint32(28), uint16(0), uint64(9000)),
	})
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, structured := range []bool{true, false} {
			replies(t, in, structured)
		}
	})
}

func replies(t *testing.T, in []byte, structured bool) {
	c := &Client{}
	c.ledger.init(512, 100, true)
	l := newLink(c, 0)
	c.links = []*link{l}
	completed := map[*request]int{}
	requests := []*request{
		{command: proto.CmdRead, off: 8192, n: 4096, buf: bytes.Repeat([]byte{0xaa}, 4096)},
		{command: proto.CmdWrite, off: 0, n: 512, buf: make([]byte, 512), hashes: []uint64{1}},
		{command: proto.CmdFlush},
	}
	s := &session{nc: &script{in: bytes.NewReader(in)}, Offer: Offer{Structured: structured}}
	l.session = s
	c.ledger.writes = 1
	for i := range depth {
		l.free = append(l.free, uint16(depth-1-i))
	}
	for _, r := range requests {
		r.done = func(r *request) { completed[r]++ }
		if !l.put(r) {
			t.Fatal("full")
		}
		r.state = sent
	}
	if err := l.receive(s); err == nil {
		t.Fatal("no end")
	}
	left := l.empty()
	for _, r := range left {
		completed[r] += 10
	}
	for i, r := range requests {
		if n := completed[r]; n != 1 && n != 10 {
			t.Fatalf("request %d was completed or kept %d times", i, n)
		}
	}
	// Only bytes of the server, or zeros of its holes, are in a read that succeeded.
	if r := requests[0]; completed[r] == 1 && r.err == nil {
		for i := 0; i < len(r.buf); i += 64 {
			if p := r.buf[i : i+64]; !bytes.Contains(in, p) && bytes.Count(p, []byte{0xaa}) == 64 {
				t.Fatalf("the read is complete, and nothing came at %d", i)
			}
		}
	}
}

func FuzzURI(f *testing.F) {
	for _, u := range append(goodURIs(), badURIs...) {
		f.Add(u)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := ParseURI(text)
		if err != nil {
			return
		}
		if u.Address == "" || u.Network != "tcp" && u.Network != "unix" {
			t.Fatalf("%q is %+v", text, u)
		}
	})
}
