// Package api is the tenants' HTTPS interface: JSON under /v1, described by
// itself at /openapi.json.
//
// Everything that arrives is hostile. A request is bounded in size, time and
// number before it is read, a tenant reaches its own records only, and sealed
// blobs pass as opaque bytes that are never logged.
package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/uvbond/uvbond/server/config"
	"github.com/uvbond/uvbond/server/images"
	"github.com/uvbond/uvbond/server/problem"
	"github.com/uvbond/uvbond/server/relay"
	"github.com/uvbond/uvbond/server/store"
	"github.com/uvbond/uvbond/server/toolstack"
	"github.com/uvbond/uvbond/server/vms"
)

// Options of a Server.
type Options struct {
	Config  *config.Config
	Version string
	Log     *slog.Logger
	Store   *store.Store
	Images  *images.Manager
	VMs     *vms.Service
	Gate    *toolstack.Gate
	Metrics *Metrics
	Relay   *relay.Hub
	// Stopping ends when the server stops: commands that only wait end then.
	Stopping context.Context
}

// Server answers the API.
type Server struct {
	opts     Options
	metrics  *Metrics
	mux      *http.ServeMux
	api      huma.API
	requests slots
	uploads  slots
	commands slots
	tenants  shares
	failures failures
}

// New builds the routes.
func New(opts Options) *Server {
	installProblems()
	l := opts.Config.Limits
	s := &Server{
		opts: opts, metrics: opts.Metrics, mux: http.NewServeMux(),
		requests: make(slots, l.Requests), uploads: make(slots, l.Uploads), commands: make(slots, l.Commands),
		tenants: shares{limit: l.PerTenant}, failures: failures{perMinute: l.AuthFailures},
	}
	s.api = humago.New(s.mux, describe(opts.Version))
	s.api.UseMiddleware(s.authenticate)
	s.hostRoutes()
	s.imageRoutes()
	s.baseRoutes()
	s.vmRoutes()
	s.diskRoutes()
	s.channelRoute()
	if opts.Config.MetricsListen == "" {
		s.mux.Handle("GET /metrics", opts.Metrics.Handler())
		s.api.OpenAPI().AddOperation(&huma.Operation{
			OperationID: "metrics", Method: http.MethodGet, Path: "/metrics", Summary: "Counters for Prometheus", Tags: []string{"server"},
			Responses: map[string]*huma.Response{"200": {Description: "Prometheus text", Content: map[string]*huma.MediaType{"text/plain": {}}}},
		})
	}
	s.mux.HandleFunc("/", s.notFound)
	return s
}

// Handler is the whole API.
func (s *Server) Handler() http.Handler { return s.observe(s.mux) }

// OpenAPI returns the description as JSON.
func (s *Server) OpenAPI() ([]byte, error) { return s.api.OpenAPI().MarshalJSON() }

func describe(version string) huma.Config {
	format := huma.Format{Marshal: huma.DefaultJSONFormat.Marshal, Unmarshal: unmarshalStrict}
	return huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title: "UVBond management server", Version: version,
				Description: "Relays sealed messages between tenants and their VMs. Nothing it says about a VM is proof: receipts are.",
				License:     &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"},
			},
			Components: &huma.Components{
				Schemas:         huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer),
				SecuritySchemes: map[string]*huma.SecurityScheme{"token": {Type: "http", Scheme: "bearer", Description: "Made by `uvbond-server token create TENANT`."}},
			},
		},
		OpenAPIPath:                  "/openapi",
		Formats:                      map[string]huma.Format{"application/json": format, "json": format},
		DefaultFormat:                "application/json",
		RejectUnknownQueryParameters: false,
	}
}

// operation fills in what all tenants' routes have in common. maxBody is in
// bytes; errs are the statuses that the route answers beside the common ones.
func (s *Server) operation(method, path, id, summary string, maxBody int64, errs ...int) huma.Operation {
	return huma.Operation{
		OperationID: id, Method: method, Path: path, Summary: summary,
		Tags:            []string{strings.Split(strings.TrimPrefix(path, "/v1/"), "/")[0]},
		Security:        []map[string][]string{{"token": {}}},
		MaxBodyBytes:    max(maxBody, 1024),
		BodyReadTimeout: s.opts.Config.Timeouts.Body.D(),
		Errors:          append([]int{http.StatusUnauthorized, http.StatusTooManyRequests, http.StatusServiceUnavailable}, errs...),
	}
}

type tenantKey struct{}

func tenantOf(ctx context.Context) *store.Tenant {
	t, ok := ctx.Value(tenantKey{}).(*store.Tenant)
	if !ok {
		panic("a route with a tenant runs without one")
	}
	return t
}

// authenticate finds the tenant of a request's token before its body is read.
func (s *Server) authenticate(ctx huma.Context, next func(huma.Context)) {
	if len(ctx.Operation().Security) == 0 {
		next(ctx)
		return
	}
	r, w := humago.Unwrap(ctx)
	t, err := s.tenant(r)
	if err != nil {
		writeProblem(w, r, err)
		return
	}
	infoOf(r.Context()).tenant = t.Name
	if !s.tenants.tryAcquire(t.ID) {
		s.metrics.turnedAway.WithLabelValues("per_tenant").Inc()
		writeProblem(w, r, problem.New(http.StatusTooManyRequests, problem.ClassTooMany,
			"%d of your requests are running already; wait for them", s.opts.Config.Limits.PerTenant).With("Retry-After", "1"))
		return
	}
	defer s.tenants.release(t.ID)
	next(huma.WithValue(ctx, tenantKey{}, t))
}

func (s *Server) tenant(r *http.Request) (*store.Tenant, error) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if strings.EqualFold(scheme, "Bearer") {
		t, err := s.opts.Store.Authenticate(r.Context(), strings.TrimSpace(token))
		if err == nil {
			return t, nil
		}
		if !errors.Is(err, store.ErrNotFound) {
			return nil, problem.Internal(err)
		}
	}
	s.metrics.authFailures.Inc()
	if !s.failures.allow(address(r)) {
		return nil, problem.New(http.StatusTooManyRequests, problem.ClassTooMany, "too many requests without a good token from your address; wait a minute").With("Retry-After", "60")
	}
	return nil, problem.New(http.StatusUnauthorized, problem.ClassUnauthorized,
		"a good API token is needed in the header Authorization: Bearer <token>; the operator makes one with uvbond-server token create").
		With("WWW-Authenticate", "Bearer")
}
