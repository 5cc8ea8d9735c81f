package qmp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
)

// maxID is the longest id in bytes that a request may carry; it is echoed.
const maxID = 1024

// Request is one command. Numbers in Arguments are json.Number.
type Request struct {
	Execute   string
	Arguments map[string]any // never nil after ParseRequest
	ID        json.RawMessage
}

type wireRequest struct {
	Execute   string          `json:"execute"`
	Arguments any             `json:"arguments,omitempty"`
	ID        json.RawMessage `json:"id,omitempty"`
}

// MarshalJSON writes the request as QMP has it.
func (r Request) MarshalJSON() ([]byte, error) {
	w := wireRequest{Execute: r.Execute, ID: r.ID}
	if len(r.Arguments) > 0 {
		w.Arguments = r.Arguments
	}
	return json.Marshal(w)
}

// ParseRequest decodes one request strictly: unknown and duplicate members,
// nesting deeper than 32, NUL characters, invalid UTF-8 and trailing data are
// refused, and so is out-of-band execution (exec-oob). Beside an error the
// result holds the id, if that could be read, for the answer.
func ParseRequest(data []byte) (*Request, error) {
	r := &Request{Arguments: map[string]any{}}
	if len(data) > MaxLine {
		return r, ErrTooLong
	}
	if err := r.parse(data); err != nil {
		return r, fmt.Errorf("request: %w", err)
	}
	return r, nil
}

func (r *Request) parse(data []byte) error {
	d, err := newStrictDecoder(data, maxRequestValues)
	if err != nil {
		return err
	}
	if t, err := d.token(); err != nil {
		return err
	} else if t != json.Delim('{') {
		return errors.New("not a JSON object")
	}
	// The whole text is read before a member is judged, so that an id behind
	// the fault is known for the answer.
	var fault error
	err = d.members(func(key string) error {
		start := d.dec.InputOffset()
		v, err := d.value(1)
		if err != nil {
			return err
		}
		raw := bytes.TrimLeft(data[start:d.dec.InputOffset()], ": \t\r\n")
		if err := r.member(key, v, raw); fault == nil {
			fault = err
		}
		return nil
	})
	if err == nil {
		err = d.end()
	}
	if err == nil {
		err = fault
	}
	if err != nil {
		return err
	}
	if r.Execute == "" {
		return errors.New(`no "execute" member`)
	}
	return nil
}

func (r *Request) member(key string, v any, raw []byte) error {
	switch key {
	case "execute":
		s, ok := v.(string)
		if !ok {
			return errors.New(`"execute" is not a string`)
		}
		if !ValidCommand(s) {
			return fmt.Errorf("%q is not a command name", clip(s))
		}
		r.Execute = s
	case "arguments":
		m, ok := v.(map[string]any)
		if !ok {
			return errors.New(`"arguments" is not an object`)
		}
		r.Arguments = m
	case "id":
		if len(raw) > maxID {
			return fmt.Errorf(`"id" is longer than %d bytes`, maxID)
		}
		r.ID = json.RawMessage(bytes.Clone(raw))
	case "exec-oob":
		return errors.New(`out-of-band execution is not offered, use "execute"`)
	default:
		return fmt.Errorf("unknown member %q", clip(key))
	}
	return nil
}

// ValidCommand reports whether s can name a command: 1 to 64 letters, digits,
// "-", "_" and ".", a letter or "_" first.
func ValidCommand(s string) bool {
	if len(s) == 0 || len(s) > 64 {
		return false
	}
	for i, c := range []byte(s) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_'
		other := c >= '0' && c <= '9' || c == '-' || c == '.'
		if !letter && (i == 0 || !other) {
			return false
		}
	}
	return true
}

// DecodeArguments fills v, a pointer to one of this package's argument
// structs. Unknown members, members that differ in case and null are refused.
func (r *Request) DecodeArguments(v any) error {
	if err := checkKeys(r.Arguments, reflect.TypeOf(v), ""); err != nil {
		return fmt.Errorf("%s: %w", r.Execute, err)
	}
	data, err := json.Marshal(r.Arguments)
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", r.Execute, err)
	}
	return nil
}

