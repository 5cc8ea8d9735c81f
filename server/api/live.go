package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"reflect"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/uvbond/uvbond/server/toolstack"
	"github.com/uvbond/uvbond/server/vms"
)

// liveType is what command-live-vm answers with: one JSON object a line.
const liveType = "application/x-ndjson"

// liveRoom is how many lines wait for a slow reader. What does not fit is left
// out: the command does not wait for anybody's screen.
const liveRoom = 64

// LiveLine is one line of a command that is watched: a hypercall, or the result.
type LiveLine struct {
	Hypercall *LiveHypercall `json:"hypercall,omitempty"`
	Result    *CommandResult `json:"result,omitempty" doc:"The last line."`
}

// LiveHypercall is a hypercall, once when it is sent and once when it is answered.
type LiveHypercall struct {
	Command   string          `json:"command"`
	Arguments json.RawMessage `json:"arguments,omitempty"`
	Answered  bool            `json:"answered"`
	Class     string          `json:"class,omitempty" doc:"Of the error that it was answered with."`
}

func (s *Server) liveOperation() huma.Operation {
	op := s.operation(http.MethodPost, "/v1/vms/{id}/commands/live", "command-live-vm", "Run a management command under a ticket and watch it", base64Room(vms.MaxTicket), 404, 409, 413, 502, 507)
	op.Description = "As command-vm, with a line for each hypercall, and the result as the last. Not verified: the receipt in the result lists what was executed."
	op.Responses = map[string]*huma.Response{"200": {
		Description: "Lines of JSON",
		Content:     map[string]*huma.MediaType{liveType: {Schema: s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[LiveLine](), true, "LiveLine")}},
	}}
	return op
}

// live runs a command and streams its hypercalls. The status is decided by what
// comes first: an error, as for any request, or a line.
func (s *Server) live(ctx context.Context, in *commandInput) (*huma.StreamResponse, error) {
	lines := make(chan LiveLine, liveRoom)
	var failed error
	var broken any
	go func() {
		defer close(lines)
		defer func() { broken = recover() }()
		out, err := s.watched(ctx, in, func(h toolstack.Hypercall) {
			select {
			case lines <- LiveLine{Hypercall: &LiveHypercall{h.Command, h.Arguments, h.Answered, h.Class}}:
			default:
			}
		})
		if failed = err; err == nil {
			lines <- LiveLine{Result: &out.Body}
		}
	}()
	ended := func() {
		if broken != nil {
			panic(broken) // here it is answered and logged like any other
		}
	}
	first, ok := <-lines
	if !ok {
		ended()
		return nil, failed
	}
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		hc.SetHeader("Content-Type", liveType)
		_, w := humago.Unwrap(hc)
		enc := json.NewEncoder(w)
		flush := http.NewResponseController(w).Flush
		write := func(l LiveLine) error { return errors.Join(enc.Encode(l), flush()) }
		err := write(first)
		for line := range lines { // to the end also when nobody reads: it bounds what runs
			if err == nil {
				err = write(line)
			}
		}
		ended()
	}}, nil
}
