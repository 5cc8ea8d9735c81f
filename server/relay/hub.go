package relay

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/uvbond/uvbond/server/toolstack"
)

// StallTimeout is how long an end may take nothing of what is sent to it. It is
// longer than the channel's own keep-alive allows, so that the ends notice first
// and can say why.
const StallTimeout = 60 * time.Second

// closeTimeout bounds how long an end has to close after the other did.
const closeTimeout = 5 * time.Second

// Errors of Reserve.
var (
	ErrTenant   = errors.New("the tenant has as many channels as one may have")
	ErrTotal    = errors.New("the server has as many channels as it may have")
	ErrStopping = errors.New("the server is stopping")
)

// Hub holds the open channels.
type Hub struct {
	Gate      *toolstack.Gate
	Log       *slog.Logger
	Metrics   *Metrics
	Total     int           // channels at once
	PerTenant int           // of one tenant
	Hello     time.Duration // for the client's first message

	mu       sync.Mutex
	tenants  map[int64]int
	reserved int
	open     map[*link]bool
	stopping bool
	work     sync.WaitGroup
}

// Reserve takes a place for one more channel of a tenant, or says why there is
// none. Every place is given back by release, or by Serve once it was called.
func (h *Hub) Reserve(tenant int64) (release func(), err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.stopping:
		return nil, ErrStopping
	case h.reserved >= h.Total:
		return nil, ErrTotal
	case h.tenants[tenant] >= h.PerTenant:
		return nil, ErrTenant
	}
	if h.tenants == nil {
		h.tenants, h.open = map[int64]int{}, map[*link]bool{}
	}
	h.reserved++
	h.tenants[tenant]++
	h.work.Add(1)
	return sync.OnceFunc(func() {
		defer h.work.Done()
		h.mu.Lock()
		defer h.mu.Unlock()
		h.reserved--
		if h.tenants[tenant]--; h.tenants[tenant] == 0 {
			delete(h.tenants, tenant)
		}
	}), nil
}

// Request is one accepted WebSocket that wants a channel.
type Request struct {
	ID     string // names it in the log
	Tenant string
	VM     string // id; the tenant's own
	Socket *websocket.Conn
	Conn   net.Conn // below Socket
}

// Serve does all the rest: first message, gate, relay, end. It returns when the
// channel has ended and gives its place back.
func (h *Hub) Serve(r *Request, release func()) {
	defer release()
	l := &link{hub: h, Request: r}
	if !h.add(l) {
		r.Socket.Close(websocket.StatusGoingAway, reasonStopping) //nolint:errcheck // the client is told, or gone
		return
	}
	defer h.remove(l)
	l.run()
}

func (h *Hub) add(l *link) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopping {
		return false
	}
	h.open[l] = true
	return true
}

func (h *Hub) remove(l *link) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.open, l)
}

// Stop ends all channels, tells their clients why, and waits. When ctx ends
// first, connections are cut.
func (h *Hub) Stop(ctx context.Context) {
	h.mu.Lock()
	h.stopping = true
	for l := range h.open {
		go l.stop()
	}
	h.mu.Unlock()
	ended := make(chan struct{})
	go func() { h.work.Wait(); close(ended) }()
	select {
	case <-ended:
		return
	case <-ctx.Done():
	}
	h.mu.Lock()
	for l := range h.open {
		l.cut()
	}
	h.mu.Unlock()
	<-ended
}
