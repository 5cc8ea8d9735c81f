package ui

import (
	"context"
	"net/http"

	"github.com/coder/websocket"

	"github.com/uvbond/uvbond/channel"
	"github.com/uvbond/uvbond/tenant"
)

// screen carries RFB, as it is, between the page's viewer and the VM's screen. Every
// byte from the screen is the guest's or QEMU's, and the viewer takes it as hostile.
func (s *Server) screen(w http.ResponseWriter, r *http.Request, one *session) {
	name := r.PathValue("name")
	s.socket(w, r, one, func(ctx context.Context, c *websocket.Conn) error {
		conn, err := s.opts.Dial(ctx, name, channel.KindScreen, 0)
		if err != nil {
			return err
		}
		return tenant.ChannelFailure(name, pipe(ctx, c, conn))
	})
}
