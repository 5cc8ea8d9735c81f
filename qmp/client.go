package qmp

import (
	"context"
	"errors"
	"os"
)

type Client struct{}

// Dial connects to a QMP monitor or gate at a unix socket path.
func Dial(ctx context.Context, path string) (*Client, error) {
	return nil, errors.New("not implemented")
}

// NewClient runs the handshake on an open connection.
func NewClient(ctx context.Context, conn *Conn) (*Client, error) {
	return nil, errors.New("not implemented")
}

func (c *Client) Execute(ctx context.Context, command string, args, ret any, files ...*os.File) error {
	return errors.New("not implemented")
}
func (c *Client) Events() <-chan Event  { return nil }
func (c *Client) Done() <-chan struct{} { return nil } // closed when the connection is gone
func (c *Client) Close() error          { return nil }
