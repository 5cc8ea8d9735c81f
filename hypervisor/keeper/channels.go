package keeper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/channel"
)

const (
	// MaxChannels is how many channels a VM may have at once.
	MaxChannels = 256
	// lastWords is how long channels may take to end, and the daemon to take what is
	// reported of them, when the keeper ends.
	lastWords = 3 * time.Second
)

// ErrTooManyChannels says that a VM has MaxChannels channels.
var ErrTooManyChannels = fmt.Errorf("the VM has %d channels already; close one", MaxChannels)

// handler serves one channel of a kind until its owner goes, the far end does, or
// ctx ends. It leaves the channel open. An error of the far end is logged, and
// the owner is told that there was one; what is wrong with the channel itself, its Cause says.
type handler func(ctx context.Context, c *channel.Conn, q *handed) error

// handed is a channel as the daemon hands it over.
type handed struct {
	wireChannel
	raw     *net.UnixConn
	screen  *net.UnixConn  // KindScreen: QEMU's VNC server
	address netip.AddrPort // KindForward: where the guest's port is
	began   time.Time
}

// wireChannel is what the daemon says of a channel. Its descriptors are the
// connection, and that of QEMU's VNC server for a screen.
type wireChannel struct {
	Kind       string `cbor:"1,keyasint"`
	Port       uint16 `cbor:"2,keyasint,omitempty"`
	Session    string `cbor:"3,keyasint"` // the daemon's name for it
	Key        []byte `cbor:"4,keyasint"`
	Descriptor []byte `cbor:"5,keyasint"`
	Nonce      []byte `cbor:"6,keyasint"`
	Address    string `cbor:"7,keyasint,omitempty"` // KindForward: ip:port
}

// wipe zeroes the secrets, where there is a channel.
func (w *wireChannel) wipe() {
	if w != nil {
		bond.Wipe(w.Key)
		bond.Wipe(w.Descriptor)
	}
}

// channels are the open ones of the VM.
type channels struct {
	vm      bond.VMID
	log     *slog.Logger
	kinds   map[string]handler
	reports *reporter
	ctx     context.Context
	cancel  context.CancelFunc

	mu      sync.Mutex // guards what follows
	open    int
	over    string        // why the keeper ends; empty: it does not
	settled chan struct{} // closed when over is set and none is open
}

func newChannels(k *keeper) (*channels, error) {
	vm, err := bond.ParseVMID(k.config.VM)
	if err != nil {
		return nil, err
	}
	c := &channels{vm: vm, log: k.log, reports: newReporter(), settled: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.kinds = map[string]handler{
		channel.KindConsole: func(ctx context.Context, conn *channel.Conn, _ *handed) error {
			return k.console.hub.Serve(ctx, conn)
		},
		channel.KindScreen:  serveScreen,
		channel.KindForward: serveForward,
	}
	return c, nil
}

// take starts a channel on what the daemon hands over. An error means that there
// is none; files stay the caller's.
func (c *channels) take(w *wireChannel, files []*os.File) error {
	q, err := c.prepare(w, files)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.over != "":
		err = errors.New("the keeper is ending")
	case c.open >= MaxChannels:
		err = ErrTooManyChannels
	}
	if err != nil {
		q.close()
		return err
	}
	c.open++
	p := channel.Params{
		Key: bond.NewSecret(w.Key), VM: c.vm, Descriptor: append([]byte(nil), w.Descriptor...),
		Kind: w.Kind, Port: w.Port, Nonce: [32]byte(w.Nonce),
	}
	q.Key, q.Descriptor = nil, nil
	go c.serve(q, p)
	return nil
}

// prepare checks what the daemon hands over and takes its own descriptors of it.
func (c *channels) prepare(w *wireChannel, files []*os.File) (*handed, error) {
	if w == nil {
		return nil, errors.New("no channel came with the command")
	}
	if err := channel.CheckKind(w.Kind, w.Port); err != nil {
		return nil, err
	}
	want := 1
	if w.Kind == channel.KindScreen {
		want = 2
	}
	switch {
	case c.kinds[w.Kind] == nil:
		return nil, fmt.Errorf("this keeper has no channels of kind %s", w.Kind)
	case len(files) != want:
		return nil, fmt.Errorf("%d descriptors came with a channel of kind %s, want %d", len(files), w.Kind, want)
	case len(w.Nonce) != 32:
		return nil, fmt.Errorf("the nonce has %d bytes", len(w.Nonce))
	}
	q := &handed{wireChannel: *w, began: time.Now()}
	var err error
	if w.Kind == channel.KindForward {
		if q.address, err = netip.ParseAddrPort(w.Address); err != nil {
			return nil, err
		}
		if !q.address.Addr().IsLoopback() {
			return nil, fmt.Errorf("%s is not on the loopback", q.address)
		}
	}
	if q.raw, err = streamSocket(files[0]); err != nil {
		return nil, fmt.Errorf("the channel's connection: %w", err)
	}
	if w.Kind == channel.KindScreen {
		if q.screen, err = streamSocket(files[1]); err != nil {
			q.close()
			return nil, fmt.Errorf("the screen's connection: %w", err)
		}
	}
	return q, nil
}

