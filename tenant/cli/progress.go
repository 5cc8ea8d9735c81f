package cli

import (
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/uvbond/uvbond/tenant"
)

// reporter returns a progress display on a terminal, and one that only prints
// notes elsewhere.
func (a *app) reporter() tenant.Reporter {
	if a.live && !a.json {
		return &bars{}
	}
	return &notes{a: a}
}

type notes struct {
	tenant.Quiet
	a *app
}

// Note prints one line.
func (n *notes) Note(text string) { n.a.note("note: %s", text) }

// bars shows one bar or spinner at a time on standard error.
type bars struct {
	mu   sync.Mutex
	bar  *progressbar.ProgressBar
	stop chan struct{}
}

// Begin shows a bar, or a spinner when total is 0.
func (b *bars) Begin(label string, total int64) {
	b.End()
	b.mu.Lock()
	defer b.mu.Unlock()
	opts := []progressbar.Option{
		progressbar.OptionSetWriter(os.Stderr),
		progressbar.OptionSetDescription(label),
		progressbar.OptionClearOnFinish(),
		progressbar.OptionThrottle(80 * time.Millisecond),
		progressbar.OptionSetWidth(24),
	}
	if total > 0 {
		b.bar = progressbar.NewOptions64(total, append(opts, progressbar.OptionShowBytes(true), progressbar.OptionUseIECUnits(true))...)
		return
	}
	b.bar = progressbar.NewOptions64(-1, append(opts, progressbar.OptionSpinnerType(14), progressbar.OptionSetElapsedTime(true))...)
	b.stop = make(chan struct{})
	go b.spin(b.bar, b.stop)
}

func (b *bars) spin(bar *progressbar.ProgressBar, stop chan struct{}) {
	t := time.NewTicker(120 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-stop:
			return
		case <-t.C:
			_ = bar.Add(1)
		}
	}
}

// Update moves the bar.
func (b *bars) Update(done int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bar != nil && b.stop == nil {
		_ = b.bar.Set64(done)
	}
}

// End takes the bar away.
func (b *bars) End() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stop != nil {
		close(b.stop)
		b.stop = nil
	}
	if b.bar != nil {
		_ = b.bar.Clear()
		_ = b.bar.Exit()
		fmt.Fprint(os.Stderr, "\r\033[K")
		b.bar = nil
	}
}

// Note prints one line above the bar.
func (b *bars) Note(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bar != nil {
		_ = b.bar.Clear()
	}
	fmt.Fprintf(os.Stderr, "\r\033[Knote: %s\n", text)
}
