package machine

import "github.com/uvbond/uvbond/qmp"

// eventBuffer is how many events wait for a slow listener.
const eventBuffer = 64

// Events implements gate.VM.
func (m *Machine) Events() (<-chan qmp.Event, func()) {
	c := make(chan qmp.Event, eventBuffer)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.listeners == nil {
		m.listeners = map[chan qmp.Event]bool{}
	}
	m.listeners[c] = true
	return c, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.listeners[c] {
			delete(m.listeners, c)
			close(c)
		}
	}
}

// announce gives an event to everybody who listens. It does not wait: the
// oldest event of a listener that is slow is dropped.
func (m *Machine) announce(ev qmp.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for c := range m.listeners {
		select {
		case c <- ev:
			continue
		default:
		}
		select {
		case <-c:
		default:
		}
		select {
		case c <- ev:
		default:
		}
	}
}
