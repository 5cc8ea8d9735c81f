package traces

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/uvbond/uvbond/automaton"
)

// TestCompact: what automata look at is the same after it was written and read.
func TestCompact(t *testing.T) {
	rec, err := automaton.ReadRecording(strings.NewReader(`{"t":1,"dir":"out","msg":{"execute":"a","arguments":{"x":18446744073709551615},"id":"l-1"}}
		{"dir":"event","msg":{"event":"STOP"}} {"dir":"event","msg":{"event":"RESET"}} {"dir":"out","msg":{"execute":"b","id":"l-2"}}
		{"dir":"in","msg":{"return":{},"id":"l-1"}} {"dir":"in","msg":{"error":{},"id":"l-2"}}
		{"dir":"out","msg":{"execute":"c"},"elided":true,"count":7}`))
	if err != nil {
		t.Fatal(err)
	}
	lines, err := Compact(rec)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := Write(&out, []Run{{Command: "x", Runs: []int{1, 3}, Lines: lines}}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "runs.gz")
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	runs, err := Load(path)
	if err != nil || len(runs) != 1 || runs[0].Command != "x" || len(runs[0].Runs) != 2 {
		t.Fatalf("%+v, %v", runs, err)
	}
	have := runs[0].Recording
	if !reflect.DeepEqual(have.Calls, rec.Calls) || !reflect.DeepEqual(have.Events, []automaton.Event{{Name: "RESET", At: 1}}) || have.Seconds != 0 {
		t.Errorf("have %+v", have)
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a file that is not there was read")
	}
}
