package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// CommandLive relays a ticket like Command and tells watch of each hypercall as
// the server reports it, from the goroutine that calls.
func (c *Client) CommandLive(ctx context.Context, id string, cmd Command, watch func(Hypercall)) (*Outcome, error) {
	body, err := json.Marshal(cmd)
	if err != nil {
		return nil, err
	}
	var out *Outcome
	err = c.stream(ctx, request{
		method: http.MethodPost, path: "/v1/vms/" + url.PathEscape(id) + "/commands/live",
		body: bytes.NewReader(body), kind: "application/json", most: maxCommand, timeout: commandTimeout,
	}, func(r io.Reader) (err error) {
		out, err = liveOutcome(r, watch)
		return err
	})
	return out, err
}

// liveOutcome reads hypercalls up to the result.
func liveOutcome(r io.Reader, watch func(Hypercall)) (*Outcome, error) {
	dec := json.NewDecoder(r)
	for range maxHypercalls {
		var line struct {
			Hypercall *Hypercall `json:"hypercall"`
			Result    *Outcome   `json:"result"`
		}
		if err := dec.Decode(&line); err != nil {
			var syntax *json.SyntaxError
			var kind *json.UnmarshalTypeError
			if errors.As(err, &syntax) || errors.As(err, &kind) {
				return nil, fmt.Errorf("%w: %s", ErrGarbage, Printable(err.Error()))
			}
			return nil, &SentError{Err: fmt.Errorf("the answer broke off: %w", err)}
		}
		switch {
		case line.Result != nil:
			return line.Result, nil
		case line.Hypercall != nil:
			h := line.Hypercall
			h.Command, h.Class = Printable(h.Command), Printable(h.Class)
			watch(*h)
		}
	}
	return nil, ErrTooLarge
}
