package hub

import (
	"context"
	"net"
	"sync"

	"github.com/uvbond/uvbond/channel/console"
)

// client is a viewer of the tests: it notes what it gets, and takes it at the pace that
// the test sets.
type client struct {
	c      net.Conn
	ring   *memory // what the VM printed
	served chan error
	gone   chan struct{} // the reader has ended

	mu       sync.Mutex
	paused   bool
	gate     chan struct{} // closed while it is not paused
	hello    console.Attached
	next     uint64 // offset of the next byte
	lost     uint64
	acked    uint64 // output bytes dealt with
	viewers  []console.Viewer
	lists    int
	taken    console.Taken
	end      *console.End
	problems []string
}

// serve has the hub serve a new stream.
func serve(h *Hub) (net.Conn, chan error) {
	ours, theirs := net.Pipe()
	served := make(chan error, 1)
	go func() {
		served <- h.Serve(context.Background(), theirs)
		theirs.Close()
	}()
	return ours, served
}

func join(h *Hub, a console.Attach) *client {
	x := &client{ring: h.ring.(*memory), gone: make(chan struct{}), gate: make(chan struct{})}
	close(x.gate)
	x.c, x.served = serve(h)
	x.send(a)
	go x.read()
	return x
}

func (x *client) send(m console.Message) {
	// A hub that has ended this viewer does not take it: the test sees that by itself.
	_, _ = x.c.Write(console.Append(nil, m))
}

func (x *client) read() {
	defer close(x.gone)
	r := console.NewClientReader(x.c)
	for {
		m, err := r.Next()
		if err != nil {
			return
		}
		x.mu.Lock()
		gate := x.gate
		x.mu.Unlock()
		<-gate
		if n := x.take(m); n > 0 {
			x.send(console.Ack{Bytes: n})
		}
	}
}

// take notes a message and returns what to count.
func (x *client) take(m console.Message) (ack uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch m := m.(type) {
	case console.Attached:
		x.hello, x.next = m, m.Offset
	case console.Output:
		if m.Offset != x.next {
			x.problems = append(x.problems, "output that does not follow")
		} else if !x.ring.printed(m.Offset, m.Data) {
			x.problems = append(x.problems, "output that was not printed")
		}
		x.next += uint64(len(m.Data))
		x.acked += uint64(len(m.Data))
		return x.acked
	case console.Lost:
		if m.Offset != x.next || m.Bytes == 0 || m.Offset+m.Bytes > x.ring.oldest() {
			x.problems = append(x.problems, "a loss that does not follow, or of what is still kept")
		}
		x.next += m.Bytes
		x.lost += m.Bytes
	case console.Viewers:
		x.viewers, x.lists = m.Viewers, x.lists+1
	case console.Taken:
		x.taken = m
	case console.End:
		x.end = &m
	}
	return 0
}

func (x *client) pause() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.paused {
		x.paused, x.gate = true, make(chan struct{})
	}
}

func (x *client) resume() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.paused {
		x.paused = false
		close(x.gate)
	}
}

func (x *client) leave() {
	x.resume()
	x.c.Close()
}
