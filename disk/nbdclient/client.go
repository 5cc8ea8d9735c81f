package nbdclient

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/disk"
	"github.com/uvbond/uvbond/disk/nbd/proto"
)

// Client is a disk.Backend on an NBD server. All methods may be called
// concurrently.
type Client struct {
	config  Config
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	links   []*link
	running sync.WaitGroup
	ledger  ledger
	flusher flusher

	requests sync.Pool // of *request

	size     atomic.Int64
	minBlock int  // bytes; as the first session had it
	maxBlock int  // bytes; a multiple of the sector size
	fua      bool // every write is, because there is no flush
	canTrim  atomic.Bool

	outstanding atomic.Int64 // requests between submit and done
	armed       atomic.Bool  // watchdog will look
	watchdog    *time.Timer

	waiters atomic.Int32 // len(waiting)
	mu      sync.Mutex
	waiting []*request // for a link, in the order in which they came; guarded by mu
	refused error      // why the last attempt to connect can never succeed; guarded by mu
	logged  time.Time  // of the last failure; guarded by mu
	closed  bool       // guarded by mu

	stats counters
}

var (
	_ disk.Backend     = (*Client)(nil)
	_ disk.QueueOpener = (*Client)(nil)
)

// ErrClosed is what requests get after Close.
var ErrClosed = fmt.Errorf("nbd: the client is closed: %w: %w", os.ErrClosed, unix.EIO)

var (
	errOutage = fmt.Errorf("the server did not answer for too long: %w", unix.EIO)
	errShrunk = fmt.Errorf("%w: the export is smaller than it was", ErrRefused)
)

// Open connects to the server and returns when the first connection can be used.
// ctx bounds that only.
func Open(ctx context.Context, config Config) (*Client, error) {
	if err := config.prepare(); err != nil {
		return nil, err
	}
	c := &Client{config: config}
	s, err := c.open(ctx, 0)
	if err != nil {
		return nil, err
	}
	c.size.Store(s.Size)
	c.minBlock, c.maxBlock = s.MinBlock, s.MaxBlock-s.MaxBlock%config.SectorSize
	c.fua = s.Flags&proto.SendFlush == 0 && !config.ReadOnly
	c.canTrim.Store(s.Flags&proto.SendTrim != 0 && !config.ReadOnly)
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.ledger.init(config.SectorSize, config.MaxUnflushed, !c.fua && !config.ReadOnly)
	n := config.Connections
	if s.Flags&proto.CanMultiConn == 0 {
		n = 1
	}
	c.watchdog = time.AfterFunc(time.Hour, c.watch)
	c.watchdog.Stop()
	for i := range n {
		c.links = append(c.links, newLink(c, i))
	}
	up := make(chan struct{})
	c.links[0].onUp = func() { close(up) }
	c.flusher.start(c)
	for i, l := range c.links {
		var first *session
		if i == 0 {
			first = s
		}
		c.running.Go(func() { l.run(first) })
	}
	<-up
	return c, nil
}

// open connects and negotiates, for a link of that index.
func (c *Client) open(ctx context.Context, index int) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	size := c.size.Load()
	s, err := c.config.connect(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.acceptable(s, index, size); err != nil {
		s.nc.Close()
		return nil, err
	}
	return s, nil
}

// connect returns a connection with the export chosen.
func (c *Config) connect(ctx context.Context) (*session, error) {
	if c.Ready != nil {
		nc, offer, err := c.Ready(ctx)
		if err != nil {
			return nil, err
		}
		return &session{nc, offer}, nil
	}
	nc, err := c.Dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("nbd: connect: %w", err)
	}
	return c.handshake(ctx, nc)
}

