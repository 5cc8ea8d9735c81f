package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/uvbond/uvbond/server/problem"
	"github.com/uvbond/uvbond/server/vms"
)

// Host is what the hypervisor says of itself. A tenant believes the key only
// because it pinned it.
type Host struct {
	Name       string   `json:"name" doc:"The provider's name for this host."`
	Versions   []uint16 `json:"versions" doc:"Protocol versions that the hypervisor offers."`
	PublicKey  []byte   `json:"public_key" doc:"The hypervisor's HPKE public key."`
	Host       string   `json:"host" doc:"Host id, hex."`
	Hypervisor string   `json:"hypervisor" doc:"Version of uvbond-hypervisor."`
	Accel      string   `json:"accel" doc:"kvm or tcg."`
	Time       int64    `json:"time" doc:"The host's clock, Unix seconds."`
}

// Health is the server's own state.
type Health struct {
	Status  string `json:"status" enum:"ok"`
	Gate    string `json:"gate" enum:"reachable,unreachable"`
	Version string `json:"version"`
}

type body[T any] struct{ Body T }

func (s *Server) hostRoutes() {
	huma.Register(s.api, s.operation(http.MethodGet, "/v1/host", "get-host", "The hypervisor's identity", 0, 502),
		func(ctx context.Context, _ *struct{}) (*body[Host], error) {
			h, err := s.opts.Gate.QueryHost(ctx)
			if err != nil {
				return nil, fail(ctx, vms.Gone(err))
			}
			return &body[Host]{Host{s.opts.Config.Name, h.Versions, h.PublicKey, h.Host, h.Hypervisor, h.Accel, h.Time}}, nil
		})
	health := s.operation(http.MethodGet, "/healthz", "health", "Whether the server works", 0)
	health.Security, health.Tags, health.Errors = nil, []string{"server"}, []int{503}
	huma.Register(s.api, health, func(ctx context.Context, _ *struct{}) (*body[Health], error) {
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		if err := s.opts.Store.Ping(ctx); err != nil {
			return nil, fail(ctx, problem.New(http.StatusServiceUnavailable, problem.ClassUnavailable, "the server's database does not answer").Because(err))
		}
		h := Health{Status: "ok", Gate: "unreachable", Version: s.opts.Version}
		if s.metrics.up.Load() {
			h.Gate = "reachable"
		}
		return &body[Health]{h}, nil
	})
}
