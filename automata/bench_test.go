package automata

import (
	"testing"

	"github.com/uvbond/uvbond/automata/traces"
)

// BenchmarkShipped follows a recorded session from its beginning to its end.
func BenchmarkShipped(b *testing.B) {
	runs, err := traces.Load(recordedRuns)
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct{ name, command string }{
		{"start", "start-base"}, {"save", "save"}, {"attach-disk", "attach-disk-qcow2"}, {"snapshot-external", "snapshot-external-memory"},
	} {
		f, err := Load(SetLibvirt, c.name)
		if err != nil {
			b.Fatal(err)
		}
		m, err := f.Compile(c.name)
		if err != nil {
			b.Fatal(err)
		}
		for _, r := range runs {
			if r.Command != c.command || r.Runs[0] != 1 {
				continue
			}
			b.Run(c.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					run := m.Start()
					for _, call := range r.Recording.Calls {
						if err := run.Step(call.Command, call.Arguments); err != nil {
							b.Fatal(err)
						}
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(r.Recording.Calls)), "ns/step")
			})
		}
	}
}
