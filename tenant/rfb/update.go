package rfb

import (
	"bufio"
	"encoding/binary"
	"image"
	"io"
)

// reader takes what a server sends (RFC 6143, 7.6) and keeps the client's state.
type reader struct {
	r   *bufio.Reader
	c   *Client
	z   zlibStream
	row []byte // of pixels; grows to the screen's width
}

// run reads until something is wrong; the result is never nil.
func (d *reader) run() error {
	for {
		if err := d.message(); err != nil {
			return err
		}
		select {
		case d.c.news <- struct{}{}:
		default:
		}
	}
}

func (d *reader) message() error {
	kind, err := d.r.ReadByte()
	if err != nil {
		return err
	}
	switch kind {
	case msgServerUpdate:
		err = d.update()
	case msgServerBell:
	case msgServerCut:
		err = d.cut()
	default: // colour maps are for formats that were not asked for
		err = wrong("message %d of the server is not known here", kind)
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func (d *reader) cut() error {
	b, err := d.bytes(7)
	if err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(b[3:])
	if n > MaxCut {
		return wrong("a clipboard of %d bytes", n)
	}
	_, err = d.r.Discard(int(n))
	return err
}

// bytes returns the next n bytes, valid until the next read. n is small.
func (d *reader) bytes(n int) ([]byte, error) {
	b, err := d.r.Peek(n)
	if err != nil {
		return nil, err
	}
	_, err = d.r.Discard(n)
	return b, err
}

func (d *reader) update() error {
	b, err := d.bytes(3)
	if err != nil {
		return err
	}
	n := int(binary.BigEndian.Uint16(b[1:]))
	pixels := false
	for range n {
		h, err := d.bytes(12)
		if err != nil {
			return err
		}
		x, y := binary.BigEndian.Uint16(h[0:]), binary.BigEndian.Uint16(h[2:])
		w, ht := binary.BigEndian.Uint16(h[4:]), binary.BigEndian.Uint16(h[6:])
		encoding := int32(binary.BigEndian.Uint32(h[8:]))
		if encoding == encodingLastRect {
			break
		}
		if encoding >= 0 {
			pixels = true
			err = d.pixels(encoding, int(x), int(y), int(w), int(ht))
		} else {
			err = d.pseudo(encoding, x, y, w, ht)
		}
		if err != nil {
			return err
		}
	}
	if pixels {
		d.c.mu.Lock()
		d.c.updates++
		d.c.mu.Unlock()
	}
	return nil
}

// pseudo is a rectangle that says something and draws nothing.
func (d *reader) pseudo(encoding int32, x, y, w, h uint16) error {
	c := d.c
	switch encoding {
	case encodingExtKey:
		c.mu.Lock()
		c.extended = true
		c.mu.Unlock()
		return nil
	case encodingDesktopSize:
		return d.resize(w, h)
	case encodingExtDesktop:
		b, err := d.bytes(4)
		if err != nil {
			return err
		}
		if _, err := d.r.Discard(16 * int(b[0])); err != nil { // how the area is divided into screens
			return err
		}
		if y != 0 { // a refusal of a size that somebody asked for
			return nil
		}
		return d.resize(w, h)
	}
	return wrong("encoding %d was not asked for", encoding)
}

func (d *reader) resize(w, h uint16) error {
	s, err := newSize(w, h)
	if err != nil {
		return err
	}
	c := d.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s != c.size {
		c.size, c.picture, c.missing = s, nil, 0
		c.resizes++
	}
	return nil
}

// pixels reads a rectangle that draws.
func (d *reader) pixels(encoding int32, x, y, w, h int) error {
	c := d.c
	c.mu.Lock()
	s, picture := c.size, c.picture
	c.mu.Unlock()
	if x+w > s.w || y+h > s.h {
		return wrong("a rectangle of %dx%d at %d,%d is outside of the screen of %dx%d", w, h, x, y, s.w, s.h)
	}
	src := io.Reader(d.r)
	if encoding == encodingZlib {
		b, err := d.bytes(4)
		if err != nil {
			return err
		}
		if err := d.z.begin(d.r, binary.BigEndian.Uint32(b), w*h*4); err != nil {
			return err
		}
		src = &d.z
	} else if encoding != encodingRaw {
		return wrong("encoding %d was not asked for", encoding)
	}
	if cap(d.row) < w*4 {
		d.row = make([]byte, s.w*4)
	}
	row := d.row[:w*4]
	for i := range h {
		if _, err := io.ReadFull(src, row); err != nil {
			return err
		}
		d.draw(picture, x, y+i, row)
	}
	d.z.end()
	return nil
}

// draw copies a row into the picture, if it is still wanted, and counts what is new.
// A pixel that did not come yet is transparent.
func (d *reader) draw(p *image.RGBA, x, y int, row []byte) {
	c := d.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if p == nil || p != c.picture {
		return
	}
	to := p.Pix[p.PixOffset(x, y):][:len(row)]
	for i := 0; i < len(row); i += 4 {
		if to[i+3] == 0 {
			c.missing--
		}
		to[i], to[i+1], to[i+2], to[i+3] = row[i], row[i+1], row[i+2], 0xff
	}
}
