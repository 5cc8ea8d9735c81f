package qmp

import (
	"context"
	"errors"
	"net"
	"os"
)

// MaxLine is the largest line in bytes, MaxFiles the most descriptors a line may carry.
const (
	MaxLine  = 1 << 20
	MaxFiles = 16
)

var (
	ErrMixedSenders = errors.New("line written by more than one process")
	ErrTooLong      = errors.New("line longer than 1 MiB")
)

// Cred is the sender of a line as the kernel attests it.
type Cred struct {
	PID      int32
	UID, GID uint32
}

// Line is one message without its newline. The receiver owns (and closes) Files.
type Line struct {
	Data  []byte
	Files []*os.File
	Cred  *Cred
}

// Close closes the line's files.
func (l *Line) Close() {}

type Conn struct{ c *net.UnixConn }

func NewConn(c *net.UnixConn) *Conn                        { return &Conn{c: c} }
func (c *Conn) EnableCredentials() error                   { return nil }
func (c *Conn) Receive(ctx context.Context) (*Line, error) { return nil, errors.New("not implemented") }
func (c *Conn) Send(v any, files ...*os.File) error        { return errors.New("not implemented") }
func (c *Conn) Close() error                               { return c.c.Close() }
