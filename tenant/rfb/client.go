package rfb

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"image"
	"net"
	"sync"
	"time"
)

// Client is a connection to a VNC server. Its methods are for one goroutine; what the
// server sends is read by another one of its own, so that a connection with keep-alive
// below never starves. A Client that failed stays failed.
type Client struct {
	conn net.Conn
	news chan struct{} // a token after anything below changed
	done chan struct{} // closed when reading has ended

	mu       sync.Mutex
	size     size
	picture  *image.RGBA // nil while nobody wants one
	missing  int         // pixels of picture that did not come yet
	updates  uint64      // framebuffer updates with pixels in them so far
	resizes  uint64
	extended bool  // the server takes keys by their place on the keyboard
	err      error // why reading ended

	name string
}

// Connect does the handshake on conn, tells the server how pixels are wanted, and
// takes conn over: it is closed when Connect fails, and by Close. The context bounds
// the handshake only.
func Connect(ctx context.Context, conn net.Conn) (*Client, error) {
	c := &Client{conn: conn, news: make(chan struct{}, 1), done: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	r := bufio.NewReaderSize(conn, 64<<10)
	err := c.start(r)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = conn.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("cannot talk to the screen: %w", ended(err))
	}
	go func() {
		err := (&reader{r: r, c: c}).run()
		c.mu.Lock()
		c.err = ended(err)
		c.mu.Unlock()
		close(c.done)
	}()
	return c, nil
}

// start is the part of the protocol that goes back and forth.
func (c *Client) start(r *bufio.Reader) error {
	if err := clientHandshake(readWriter{r, c.conn}); err != nil {
		return err
	}
	if _, err := c.conn.Write([]byte{1}); err != nil { // ClientInit: shared, so that no other viewer is thrown out
		return err
	}
	init, err := readServerInit(r)
	if err != nil {
		return err
	}
	c.size, c.name = init.size, init.name
	_, err = c.conn.Write(append(pixelFormat(), encodings()...))
	return err
}

type readWriter struct {
	*bufio.Reader
	w net.Conn
}

func (rw readWriter) Write(p []byte) (int, error) { return rw.w.Write(p) }

// pixelFormat asks for what image.RGBA holds: four bytes red, green, blue, nothing
// (RFC 6143, 7.4 and 7.5.1).
func pixelFormat() []byte {
	return []byte{
		msgSetPixelFormat, 0, 0, 0,
		32, 24, 0, 1, // bits, depth, little-endian, true colour
		0, 255, 0, 255, 0, 255, // largest red, green, blue
		0, 8, 16, // their shifts
		0, 0, 0,
	}
}

func encodings() []byte {
	list := []int32{encodingZlib, encodingRaw, encodingExtKey, encodingExtDesktop, encodingDesktopSize, encodingLastRect}
	b := binary.BigEndian.AppendUint16([]byte{msgSetEncodings, 0}, uint16(len(list)))
	for _, e := range list {
		b = binary.BigEndian.AppendUint32(b, uint32(e))
	}
	return b
}

// Name is what the server calls its desktop, fit for a terminal.
func (c *Client) Name() string { return c.name }

// Size is the size of the screen in pixels, as far as the server told.
func (c *Client) Size() image.Point {
	c.mu.Lock()
	defer c.mu.Unlock()
	return image.Pt(c.size.w, c.size.h)
}

// Close ends the connection and the reading goroutine.
func (c *Client) Close() error {
	err := c.conn.Close()
	<-c.done
	return err
}

// Screenshot returns the whole picture as the server shows it now. It waits until
// every pixel came, and starts again when the screen changes its size meanwhile.
func (c *Client) Screenshot(ctx context.Context) (*image.RGBA, error) {
	defer func() {
		c.mu.Lock()
		c.picture, c.missing = nil, 0
		c.mu.Unlock()
	}()
	for {
		c.mu.Lock()
		s, resizes := c.size, c.resizes
		c.picture, c.missing = image.NewRGBA(image.Rect(0, 0, s.w, s.h)), s.w*s.h
		c.mu.Unlock()
		if err := c.request(ctx, s); err != nil {
			return nil, err
		}
		var picture *image.RGBA
		err := c.until(ctx, func() bool {
			if c.missing == 0 {
				picture = c.picture
			}
			return picture != nil || c.resizes != resizes
		})
		if err != nil {
			return nil, fmt.Errorf("the picture did not come whole: %w", err)
		}
		if picture != nil {
			return picture, nil
		}
	}
}

// request asks for an area at the upper left, whether it changed or not (RFC 6143, 7.5.3).
func (c *Client) request(ctx context.Context, s size) error {
	b := []byte{msgUpdateRequest, 0, 0, 0, 0, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(s.w))
	return c.send(ctx, binary.BigEndian.AppendUint16(b, uint16(s.h)))
}

// Sync waits until the server has handled everything that was sent so far: it answers
// in order, and is asked for a few pixels.
func (c *Client) Sync(ctx context.Context) error {
	c.mu.Lock()
	before := c.updates
	c.mu.Unlock()
	if err := c.request(ctx, size{1, 1}); err != nil {
		return err
	}
	return c.until(ctx, func() bool { return c.updates != before })
}

// until waits for a condition on what is guarded by mu.
func (c *Client) until(ctx context.Context, ok func() bool) error {
	for {
		c.mu.Lock()
		met, err := ok(), c.err
		c.mu.Unlock()
		switch {
		case met:
			return nil
		case err != nil:
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-c.news:
		case <-c.done:
		}
	}
}

// send writes one message or several, within the context's time.
func (c *Client) send(ctx context.Context, b []byte) error {
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetWriteDeadline(time.Unix(1, 0)) })
	_, err := c.conn.Write(b)
	if !stop() {
		return context.Cause(ctx) // and the deadline stays: half a message may be out
	}
	if err == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err // why the other end went away says more
	}
	return err
}
