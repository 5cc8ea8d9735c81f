package terminal

import (
	"context"
	"errors"

	"github.com/uvbond/uvbond/channel/console"
)

// input is what was typed and is not known to be dealt with, by offsets of the session.
//
//	done <= base <= sent <= base+len(pending)
type input struct {
	base    uint64 // of pending
	pending []byte
	sent    uint64 // by the channel that there is now, or known to have been seen
	written uint64 // likewise: what the channel has taken
	done    uint64 // typed or refused, as the hypervisor said
	refused uint64 // of it
}

// next is what may be sent now.
func (n *input) next() []byte {
	room := console.InputWindow - (n.sent - n.done)
	rest := n.pending[n.sent-n.base:]
	return rest[:min(uint64(len(rest)), room, console.MaxInput)]
}

// drop forgets what lies before an offset.
func (n *input) drop(to uint64) {
	if to > n.base {
		n.pending = append(n.pending[:0], n.pending[to-n.base:]...)
		n.base = to
	}
}

// taken notes what the hypervisor has dealt with; more is how much was newly refused.
func (n *input) taken(m console.Taken) (more uint64, ok bool) {
	if m.Input > n.sent || m.Input < n.done || m.Refused < n.refused {
		return 0, false
	}
	more = m.Refused - n.refused
	n.done, n.refused = m.Input, m.Refused
	n.drop(m.Input)
	return more, true
}

// attached goes on from where the hypervisor is. uncertain is how much was under way and
// may have been typed or not.
func (n *input) attached(m console.Attached) (uncertain int, ok bool) {
	if m.Resumed {
		if m.Input < n.base || m.Input > n.base+uint64(len(n.pending)) {
			return 0, false
		}
		n.drop(m.Input)
		n.sent, n.written = m.Input, m.Input
		return 0, true
	}
	uncertain = int(n.sent - n.base)
	n.pending = append(n.pending[:0], n.pending[uncertain:]...)
	n.base, n.sent, n.written, n.done, n.refused = 0, 0, 0, 0, 0
	return uncertain, true
}

// unsent takes back what no channel has sent.
func (n *input) unsent() uint64 {
	k := n.base + uint64(len(n.pending)) - n.sent
	n.pending = n.pending[:n.sent-n.base]
	return k
}

// ErrEnded says that the session has ended.
var ErrEnded = errors.New("the console session has ended")

// Type adds to the input as much of p as there is room for, and returns how much. It takes
// nothing while the session does not write.
func (s *Session) Type(p []byte) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.writing || s.ended {
		return 0
	}
	n := min(len(p), maxPending-len(s.input.pending))
	s.input.pending = append(s.input.pending, p[:n]...)
	s.lines += countLines(p[:n])
	s.wakeUp()
	return n
}

// TypeAll adds all of p to the input, and waits as long as that takes: for the right to write at
// first, and for a guest that does not read.
func (s *Session) TypeAll(ctx context.Context, p []byte) error {
	for len(p) > 0 {
		n := s.Type(p)
		p = p[n:]
		if n > 0 {
			continue
		}
		if err := s.wait(ctx, func() bool { return s.writing && !s.ended && len(s.input.pending) < maxPending }); err != nil {
			return err
		}
	}
	return nil
}

// Drain waits until all input has been dealt with.
func (s *Session) Drain(ctx context.Context) error {
	return s.wait(ctx, func() bool { return len(s.input.pending) == 0 })
}

// Flush waits until all input is on its way, so that it arrives although the session ends
// now. It does not wait while no channel is there.
func (s *Session) Flush(ctx context.Context) error {
	return s.wait(ctx, func() bool { return !s.ready || s.input.written == s.input.base+uint64(len(s.input.pending)) })
}

// wrote notes that the channel has taken what was composed for it.
func (s *Session) wrote() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.input.written = s.input.sent
	s.move()
}

func (s *Session) wait(ctx context.Context, until func() bool) error {
	for {
		s.mu.Lock()
		ok, ended, moved := until(), s.ended, s.moved
		s.mu.Unlock()
		switch {
		case ok:
			return nil
		case ended:
			return ErrEnded
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
