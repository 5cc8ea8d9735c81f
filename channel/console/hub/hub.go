// Package hub is the hypervisor's end of console channels: it lets many viewers read
// what one VM prints, each at its own pace, and one of them type into it.  It has no
// input or output of its own: it reads a ring, writes to a given serial port, and
// serves given streams, which are channels and so authenticated.  A viewer is all the
// same taken as hostile: it has a ticket for this VM's console, and no more than
// that; it can hold up nobody but itself, and takes a bounded amount of memory.
//
// # What waits for whom
//
//	QEMU -> ring -> one pump for each viewer -> its stream
//	viewer's stream -> one reader for each -> queue of input -> one feeder -> QEMU
//
// The ring never waits. A pump that is slower than the VM prints finds the oldest
// bytes gone, and tells its viewer how many. The feeder waits for the guest to read
// its serial port; the queue is bounded, and the windows of package console keep
// viewers from filling it.  Nothing runs while nothing happens.
package hub

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/uvbond/uvbond/channel/console"
)

// Limits and times.
const (
	maxQueue    = 64 << 10 // bytes of input that the guest has not read, of all sessions
	maxSessions = 32       // that are remembered after their viewer went
	feedBytes   = 1 << 10  // of input written at once

	attachTimeout = 10 * time.Second // for a client's first message
	writeTimeout  = 30 * time.Second // for a stream that does not take what is sent
	lastTimeout   = 2 * time.Second  // for a client to take an end and hang up
	writerGrace   = 15 * time.Second // for a writer whose stream broke to attach again, before another writes
)

// Ring is what a VM printed, in bytes since its instance started. It is written to
// by others, who call Printed.
type Ring interface {
	// Copy copies to p what was printed from offset on, or from the oldest byte that is
	// kept if that is later: n bytes that begin at at. end is how many were printed so
	// far; an offset at or behind it gives none.
	Copy(p []byte, offset uint64) (n int, at, end uint64)
}

// Hub is the console of one instance of one VM. Its methods are safe for concurrent use.
type Hub struct {
	ring Ring

	feeding sync.Mutex    // held by who writes to the serial port
	typed   chan struct{} // capacity 1: there may be input to feed

	mu       sync.Mutex
	viewers  []*viewer // in the order in which they came
	left     chan struct{}
	writer   *viewer
	kept     *session  // nobody writes, because this one's writer may come back
	until    time.Time // of kept: then somebody else may
	lastID   uint32
	sessions []*session // with a viewer or without; the one that was used last is last
	queue    []byte     // input that the guest has not got
	from     []segment  // whose it is
	ended    *console.End
}

// segment is a piece of the queue that belongs to one session.
type segment struct {
	session *session
	bytes   int
}

// session is what is remembered of a client over its connections.
type session struct {
	token   [console.SessionSize]byte
	viewer  *viewer // nil: not attached
	seen    uint64  // bytes of input that came
	done    uint64  // of them, typed or refused
	refused uint64
}

// New returns the console of an instance.
func New(r Ring) *Hub {
	return &Hub{ring: r, typed: make(chan struct{}, 1), left: make(chan struct{})}
}

// Printed says that the ring has more.
func (h *Hub) Printed() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, v := range h.viewers {
		v.wakeUp()
	}
}

// End tells every viewer, after the last output, that the console has ended and how, and
// waits until they have gone or ctx ends. Who attaches later gets the same.
func (h *Hub) End(ctx context.Context, e console.End) {
	e.Text = console.CleanText(e.Text)
	h.mu.Lock()
	if h.ended == nil {
		h.ended = &e
	}
	h.mu.Unlock()
	h.Printed()
	for {
		h.mu.Lock()
		n, left := len(h.viewers), h.left
		h.mu.Unlock()
		if n == 0 {
			return
		}
		select {
		case <-left:
		case <-ctx.Done():
			return
		}
	}
}

// Feed writes input to a serial port until ctx ends or a write fails. Input that was not
// written waits for the next call, which waits for this one to return.
func (h *Hub) Feed(ctx context.Context, port io.Writer) error {
	h.feeding.Lock()
	defer h.feeding.Unlock()
	buf := make([]byte, feedBytes)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h.mu.Lock()
		n := copy(buf, h.queue)
		h.mu.Unlock()
		if n == 0 {
			select {
			case <-h.typed:
			case <-ctx.Done():
			}
			continue
		}
		written, err := port.Write(buf[:n])
		h.fed(written)
		if err != nil {
			return err
		}
	}
}

// fed takes the first n bytes off the queue and tells whose they were.
func (h *Hub) fed(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.queue = append(h.queue[:0], h.queue[n:]...)
	for n > 0 {
		s := &h.from[0]
		k := min(n, s.bytes)
		s.bytes -= k
		n -= k
		s.session.count(uint64(k), 0)
		if s.bytes == 0 {
			h.from = append(h.from[:0], h.from[1:]...)
		}
	}
	if len(h.queue) == 0 {
		h.queue = nil // an idle console keeps no buffer
	}
}

// count notes that input of the session has been dealt with.
func (s *session) count(typed, refused uint64) {
	s.done += typed + refused
	s.refused += refused
	if s.viewer != nil {
		s.viewer.taken = true
		s.viewer.wakeUp()
	}
}

// input takes what a viewer typed; false if it broke the rules.
func (h *Hub) input(v *viewer, m console.Input) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := v.session
	if s.viewer != v {
		return true // attached again from elsewhere
	}
	if m.Offset > s.seen {
		return false
	}
	again := min(s.seen-m.Offset, uint64(len(m.Data)))
	data := m.Data[again:]
	n := uint64(len(data))
	if n == 0 {
		return true
	}
	if s.seen-s.done+n > console.InputWindow {
		return false
	}
	s.seen += n
	if h.writer != v || len(h.queue)+len(data) > maxQueue {
		s.count(0, n)
		return true
	}
	h.queue = append(h.queue, data...)
	if k := len(h.from); k > 0 && h.from[k-1].session == s {
		h.from[k-1].bytes += len(data)
	} else {
		h.from = append(h.from, segment{s, len(data)})
	}
	select {
	case h.typed <- struct{}{}:
	default:
	}
	return true
}
