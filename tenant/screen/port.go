// Package screen shows a VM's screen on a port of the owner's machine, to one VNC
// viewer at a time, each with a password of its own that lets it in once.
//
// It trusts the channel that it is given and nobody who connects to the port: any
// program of the machine can. A password is tried a few times at most and is valid for
// a limited time; what a viewer sends is checked before it reaches the VM (package rfb).
package screen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/uvbond/uvbond/tenant/rfb"
)

// mostGreeted is how many connections may be in their handshake at once.
const mostGreeted = 8

// openTime is for opening the channel once a viewer is there.
const openTime = 45 * time.Second

// ErrNobodyCame ends a port that no viewer came to in time.
var ErrNobodyCame = errors.New("no viewer came in time")

// Port is a screen on a local port.
type Port struct {
	Open   func(context.Context) (net.Conn, error) // a channel to the VM's VNC server, for each viewer a new one
	Watch  bool                                    // viewers see and can do nothing
	Once   bool                                    // end after the first viewer
	Wait   time.Duration                           // for a viewer to come; 0: for ever
	Invite func(*rfb.Password)                     // is told each password, from when it lets a viewer in
	Note   func(string)                            // is told what happens; calls may overlap
}

// Serve waits for viewers on ln, which it closes, until the context ends or something
// goes wrong for good: ErrNobodyCame, rfb.ErrTooManyTries, a channel that cannot be
// opened or that broke off. With Once it returns nil when the first viewer has left, or
// what that viewer did wrong. When it returns, nothing of it is left.
func (p *Port) Serve(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	d := &door{port: p, came: make(chan *guest), failed: make(chan error, 1), places: make(chan struct{}, mostGreeted)}
	d.running.Go(func() { d.accept(ctx, ln) })
	defer d.running.Wait()
	defer ln.Close()
	defer cancel()
	for {
		g, err := d.wait(ctx)
		if err != nil {
			return err
		}
		if err := p.show(ctx, g); err != nil || p.Once {
			return err
		}
	}
}

// guest is a viewer that knew the password.
type guest struct {
	conn net.Conn
	*rfb.Visitor
}

// show joins a viewer with the VM. The error is one that ends the port.
func (p *Port) show(ctx context.Context, g *guest) error {
	defer g.conn.Close()
	from := g.conn.RemoteAddr()
	opening, cancel := context.WithTimeout(ctx, openTime)
	screen, err := p.Open(opening)
	cancel()
	if err != nil {
		g.Refuse("the channel to the VM could not be opened")
		return err
	}
	p.Note(fmt.Sprintf("a viewer is connected (%s)", from))
	err = rfb.Relay(ctx, g.Visitor, screen, p.Watch)
	switch {
	case err == nil:
		p.Note(fmt.Sprintf("the viewer has left (%s)", from))
	case p.Once || ctx.Err() != nil:
	case errors.Is(err, rfb.ErrViewerStuck) || errors.Is(err, rfb.ErrGarbage):
		p.Note(fmt.Sprintf("%s: %v", from, err))
		return nil
	}
	return err
}

// door is who may come in now.
type door struct {
	port    *Port
	came    chan *guest
	failed  chan error // why the port cannot go on
	places  chan struct{}
	running sync.WaitGroup

	mu       sync.Mutex
	password *rfb.Password // of the next viewer; nil while one is there
}

func (d *door) set(p *rfb.Password) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.password = p
}

// wait makes a password and waits until somebody comes in with it.
func (d *door) wait(ctx context.Context) (*guest, error) {
	password := rfb.NewPassword()
	d.set(password)
	defer d.set(nil)
	d.port.Invite(password)
	var late <-chan time.Time
	if d.port.Wait > 0 {
		timer := time.NewTimer(d.port.Wait)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case g := <-d.came:
		return g, nil
	case <-late:
		return nil, ErrNobodyCame
	case err := <-d.failed:
		return nil, err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// accept greets whoever connects, until the listener is closed.
func (d *door) accept(ctx context.Context, ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			d.fail(fmt.Errorf("the port is gone: %w", err))
			return
		}
		select {
		case d.places <- struct{}{}:
			d.running.Go(func() {
				defer func() { <-d.places }()
				d.greet(ctx, conn)
			})
		default:
			_ = conn.Close()
		}
	}
}

func (d *door) fail(err error) {
	select {
	case d.failed <- err:
	default:
	}
}

// greet lets one connection in or closes it.
func (d *door) greet(ctx context.Context, conn net.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	d.mu.Lock()
	password := d.password
	d.mu.Unlock()
	if password == nil || password.Spent() {
		rfb.TurnAway(conn, "another viewer is connected")
		_ = conn.Close()
		return
	}
	v, err := rfb.Greet(conn, password)
	if err == nil {
		select {
		case d.came <- &guest{conn, v}:
			return
		case <-ctx.Done():
		}
	}
	_ = conn.Close()
	switch {
	case ctx.Err() != nil:
	case errors.Is(err, rfb.ErrTooManyTries) || errors.Is(err, rfb.ErrWrongPassword) && password.Spent():
		d.fail(rfb.ErrTooManyTries)
	default:
		d.port.Note(fmt.Sprintf("turned away %s: %v", conn.RemoteAddr(), err))
	}
}
