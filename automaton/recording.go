package automaton

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
)

// maxTrace is how many hypercalls a recording may have, the elided ones
// included, and how many events are kept of it.
const maxTrace = 1 << 16

// Recording is one recorded session.
type Recording struct {
	Calls   []Call
	Events  []Event
	Seconds float64 // from its beginning to its last line, 0 where lines have no time
}

// Event is an event of QEMU in a recording.
type Event struct {
	Name string
	At   int // it came before the hypercall of this index was sent
}

// Elided returns how many hypercalls the recording left out.
func (r *Recording) Elided() int {
	n := 0
	for _, c := range r.Calls {
		n += c.Elided
	}
	return n
}

// recordedLine is one object of a trace: a message of QMP, or such a message
// with the direction and the time that it was seen.
type recordedLine struct {
	message
	Time   float64         `json:"t"`
	Dir    string          `json:"dir"`
	Msg    json.RawMessage `json:"msg"`
	Elided bool            `json:"elided"`
	Count  int             `json:"count"`
}

type message struct {
	Execute   *string         `json:"execute"`
	OutOfBand *string         `json:"exec-oob"`
	Arguments map[string]any  `json:"arguments"`
	ID        json.RawMessage `json:"id"`
	Return    json.RawMessage `json:"return"`
	Error     json.RawMessage `json:"error"`
	Event     string          `json:"event"`
	Greeting  json.RawMessage `json:"QMP"`
}

// ReadTrace reads the hypercalls of a recording, without those that it elided.
func ReadTrace(r io.Reader) ([]Call, error) {
	rec, err := ReadRecording(r)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(rec.Calls, func(c Call) bool { return c.Elided > 0 }), nil
}

// ReadRecording reads JSON objects that stand one behind the other: hypercalls
// {"execute": ..., "arguments": ...} among answers, events and greetings, each by
// itself or as "msg" of a recorded line {"t": SECONDS, "dir": "out"|"in"|"event",
// "msg": ...}. A line with "elided" and "count" stands for hypercalls that were
// left out. An answer is that of the hypercall with its id, without one of the
// oldest that has none yet.
func ReadRecording(r io.Reader) (*Recording, error) {
	dec := json.NewDecoder(r)
	dec.UseNumber()
	rec := &reader{}
	for n := 1; ; n++ {
		var line recordedLine
		err := dec.Decode(&line)
		if err == io.EOF {
			return &rec.out, nil
		}
		if err == nil {
			err = rec.take(&line)
		}
		if err != nil {
			return nil, fmt.Errorf("trace, object %d: %w", n, err)
		}
	}
}

// reader is a recording being read.
type reader struct {
	out     Recording
	pending []pendingCall // hypercalls without an answer, oldest first
	total   int           // hypercalls, elided ones included
}

type pendingCall struct {
	call int
	id   string
}

// maxPending is how many hypercalls may be without an answer: older ones are
// taken to get none.
const maxPending = 64

func (r *reader) take(line *recordedLine) error {
	r.out.Seconds = max(r.out.Seconds, line.Time)
	msg := line.message
	if line.Msg != nil {
		msg = message{}
		d := json.NewDecoder(bytes.NewReader(line.Msg))
		d.UseNumber()
		if err := d.Decode(&msg); err != nil {
			return err
		}
	}
	if msg.Execute == nil {
		msg.Execute = msg.OutOfBand
	}
	switch {
	case msg.Execute != nil && (line.Dir == "" || line.Dir == "out"):
		return r.call(line, &msg)
	case line.Dir == "out":
		return errors.New(`there is no hypercall: write {"execute": "NAME"}`)
	case msg.Event != "":
		if len(r.out.Events) < maxTrace {
			r.out.Events = append(r.out.Events, Event{msg.Event, len(r.out.Calls)})
		}
	case msg.Return != nil || msg.Error != nil:
		r.answer(string(msg.ID), msg.Error != nil)
	case line.Dir == "" && msg.Greeting == nil:
		return errors.New(`there is no hypercall: write {"execute": "NAME"}`)
	}
	return nil
}

func (r *reader) call(line *recordedLine, msg *message) error {
	if *msg.Execute == "" {
		return errors.New(`there is no hypercall: write {"execute": "NAME"}`)
	}
	c := Call{Command: *msg.Execute, Arguments: msg.Arguments}
	if line.Elided && line.Count > 0 {
		c.Elided = min(line.Count, maxTrace)
	} else {
		if len(r.pending) == maxPending {
			r.pending = append(r.pending[:0], r.pending[1:]...)
		}
		r.pending = append(r.pending, pendingCall{len(r.out.Calls), string(msg.ID)})
	}
	if r.total += max(1, c.Elided); r.total > maxTrace {
		return fmt.Errorf("more than %d hypercalls", maxTrace)
	}
	r.out.Calls = append(r.out.Calls, c)
	return nil
}

func (r *reader) answer(id string, failed bool) {
	if len(r.pending) == 0 {
		return
	}
	at := 0
	if id != "" {
		if at = slices.IndexFunc(r.pending, func(p pendingCall) bool { return p.id == id }); at < 0 {
			return
		}
	}
	r.out.Calls[r.pending[at].call].Failed = failed
	r.pending = slices.Delete(r.pending, at, at+1)
}
