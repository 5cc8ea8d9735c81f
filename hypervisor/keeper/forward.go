package keeper

import (
	"context"
	"net"

	"github.com/uvbond/uvbond/channel"
	"github.com/uvbond/uvbond/channel/forward"
)

// serveForward joins the connections in a channel to the guest's port, which QEMU has
// on the loopback of the namespace that both are in.
func serveForward(ctx context.Context, c *channel.Conn, q *handed) error {
	return forward.Serve(ctx, c, func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", q.address.String())
	})
}
