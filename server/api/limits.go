package api

import (
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// slots is a counting limit that never waits.
type slots chan struct{}

func (s slots) tryAcquire() bool {
	select {
	case s <- struct{}{}:
		return true
	default:
		return false
	}
}

func (s slots) release() { <-s }

// shares bounds what each of many keys may have at once.
type shares struct {
	limit int
	mu    sync.Mutex
	used  map[int64]int
}

func (s *shares) tryAcquire(key int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used[key] >= s.limit {
		return false
	}
	if s.used == nil {
		s.used = map[int64]int{}
	}
	s.used[key]++
	return true
}

func (s *shares) release(key int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used[key]--; s.used[key] == 0 {
		delete(s.used, key)
	}
}

// maxAddresses bounds the memory of failures.
const maxAddresses = 4096

// failures limits failed authentications per address. Good tokens are never
// held up by it: a neighbour behind the same address cannot lock a tenant out.
type failures struct {
	perMinute int
	mu        sync.Mutex
	limits    map[string]*rate.Limiter
}

// allow notes one failure and tells whether the address is within its limit.
func (f *failures) allow(address string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	l, ok := f.limits[address]
	if !ok {
		f.prune()
		l = rate.NewLimiter(rate.Every(time.Minute/time.Duration(f.perMinute)), f.perMinute)
		f.limits[address] = l
	}
	return l.Allow()
}

// prune forgets addresses whose limit is full again, or all when an attacker
// brought more than the memory holds.
func (f *failures) prune() {
	if f.limits == nil {
		f.limits = map[string]*rate.Limiter{}
	}
	if len(f.limits) < maxAddresses {
		return
	}
	for a, l := range f.limits {
		if l.Tokens() >= float64(f.perMinute) {
			delete(f.limits, a)
		}
	}
	if len(f.limits) >= maxAddresses {
		clear(f.limits)
	}
}

// address is the client's; an IPv6 one is cut to its /64, which one client
// commonly has for itself.
func address(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return "?"
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return "?"
	}
	a = a.Unmap().WithZone("")
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.String()
		}
	}
	return a.String()
}
