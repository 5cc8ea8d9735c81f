package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
)

// sample is what one measurement gave.
type sample map[string]float64

// report collects the samples of a suite.
type report struct {
	title    string
	intro    string // what was measured, and the commands
	metrics  []metric
	promises []promise
	ratios   []promise // of which nothing was promised
	limits   []limit
	tests    []string // in their order
	peers    []string // ours first
	samples  map[string]map[string][]sample
}

// metric is a column.
type metric struct {
	key, title, format string
	scale              float64
}

// promise is a ratio that was promised.
type promise struct {
	test, metric string
	peer         string
	test2        string  // of the peer; empty: the same
	self         string  // of us; empty: the first peer
	least        float64 // ours over the peer's; for a metric where less is better, at most 1/least
	less         bool    // less is better
}

// limit is a figure that was promised not to be exceeded.
type limit struct {
	test, peer, metric string
	most               float64
}

func (r *report) add(test, peer string, s sample) {
	if r.samples == nil {
		r.samples = map[string]map[string][]sample{}
	}
	if r.samples[test] == nil {
		r.samples[test] = map[string][]sample{}
		r.tests = append(r.tests, test)
	}
	if !slices.Contains(r.peers, peer) {
		r.peers = append(r.peers, peer)
	}
	r.samples[test][peer] = append(r.samples[test][peer], s)
}

// spread returns median, lowest and highest.
func (r *report) spread(test, peer, metric string) (median, low, high float64, ok bool) {
	var v []float64
	for _, s := range r.samples[test][peer] {
		if x, has := s[metric]; has {
			v = append(v, x)
		}
	}
	if len(v) == 0 {
		return 0, 0, 0, false
	}
	slices.Sort(v)
	return v[len(v)/2], v[0], v[len(v)-1], true
}

func (r *report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s\n\n%s\n\n", r.title, r.intro)
	b.WriteString("| | |")
	for _, m := range r.metrics {
		fmt.Fprintf(&b, " %s |", m.title)
	}
	b.WriteString("\n|---|---|" + strings.Repeat("---:|", len(r.metrics)) + "\n")
	for _, t := range r.tests {
		for _, p := range r.peers {
			if len(r.samples[t][p]) == 0 {
				continue
			}
			fmt.Fprintf(&b, "| %s | %s |", t, p)
			for _, m := range r.metrics {
				median, low, high, ok := r.spread(t, p, m.key)
				if !ok {
					b.WriteString(" |")
					continue
				}
				f := func(v float64) string { return fmt.Sprintf(m.format, v*m.scale) }
				fmt.Fprintf(&b, " %s (%s–%s) |", f(median), f(low), f(high))
			}
			b.WriteString("\n")
		}
	}
	if len(r.promises)+len(r.limits) > 0 {
		b.WriteString("\n| promised | measured | |\n|---|---:|---|\n")
	}
	for _, p := range r.promises {
		b.WriteString(r.judge(p))
	}
	for _, l := range r.limits {
		b.WriteString(r.judgeLimit(l))
	}
	if len(r.ratios) > 0 {
		b.WriteString("\n| ratio | measured |\n|---|---:|\n")
	}
	for _, p := range r.ratios {
		ours, _, _, ok1 := r.spread(p.test, p.self, p.metric)
		theirs, _, _, ok2 := r.spread(p.test, p.peer, p.metric)
		if ok1 && ok2 && theirs > 0 {
			fmt.Fprintf(&b, "| %s, %s: %s to %s | %.2f × |\n", p.test, p.metric, p.self, p.peer, ours/theirs)
		}
	}
	return b.String()
}

func (r *report) judge(p promise) string {
	self, test2 := p.self, p.test2
	if self == "" {
		self = r.peers[0]
	}
	if test2 == "" {
		test2 = p.test
	}
	ours, _, _, ok1 := r.spread(p.test, self, p.metric)
	theirs, _, _, ok2 := r.spread(test2, p.peer, p.metric)
	what := fmt.Sprintf("%s, %s", p.test, p.metric)
	if p.self != "" {
		what += ", " + p.self
	}
	if test2 != p.test {
		what += " against " + test2
	}
	want := fmt.Sprintf("at least %.2f ×", p.least)
	if p.less {
		want = fmt.Sprintf("at most %.2f ×", 1/p.least)
	}
	if !ok1 || !ok2 || theirs == 0 {
		return fmt.Sprintf("| %s: %s %s | not measured | |\n", what, want, p.peer)
	}
	ratio, verdict := ours/theirs, "**missed**"
	if (!p.less && ratio >= p.least) || (p.less && ratio <= 1/p.least) {
		verdict = "kept"
	}
	return fmt.Sprintf("| %s: %s %s | %.2f × | %s |\n", what, want, p.peer, ratio, verdict)
}

func (r *report) judgeLimit(l limit) string {
	median, _, _, ok := r.spread(l.test, l.peer, l.metric)
	for _, m := range r.metrics {
		if m.key != l.metric || !ok {
			continue
		}
		verdict := "**missed**"
		if median <= l.most {
			verdict = "kept"
		}
		f := func(v float64) string { return fmt.Sprintf(m.format, v*m.scale) }
		return fmt.Sprintf("| %s: at most %s %s | %s | %s |\n", l.test, f(l.most), m.title, f(median), verdict)
	}
	return fmt.Sprintf("| %s, %s | not measured | |\n", l.test, l.metric)
}

// machine says what this runs on.
func machine() string {
	model := "unknown processor"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		fields := map[string]string{}
		for line := range strings.Lines(string(b)) {
			k, v, _ := strings.Cut(line, ":")
			fields[strings.TrimSpace(k)] = strings.TrimSpace(v)
		}
		model = fmt.Sprintf("%s (family %s, model %s)", fields["model name"], fields["cpu family"], fields["model"])
	}
	release := ""
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		release, _, _ = strings.Cut(strings.TrimSpace(string(b)), "-")
	}
	return fmt.Sprintf("%d cores of %s, Linux %s, %s", runtime.NumCPU(), model, release, runtime.Version())
}
