package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"
)

// EventBuffer is how many events a Client holds; the oldest is dropped then.
const EventBuffer = 256

// handshakeTimeout bounds greeting and qmp_capabilities when ctx does not.
const handshakeTimeout = 30 * time.Second

// ErrClosed is what a call on a connection that Close ended returns.
var ErrClosed = errors.New("connection is closed")

// Client is the calling end of QMP, on a QEMU monitor or on the gate. Its
// methods may be used by many goroutines at once.
type Client struct {
	conn     *Conn
	greeting Greeting
	events   chan Event
	done     chan struct{}

	mu sync.Mutex
	// lastID, pending and err are guarded by mu.
	lastID  uint64
	pending map[uint64]chan *Response
	err     error // set once, before done is closed
	// Of Handover: the id of the command whose success ends QMP, whether it has
	// ended, and whether the connection is the caller's by now.
	handing       uint64
	handed, taken bool
}

// Dial connects to the unix socket at path and runs the handshake.
func Dial(ctx context.Context, path string) (*Client, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	client, err := NewClient(ctx, NewConn(c.(*net.UnixConn)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return client, nil
}

// NewClient waits for the greeting and negotiates capabilities (none) on conn,
// which it takes over and closes on error.
func NewClient(ctx context.Context, conn *Conn) (*Client, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	c := &Client{
		conn:    conn,
		events:  make(chan Event, EventBuffer),
		done:    make(chan struct{}),
		pending: map[uint64]chan *Response{},
	}
	if err := c.readGreeting(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("waiting for the greeting: %w", err)
	}
	go c.read()
	if err := c.Execute(ctx, CmdCapabilities, nil, nil); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (c *Client) readGreeting(ctx context.Context) error {
	line, err := c.conn.Receive(ctx)
	if err != nil {
		return err
	}
	line.Close()
	m, err := ParseMessage(line.Data)
	if err != nil {
		return err
	}
	if m.Greeting == nil {
		return errors.New("the peer does not speak QMP: its first line is no greeting")
	}
	c.greeting = *m.Greeting
	return nil
}

// Greeting returns what the server said first.
func (c *Client) Greeting() Greeting { return c.greeting }

// Events delivers asynchronous messages. It never blocks the connection: when
// nobody reads, the oldest of EventBuffer events is dropped. It is closed when
// the connection ends.
func (c *Client) Events() <-chan Event { return c.events }

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err tells why the connection ended, or nil while it lives.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the connection; pending calls fail with ErrClosed.
func (c *Client) Close() error {
	c.fail(ErrClosed)
	<-c.done
	return nil
}

// Execute sends command with args (nil: none) and files, waits for the answer
// and decodes it into ret (nil: dropped). A refusal by the peer is an *Error.
// When ctx ends first the command may still be executed; its answer is dropped.
func (c *Client) Execute(ctx context.Context, command string, args, ret any, files ...*os.File) error {
	if err := c.execute(ctx, false, command, args, ret, files); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	return nil
}

func (c *Client) execute(ctx context.Context, last bool, command string, args, ret any, files []*os.File) error {
	id, answer, err := c.expect(last)
	if err != nil {
		return err
	}
	defer c.forget(id)
	request := wireRequest{Execute: command, Arguments: args, ID: json.RawMessage(strconv.FormatUint(id, 10))}
	if err := c.conn.send(ctx, request, files); err != nil {
		if lost := c.Err(); lost != nil {
			return lost
		}
		return err
	}
	select {
	case r := <-answer:
		return r.into(ret)
	case <-ctx.Done():
		return ctx.Err()
	case <-c.done:
	}
	// The answer may have come just before the end.
	select {
	case r := <-answer:
		return r.into(ret)
	default:
		return c.Err()
	}
}

func (r *Response) into(ret any) error {
	if r.Error != nil {
		return r.Error
	}
	if ret == nil {
		return nil
	}
	if err := json.Unmarshal(r.Return, ret); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	return nil
}

func (c *Client) expect(last bool) (uint64, <-chan *Response, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, nil, c.err
	}
	c.lastID++
	if last {
		c.handing = c.lastID
	}
	answer := make(chan *Response, 1)
	c.pending[c.lastID] = answer
	return c.lastID, answer, nil
}

func (c *Client) forget(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pending, id)
}

// fail records the first reason and closes the socket, which ends read.
func (c *Client) fail(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	taken := c.taken
	c.mu.Unlock()
	if !taken {
		c.conn.Close()
	}
}

func (c *Client) read() {
	defer close(c.done)
	defer close(c.events)
	for {
		line, err := c.conn.Receive(context.Background())
		if err == nil {
			line.Close() // no answer carries descriptors
			err = c.dispatch(line.Data)
		}
		if errors.Is(err, io.EOF) {
			err = errors.New("the peer closed the connection")
		}
		if err != nil {
			c.fail(fmt.Errorf("connection lost: %w", err))
			return
		}
		if c.stopped() {
			return
		}
	}
}

func (c *Client) dispatch(data []byte) error {
	m, err := ParseMessage(data)
	switch {
	case err != nil:
		return err
	case m.Event != nil:
		c.deliver(*m.Event)
	case m.Response != nil:
		return c.answer(m.Response)
	}
	return nil
}

// deliver has only one caller, so it ends: the channel cannot fill up again
// between the two steps.
func (c *Client) deliver(e Event) {
	for {
		select {
		case c.events <- e:
			return
		default:
		}
		select {
		case <-c.events:
		default:
		}
	}
}

func (c *Client) answer(r *Response) error {
	id, err := strconv.ParseUint(string(r.ID), 10, 64)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil || id == 0 || id > c.lastID {
		// QEMU leaves the id out when it could not parse the request.
		if r.Error != nil {
			return fmt.Errorf("the peer refused a request as malformed: %w", r.Error)
		}
		return fmt.Errorf("answer to nothing that was asked, id %q", clip(string(r.ID)))
	}
	if id == c.handing && r.Error == nil {
		c.handed = true
		if c.err == nil {
			c.err = ErrHandedOver
		}
	}
	if answer, ok := c.pending[id]; ok {
		answer <- r
		delete(c.pending, id)
	}
	return nil
}
