package main

import (
	"strings"
	"testing"
	"time"
)

// TestMerge: a run of some suites replaces their sections and no other, or adds them;
// one of all replaces all that was measured. What people wrote stays.
func TestMerge(t *testing.T) {
	const old = "# Benchmarks\n\nWritten.\n\n## Why\n\n" + marker + "\nMeasured before.\n\n## NBD\n\nolder\n\n## Boot\n\nolder\n\n"
	made := func(title string) *report {
		r := &report{title: title, intro: "What it is.", metrics: []metric{{"x", "x", "%.0f", 1}}}
		r.add("test", "UVBond", sample{"x": 7})
		return r
	}
	counts := func(text string, want map[string]int) {
		t.Helper()
		for part, n := range want {
			if got := strings.Count(text, part); got != n {
				t.Errorf("%d times %q in %s", got, part, text)
			}
		}
	}
	part := &options{rounds: 3, seconds: 1, only: "nbd,new"}
	first := merge(old, part, []*report{made("NBD"), made("New")}, time.Second)
	want := map[string]int{"Written.": 1, "## Why": 1, marker: 1, "Measured before.": 1, "## NBD\n": 1, "## New\n": 1, "## Boot\n\nolder": 1, "older": 1,
		"Measured by itself, on ": 2, "`bin/bench -run nbd,new -rounds 3 -seconds 1`": 2, "| test | UVBond | 7 (7–7) |": 2}
	counts(first, want)
	if !strings.Contains(first, "## Boot\n\nolder\n\n## New\n\nMeasured by itself") || strings.Index(first, "## NBD") > strings.Index(first, "## Boot") {
		t.Errorf("out of order: %s", first)
	}
	counts(merge(first, part, []*report{made("NBD"), made("New")}, time.Second), want) // the same again
	counts(merge(first, &options{rounds: 3, seconds: 1}, []*report{made("NBD")}, time.Second), map[string]int{
		"Written.": 1, "## Why": 1, marker: 1, "Measured ": 1, "BENCHFLAGS=\"-rounds 3 -seconds 1\"": 1, "## NBD": 1, "## Boot": 0, "## New": 0, "by itself": 0})
	counts(merge("", part, []*report{made("NBD")}, time.Second), map[string]int{marker: 1, "## NBD": 1})
}
