package automaton

import (
	"strings"
	"testing"
	"time"
)

const fivePredicates = `a{ v: 1..5, w: "p" | "q", x: string, y: 256MiB..2GiB, z: true }`

// benchmarkCycle steps through calls again and again and reports one step.
func benchmarkCycle(b *testing.B, body string, deterministic bool, calls ...string) {
	m := compile(b, body)
	if m.Deterministic() != deterministic {
		b.Fatalf("deterministic: %v", m.Deterministic())
	}
	names := make([]string, len(calls))
	args := make([]map[string]any, len(calls))
	for i, call := range calls {
		name, text, _ := strings.Cut(call, " ")
		names[i], args[i] = name, arguments(b, text)
	}
	r := m.Start()
	b.ReportAllocs()
	start := cpuTime(b)
	for b.Loop() {
		for i, name := range names {
			if err := r.Step(name, args[i]); err != nil {
				b.Fatal(err)
			}
		}
	}
	reportSteps(b, cpuTime(b)-start, len(calls))
	b.ReportMetric(float64(m.States()), "states")
}

// reportSteps reports processor time, so that a busy machine does not count.
func reportSteps(b *testing.B, used time.Duration, steps int) {
	b.ReportMetric(float64(used.Nanoseconds())/float64(b.N)/float64(steps), "cpu-ns/step")
}

const fiveArguments = `a {"v":3,"w":"q","x":"abc","y":1073741824,"z":true}`

// Five predicates in each of 200 states.
func BenchmarkFivePredicates200States(b *testing.B) {
	benchmarkCycle(b, "("+fivePredicates+"{199} last)*", true, append(slicesRepeat(fiveArguments, 199), "last")...)
}

// What a toolstack's polling costs beside it.
func BenchmarkQueries200States(b *testing.B) {
	calls := strings.Fields(strings.Repeat("b query-status c ", 60))
	benchmarkCycle(b, "("+strings.Repeat("b query-status* c query-status* ", 100)+")*", true, append(calls, calls[:120]...)...)
}

// The same machine with a value kept on the way.
func BenchmarkCaptures200States(b *testing.B) {
	body := `getfd{ fdname: $f } (` + strings.Repeat(fivePredicates+` migrate{ uri: "fd:" $f } query-migrate* `, 66) + ")*"
	m := compile(b, body)
	if m.Deterministic() {
		b.Fatal("captures became deterministic")
	}
	r := m.Start()
	if err := step(b, r, `getfd {"fdname":"migrate"}`); err != nil {
		b.Fatal(err)
	}
	five, uri := arguments(b, strings.TrimPrefix(fiveArguments, "a ")), arguments(b, `{"uri":"fd:migrate"}`)
	b.ReportAllocs()
	start := cpuTime(b)
	for b.Loop() {
		for range 66 {
			if r.Step("a", five) != nil || r.Step("migrate", uri) != nil || r.Step("query-migrate", nil) != nil {
				b.Fatal("refused")
			}
		}
	}
	reportSteps(b, cpuTime(b)-start, 3*66)
	b.ReportMetric(float64(m.States()), "states")
}

func BenchmarkCompileLargest(b *testing.B) {
	text := []byte("automaton t = " + strings.Repeat("a ", 4000) + ";")
	b.ReportAllocs()
	for b.Loop() {
		f, err := Parse("t", text)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := f.Compile("t"); err != nil {
			b.Fatal(err)
		}
	}
}

// Is what one automaton of 100 steps accepts accepted by another?
func BenchmarkIncludes(b *testing.B) {
	part := compile(b, strings.Repeat("a{ x: 1..5 } query-status* ", 100))
	whole := compile(b, "(query-status | a{ x: 0..9 } | b)*")
	for b.Loop() {
		if d, err := Includes(whole, part); d != nil || err != nil {
			b.Fatal(d, err)
		}
	}
}

func slicesRepeat(s string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = s
	}
	return out
}
