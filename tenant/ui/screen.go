package ui

import (
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/coder/websocket"

	"github.com/uvbond/uvbond/channel"
)

// ended is nil for a channel that ended in order.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	if e, ok := errors.AsType[*channel.Error](err); ok && e.Why == channel.Ended {
		return errors.New(e.Reason)
	}
	return err
}

// screen carries RFB, as it is, between the page's viewer and the VM's screen. Every
// byte from the screen is the guest's or QEMU's, and the viewer takes it as hostile.
func (s *Server) screen(w http.ResponseWriter, r *http.Request, one *session) {
	name := r.PathValue("name")
	s.socket(w, r, one, func(ctx context.Context, c *websocket.Conn) error {
		conn, err := s.opts.Dial(ctx, name, "screen", 0)
		if err != nil {
			return err
		}
		return pipe(ctx, c, conn)
	})
}
