package ui

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/coder/websocket"

	"github.com/uvbond/uvbond/tenant/fail"
)

// maxMessage is the longest WebSocket message that a page may send, bytes. A paste
// into the terminal is cut into several by the page.
const maxMessage = 64 << 10

// socket accepts a WebSocket of the page. It is closed when its session ends.
func (s *Server) socket(w http.ResponseWriter, r *http.Request, one *session, serve func(context.Context, *websocket.Conn) error) {
	select {
	case s.sockets <- struct{}{}:
	default:
		refuse(w, http.StatusServiceUnavailable, "too many terminals and screens are open", "close one")
		return
	}
	defer func() { <-s.sockets }()
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{protocol}, CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return // it was answered
	}
	defer c.CloseNow()
	c.SetReadLimit(maxMessage)
	ctx, cancel := context.WithCancel(one.ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	err = serve(ctx, c)
	code, reason := websocket.StatusNormalClosure, ""
	switch {
	case one.ctx.Err() != nil:
		code, reason = websocket.StatusPolicyViolation, "the session ended"
	case s.ctx.Err() != nil:
		code, reason = websocket.StatusGoingAway, "uvbond ui ended"
	case err != nil:
		code, reason = websocket.StatusInternalError, fail.CodeOf(err).String()+": "+err.Error()
	}
	_ = c.Close(code, clip(reason, 110)) // the protocol's limit is 123 bytes
}

// pipe carries bytes between a WebSocket and a channel until either ends. What one
// side does not take, the other does not read.
func pipe(ctx context.Context, c *websocket.Conn, channel net.Conn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer channel.Close()
	stop := context.AfterFunc(ctx, func() { channel.Close() })
	defer stop()
	go func() {
		defer cancel()
		for {
			// A context that ends would cut the WebSocket off before it is closed with a reason.
			kind, data, err := c.Read(context.WithoutCancel(ctx))
			if err != nil || kind != websocket.MessageBinary {
				return
			}
			if _, err := channel.Write(data); err != nil {
				return
			}
		}
	}()
	buf := make([]byte, 32<<10)
	for {
		n, err := channel.Read(buf)
		if n > 0 {
			if werr := write(ctx, c, websocket.MessageBinary, buf[:n]); werr != nil {
				return nil // the page is gone
			}
		}
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, io.EOF) { // io.EOF: it ended in order
				return nil
			}
			return err
		}
	}
}

// writeTimeout is how long a page may take to read what it asked for.
const writeTimeout = 30 * time.Second

func write(ctx context.Context, c *websocket.Conn, kind websocket.MessageType, data []byte) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	return c.Write(ctx, kind, data)
}