// acceptable checks that the disk behind s can be used, and is no less than
// before. size is what it had when the server was asked.
func (c *Client) acceptable(s *session, index int, size int64) error {
	sector := c.config.SectorSize
	switch {
	case s.MinBlock > sector:
		return fmt.Errorf("%w: it reads and writes blocks of at least %d bytes, the disk has sectors of %d", ErrRefused, s.MinBlock, sector)
	case s.MaxBlock < sector:
		return fmt.Errorf("%w: it reads and writes at most %d bytes, less than a sector of %d", ErrRefused, s.MaxBlock, sector)
	case c.config.ReadOnly:
	case s.Flags&proto.ReadOnly != 0:
		return fmt.Errorf("%w: the export is read-only", ErrRefused)
	case s.Flags&(proto.SendFlush|proto.SendFUA) == 0:
		return fmt.Errorf("%w: it has neither flush nor FUA, so nothing written to it is safe", ErrRefused)
	}
	if c.ctx == nil {
		return nil // the first one
	}
	needed := uint16(proto.SendFlush)
	if c.fua {
		needed = proto.SendFUA
	}
	switch {
	case s.Size < size:
		return errShrunk
	case s.Size < c.size.Load():
		return errors.New("nbd: the export grew meanwhile")
	case s.MinBlock > c.minBlock || s.MaxBlock < c.maxBlock:
		return fmt.Errorf("%w: its block sizes are not what they were", ErrRefused)
	case !c.config.ReadOnly && s.Flags&needed == 0:
		return fmt.Errorf("%w: it cannot flush as it could before", ErrRefused)
	case index > 0 && s.Flags&proto.CanMultiConn == 0:
		return errors.New("nbd: the server does not allow several connections any more")
	}
	c.canTrim.Store(s.Flags&proto.SendTrim != 0 && !c.config.ReadOnly)
	for {
		old := c.size.Load()
		if s.Size <= old || c.size.CompareAndSwap(old, s.Size) {
			return nil
		}
	}
}

// flagsOf are the command flags of r.
func (c *Client) flagsOf(r *request) uint16 {
	if c.fua && (r.command == proto.CmdWrite || r.command == proto.CmdTrim) {
		return proto.CmdFlagFUA
	}
	return 0
}

// submit starts r. Unless send is true, it is queued only: push follows.
func (c *Client) submit(r *request, send bool) {
	c.begin(r)
	c.enter(r, send)
}

func (c *Client) begin(r *request) {
	r.started = time.Now()
	c.outstanding.Add(1)
	c.watchLater()
}

// submitTo sends r over l, and fails when that is down.
func (c *Client) submitTo(l *link, r *request) bool {
	c.begin(r)
	if !l.put(r) {
		c.outstanding.Add(-1)
		return false
	}
	l.push(true)
	return true
}

// enter passes r on, unless it must wait for a flush or a recovery.
func (c *Client) enter(r *request, send bool) {
	if !r.raw && (r.command == proto.CmdWrite || r.command == proto.CmdTrim) {
		enter, full := c.ledger.enter(r)
		if full {
			c.flusher.early()
		}
		if !enter {
			return // the ledger has it
		}
	}
	for {
		l := c.best()
		if l == nil {
			break
		}
		if l.put(r) {
			if send {
				l.push(true)
			}
			return
		}
		if l.full() {
			break
		}
	}
	c.mu.Lock()
	c.waiting = append(c.waiting, r)
	c.waiters.Store(int32(len(c.waiting)))
	failed, why := c.dispatchLocked()
	c.mu.Unlock()
	c.fail(failed, why)
}

// best is the link that has the least to do, of those that are up.
func (c *Client) best() *link {
	var best *link
	least := int32(0)
	for _, l := range c.links {
		if !l.up.Load() {
			continue
		}
		if n := l.load.Load(); best == nil || n < least {
			best, least = l, n
		}
	}
	return best
}

// dispatch moves what waits to links that have room.
func (c *Client) dispatch() {
	c.mu.Lock()
	failed, why := c.dispatchLocked()
	c.mu.Unlock()
	c.fail(failed, why)
}

// dispatchLocked returns the requests that need not wait any longer because there
// is nothing to wait for.
func (c *Client) dispatchLocked() (failed []*request, why error) {
	for len(c.waiting) > 0 {
		l := c.best()
		if l == nil || !l.put(c.waiting[0]) {
			break
		}
		l.wakeWriter() // whoever is here may be a reader, which must not wait
		c.waiting[0] = nil
		c.waiting = c.waiting[1:]
	}
	switch {
	case len(c.waiting) == 0:
	case c.closed:
		failed, why = c.waiting, ErrClosed
	case c.refused != nil && c.best() == nil:
		failed, why = c.waiting, fmt.Errorf("%w: %w", c.refused, unix.EIO)
	}
	if len(failed) > 0 || len(c.waiting) == 0 {
		c.waiting = nil
	}
	c.waiters.Store(int32(len(c.waiting)))
	return failed, why
}

// fail completes requests that no link holds.
func (c *Client) fail(rs []*request, why error) {
	for _, r := range rs {
		r.err = why
		c.finished(nil, r)
	}
}