// Response answers one request: it holds either Return or Error.
type Response struct {
	Return json.RawMessage `json:"return,omitempty"`
	Error  *Error          `json:"error,omitempty"`
	ID     json.RawMessage `json:"id,omitempty"`
}

// Respond builds the answer to the request with this id. A nil result is
// sent as {}, a nil err as success.
func Respond(id json.RawMessage, result any, err *Error) (*Response, error) {
	if err != nil {
		return &Response{Error: err, ID: id}, nil
	}
	if result == nil {
		result = struct{}{}
	}
	data, encErr := json.Marshal(result)
	if encErr != nil {
		return nil, fmt.Errorf("encoding an answer: %w", encErr)
	}
	return &Response{Return: data, ID: id}, nil
}

// Event is an asynchronous message.
type Event struct {
	Event     string          `json:"event"`
	Data      json.RawMessage `json:"data,omitempty"`
	Timestamp Timestamp       `json:"timestamp"`
}

// Timestamp is when an event happened, by the sender's clock since the Unix
// epoch; both parts are -1 when QEMU could not read it.
type Timestamp struct {
	Seconds      int64 `json:"seconds"`
	Microseconds int64 `json:"microseconds"`
}

// Greeting is the first line from a QMP server.
type Greeting struct {
	QMP GreetingBody `json:"QMP"`
}

// GreetingBody is what the greeting says.
type GreetingBody struct {
	Version      Version  `json:"version"`
	Capabilities []string `json:"capabilities"`
}

// Version is the server's version.
type Version struct {
	QEMU    VersionTriple `json:"qemu"`
	Package string        `json:"package"`
}

// VersionTriple is a QEMU version number.
type VersionTriple struct {
	Major int `json:"major"`
	Minor int `json:"minor"`
	Micro int `json:"micro"`
}

// Message is any line from a QMP server; one field is set.
type Message struct {
	Greeting *Greeting
	Response *Response
	Event    *Event
}

// ParseMessage decodes a line from a QMP server. Duplicate members, excessive
// nesting and trailing data are refused; members it does not know are passed
// over, for QEMU may grow them.
func ParseMessage(data []byte) (*Message, error) {
	m, err := parseMessage(data)
	if err != nil {
		return nil, fmt.Errorf("message: %w", err)
	}
	return m, nil
}

func parseMessage(data []byte) (*Message, error) {
	if len(data) > MaxLine {
		return nil, ErrTooLong
	}
	d, err := newStrictDecoder(data, maxMessageValues)
	if err != nil {
		return nil, err
	}
	v, err := d.value(0)
	if err == nil {
		err = d.end()
	}
	if err != nil {
		return nil, err
	}
	known, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("not a JSON object")
	}
	var m Message
	var target any
	switch {
	case known["QMP"] != nil:
		m.Greeting = &Greeting{}
		target = m.Greeting
	case has(known, "return") != has(known, "error"):
		m.Response = &Response{}
		target = m.Response
	case known["event"] != nil:
		m.Event = &Event{}
		target = m.Event
	default:
		return nil, errors.New("neither greeting, answer nor event")
	}
	return &m, decodeExact(data, target)
}

func has(m map[string]any, key string) bool { _, ok := m[key]; return ok }

// decodeExact decodes the members of data whose names equal a field's tag;
// encoding/json alone would also take RETURN for return.
func decodeExact(data []byte, target any) error {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(data, &members); err != nil {
		return err
	}
	v := reflect.ValueOf(target).Elem()
	for i := range v.NumField() {
		name := jsonName(v.Type().Field(i))
		raw, ok := members[name]
		if !ok {
			continue
		}
		if err := json.Unmarshal(raw, v.Field(i).Addr().Interface()); err != nil {
			return fmt.Errorf("member %s: %w", name, err)
		}
	}
	return nil
}
