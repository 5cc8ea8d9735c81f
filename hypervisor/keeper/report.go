package keeper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/uvbond/uvbond/channel"
)

// Reports are what a keeper tells the daemon of channels by itself, for the audit. They wait in
// the keeper until a daemon has taken them, so that a restart of the daemon loses none (one
// may come twice); the oldest go when there are too many, and are counted.

const (
	maxReports = 4 * MaxChannels // that wait for a daemon
	maxReport  = 2 << 10         // bytes, encoded
)

// Events of a Report.
const (
	EventState   = "state"   // none: how many channels are open when a daemon begins to listen
	EventOpened  = "opened"  // the owner has shown that it is there
	EventRefused = "refused" // the handshake did not open
	EventEnded   = "ended"
)

// Values of Report.Why beside those of channel.Why.
const (
	WhyDone  = channel.Done          // the owner or the far end was finished
	WhyEnded = string(channel.Ended) // for the reason in Reason
)

// Report is about one channel.
type Report struct {
	Serial   uint64 `cbor:"1,keyasint"` // from 1; 0: not one that waits
	Event    string `cbor:"2,keyasint"`
	Kind     string `cbor:"3,keyasint,omitempty"`
	Port     uint16 `cbor:"4,keyasint,omitempty"`
	Session  string `cbor:"5,keyasint,omitempty"`
	Why      string `cbor:"6,keyasint,omitempty"`
	Reason   string `cbor:"7,keyasint,omitempty"`  // more to Why; printable ASCII
	Received uint64 `cbor:"8,keyasint,omitempty"`  // bytes from the owner
	Sent     uint64 `cbor:"9,keyasint,omitempty"`  // bytes to the owner
	Seconds  uint64 `cbor:"10,keyasint,omitempty"` // since it was handed over
	Open     int    `cbor:"11,keyasint,omitempty"` // channels of the VM afterwards
	Lost     uint64 `cbor:"12,keyasint,omitempty"` // reports before this one that no daemon took in time
}

// taken is the daemon's answer to a report.
type taken struct {
	Serial uint64 `cbor:"1,keyasint"`
}

func (q *handed) report(event string) *Report {
	return &Report{
		Event: event, Kind: q.Kind, Port: q.Port, Session: q.Session, Why: WhyDone,
		Seconds: uint64(time.Since(q.began).Seconds()),
	}
}

// blame puts down why a channel ended, as far as the audit may know.
func (r *Report) blame(err error) {
	var e *channel.Error
	switch {
	case errors.As(err, &e):
		r.Why, r.Reason = string(e.Why), e.Reason
	default: // of the keeper's own making, such as the end of its context
		r.Why, r.Reason = WhyEnded, "the instance ended"
	}
}

// validate refuses what no keeper says. It bounds texts, it does not clean them.
func (r *Report) validate() error {
	if n := max(len(r.Session), len(r.Why)); n > 64 || len(r.Reason) > 512 || r.Open < 0 || r.Open > MaxChannels {
		return errors.New("report is out of bounds")
	}
	switch r.Event {
	case EventState:
		return nil
	case EventOpened, EventRefused, EventEnded:
		return channel.CheckKind(r.Kind, r.Port)
	}
	return fmt.Errorf("unknown event %.32q", r.Event)
}

// reporter hands reports to the daemon that listens, one after the other.
type reporter struct {
	mu       sync.Mutex // guards what follows
	waiting  []*Report
	serial   uint64
	lost     uint64
	daemon   *net.UnixConn // nil: nobody listens
	more     chan struct{} // capacity 1: there may be more to report
	progress chan struct{} // capacity 1: something was taken
}

func newReporter() *reporter {
	return &reporter{more: make(chan struct{}, 1), progress: make(chan struct{}, 1)}
}

func (r *reporter) add(p *Report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.serial++
	p.Serial = r.serial
	if len(r.waiting) == maxReports {
		r.waiting = r.waiting[1:]
		r.lost++
	}
	r.waiting = append(r.waiting, p)
	nudge(r.more)
}

// attach makes f, a socket, where reports go from now on. open is how many channels
// there are. f stays the caller's.
func (r *reporter) attach(f *os.File, open int) error {
	own, err := dup(f)
	if err != nil {
		return err
	}
	c, err := fileConn(own)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.daemon != nil {
		r.daemon.Close() // whoever reports there goes
	}
	r.daemon = c
	nudge(r.more)
	go r.deliver(c, open)
	return nil
}

// deliver reports to c until it fails, or another takes its place.
func (r *reporter) deliver(c *net.UnixConn, open int) {
	defer r.detach(c)
	if err := exchange(c, &Report{Event: EventState, Open: open}); err != nil {
		return
	}
	for {
		p, ok := r.next(c)
		if !ok {
			return
		}
		if p == nil {
			<-r.more
			continue
		}
		if err := exchange(c, p); err != nil {
			return
		}
		r.drop(p)
	}
}

func (r *reporter) detach(c *net.UnixConn) {
	c.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.daemon == c {
		r.daemon = nil
		nudge(r.progress) // nobody waits for a daemon that is gone
	}
}

// next returns the oldest report that waits, or nil; not ok when c is not the
// daemon's any more.
func (r *reporter) next(c *net.UnixConn) (*Report, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.daemon != c {
		nudge(r.more) // it may have been meant for the other
		return nil, false
	}
	if len(r.waiting) == 0 {
		return nil, true
	}
	p := r.waiting[0]
	p.Lost, r.lost = p.Lost+r.lost, 0
	return p, true
}

func (r *reporter) drop(p *Report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.waiting) > 0 && r.waiting[0] == p {
		r.waiting = r.waiting[1:]
	}
	nudge(r.progress)
}

// exchange sends a report and waits until it is taken.
func exchange(c *net.UnixConn, p *Report) error {
	if err := send(c, p); err != nil {
		return err
	}
	var t taken
	err := receiveReport(c, &t)
	if err == nil && t.Serial != p.Serial {
		err = errors.New("the daemon took another report")
	}
	return err
}

// receiveReport is receive for small messages: somebody waits in it all the time.
func receiveReport(c *net.UnixConn, v any) error {
	b, files, err := receiveBytes(c, maxReport)
	closeAll(files)
	if err != nil {
		return err
	}
	return decode(b, v)
}

// drain waits until all reports are taken, or ctx ends.
func (r *reporter) drain(ctx context.Context) {
	for {
		r.mu.Lock()
		done := len(r.waiting) == 0 || r.daemon == nil
		r.mu.Unlock()
		if done {
			return
		}
		select {
		case <-r.progress:
		case <-ctx.Done():
			return
		}
	}
}

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// ReportSocket makes a pair: TakeReports on ours; theirs is for Process.Reports, and
// stays the caller's.
func ReportSocket() (ours *net.UnixConn, theirs *os.File, err error) { return socketPair() }

// TakeReports gives every report of a keeper to take, which returns when it is kept, until
// ctx ends or the keeper does. It closes c.
func TakeReports(ctx context.Context, c *net.UnixConn, take func(*Report)) {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	defer c.Close()
	for {
		var r Report
		if receiveReport(c, &r) != nil || r.validate() != nil {
			return
		}
		take(&r)
		if send(c, &taken{Serial: r.Serial}) != nil {
			return
		}
	}
}
