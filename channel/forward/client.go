package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/hashicorp/yamux"
)

// NotConnectedError says that the guest's port was not reached. The channel goes on.
type NotConnectedError struct{ Reason string }

func (e *NotConnectedError) Error() string { return e.Reason }

// Client is the tenant's end of a channel.
type Client struct{ mux *mux }

// NewClient takes channel over.
func NewClient(channel net.Conn) (*Client, error) {
	m := newMux(channel)
	session, err := yamux.Client(m.under, config())
	if err != nil {
		channel.Close()
		return nil, err
	}
	m.session = session
	if m.control, err = session.OpenStream(); err != nil {
		session.Close()
		return nil, m.why(err)
	}
	go m.takeResets(func() { m.once.Do(func() { close(m.bye) }) })
	return &Client{m}, nil
}

// Done is closed when the channel has ended.
func (c *Client) Done() <-chan struct{} { return c.mux.session.CloseChan() }

// Err tells why, nil for an end in order.
func (c *Client) Err() error { return c.mux.why(nil) }

// closeTimeout bounds how long Close waits for the guest to take what was sent.
const closeTimeout = 5 * time.Second

// Close resets the connections that are open, waits a while for the guest's ends of
// the others to take what was sent to them, and ends the channel.
func (c *Client) Close() error {
	m := c.mux
	m.mu.Lock()
	open := slices.Collect(maps.Values(m.streams))
	m.mu.Unlock()
	for _, s := range open {
		go s.Reset()
	}
	m.parting(nil)
	return m.session.Close()
}

// Settle is for the only connection of a channel, when both its directions have ended:
// it waits a while for the guest's end to take what was sent to it, and returns ErrReset if
// that broke instead. No other connection can be made afterwards.
func (c *Client) Settle(s *Stream) error {
	c.mux.parting(s.gone)
	select {
	case <-s.gone:
		return ErrReset
	default:
		return nil
	}
}

// parting says goodbye and waits for the answer, for a while, unless stop is closed.
func (m *mux) parting(stop <-chan struct{}) {
	go m.sayReset(goodbye)
	t := time.NewTimer(closeTimeout)
	defer t.Stop()
	select {
	case <-m.bye:
	case <-m.session.CloseChan():
	case <-stop:
	case <-t.C:
	}
}

// Dial makes one more connection to the guest's port.
func (c *Client) Dial(ctx context.Context) (*Stream, error) {
	y, err := c.mux.session.OpenStream()
	if err != nil {
		if why := c.mux.why(err); why != nil {
			return nil, why
		}
		return nil, net.ErrClosed
	}
	s := newStream(y, c.mux)
	if _, err := c.mux.add(s); err != nil {
		return nil, err // never: yamux counts up
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, s.Reset)
	var status [1]byte
	_, err = io.ReadFull(s, status[:])
	var text []byte
	if err == nil && status[0] != connected {
		text, err = io.ReadAll(io.LimitReader(s, maxReason))
		err = errors.Join(err, &NotConnectedError{Reason: printable(string(text))})
	}
	if !stop() {
		err = fmt.Errorf("waiting for the guest's port: %w", context.Cause(ctx))
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	s.count(&s.received, -len(status))
	return s, nil
}

// printable keeps text of the other end from playing with a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return -1
		}
		return r
	}, s)
}

var _ net.Conn = (*Stream)(nil)
