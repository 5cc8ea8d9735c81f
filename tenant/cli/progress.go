package cli

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

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
	w    io.Writer // nil: standard error
	mu   sync.Mutex
	bar  *progressbar.ProgressBar
	stop chan struct{} // of a spinner
	pace pace          // of a bar with numbers
}

// Begin shows a bar, or a spinner when total is 0.
func (b *bars) Begin(label string, total int64) {
	b.End()
	b.mu.Lock()
	defer b.mu.Unlock()
	columns := b.columns()
	opts := []progressbar.Option{
		progressbar.OptionSetWriter(b.out()),
		progressbar.OptionClearOnFinish(),
		progressbar.OptionThrottle(80 * time.Millisecond),
		progressbar.OptionSetWidth(barWidth),
		// Zero: the bar starts no goroutine of its own, which would go on drawing
		// over the next prompt. spin draws instead.
		progressbar.OptionSetSpinnerChangeInterval(0),
	}
	if total <= 0 {
		opts = append(opts, progressbar.OptionSetDescription(shortened(label, columns-spinnerRest)),
			progressbar.OptionSpinnerType(14), progressbar.OptionSetElapsedTime(true))
		b.bar = progressbar.NewOptions64(-1, opts...)
		b.stop = make(chan struct{})
		go b.spin(b.bar, b.stop)
		return
	}
	rest := numberRest
	if columns >= narrow {
		rest = barRest
	}
	label = shortened(label, columns-barWidth-rest)
	// The bar's own numbers count what was done before it began, by an earlier run, as done in no time.
	opts = append(opts, progressbar.OptionSetDescription(label),
		progressbar.OptionSetElapsedTime(false), progressbar.OptionSetPredictTime(false))
	b.pace = pace{label: label, total: total, shown: columns >= narrow}
	b.bar = progressbar.NewOptions64(total, opts...)
}

// Columns beside the label: of a bar with all its numbers, of one with the
// percentage only, of a spinner. A line that is longer than the terminal would
// leave its pieces behind.
const (
	barWidth    = 20
	barRest     = 44
	numberRest  = 10
	spinnerRest = 12
	narrow      = barWidth + barRest + 12
)

// pace is how fast a bar moves since its first update.
type pace struct {
	label       string
	total, from int64
	begun       time.Time // of the first update
	shown       bool      // there is room for it
}

// text is the label with the rate, and the time that is left. It has no rate in the first second.
func (p *pace) text(done int64, now time.Time) string {
	if p.begun.IsZero() {
		p.from, p.begun = done, now
	}
	since := now.Sub(p.begun)
	if !p.shown || since < time.Second || done <= p.from {
		return p.label
	}
	rate := float64(done-p.from) / since.Seconds()
	left := time.Duration(float64(p.total-done) / rate * float64(time.Second)).Round(time.Second)
	return fmt.Sprintf("%s, %s/s, %s left", p.label, bytesText(uint64(rate)), left)
}

// shortened cuts a label to so many columns, 8 at least.
func shortened(label string, columns int) string {
	r := []rune(label)
	if n := max(columns, 8); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return label
}

func (b *bars) out() io.Writer {
	if b.w != nil {
		return b.w
	}
	return os.Stderr
}

func (b *bars) columns() int {
	if w, _, err := term.GetSize(int(os.Stderr.Fd())); err == nil && w > 0 {
		return w
	}
	return 80
}

func (b *bars) spin(bar *progressbar.ProgressBar, stop chan struct{}) {
	t := time.NewTicker(120 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-stop:
			return
		case <-t.C:
			b.turn(bar)
		}
	}
}

// turn draws a spinner's next picture, unless it was taken away meanwhile.
func (b *bars) turn(bar *progressbar.ProgressBar) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bar == bar {
		_ = bar.Add(1)
	}
}

// Update moves the bar.
func (b *bars) Update(done int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bar != nil && b.stop == nil {
		_ = b.bar.Set64(done) // first: each of the two draws, and drawing twice at once is not done
		b.bar.Describe(b.pace.text(done, time.Now()))
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
		fmt.Fprint(b.out(), "\r\033[K")
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
	fmt.Fprintf(b.out(), "\r\033[Knote: %s\n", text)
}
