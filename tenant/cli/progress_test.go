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

// TestPace: what was done before is not counted as done now.
func TestPace(t *testing.T) {
	begun := time.Unix(1000, 0)
	p := pace{label: "b3: checking", total: 2000 << 20, shown: true}
	for _, c := range []struct {
		after time.Duration
		done  int64
		want  string
	}{
		{0, 1000 << 20, "b3: checking"},
		{500 * time.Millisecond, 1200 << 20, "b3: checking"},
		{2 * time.Second, 1200 << 20, "b3: checking, 100 MiB/s, 8s left"},
		{10 * time.Second, 2000 << 20, "b3: checking, 100 MiB/s, 0s left"},
	} {
		if got := p.text(c.done, begun.Add(c.after)); got != c.want {
			t.Errorf("after %s: %q, want %q", c.after, got, c.want)
		}
	}
	p = pace{label: "b3: checking", total: 10}
	p.text(1, begun)
	if got := p.text(5, begun.Add(time.Hour)); got != "b3: checking" {
		t.Errorf("without room: %q", got)
	}
}

// TestBarGoesOn: a bar that begins half-way has no rate from nothing.
func TestBarGoesOn(t *testing.T) {
	s := &terminalScreen{}
	b := &bars{w: s}
	b.Begin("push web1", 2000<<20)
	b.Update(1000 << 20)
	time.Sleep(100 * time.Millisecond)
	b.Update(1100 << 20)
	b.End()
	if drawn := s.String(); !strings.Contains(drawn, "push web1") || !strings.Contains(drawn, "55%") || strings.Contains(drawn, "iB/s") {
		t.Fatalf("drawn: %q", drawn)
	}
}
