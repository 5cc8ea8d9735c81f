package recorder

import (
	"encoding/json"
	"errors"
	"fmt"
)

// splitter cuts a stream into JSON objects, wherever its pieces end. Between
// objects there may be white space.
type splitter struct {
	buf     []byte
	depth   int
	text    bool // inside of a string
	escaped bool
	err     error
}

// feed takes a piece and returns the objects that it completes. After an error
// nothing more is returned.
func (s *splitter) feed(piece []byte) []json.RawMessage {
	var out []json.RawMessage
	for _, b := range piece {
		if s.err != nil {
			return out
		}
		switch {
		case s.escaped:
			s.escaped = false
		case s.text:
			s.escaped = b == '\\'
			s.text = b != '"'
		case b == '"':
			s.text = true
		case b == '{' || b == '[':
			s.depth++
		case b == '}' || b == ']':
			s.depth--
		}
		switch {
		case s.depth > 0:
			if len(s.buf) == MaxMessage {
				s.err = fmt.Errorf("a message is larger than %d bytes", MaxMessage)
				return out
			}
			s.buf = append(s.buf, b)
		case len(s.buf) > 0:
			msg := append(s.buf, b)
			s.buf = nil
			if !json.Valid(msg) {
				s.err = errors.New("a message is no JSON")
				return out
			}
			out = append(out, msg)
		case b == ' ' || b == '\t' || b == '\r' || b == '\n':
		default:
			s.err = fmt.Errorf("there is %q where a JSON object begins", b)
		}
	}
	return out
}

// open tells that a message has begun and not ended.
func (s *splitter) open() bool { return len(s.buf) > 0 }
