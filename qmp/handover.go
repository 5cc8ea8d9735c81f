package qmp

import (
	"context"
	"errors"
	"fmt"
	"net"
)

// ErrHandedOver is what a call on a connection returns that Handover ended.
var ErrHandedOver = errors.New("connection speaks another protocol now")

// Handover sends a command whose success ends QMP on this connection, and waits
// for the answer as Execute does. From the byte behind the answer on, the
// connection is the caller's, who closes it; nothing of it was read. Nothing else
// may be under way on the Client. After a refusal (an *Error) QMP goes on; after
// any other error the Client is only good for Close.
func (c *Client) Handover(ctx context.Context, command string, args, ret any) (*net.UnixConn, error) {
	if err := c.execute(ctx, true, command, args, ret, nil); err != nil {
		return nil, fmt.Errorf("%s: %w", command, err)
	}
	<-c.done
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.handed || !errors.Is(c.err, ErrHandedOver) {
		return nil, fmt.Errorf("%s: %w", command, c.err)
	}
	c.taken = true
	return c.conn.c, nil
}

// stopped tells the reader that the peer's next byte is not QMP.
func (c *Client) stopped() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.handed
}
