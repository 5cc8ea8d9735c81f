package keeper

import (
	"context"
	"errors"
	"io"
	"net"

	"github.com/uvbond/uvbond/channel"
)

// serveScreen joins a channel to QEMU's VNC server. The bytes mean nothing here.
func serveScreen(ctx context.Context, c *channel.Conn, q *handed) error {
	return pipe(ctx, c, q.screen)
}

// pipe copies both ways until both directions are at an end or one fails. An end in one
// direction is passed on, and a reader that is slow slows its writer. When ctx
// ends, pipe does; the channel stays open.
func pipe(ctx context.Context, c *channel.Conn, far *net.UnixConn) error {
	defer far.Close()
	stop := context.AfterFunc(ctx, func() { far.Close() })
	defer stop()
	in := make(chan error, 1)
	go func() {
		_, err := io.Copy(far, c)
		if err == nil {
			err = far.CloseWrite()
		} else {
			far.Close() // nothing more can come of it: end the other direction, too
		}
		in <- err
	}()
	_, err := io.Copy(c, far)
	if err == nil {
		if err = c.CloseWrite(); err == nil {
			err = finishIn(ctx, in)
		}
	}
	return errors.Join(err, ctx.Err())
}

// finishIn waits for the owner's direction after the other has ended.
func finishIn(ctx context.Context, in <-chan error) error {
	select {
	case err := <-in:
		return err
	case <-ctx.Done():
		return nil
	}
}
