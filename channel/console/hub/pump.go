package hub

import (
	"fmt"

	"github.com/uvbond/uvbond/channel/console"
)

// pump sends a viewer what there is until the viewer goes or the end was sent.
func (v *viewer) pump() error {
	var frames, scratch []byte
	for {
		var last bool
		var err error
		frames, scratch, last, err = v.compose(frames[:0], scratch)
		if len(frames) > 0 {
			v.line.writing(writeTimeout)
			if _, err := v.line.c.Write(frames); err != nil {
				return fmt.Errorf("the client does not take what is sent: %w", err)
			}
		}
		switch {
		case last:
			return err
		case len(frames) == 0:
			<-v.wake
		}
	}
}

// compose appends what is to be sent now. With last nothing follows, and the error is what
// the client did wrong.
func (v *viewer) compose(frames, scratch []byte) (_, _ []byte, last bool, err error) {
	h := v.hub
	h.mu.Lock()
	frames, last = v.news(frames)
	ended, acked := h.ended, v.acked // before the ring is read: what ends it comes after its last byte
	h.mu.Unlock()
	if last {
		return frames, scratch, true, nil
	}
	if acked > v.sent {
		frames = console.Append(frames, console.End{Why: console.Misbehaved})
		return frames, scratch, true, fmt.Errorf("the client counts %d bytes of output, it was sent %d", acked, v.sent)
	}
	var whole bool
	frames, scratch, whole = v.output(frames, scratch, console.OutputWindow-(v.sent-acked))
	if ended != nil && whole {
		return console.Append(frames, *ended), scratch, true, nil
	}
	return frames, scratch, false, nil
}

// news appends all but the output, with the hub's mutex held. The last of it is an end
// of this viewer alone.
func (v *viewer) news(frames []byte) (_ []byte, last bool) {
	if v.over && v.final == nil {
		return frames, true
	}
	if v.hello != nil {
		frames = console.Append(frames, *v.hello)
		v.hello = nil
	}
	if v.final != nil {
		return console.Append(frames, *v.final), true
	}
	if v.list {
		frames = console.Append(frames, v.hub.list())
		v.list = false
	}
	if v.taken {
		frames = console.Append(frames, console.Taken{Input: v.session.done, Refused: v.session.refused})
		v.taken = false
	}
	return frames, false
}

// output appends output of at most window bytes, and what was lost before it. whole is
// true when the viewer has got everything there is.
func (v *viewer) output(frames, scratch []byte, window uint64) (_, _ []byte, whole bool) {
	_, _, end := v.hub.ring.Copy(nil, v.next)
	want := int(min(end-min(v.next, end), window, console.MaxOutput))
	if want == 0 {
		return frames, scratch, v.next >= end
	}
	if cap(scratch) < want {
		scratch = make([]byte, want)
	}
	n, at, end := v.hub.ring.Copy(scratch[:want], v.next)
	if at > v.next {
		frames = console.Append(frames, console.Lost{Offset: v.next, Bytes: at - v.next})
		v.next = at
	}
	if n > 0 {
		frames = console.Append(frames, console.Output{Offset: at, Data: scratch[:n]})
		v.next += uint64(n)
		v.sent += uint64(n)
	}
	return frames, scratch, v.next >= end
}