// streamSocket makes a connection of a copy of f. What is read from it has no
// sender any more.
func streamSocket(f *os.File) (*net.UnixConn, error) {
	own, err := dup(f)
	if err != nil {
		return nil, err
	}
	u, err := fileConn(own)
	if err != nil {
		return nil, err
	}
	raw, err := u.SyscallConn()
	if err != nil {
		u.Close()
		return nil, err
	}
	var kind int
	var kindErr, credErr error
	err = raw.Control(func(fd uintptr) {
		kind, kindErr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TYPE)
		credErr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 0)
	})
	if err = errors.Join(err, kindErr, credErr); err == nil && kind != unix.SOCK_STREAM {
		err = errors.New("not a stream")
	}
	if err != nil {
		u.Close()
		return nil, err
	}
	return u, nil
}

// close gives up a channel's descriptors; closing again does nothing.
func (q *handed) close() {
	q.raw.Close()
	if q.screen != nil {
		q.screen.Close()
	}
}

// carrier is a channel's connection, and tells when it is closed.
type carrier struct {
	*net.UnixConn
	once   sync.Once
	closed chan struct{}
}

// Close closes the connection; closing again does nothing.
func (c *carrier) Close() (err error) {
	c.once.Do(func() {
		err = c.UnixConn.Close()
		close(c.closed)
	})
	return err
}

// serve is the life of one channel. The channel closes the connection when it has said
// why it ended, which takes a while where nobody reads: until then it has its place.
func (c *channels) serve(q *handed, p channel.Params) {
	raw := &carrier{UnixConn: q.raw, closed: make(chan struct{})}
	defer func() {
		<-raw.closed
		c.left()
	}()
	if q.screen != nil {
		defer q.screen.Close()
	}
	conn, err := channel.Accept(c.ctx, raw, p)
	p.Key.Wipe()
	bond.Wipe(p.Descriptor)
	if err != nil {
		r := q.report(EventRefused)
		r.blame(err)
		c.report(r)
		return
	}
	c.report(q.report(EventOpened))
	err = c.kinds[q.Kind](c.ctx, conn, q)
	cause, reason := conn.Cause(), channel.Done
	r := q.report(EventEnded)
	switch {
	case cause != nil && cause != io.EOF:
		r.blame(cause)
	case cause == io.EOF:
	case c.ending() != "":
		reason = c.ending()
		r.Why, r.Reason = WhyEnded, reason
	case err != nil:
		c.log.Warn("keeper: channel failed", "kind", q.Kind, "err", err)
		reason = "its far end failed"
		r.Why, r.Reason = WhyEnded, reason
	}
	conn.CloseWith(reason)
	r.Received, r.Sent = conn.Counts()
	c.report(r)
}

func (c *channels) report(r *Report) {
	c.mu.Lock()
	r.Open = c.open
	if r.Event != EventOpened {
		r.Open--
	}
	c.mu.Unlock()
	c.reports.add(r)
}

func (c *channels) ending() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.over
}

func (c *channels) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open
}

func (c *channels) left() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open--
	if c.open == 0 && c.over != "" {
		close(c.settled)
	}
}

// end lets no channel begin any more. why is what owners are told.
func (c *channels) end(why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over != "" {
		return
	}
	c.over = why
	if c.open == 0 {
		close(c.settled)
	}
}

// finish ends all channels, after end, and waits a while for that and for the daemon
// to take the reports.
func (c *channels) finish() {
	c.cancel()
	ctx, cancel := context.WithTimeout(context.Background(), lastWords)
	defer cancel()
	select {
	case <-c.settled:
	case <-ctx.Done():
	}
	c.reports.drain(ctx)
}
