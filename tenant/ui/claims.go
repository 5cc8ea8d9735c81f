package ui

import (
	"context"
	"sync"
	"time"

	"github.com/uvbond/uvbond/tenant/client"
)

// claim is what a server says of a VM. Nothing vouches for it.
type claim struct {
	State string `json:"state,omitempty"`
	Error string `json:"error,omitempty"` // it could not be asked
	At    int64  `json:"at"`
}

const (
	// claimAge is how old a claim may be before its server is asked again.
	claimAge = 10 * time.Second
	// claimTimeout is how long a server may take to answer.
	claimTimeout = 20 * time.Second
)

// claims are what the servers said last, asked for in the background: a server that
// hangs holds up neither the page nor the claims of other servers.
type claims struct {
	mu sync.Mutex
	by map[string]*asked // by host
}

// asked is what one server was asked.
type asked struct {
	at     time.Time // when it was asked last; zero: it is to be asked again
	asking bool
	by     map[string]heard // by VM id
}

// heard is a claim, and the receipt's state that was known when it was asked for. With
// a newer receipt it is out of date, whatever the clocks say.
type heard struct {
	claim    claim
	state    string
	instance uint64
}

func (h heard) of(vm vmState) bool { return h.state == vm.State && h.instance == vm.Instance }

// of returns what the server says of a VM now, or nil while that is not known.
func (c *claims) of(vm vmState) *claim {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.by[vm.Host]
	if a == nil {
		return nil
	}
	if h, ok := a.by[vm.id]; ok && h.of(vm) {
		return &h.claim
	}
	return nil
}

// forget has a server asked again at the next look.
func (c *claims) forget(host string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.by[host]; a != nil {
		a.at = time.Time{}
	}
}

// due notes that a host is asked from now on, if it is time to.
func (c *claims) due(host string, list []vmState, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by == nil {
		c.by = map[string]*asked{}
	}
	a := c.by[host]
	if a == nil {
		a = new(asked)
		c.by[host] = a
	}
	fresh := now.Sub(a.at) < claimAge
	for _, vm := range list {
		h, ok := a.by[vm.id]
		fresh = fresh && ok && h.of(vm)
	}
	if a.asking || fresh {
		return false
	}
	a.asking, a.at = true, now
	return true
}

func (c *claims) put(host string, by map[string]heard) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.by[host]
	a.by, a.asking = by, false
}

// refreshClaims asks the servers of the VMs whose claims are too old.
func (s *Server) refreshClaims(list []vmState) {
	if s.ctx.Err() != nil {
		return
	}
	hosts := map[string][]vmState{}
	for _, vm := range list {
		if vm.Host != "" {
			hosts[vm.Host] = append(hosts[vm.Host], vm)
		}
	}
	for host, list := range hosts {
		if s.claims.due(host, list, s.opts.Now()) {
			s.work.Go(func() { s.claims.put(host, s.ask(host, list)) })
		}
	}
}

// ask asks one server for the states of VMs.
func (s *Server) ask(host string, list []vmState) map[string]heard {
	ctx, cancel := context.WithTimeout(s.ctx, claimTimeout)
	defer cancel()
	at := s.opts.Now().Unix()
	states, err := s.statesOf(ctx, host)
	by := map[string]heard{}
	for _, vm := range list {
		c := claim{State: "not there", At: at}
		if state, ok := states[vm.id]; ok {
			c.State = state
		}
		if err != nil {
			c = claim{Error: err.Error(), At: at}
		}
		by[vm.id] = heard{c, vm.State, vm.Instance}
	}
	return by
}

func (s *Server) statesOf(ctx context.Context, host string) (map[string]string, error) {
	conn, err := s.owner.Connect(ctx, host)
	if err != nil {
		return nil, err
	}
	list, err := conn.VMs(ctx)
	if err != nil {
		return nil, err
	}
	states := map[string]string{}
	for _, vm := range list {
		states[vm.ID] = client.Printable(vm.State)
	}
	return states, nil
}
