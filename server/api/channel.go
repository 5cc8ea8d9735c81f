package api

import (
	"bufio"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/coder/websocket"
	"github.com/danielgtaylor/huma/v2"

	"github.com/uvbond/uvbond/server/problem"
	"github.com/uvbond/uvbond/server/relay"
)

const channelPath = "/v1/vms/{id}/channel"

// channelRoute is outside huma: an answer of it is another protocol.
func (s *Server) channelRoute() {
	s.mux.HandleFunc("GET "+channelPath, s.channel)
	failures := map[string]*huma.Response{"101": {Description: "A WebSocket."}}
	schema := s.api.OpenAPI().Components.Schemas.Schema(problemType, true, "Problem")
	for _, status := range []string{"400", "401", "403", "404", "426", "429", "503"} {
		failures[status] = &huma.Response{Description: "A problem.", Content: map[string]*huma.MediaType{"application/problem+json": {Schema: schema}}}
	}
	s.api.OpenAPI().AddOperation(&huma.Operation{
		OperationID: "open-channel", Method: http.MethodGet, Path: channelPath, Summary: "Open a channel to a VM under a ticket", Tags: []string{"vms"},
		Description: "A WebSocket (RFC 6455, over HTTP/1.1). The client's first message is text, {\"kind\",\"port\",\"ticket\"}; the answer is text: {\"receipt\"}, " +
			"or a problem {\"title\",\"detail\",\"class\",\"receipt\"} before the end. Then binary messages are the bytes of one stream; their borders mean nothing.",
		Security:   []map[string][]string{{"token": {}}},
		Parameters: []*huma.Param{{Name: "id", In: "path", Required: true, Schema: &huma.Schema{Type: huma.TypeString}}},
		Responses:  failures,
	})
}

// channel checks who asks, makes a WebSocket of the request and leaves the rest to
// the relay. The request ends here: a channel is not counted as a running one.
func (s *Server) channel(w http.ResponseWriter, r *http.Request) {
	t, err := s.tenant(r)
	if err != nil {
		writeProblem(w, r, err)
		return
	}
	infoOf(r.Context()).tenant = t.Name
	v, err := s.opts.VMs.Find(r.Context(), t, r.PathValue("id"))
	if err == nil {
		err = upgradable(r)
	}
	if err != nil {
		writeProblem(w, r, err)
		return
	}
	release, err := s.opts.Relay.Reserve(t.ID)
	if err != nil {
		s.metrics.turnedAway.WithLabelValues("channels").Inc()
		writeProblem(w, r, s.noPlace(err))
		return
	}
	h := &hijacker{ResponseWriter: w}
	ws, err := websocket.Accept(h, r, nil)
	if err != nil {
		release() // Accept has answered
		return
	}
	go s.opts.Relay.Serve(&relay.Request{ID: infoOf(r.Context()).id, Tenant: t.Name, VM: v.ID, Socket: ws, Conn: h.conn}, release)
}

// upgradable refuses what is no handshake, and pages of other origins.
func upgradable(r *http.Request) error {
	if r.ProtoMajor != 1 || !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return problem.New(http.StatusUpgradeRequired, problem.ClassInvalid, "a channel is a WebSocket over HTTP/1.1").With("Upgrade", "websocket").With("Connection", "Upgrade")
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return nil
	}
	if u, err := url.Parse(origin); err != nil || u.Scheme != "https" || !strings.EqualFold(u.Host, r.Host) {
		return problem.New(http.StatusForbidden, problem.ClassInvalid, "a page of another origin may not open a channel")
	}
	return nil
}

func (s *Server) noPlace(err error) error {
	l := s.opts.Config.Limits
	switch {
	case errors.Is(err, relay.ErrTenant):
		return problem.New(http.StatusTooManyRequests, problem.ClassTooMany, "%d of your channels are open already; close one", l.ChannelsPerTenant).With("Retry-After", "5")
	case errors.Is(err, relay.ErrStopping):
		return problem.New(http.StatusServiceUnavailable, problem.ClassUnavailable, "the server is stopping; try again").With("Retry-After", "5")
	}
	return problem.New(http.StatusServiceUnavailable, problem.ClassTooMany, "the server has no room for another channel; try again").With("Retry-After", "5")
}

// hijacker keeps the connection below the WebSocket.
type hijacker struct {
	http.ResponseWriter
	conn net.Conn
}

// Hijack implements http.Hijacker.
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, b, err := http.NewResponseController(h.ResponseWriter).Hijack()
	h.conn = c
	return c, b, err
}
