package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/uvbond/uvbond/channel/console"
)

// viewer is one stream that is attached. What stands behind "mu" belongs to the hub's
// mutex, except that only the pump uses next and sent.
type viewer struct {
	hub  *Hub
	line line
	wake chan struct{} // capacity 1: the pump may have something to send

	next uint64 // offset of the next byte of output
	sent uint64 // bytes of output so far

	// mu:
	session *session
	id      uint32
	name    string
	since   time.Time
	size    console.Size
	wants   bool // to write
	acked   uint64
	hello   *console.Attached // to be sent
	list    bool              // the list of viewers is to be sent
	taken   bool              // what was taken of the input is to be sent
	final   *console.End      // to be sent at once, and nothing after it
	over    bool              // the reader has ended
}

func (v *viewer) wakeUp() {
	select {
	case v.wake <- struct{}{}:
	default:
	}
}

// finish ends the viewer with the hub's mutex held.
func (v *viewer) finish(e *console.End) {
	if v.final == nil {
		v.final = e
		v.line.last()
		v.wakeUp()
	}
}

// Serve serves one stream until its client goes, the console ends, or ctx does. Its error
// is nil when the client went in order or was told of an end; the stream stays
// open, for the caller to close.
func (h *Hub) Serve(ctx context.Context, c net.Conn) error {
	v := &viewer{hub: h, line: line{c: c}, wake: make(chan struct{}, 1)}
	stop := context.AfterFunc(ctx, v.line.cut)
	defer stop()
	v.line.reading(attachTimeout)
	r := console.NewHypervisorReader(c)
	if refusal, err := v.welcome(r); refusal != nil || err != nil {
		if refusal != nil {
			v.line.last()
			_, _ = c.Write(console.Append(nil, *refusal))
			v.hangUp(r)
		}
		return err
	}
	v.line.reading(0)
	pumped := make(chan error, 1)
	go func() {
		err := v.pump()
		v.line.last()
		if err != nil {
			v.line.cut() // the reader waits for nothing any more
		}
		pumped <- err
	}()
	err := v.read(r)
	h.detach(v, err != io.EOF)
	v.close()
	perr := <-pumped
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded): // the pump ended first
		return perr
	case errors.Is(err, io.EOF):
		return nil
	}
	return err
}

// welcome reads the first message and attaches the viewer.
func (v *viewer) welcome(r *console.Reader) (*console.End, error) {
	m, err := r.Next()
	if err != nil {
		why := console.Misbehaved
		switch {
		case errors.Is(err, console.ErrVersion):
			why = console.OtherVersion
		case !errors.Is(err, console.ErrMalformed):
			return nil, fmt.Errorf("wait for the client to attach: %w", err)
		}
		return &console.End{Why: why}, err
	}
	a, ok := m.(console.Attach)
	if !ok {
		return &console.End{Why: console.Misbehaved}, errors.New("the client's first message is not attach")
	}
	refusal := v.hub.attach(v, a)
	return refusal, nil
}

// hangUp waits for a client that was refused to go, so that it gets to read why.
func (v *viewer) hangUp(r *console.Reader) {
	for {
		if _, err := r.Next(); err != nil && !errors.Is(err, console.ErrMalformed) {
			return
		}
	}
}

// read does what the client asks for until it goes or breaks the rules.
func (v *viewer) read(r *console.Reader) error {
	for {
		m, err := r.Next()
		if err == nil {
			err = v.handle(m)
		} else if !errors.Is(err, console.ErrMalformed) {
			return err
		}
		if err != nil {
			v.hub.mu.Lock()
			v.finish(&console.End{Why: console.Misbehaved})
			v.hub.mu.Unlock()
			v.hangUp(r)
			return err
		}
	}
}

func (v *viewer) handle(m console.Message) error {
	switch m := m.(type) {
	case console.Input:
		if !v.hub.input(v, m) {
			return errors.New("the client sent input out of turn, or more than its window")
		}
	case console.Resize:
		v.hub.resize(v, m.Size)
	case console.SetMode:
		v.hub.setMode(v, m.Mode)
	case console.Who:
		v.hub.mu.Lock()
		v.list = true
		v.wakeUp()
		v.hub.mu.Unlock()
	case console.Ack:
		v.hub.mu.Lock()
		defer v.hub.mu.Unlock()
		if m.Bytes < v.acked {
			return errors.New("the client takes an ack back")
		}
		v.acked = m.Bytes
		v.wakeUp()
	default:
		return fmt.Errorf("the client sent %T while attached", m)
	}
	return nil
}

// close ends the pump when the reader has ended.
func (v *viewer) close() {
	v.hub.mu.Lock()
	v.over = true
	told := v.final != nil
	v.hub.mu.Unlock()
	if !told {
		v.line.cut()
	}
	v.wakeUp()
}

// line is a stream with deadlines that can be ended for good.
type line struct {
	c net.Conn

	mu      sync.Mutex
	severed bool
	ending  bool
}

var past = time.Unix(1, 0)

// cut makes every read and write fail from now on.
func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.severed = true
	_ = l.c.SetDeadline(past)
}

// last gives the client a short while to take what is still sent, and to hang up.
func (l *line) last() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.severed && !l.ending {
		l.ending = true
		_ = l.c.SetDeadline(time.Now().Add(lastTimeout))
	}
}

// reading and writing set how long the next may take; reading without end is 0.
func (l *line) reading(d time.Duration) { l.set(l.c.SetReadDeadline, d) }
func (l *line) writing(d time.Duration) { l.set(l.c.SetWriteDeadline, d) }

func (l *line) set(deadline func(time.Time) error, d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.severed || l.ending {
		return
	}
	var at time.Time
	if d > 0 {
		at = time.Now().Add(d)
	}
	_ = deadline(at)
}
