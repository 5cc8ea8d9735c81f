package keeper

import (
	"context"
	"errors"
	"net"
	"os"
	"time"

	"github.com/uvbond/uvbond/channel"
	"github.com/uvbond/uvbond/channel/forward"
)

// serveForward joins the connections in a channel to the guest's port, which QEMU has
// on the loopback of the namespace that both are in.
func serveForward(ctx context.Context, c *channel.Conn, q *handed) error {
	return forward.Serve(ctx, c, func(ctx context.Context) (net.Conn, error) {
		return persist(ctx, func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", q.address.String())
		})
	})
}

// How long one attempt to connect may take, at first and at last. QEMU's listener has
// room for two connections that QEMU has not taken yet. What comes beyond these the
// kernel drops, and tries again after 1, 3, 7 and 15 seconds: a browser that
// opens many at once would wait for most of them.
const (
	firstAttempt = 20 * time.Millisecond
	lastAttempt  = time.Second
)

// persist dials until an attempt is decided within its time, or ctx ends.
func persist(ctx context.Context, dial forward.Dialer) (net.Conn, error) {
	for patience := firstAttempt; ; patience = min(2*patience, lastAttempt) {
		attempt, cancel := context.WithTimeout(ctx, patience)
		conn, err := dial(attempt)
		cancel()
		if err == nil || ctx.Err() != nil || !undecided(err) {
			return conn, err
		}
	}
}

// undecided tells an attempt that ran out of its time. Of the context's timer and the
// socket's, whichever is first names the error.
func undecided(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)
}
