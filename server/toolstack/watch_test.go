package toolstack

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/server/gatetest"
)

// record is a log that may be read while it is written.
type record struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.Write(p)
}

func (r *record) count(text string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Count(r.b.String(), text)
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s did not happen", what)
		}
	}
}

// TestWatcher: disks are offered until the gate takes them, each reason for a
// refusal is logged once, every file is closed, and the watch outlives the gate.
func TestWatcher(t *testing.T) {
	const vm = "00000000000000000000000000000001"
	path := filepath.Join(t.TempDir(), "gate.sock")
	g := gatetest.Start(t, path)
	g.Edit(vm, func(v *gatetest.VM) { v.NeedsDisks = []string{"root"} })
	log := &record{}
	var mu sync.Mutex
	var opened []*os.File
	ready, ups, downs, seen := false, 0, 0, 0
	w := &Watcher{
		Gate: &Gate{Path: path, Log: slog.New(slog.NewTextHandler(log, nil))}, Every: 10 * time.Millisecond,
		Files: func(context.Context, string, []string) ([]File, error) {
			mu.Lock()
			defer mu.Unlock()
			if !ready {
				return nil, errors.New("the store is being repaired")
			}
			f, err := os.Open(os.DevNull)
			opened = append(opened, f)
			return []File{{Name: "root", File: f}}, err
		},
		Seen: func(_ context.Context, list []qmp.VMState) { mu.Lock(); seen = max(seen, len(list)); mu.Unlock() },
		Up: func(up bool) {
			mu.Lock()
			defer mu.Unlock()
			if up {
				ups++
			} else {
				downs++
			}
		},
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { w.Run(ctx); close(ended) }()
	locked := func(f func() bool) func() bool {
		return func() bool { mu.Lock(); defer mu.Unlock(); return f() }
	}

	until(t, "ten looks", locked(func() bool { return ups >= 10 }))
	if n := log.count("being repaired"); n != 1 {
		t.Errorf("the same reason was logged %d times", n)
	}
	mu.Lock()
	ready = true
	mu.Unlock()
	until(t, "the offer", func() bool { return len(g.VM(vm).NeedsDisks) == 0 })
	until(t, "its log line", func() bool { return log.count("disks offered again") == 1 })

	g.Stop()
	until(t, "the gate's loss", func() bool { return log.count("the gate is gone") == 1 })
	before := 0
	locked(func() bool { before = ups; return true })()
	if err := g.Listen(); err != nil {
		t.Fatal(err)
	}
	until(t, "the gate's return", locked(func() bool { return ups > before }))

	cancel()
	<-ended
	if downs == 0 || seen != 1 || len(opened) == 0 {
		t.Errorf("downs %d, seen %d, opened %d", downs, seen, len(opened))
	}
	for _, f := range opened {
		if err := f.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("a disk was left open (%v)", err)
		}
	}
}
