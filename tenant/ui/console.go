package ui

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"

	"github.com/coder/websocket"

	"github.com/uvbond/uvbond/channel"
	"github.com/uvbond/uvbond/channel/console"
	"github.com/uvbond/uvbond/tenant"
	"github.com/uvbond/uvbond/tenant/fail"
	"github.com/uvbond/uvbond/tenant/terminal"
)

// pageWindow is how much output may be under way to a page that has not said that it
// was drawn, bytes. Beyond it the output waits where it is kept, in the hypervisor.
const pageWindow = 256 << 10

// maxTyping is how many messages of what was typed may wait. The page sends its next ones
// when these were dealt with.
const maxTyping = 64

// control is a message of the page beside what is typed, which comes as binary
// messages. One member is set.
type control struct {
	Resize *size   `json:"resize"`
	Mode   string  `json:"mode"`  // read, write or take
	Taken  *uint32 `json:"taken"` // so many more bytes of output were drawn
}

type size struct {
	Columns uint16 `json:"columns"`
	Rows    uint16 `json:"rows"`
}

var modes = map[string]console.Mode{"read": console.Read, "write": console.Write, "take": console.Take}

var errControl = errors.New("the page sent a message that makes no sense")

// parseControl reads a control message strictly.
func parseControl(data []byte) (*control, error) {
	if len(data) > 256 {
		return nil, errControl
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	c := new(control)
	if err := dec.Decode(c); err != nil {
		return nil, errControl
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errControl
	}
	set := 0
	for _, is := range []bool{c.Resize != nil, c.Mode != "", c.Taken != nil} {
		if is {
			set++
		}
	}
	if _, known := modes[c.Mode]; set != 1 || c.Mode != "" && !known {
		return nil, errControl
	}
	return c, nil
}

// told is what the page is told of a console beside its output.
type told struct {
	Event   string   `json:"event"` // attached, viewers, lost, typed, refused, reattaching or end
	Viewers []viewer `json:"viewers,omitempty"`
	Bytes   uint64   `json:"bytes,omitempty"` // attached: of the output to come, so much was printed before; typed: dealt with
	Text    string   `json:"text,omitempty"`
	Hint    string   `json:"hint,omitempty"`
	Class   string   `json:"class,omitempty"`
}

type viewer struct {
	ID   uint32 `json:"id"`
	Name string `json:"name"`
	Mode string `json:"mode"`
	Me   bool   `json:"me"`
}

// console is a terminal on the VM's serial port.
func (s *Server) console(w http.ResponseWriter, r *http.Request, one *session) {
	name := r.PathValue("name")
	s.socket(w, r, one, func(ctx context.Context, c *websocket.Conn) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		p := &paper{c: c, ctx: ctx, moved: make(chan struct{}, 1), typing: make(chan []byte, maxTyping)}
		t := terminal.New(terminal.Options{
			Open:   func(ctx context.Context) (net.Conn, error) { return s.opts.Dial(ctx, name, channel.KindConsole, 0) },
			Final:  func(err error) bool { return final(name, err) },
			Output: p.output, Event: p.event,
			Name: "page", Mode: console.Write, Start: console.All(), Size: sizeOf(r), Reattach: true, Answer: true,
		})
		go p.typist(t)
		go func() {
			defer cancel()
			p.read(t)
		}()
		err := t.Run(ctx)
		if ctx.Err() != nil {
			return nil
		}
		var over *terminal.EndedError
		if errors.As(err, &over) {
			p.tell(told{Event: "end", Text: over.Error()})
			return nil
		}
		// Said at length: the reason of a WebSocket's end is short.
		err = tenant.ChannelFailure(name, err)
		p.tell(told{Event: "end", Text: err.Error(), Hint: fail.HintOf(err), Class: fail.CodeOf(err).String()})
		return err
	})
}

// final tells errors after which attaching again makes no sense.
func final(name string, err error) bool {
	switch fail.CodeOf(tenant.ChannelFailure(name, err)) {
	case fail.Forged, fail.Refused, fail.Usage:
		return true
	}
	return false
}

