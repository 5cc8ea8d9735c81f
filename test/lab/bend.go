package lab

import (
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// An operator who bends channels. It works on the frames of their WebSockets, which
// the server cuts as it likes: what a channel sent at once is mostly one frame.

// bentFrame is which binary frame of a direction is bent: the first is the handshake,
// and the next ones open a connection.
const bentFrame = 8

// The changes of Attack.Kind "channel-...", and how a direction is changed by them.
var bends = map[string]func(b *bend, frame []byte) [][]byte{
	"channel-flip": func(_ *bend, f []byte) [][]byte {
		f[len(f)-1] ^= 0x20
		return [][]byte{f}
	},
	"channel-drop":   func(*bend, []byte) [][]byte { return nil },
	"channel-replay": func(_ *bend, f []byte) [][]byte { return [][]byte{f, slices.Clone(f)} },
	"channel-reorder": func(b *bend, f []byte) [][]byte {
		b.late = f
		return nil
	},
	"channel-cut": func(b *bend, f []byte) [][]byte {
		b.cut = true
		return [][]byte{f[:len(f)/2]}
	},
}

// bend is one direction of a channel.
type bend struct {
	change  func(*bend, []byte) [][]byte
	partial []byte // of a frame
	frames  int    // binary ones so far
	late    []byte // to be sent behind the next
	cut     bool   // nothing more
}

// take adds bytes and returns what is to be passed on of them.
func (b *bend) take(p []byte) []byte {
	b.partial = append(b.partial, p...)
	var out []byte
	for !b.cut {
		n := frameLength(b.partial)
		if n == 0 {
			break
		}
		frame := slices.Clone(b.partial[:n])
		b.partial = b.partial[n:]
		pass := [][]byte{frame}
		if frame[0]&0xf <= 2 && frame[0]&0xf != 1 { // binary, or more of one
			b.frames++
			late := b.late
			b.late = nil
			if b.change != nil && b.frames == bentFrame {
				pass = b.change(b, frame)
			} else if late != nil {
				pass = append(pass, late)
			}
		}
		out = append(out, slices.Concat(pass...)...)
	}
	return out
}

// frameLength is that of the first WebSocket frame (RFC 6455, section 5.2) in b, or
// 0 while it is not whole.
func frameLength(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	head, size := 2, uint64(b[1]&0x7f)
	switch size {
	case 126:
		head = 4
	case 127:
		head = 10
	}
	if len(b) < head {
		return 0
	}
	switch size {
	case 126:
		size = uint64(binary.BigEndian.Uint16(b[2:]))
	case 127:
		size = binary.BigEndian.Uint64(b[2:])
	}
	if b[1]&0x80 != 0 {
		head += 4
	}
	if size > 1<<30 || uint64(len(b)) < uint64(head)+size {
		return 0
	}
	return head + int(size)
}

// bentChannel is the body of an answer that became a WebSocket.
type bentChannel struct {
	io.ReadWriteCloser
	mu       sync.Mutex // guards toKeeper
	toClient bend
	toKeeper bend
	ready    []byte // for the client
}

func (c *bentChannel) Read(p []byte) (int, error) {
	for len(c.ready) == 0 {
		if c.toClient.cut {
			return 0, io.ErrUnexpectedEOF
		}
		buf := make([]byte, 32<<10)
		n, err := c.ReadWriteCloser.Read(buf)
		if c.ready = c.toClient.take(buf[:n]); err != nil && len(c.ready) == 0 {
			return 0, err
		}
	}
	n := copy(p, c.ready)
	c.ready = c.ready[n:]
	return n, nil
}

func (c *bentChannel) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if out := c.toKeeper.take(p); len(out) > 0 {
		if _, err := c.ReadWriteCloser.Write(out); err != nil {
			return 0, err
		}
	}
	if c.toKeeper.cut {
		return 0, errors.New("cut")
	}
	return len(p), nil
}

// bendChannel changes a channel that is opening now.
func (o *operator) bendChannel(a Attack, resp *http.Response) {
	body, ok := resp.Body.(io.ReadWriteCloser)
	if !ok || !strings.HasPrefix(a.Kind, "channel-") {
		return
	}
	if a.Kind == "channel-splice" {
		resp.Body = o.splice(body)
		return
	}
	c := &bentChannel{ReadWriteCloser: body}
	if a.Command == "to-keeper" {
		c.toKeeper.change = bends[a.Kind]
	} else {
		c.toClient.change = bends[a.Kind]
	}
	resp.Body = c
}

// spliced is one of two channels whose streams are exchanged: what the client of one
// sends goes to the keeper of the other, from the handshake on.
type spliced struct {
	own   io.ReadWriteCloser
	in    bend                    // from the own server: the first frame is its answer
	other chan io.ReadWriteCloser // the server of the other channel
	peer  io.ReadWriteCloser
	ready []byte
}

// splice joins this channel with the one before it that waits for another.
func (o *operator) splice(body io.ReadWriteCloser) io.ReadWriteCloser {
	s := &spliced{own: body, other: make(chan io.ReadWriteCloser, 1)}
	o.mu.Lock()
	defer o.mu.Unlock()
	if first := o.lonely; first != nil {
		first.other <- body
		s.other <- first.own
		o.lonely = nil
	} else {
		o.lonely = s
	}
	return s
}

// Read passes on the own server's text answer, and then the other's bytes.
func (s *spliced) Read(p []byte) (int, error) {
	for len(s.ready) == 0 && s.peer == nil {
		buf := make([]byte, 1<<10)
		n, err := s.own.Read(buf)
		if s.ready = s.in.take(buf[:n]); len(s.ready) > 0 {
			s.peer = <-s.other
		} else if err != nil {
			return 0, err
		}
	}
	if len(s.ready) > 0 {
		n := copy(p, s.ready)
		s.ready = s.ready[n:]
		return n, nil
	}
	return s.peer.Read(p)
}

// Write passes on the client's first message to the own server, the rest to the other.
func (s *spliced) Write(p []byte) (int, error) {
	if s.peer != nil {
		return s.peer.Write(p)
	}
	return s.own.Write(p)
}

// Close ends the own server's connection, which is the other client's too, when that
// has got the answer to its handshake.
func (s *spliced) Close() error {
	time.AfterFunc(time.Second, func() { s.own.Close() })
	return nil
}
