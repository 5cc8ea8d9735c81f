package ui

import (
	"context"
	"net/http"

	"github.com/coder/websocket"
)

// console is a terminal on the VM's serial port.
func (s *Server) console(w http.ResponseWriter, r *http.Request, one *session) {
	name := r.PathValue("name")
	s.socket(w, r, one, func(ctx context.Context, c *websocket.Conn) error {
		conn, err := s.opts.Dial(ctx, name, "console", 0)
		if err != nil {
			return err
		}
		return pipe(ctx, c, conn)
	})
}