func sizeOf(r *http.Request) console.Size {
	number := func(name string) uint16 {
		n, err := strconv.ParseUint(r.URL.Query().Get(name), 10, 16)
		if err != nil {
			return 0 // not known
		}
		return uint16(n)
	}
	return console.Size{Columns: number("cols"), Rows: number("rows")}
}

// paper is the page's end of a console.
type paper struct {
	c     *websocket.Conn
	ctx   context.Context
	moved chan struct{} // capacity 1: something was drawn

	typing chan []byte // what the page sent and nobody has typed yet

	mu    sync.Mutex
	sent  uint64
	drawn uint64
}

// output sends what the VM printed, and waits for a page that is behind.
func (p *paper) output(data []byte) error {
	for !p.room() {
		select {
		case <-p.moved:
		case <-p.ctx.Done():
			return context.Cause(p.ctx)
		}
	}
	p.mu.Lock()
	p.sent += uint64(len(data))
	p.mu.Unlock()
	return write(p.ctx, p.c, websocket.MessageBinary, data)
}

func (p *paper) room() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sent-p.drawn < pageWindow
}

// took notes that bytes were drawn; false for more than were sent.
func (p *paper) took(n uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n > p.sent-p.drawn {
		return false
	}
	p.drawn += n
	select {
	case p.moved <- struct{}{}:
	default:
	}
	return true
}

func (p *paper) tell(t told) {
	data, err := json.Marshal(t)
	if err == nil {
		_ = write(p.ctx, p.c, websocket.MessageText, data) // the reader learns that the page is gone
	}
}

func (p *paper) event(e terminal.Event) {
	switch e := e.(type) {
	case terminal.Attached:
		p.tell(told{Event: "attached", Bytes: e.Before})
		if e.Uncertain > 0 {
			p.tell(told{Event: "refused", Bytes: uint64(e.Uncertain), Text: "the connection broke while it was sent: it may have been typed or not"})
		}
	case terminal.Detached:
		p.tell(told{Event: "reattaching", Text: e.Err.Error()})
	case terminal.Lost:
		p.tell(told{Event: "lost", Bytes: e.Bytes})
	case terminal.Untyped:
		p.tell(told{Event: "refused", Bytes: e.Bytes})
	case terminal.Viewers:
		t := told{Event: "viewers"}
		for _, v := range e.Viewers {
			t.Viewers = append(t.Viewers, viewer{v.ID, v.Name, v.Mode.String(), v.ID == e.Self})
		}
		p.tell(t)
	}
}

// read takes what the page sends, until it is gone or breaks the rules.
func (p *paper) read(t *terminal.Session) {
	for {
		// A context that ends would cut the WebSocket off before it is closed with a reason.
		kind, data, err := p.c.Read(context.WithoutCancel(p.ctx))
		if err != nil {
			return
		}
		if kind == websocket.MessageBinary {
			// It must not wait for a guest that does not read: what comes behind says
			// that output was drawn.
			select {
			case p.typing <- data:
			default:
				return // the page did not wait for "typed"
			}
			continue
		}
		m, err := parseControl(data)
		if err != nil || !p.obey(t, m) {
			return
		}
	}
}

// typist types what the page sent, and says how much was dealt with: a page that pastes
// more than a guest reads just then waits for that.
func (p *paper) typist(t *terminal.Session) {
	for {
		select {
		case <-p.ctx.Done():
			return
		case data := <-p.typing:
			rest := data
			for len(rest) > 0 {
				if rest = rest[t.Type(rest):]; len(rest) == 0 {
					break
				}
				if !t.Writing() {
					p.tell(told{Event: "refused", Bytes: uint64(len(rest))})
					break
				}
				if t.Drain(p.ctx) != nil {
					return
				}
			}
			p.tell(told{Event: "typed", Bytes: uint64(len(data))})
		}
	}
}

func (p *paper) obey(t *terminal.Session, m *control) bool {
	switch {
	case m.Resize != nil:
		t.Resize(console.Size{Columns: m.Resize.Columns, Rows: m.Resize.Rows})
	case m.Taken != nil:
		return p.took(uint64(*m.Taken))
	default:
		t.SetMode(modes[m.Mode])
	}
	return true
}
