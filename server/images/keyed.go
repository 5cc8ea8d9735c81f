package images

import (
	"context"
	"sync"
)

// keyed is a set of locks by name that a context can give up waiting for.
type keyed struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed when the holder lets go
}

func (k *keyed) acquire(ctx context.Context, key string) (release func(), err error) {
	for {
		k.mu.Lock()
		done, taken := k.held[key]
		if !taken {
			if k.held == nil {
				k.held = map[string]chan struct{}{}
			}
			mine := make(chan struct{})
			k.held[key] = mine
			k.mu.Unlock()
			return func() {
				k.mu.Lock()
				delete(k.held, key)
				k.mu.Unlock()
				close(mine)
			}, nil
		}
		k.mu.Unlock()
		select {
		case <-done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
