package main

import (
	"bytes"
	"io"
	"net"
	"sync"
)

// The attacker as the carrier of a channel: what the server's relay does, and what
// an operator makes of it. It holds no key; it moves, keeps back and changes bytes.

// Ways to carry a channel. Pieces are what the owner's end sent in one go: number 0 is
// the handshake's message, then each is a record.
const (
	bendNothing  = ""          // carry it honestly
	bendFlip     = "flip"      // change a bit of byte At of piece Piece
	bendSwap     = "swap"      // piece Piece after the one behind it
	bendDrop     = "drop"      // not piece Piece
	bendRepeat   = "repeat"    // piece Piece twice
	bendOld      = "old"       // piece 1 once more behind piece Piece
	bendCut      = "cut"       // At bytes of piece Piece, then hang up
	bendReflect  = "reflect"   // what the keeper sent in the place of piece Piece
	bendGarbage  = "garbage"   // no Noise in the place of piece Piece
	bendRecorded = "recorded"  // the handshake's message of the channel before in the place of this one's
	bendSplice   = "splice"    // piece Piece of the channel before in the place of this one's
	bendBack     = "back-flip" // change a bit of byte At of what the keeper sent first behind the handshake
)

// bend is what an operator does to a channel.
type bend struct {
	How   string `json:"how,omitempty"`
	Piece int    `json:"piece,omitempty"`
	At    int    `json:"at,omitempty"`
}

// carriage is one channel that is being carried.
type carriage struct {
	bend
	before [][]byte // pieces of the channel before

	mu     sync.Mutex
	pieces [][]byte      // what the owner's end sent
	kept   []byte        // swap: the piece that waits
	sent   []byte        // what the keeper sent
	came   chan struct{} // closed when it has sent something behind the handshake
	once   sync.Once
}

// carry joins the gate's connection w to the owner's end at path, which is a socket
// of packets, so that pieces stay apart. It returns at once.
func (a *attacker) carry(w *wire, m move) outcome {
	owner, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: m.Path, Net: "unixpacket"})
	if err != nil {
		return lost(err)
	}
	c := &carriage{bend: m.Bend, came: make(chan struct{})}
	if last := a.carried; last != nil {
		last.mu.Lock()
		if c.before = last.pieces; len(c.before) < 4 { // it came to nothing
			c.before = last.before
		}
		last.mu.Unlock()
	}
	a.carried = c
	delete(a.wires, m.Conn)
	var ends sync.WaitGroup
	// What one side said last reaches the other, also where nothing goes the other way.
	ends.Go(func() { c.toKeeper(w, owner); w.c.CloseWrite() })
	ends.Go(func() { c.toOwner(owner, w); owner.CloseWrite() })
	go func() {
		ends.Wait()
		owner.Close()
		w.c.Close()
	}()
	return outcome{}
}

func (c *carriage) toKeeper(w *wire, owner net.Conn) {
	buf := make([]byte, 1<<17)
	for n := 0; ; n++ {
		m, err := owner.Read(buf)
		if err != nil || m == 0 {
			return
		}
		piece := bytes.Clone(buf[:m])
		c.mu.Lock()
		c.pieces = append(c.pieces, bytes.Clone(piece))
		c.mu.Unlock()
		out, hangUp := c.bent(n, piece)
		for _, p := range out {
			if _, err := w.c.Write(p); err != nil {
				hangUp = true
			}
		}
		if hangUp {
			w.c.CloseWrite()
			io.Copy(io.Discard, owner) // so that it reads what the keeper said last
			return
		}
	}
}

// bent is what is passed on in the place of a piece.
func (c *carriage) bent(n int, piece []byte) (out [][]byte, hangUp bool) {
	as := [][]byte{piece}
	if c.How == bendRecorded && n == 0 && len(c.before) > 0 {
		return [][]byte{c.before[0]}, false
	}
	if c.kept != nil {
		as = append(as, c.kept)
		c.kept = nil
		return as, false
	}
	if n != c.Piece {
		return as, false
	}
	switch c.How {
	case bendFlip:
		piece[c.At] ^= 1 << (c.At % 8)
	case bendSwap:
		c.kept = piece
		return nil, false
	case bendDrop:
		return nil, false
	case bendRepeat:
		return [][]byte{piece, piece}, false
	case bendOld:
		return [][]byte{piece, c.pieces[1]}, false
	case bendCut:
		return [][]byte{piece[:c.At]}, true
	case bendReflect:
		<-c.came
		c.mu.Lock()
		defer c.mu.Unlock()
		return [][]byte{c.sent}, false
	case bendGarbage:
		return [][]byte{bytes.Repeat([]byte("GET / HTTP/1.1\r\n"), 8)}, false
	case bendSplice:
		return [][]byte{c.before[n]}, false
	}
	return as, false
}

func (c *carriage) toOwner(owner net.Conn, w *wire) {
	buf := make([]byte, 32<<10)
	for n := 0; ; n++ {
		m, err := w.r.Read(buf)
		if err != nil {
			return
		}
		piece := buf[:m]
		if n > 0 {
			if n == 1 && c.How == bendBack {
				piece[c.At%m] ^= 1 << (c.At % 8)
			}
			c.mu.Lock()
			c.sent = append(c.sent, piece...)
			c.mu.Unlock()
			c.once.Do(func() { close(c.came) })
		}
		if _, err := io.Copy(owner, bytes.NewReader(piece)); err != nil {
			return
		}
	}
}
