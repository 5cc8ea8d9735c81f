package terminal

import (
	"bytes"
	"context"
	"fmt"
	"sync"

	"github.com/uvbond/uvbond/channel/console"
)

const (
	// maxEvents bounds the events that wait for a place that does not take output. The
	// oldest lists of viewers go first.
	maxEvents = 256
	// maxQueued is how much output may wait when a session attaches again, bytes: each
	// channel adds up to a window.
	maxQueued = 4 * console.OutputWindow
)

// screen hands output and events to their places, in order, on a goroutine of its own:
// the channel is read also while they do not take anything. What waits is bounded by the
// window of output.
type screen struct {
	s        *Session
	wake     chan struct{}
	question question // of the goroutine

	mu     sync.Mutex
	begun  bool   // an offset is known
	offset uint64 // of the next byte that is to come
	end    uint64 // how much the VM had printed at the last attaching
	items  []item
	events int           // among the items
	queued int           // bytes of output that were not handed on
	shown  chan struct{} // closed when some were
	over   bool
}

// item is output or an event.
type item struct {
	link  *link // of output
	data  []byte
	fresh bool // of output: printed while the session was attached
	event Event
}

func newScreen(s *Session) *screen {
	return &screen{s: s, wake: make(chan struct{}, 1), shown: make(chan struct{})}
}

func (t *screen) wakeUp() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// run hands on until finish, or ctx ends.
func (t *screen) run(ctx context.Context) error {
	for {
		t.mu.Lock()
		items, over := t.items, t.over
		t.items, t.events = nil, 0
		t.mu.Unlock()
		for _, i := range items {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := t.hand(i); err != nil {
				return err
			}
		}
		if len(items) > 0 {
			continue
		}
		if over {
			return t.complete()
		}
		select {
		case <-t.wake:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// hand gives an item to its place.
func (t *screen) hand(i item) error {
	if i.event != nil || !i.fresh {
		if err := t.complete(); err != nil {
			return err
		}
	}
	if i.event != nil {
		t.s.o.Event(i.event)
		return nil
	}
	data := i.data
	if i.fresh && t.s.o.Answer {
		data = t.question.filter(data, t.s.answer)
	}
	if len(data) > 0 {
		if err := t.s.o.Output(data); err != nil {
			return err
		}
	}
	t.show(i)
	return nil
}

// complete hands on what looked like the beginning of a question.
func (t *screen) complete() error {
	if len(t.question.held) == 0 {
		return nil
	}
	return t.s.o.Output(t.question.flush(nil))
}

// show notes that output was handed on.
func (t *screen) show(i item) {
	i.link.show(len(i.data))
	t.mu.Lock()
	defer t.mu.Unlock()
	t.queued -= len(i.data)
	close(t.shown)
	t.shown = make(chan struct{})
}

// settle waits while too much output is to be handed on for another channel to add to it.
func (t *screen) settle(ctx context.Context) error {
	for {
		t.mu.Lock()
		queued, shown := t.queued, t.shown
		t.mu.Unlock()
		if queued <= maxQueued {
			return nil
		}
		select {
		case <-shown:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// finish ends run when everything has been handed on.
func (t *screen) finish() {
	t.mu.Lock()
	t.over = true
	t.mu.Unlock()
	t.wakeUp()
}

func (t *screen) event(e Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.put(item{event: e})
}

// put adds an item, with the mutex held.
func (t *screen) put(i item) {
	if i.event != nil {
		if t.events++; t.events > maxEvents {
			t.forget()
		}
	}
	t.items = append(t.items, i)
	t.wakeUp()
}

// forget drops the oldest list of viewers, or else the oldest event.
func (t *screen) forget() {
	at := -1
	for n, i := range t.items {
		_, list := i.event.(Viewers)
		if list || at < 0 && i.event != nil {
			at = n
		}
		if list {
			break
		}
	}
	if at >= 0 {
		t.items = append(t.items[:at], t.items[at+1:]...)
		t.events--
	}
}

// next is where the output goes on.
func (t *screen) next() console.Start {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.begun {
		return t.s.o.Start
	}
	return console.At(t.offset)
}

// attached checks that output goes on where it stopped.
func (t *screen) attached(offset, end uint64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.begun && (offset != t.offset || end < t.end) {
		return fmt.Errorf("%w: output goes on at byte %d of %d, it stopped at %d of %d", ErrMisbehaved, offset, end, t.offset, t.end)
	}
	t.begun, t.offset, t.end = true, offset, end
	return nil
}

func (t *screen) output(l *link, m console.Output) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if m.Offset != t.offset {
		return fmt.Errorf("%w: it sent byte %d, byte %d comes next", ErrMisbehaved, m.Offset, t.offset)
	}
	if l.got += uint64(len(m.Data)); l.got > l.given()+console.OutputWindow {
		return fmt.Errorf("%w: it sent more output than its window", ErrMisbehaved)
	}
	old := min(l.before-min(l.before, t.offset), uint64(len(m.Data)))
	t.offset += uint64(len(m.Data))
	t.queued += len(m.Data)
	t.add(l, m.Data[:old], false)
	t.add(l, m.Data[old:], true)
	return nil
}

// add adds output, with the mutex held.
func (t *screen) add(l *link, data []byte, fresh bool) {
	if len(data) == 0 {
		return
	}
	if k := len(t.items) - 1; k >= 0 && t.items[k].link == l && t.items[k].fresh == fresh && len(t.items[k].data) < console.MaxOutput {
		t.items[k].data = append(t.items[k].data, data...)
		return
	}
	t.put(item{link: l, data: bytes.Clone(data), fresh: fresh})
}

func (t *screen) lost(m console.Lost) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if m.Offset != t.offset || m.Bytes == 0 || t.offset+m.Bytes < t.offset {
		return fmt.Errorf("%w: it lost byte %d, byte %d comes next", ErrMisbehaved, m.Offset, t.offset)
	}
	t.offset += m.Bytes
	if k := len(t.items); k > 0 {
		if e, ok := t.items[k-1].event.(Lost); ok {
			t.items[k-1].event = Lost{e.Bytes + m.Bytes}
			return nil
		}
	}
	t.put(item{event: Lost{m.Bytes}})
	return nil
}
