package tenant

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/uvbond/uvbond/channel"
	"github.com/uvbond/uvbond/channel/forward"
	"github.com/uvbond/uvbond/tenant/fail"
)

// How long to wait before a channel that broke is opened again: at first, and at most.
const (
	reopenFirst = 200 * time.Millisecond
	reopenLast  = 10 * time.Second
)

// patience is how long a connection waits for a channel that is being opened again.
const patience = 30 * time.Second

// ForwardPort opens a channel for connections to a port of the guest. The caller
// closes the result.
func (o *Owner) ForwardPort(ctx context.Context, name string, port uint16) (*forward.Client, error) {
	raw, err := o.OpenChannel(ctx, name, channel.KindForward, port)
	if err != nil {
		return nil, err
	}
	c, err := forward.NewClient(raw)
	if err != nil {
		return nil, ChannelFailure(name, err)
	}
	return c, nil
}

// noteIdle says that a VM does not run, as the receipt of the channel has it: connections
// to it wait without a word.
func (o *Owner) noteIdle(name string, note func(string)) {
	if why := o.Idle(name); why != "" {
		note(why + ": nothing answers in it until it runs (uvbond vm resume " + name + ")")
	}
}

// Idle tells, by the newest receipt, that a VM's instance exists and does not run, so
// that its guest reads no keys and answers no connection. It is empty where the guest runs,
// or could be woken by a key.
func (o *Owner) Idle(name string) string {
	vm, err := o.Store.VM(name)
	if err != nil || vm.State == "" || vm.State == stateRunning || vm.State == stateSuspended {
		return ""
	}
	return fmt.Sprintf("%s is %s", name, vm.State)
}

// Forwarding keeps a channel to one port of a guest open.
type Forwarding struct {
	owner *Owner
	name  string
	port  uint16
	note  func(string)

	mu      sync.Mutex
	current *forward.Client
	changed chan struct{} // closed when current or err changed
	err     error         // why it ended for good
}

// Forward opens a channel to a port of the guest and keeps one open until ctx ends:
// when it breaks, another is opened. note is told of that. Run is to be called.
func (o *Owner) Forward(ctx context.Context, name string, port uint16, note func(string)) (*Forwarding, error) {
	c, err := o.ForwardPort(ctx, name, port)
	if err != nil {
		return nil, err
	}
	o.noteIdle(name, note)
	return &Forwarding{owner: o, name: name, port: port, note: note, current: c, changed: make(chan struct{})}, nil
}

// Run returns ctx's error, or why no channel can be opened any more: a redirected
// one, or a VM that has no instance. A server that is away is waited for.
func (f *Forwarding) Run(ctx context.Context) error {
	for {
		c := f.client()
		select {
		case <-ctx.Done():
		case <-c.Done():
		}
		c.Close() //nolint:errcheck // it has ended
		if ctx.Err() != nil {
			return f.set(nil, context.Cause(ctx))
		}
		err := ChannelFailure(f.name, c.Err())
		if fail.CodeOf(err) == fail.Forged {
			return f.set(nil, err)
		}
		if err == nil {
			err = errors.New("it was closed by the other end")
		}
		f.note("the channel to " + f.name + " ended: " + err.Error() + "; opening another")
		if c, err = f.reopen(ctx); err != nil {
			return f.set(nil, err)
		}
		f.note("the channel to " + f.name + " is open again")
		f.set(c, nil) //nolint:errcheck // returns the nil
	}
}

func (f *Forwarding) reopen(ctx context.Context) (*forward.Client, error) {
	for pause := reopenFirst; ; pause = min(2*pause, reopenLast) {
		if !pauseFor(ctx, pause) {
			return nil, context.Cause(ctx)
		}
		c, err := f.owner.ForwardPort(ctx, f.name, f.port)
		switch code := fail.CodeOf(err); {
		case err == nil:
			return c, nil
		case code != fail.Connection && code != fail.Unknown:
			return nil, err
		}
	}
}

func (f *Forwarding) client() *forward.Client {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.current
}

func (f *Forwarding) set(c *forward.Client, err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.current, f.err = c, err
	close(f.changed)
	f.changed = make(chan struct{})
	return err
}