// finished completes r, which l has answered or nobody will.
func (c *Client) finished(l *link, r *request) {
	c.ledger.leave(l, r)
	c.stats.count(r)
	if c.waiters.Load() > 0 && l != nil {
		c.dispatch()
	}
	c.outstanding.Add(-1)
	r.done(r)
}

// connected is told of a link that can be used.
func (c *Client) connected(l *link) {
	c.stats.connects.Add(1)
	c.mu.Lock()
	c.refused = nil
	closed := c.closed
	failed, why := c.dispatchLocked()
	c.mu.Unlock()
	c.fail(failed, why)
	if closed {
		l.hangUp() // Close may have come by before there was a session
	}
	if l.onUp != nil {
		l.onUp()
		l.onUp = nil
		return
	}
	c.config.Log.Info("nbd: connected to the storage", "connection", l.index)
}

// takeBack gets the requests that a broken link had not answered.
func (c *Client) takeBack(rs []*request) {
	expired := time.Now().Add(-c.config.Outage)
	slices.SortStableFunc(rs, func(a, b *request) int { return a.started.Compare(b.started) })
	var again, late []*request
	for _, r := range rs {
		switch {
		case r.once:
			r.err = errLost
			c.finished(nil, r)
		case r.started.Before(expired):
			late = append(late, r)
		default:
			again = append(again, r)
		}
	}
	c.fail(late, errOutage)
	c.stats.resent.Add(uint64(len(again)))
	c.mu.Lock()
	c.waiting = append(again, c.waiting...)
	c.waiters.Store(int32(len(c.waiting)))
	failed, why := c.dispatchLocked()
	c.mu.Unlock()
	c.fail(failed, why)
}

// broken is told why a link broke.
func (c *Client) broken(l *link, err error) {
	if c.ctx.Err() != nil {
		return
	}
	c.stats.lost.Add(1)
	var v violation
	if errors.As(err, &v) {
		c.stats.violations.Add(1)
	}
	c.config.Log.Warn("nbd: a connection to the storage broke, connecting again", "connection", l.index, "err", err)
}

// failed is told why a link could not connect.
func (c *Client) failed(l *link, err error) {
	c.stats.failures.Add(1)
	var v violation
	if errors.As(err, &v) {
		c.stats.violations.Add(1)
	}
	c.mu.Lock()
	if errors.Is(err, ErrRefused) {
		c.refused = err
	} else if c.best() == nil {
		c.refused = nil
	}
	// That a further connection cannot be had is no reason to speak again and again.
	tell := time.Since(c.logged) > 10*time.Second && (c.best() == nil || l.tried.CompareAndSwap(false, true))
	if tell {
		c.logged = time.Now()
	}
	failed, why := c.dispatchLocked()
	c.mu.Unlock()
	c.fail(failed, why)
	if tell {
		c.config.Log.Warn("nbd: cannot connect to the storage, trying on", "connection", l.index, "err", err)
	}
}

// pause waits for d; false means that the Client is closed.
func (c *Client) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.ctx.Done():
		return false
	}
}

// watchLater makes the watchdog look from time to time, as long as there are
// requests.
func (c *Client) watchLater() {
	if !c.armed.Load() && !c.armed.Swap(true) {
		c.watchdog.Reset(c.config.Outage/16 + time.Millisecond)
	}
}

// watch fails what waited too long, and breaks connections that answer nothing.
func (c *Client) watch() {
	since := time.Now().Add(-c.config.Outage)
	c.mu.Lock()
	var late []*request
	c.waiting = slices.DeleteFunc(c.waiting, func(r *request) bool {
		if r.started.Before(since) {
			late = append(late, r)
			return true
		}
		return false
	})
	c.waiters.Store(int32(len(c.waiting)))
	c.mu.Unlock()
	for _, l := range c.links {
		if l.breakIf(since) {
			c.stats.stalls.Add(1)
		}
	}
	c.armed.Store(false)
	if c.outstanding.Load()-int64(len(late)) > 0 {
		c.watchLater()
	}
	c.fail(late, errOutage)
}

// Close gives up what is under way, which fails, and ends the connections. It
// does not flush.
func (c *Client) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return ErrClosed
	}
	c.closed = true
	failed, why := c.dispatchLocked()
	c.mu.Unlock()
	c.fail(failed, why)
	c.cancel()
	for _, l := range c.links {
		l.hangUp()
	}
	c.running.Wait()
	c.dispatch() // nobody is left to do it
	c.flusher.stop()
	c.watchdog.Stop()
	return nil
}
