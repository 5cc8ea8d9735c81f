package cli

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"
)

// terminalScreen collects what is drawn.
type terminalScreen struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *terminalScreen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *terminalScreen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// TestSpinnerEnds: what was taken away draws no more, or it would write over the
// next prompt.
func TestSpinnerEnds(t *testing.T) {
	s := &terminalScreen{}
	b := &bars{w: s}
	b.Begin("unlock web1.luks", 0)
	time.Sleep(400 * time.Millisecond)
	b.End()
	drawn := s.String()
	if !strings.Contains(drawn, "unlock web1.luks") || !strings.HasSuffix(drawn, "\r\033[K") {
		t.Fatalf("drawn: %q", drawn)
	}
	time.Sleep(400 * time.Millisecond)
	if later := s.String(); later != drawn {
		t.Fatalf("drawn after the end: %q", later[len(drawn):])
	}
}

func TestShortened(t *testing.T) {
	for _, c := range []struct {
		label string
		n     int
		want  string
	}{
		{"push web1", 20, "push web1"},
		{"push a-long-name.luks", 12, "push a-long…"},
		{"push ünïcödé.luks", 8, "push ün…"},
		{"push web1.luks", -5, "push we…"},
	} {
		if got := shortened(c.label, c.n); got != c.want {
			t.Errorf("shortened(%q, %d) = %q, want %q", c.label, c.n, got, c.want)
		}
	}
}
