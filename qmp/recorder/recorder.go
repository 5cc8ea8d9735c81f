// Package recorder writes QMP sessions down as automaton.ReadRecording reads
// them: one JSON object a line with the time, the direction and the message. It
// reads a stream of messages, or stands between a client and a QMP server on unix
// sockets and passes all on unchanged, descriptors included.
//
// It trusts neither side: a message has a most size, and bytes that are no JSON
// are passed on and end the recording, never the session. A recording holds what
// was sent, passwords included: keep it as you would keep those.
package recorder

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// MaxMessage is the largest message that is recorded, in bytes. QEMU's schema is
// the largest answer that there is: about 200 KiB.
const MaxMessage = 4 << 20

// The gate's commands around a session.
const (
	openSession  = "uvbond-open"
	closeSession = "uvbond-close"
)

// sentCall is a hypercall that was sent.
type sentCall struct{ kept, opens bool }

// Options tells what is recorded.
type Options struct {
	// Gate keeps only what stands between uvbond-open and uvbond-close, which is
	// what an automaton is about. Tickets are left out that way too.
	Gate bool
	// Now is the clock; nil leaves times out.
	Now func() time.Time
}

// Recorder writes the lines of one session. It is safe for two directions at once.
type Recorder struct {
	mu      sync.Mutex
	w       io.Writer
	options Options
	start   time.Time
	inside  bool       // Gate: a session is open
	waiting []sentCall // hypercalls without an answer, oldest first
	calls   int
	err     error
}

// New makes a recorder that writes to w.
func New(w io.Writer, o Options) *Recorder {
	r := &Recorder{w: w, options: o}
	if o.Now != nil {
		r.start = o.Now()
	}
	return r
}

// Calls returns how many hypercalls were written.
func (r *Recorder) Calls() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.calls
}

// Err returns why the recording ended early, or nil.
func (r *Recorder) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// line is what is written.
type line struct {
	Time float64         `json:"t"`
	Dir  string          `json:"dir"`
	Msg  json.RawMessage `json:"msg"`
	FDs  int             `json:"fds,omitempty"` // descriptors that came with it
}

// untimed is a line where no clock is known.
type untimed struct {
	Dir string          `json:"dir"`
	Msg json.RawMessage `json:"msg"`
}

// head is what is looked at of a message.
type head struct {
	Execute  string          `json:"execute"`
	OOB      string          `json:"exec-oob"`
	Event    string          `json:"event"`
	Return   json.RawMessage `json:"return"`
	Error    json.RawMessage `json:"error"`
	Greeting json.RawMessage `json:"QMP"`
}

// maxWaiting is how many hypercalls may be without an answer.
const maxWaiting = 1 << 10

// message writes one message; out tells that it comes from the client.
func (r *Recorder) message(msg json.RawMessage, out bool, fds int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return
	}
	var h head
	if err := json.Unmarshal(msg, &h); err != nil {
		r.err = fmt.Errorf("a message is no JSON object: %w", err)
		return
	}
	name := h.Execute + h.OOB
	switch {
	case out && name == "":
		r.err = errors.New("the client sent something that is no hypercall")
	case out:
		keep := r.keeps(name)
		if len(r.waiting) < maxWaiting {
			r.waiting = append(r.waiting, sentCall{keep, name == openSession})
		}
		if keep {
			r.calls++
			r.write("out", msg, fds)
		}
	case h.Event != "":
		if r.inside || !r.options.Gate {
			r.write("event", msg, fds)
		}
	case h.Greeting != nil:
		if !r.options.Gate {
			r.write("in", msg, fds)
		}
	default:
		keep := !r.options.Gate
		if len(r.waiting) > 0 {
			first := r.waiting[0]
			keep, r.waiting = first.kept, r.waiting[1:]
			r.inside = r.inside && !(first.opens && h.Error != nil)
		}
		if keep {
			r.write("in", msg, fds)
		}
	}
}

// keeps tells whether a hypercall is written.
func (r *Recorder) keeps(name string) bool {
	if !r.options.Gate {
		return true
	}
	switch name {
	case openSession:
		r.inside = true
		return false
	case closeSession:
		r.inside = false
	}
	return r.inside
}

func (r *Recorder) write(dir string, msg json.RawMessage, fds int) {
	var compact bytes.Buffer
	if err := json.Compact(&compact, msg); err != nil {
		r.err = err
		return
	}
	var v any = untimed{dir, compact.Bytes()}
	if r.options.Now != nil {
		t := r.options.Now().Sub(r.start).Milliseconds()
		v = line{float64(t) / 1000, dir, compact.Bytes(), fds}
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		r.err = err
		return
	}
	if _, err := r.w.Write(out.Bytes()); err != nil {
		r.err = fmt.Errorf("cannot write the recording: %w", err)
	}
}

// Stream records what stands in one stream: messages of both directions, told
// apart by what they hold, or lines that were recorded before.
func (r *Recorder) Stream(in io.Reader) error {
	var s splitter
	buf := make([]byte, 64<<10)
	n := 0
	for {
		got, err := in.Read(buf)
		for _, msg := range s.feed(buf[:got]) {
			n++
			if failed := r.streamed(msg); failed != nil {
				return fmt.Errorf("object %d: %w", n, failed)
			}
		}
		if s.err != nil {
			return fmt.Errorf("object %d: %w", n+1, s.err)
		}
		if err == io.EOF {
			if s.open() {
				return fmt.Errorf("object %d: it is cut off", n+1)
			}
			return r.Err()
		}
		if err != nil {
			return err
		}
	}
}

func (r *Recorder) streamed(msg json.RawMessage) error {
	var l struct {
		Dir string          `json:"dir"`
		Msg json.RawMessage `json:"msg"`
		head
	}
	if err := json.Unmarshal(msg, &l); err != nil {
		return err
	}
	switch {
	case l.Msg != nil && l.Dir == "out":
		r.message(l.Msg, true, 0)
	case l.Msg != nil:
		r.message(l.Msg, false, 0)
	case l.Execute+l.OOB != "":
		r.message(msg, true, 0)
	case l.Event != "" || l.Return != nil || l.Error != nil || l.Greeting != nil:
		r.message(msg, false, 0)
	default:
		return errors.New("it is no message of QMP")
	}
	return r.Err()
}
