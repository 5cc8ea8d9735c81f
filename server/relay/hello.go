package relay

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
)

// MaxTicket is the largest ticket, bytes.
const MaxTicket = 128 << 10

// MaxHello is the largest first message of a client, bytes: a ticket in base64,
// and room for the rest.
const MaxHello = MaxTicket*4/3 + 1024

// Hello is the client's first message: which channel it wants. The gate holds it
// against the sealed ticket.
type Hello struct {
	Kind   string `json:"kind"`
	Port   uint16 `json:"port"`
	Ticket []byte `json:"ticket"`
}

var kindPattern = regexp.MustCompile(`^[a-z][a-z0-9-]{0,15}$`)

// ParseHello decodes a first message strictly. Its errors repeat nothing of it.
func ParseHello(data []byte) (*Hello, error) {
	if len(data) > MaxHello {
		return nil, fmt.Errorf("the first message is longer than %d bytes", MaxHello)
	}
	if err := checkMembers(data); err != nil {
		return nil, err
	}
	h := new(Hello)
	if json.Unmarshal(data, h) != nil {
		return nil, errors.New(`the first message is not {"kind":text,"port":number,"ticket":base64}`)
	}
	switch {
	case !kindPattern.MatchString(h.Kind):
		return nil, errors.New("kind: console, screen or forward is needed")
	case len(h.Ticket) == 0 || len(h.Ticket) > MaxTicket:
		return nil, fmt.Errorf("ticket: 1 to %d bytes are needed", MaxTicket)
	}
	return h, nil
}

// checkMembers wants one flat object with each known member at most once, and
// written as here: encoding/json would take the last of several, and other cases.
func checkMembers(data []byte) error {
	malformed := errors.New("the first message is not one JSON object")
	d := json.NewDecoder(bytes.NewReader(data))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return malformed
	}
	known := map[string]bool{"kind": true, "port": true, "ticket": true}
	for d.More() {
		t, err := d.Token()
		key, ok := t.(string)
		if err != nil || !ok {
			return malformed
		}
		if !known[key] {
			return errors.New("the first message has a member that is unknown, or twice")
		}
		known[key] = false
		if t, err := d.Token(); err != nil {
			return malformed
		} else if _, nested := t.(json.Delim); nested || t == nil {
			return errors.New("the first message has a member that is an object, a list or null")
		}
	}
	if _, err := d.Token(); err != nil {
		return malformed
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("data behind the first message")
	}
	return nil
}