// Dial makes one more connection to the guest's port. While another channel is being
// opened it waits, for half a minute at most.
func (f *Forwarding) Dial(ctx context.Context) (*forward.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		f.mu.Lock()
		c, err, changed := f.current, f.err, f.changed
		f.mu.Unlock()
		if err != nil {
			return nil, err
		}
		s, err := c.Dial(ctx)
		if err == nil || !ended(c) {
			return s, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, err
		}
	}
}

func ended(c *forward.Client) bool {
	select {
	case <-c.Done():
		return true
	default:
		return false
	}
}

// Serve joins each connection that l accepts to one of the guest's port, until l is
// closed. note is told of connections that failed.
func (f *Forwarding) Serve(ctx context.Context, l net.Listener) {
	for {
		local, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // too many open files, or the like
			f.note(err.Error())
			time.Sleep(reopenFirst)
			continue
		}
		go f.join(ctx, local.(*net.TCPConn))
	}
}

func (f *Forwarding) join(ctx context.Context, local *net.TCPConn) {
	s, err := f.Dial(ctx)
	if err != nil {
		local.SetLinger(0) //nolint:errcheck // then it ends in order: an end all the same
		local.Close()
		if ctx.Err() == nil {
			f.note("connection to port " + strconv.Itoa(int(f.port)) + ": " + err.Error())
		}
		return
	}
	err = forward.Join(local, s)
	switch {
	case ctx.Err() != nil:
	case s.Unanswered() && (err == nil || errors.Is(err, forward.ErrReset)):
		f.note("connection to port " + strconv.Itoa(int(f.port)) + ": " + unanswered)
	case err != nil:
		f.note("connection to port " + strconv.Itoa(int(f.port)) + " broke: " + ChannelFailure(f.name, err).Error())
	}
}

// unanswered is what is known of a connection that is Unanswered.
const unanswered = "nobody listens there in the guest, or the connection was closed at once"

// ConnectPort joins in and out to one connection to a port of the guest. It returns
// when the guest ended its direction and in ended, or, with early, when the guest did. The
// end of the guest's direction is passed on to an out that has CloseWrite. A connection in
// which nothing came, and nothing was taken, is an error. note is told what else matters.
func (o *Owner) ConnectPort(ctx context.Context, name string, port uint16, in io.Reader, out io.Writer, early bool, note func(string)) error {
	c, err := o.ForwardPort(ctx, name, port)
	if err != nil {
		return err
	}
	defer c.Close()
	o.noteIdle(name, note)
	s, err := c.Dial(ctx)
	if err != nil {
		return connectFailure(name, port, err)
	}
	defer s.Close()
	defer context.AfterFunc(ctx, s.Reset)()
	err = exchange(c, s, in, out, early)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case s.Unanswered() && (err == nil || errors.Is(err, forward.ErrReset)):
		return fail.New(fail.Other, "a program must listen there, and not on the guest's loopback only; look there: uvbond vm console "+name,
			"port %d of %q: %s", port, name, unanswered)
	case err != nil:
		return connectFailure(name, port, err)
	}
	return nil
}

// exchange moves the bytes of ConnectPort.
func exchange(c *forward.Client, s *forward.Stream, in io.Reader, out io.Writer, early bool) error {
	up := make(chan error, 1)
	go func() {
		_, err := io.Copy(struct{ io.Writer }{s}, in)
		up <- errors.Join(err, s.CloseWrite())
	}()
	if _, err := io.Copy(out, struct{ io.Reader }{s}); err != nil || early {
		return err
	}
	if end, ok := out.(interface{ CloseWrite() error }); ok {
		end.CloseWrite() //nolint:errcheck // whoever reads has gone, or cannot be told
	}
	select {
	case err := <-up:
		if err != nil {
			return err
		}
		return c.Settle(s)
	case <-s.Broken():
		return forward.ErrReset
	case <-c.Done():
		return c.Err()
	}
}

func connectFailure(name string, port uint16, err error) error {
	var no *forward.NotConnectedError
	switch {
	case errors.As(err, &no):
		return fail.Wrap(err, fail.Other, "does a program listen there in the guest? its console: uvbond vm console "+name, "port %d of %q", port, name)
	case errors.Is(err, forward.ErrReset):
		return fail.Wrap(err, fail.Other, "the program in the guest ended it; look there: uvbond vm console "+name, "port %d of %q", port, name)
	}
	return ChannelFailure(name, err)
}
