package automaton

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

const recordedSession = `{"t":0.1,"dir":"in","msg":{"QMP":{"version":{}}}}
{"t":0.2,"dir":"out","msg":{"execute":"qmp_capabilities","id":"a"}}
{"t":0.2,"dir":"out","msg":{"execute":"stop","id":"b"}}
{"t":0.3,"dir":"event","msg":{"event":"STOP"}}
{"t":0.3,"dir":"in","msg":{"error":{"class":"GenericError"},"id":"b"}}
{"t":0.4,"dir":"in","msg":{"return":{},"id":"a"}}
{"t":0.5,"dir":"out","msg":{"execute":"qom-get","arguments":{"property":"<9 more>"}},"elided":true,"count":9}
{"t":0.6,"dir":"out","msg":{"exec-oob":"cont"}}
{"t":0.7,"dir":"event","msg":{"monitor":"eof","by":"libvirt"}}
`

func TestReadRecording(t *testing.T) {
	rec, err := ReadRecording(strings.NewReader(recordedSession))
	if err != nil {
		t.Fatal(err)
	}
	want := &Recording{
		Calls: []Call{
			{Command: "qmp_capabilities"},
			{Command: "stop", Failed: true},
			{Command: "qom-get", Arguments: map[string]any{"property": "<9 more>"}, Elided: 9},
			{Command: "cont"},
		},
		Events:  []Event{{"STOP", 2}},
		Seconds: 0.7,
	}
	if !reflect.DeepEqual(rec, want) || rec.Elided() != 9 {
		t.Errorf("have %+v", rec)
	}
	calls, err := ReadTrace(strings.NewReader(recordedSession))
	if err != nil || len(calls) != 3 {
		t.Errorf("%d calls, %v", len(calls), err)
	}
	// A stream without directions, as it is on the socket.
	plain := `{"QMP":{}} {"execute":"a"} {"execute":"b"} {"return":{}} {"event":"RESET"} {"error":{}}`
	if rec, err = ReadRecording(strings.NewReader(plain)); err != nil || rec.Calls[0].Failed || !rec.Calls[1].Failed || len(rec.Events) != 1 {
		t.Errorf("have %+v, %v", rec, err)
	}
}

// TestTraceOfFailure: a hypercall that failed ends the sequence, as at the gate.
func TestTraceOfFailure(t *testing.T) {
	m := compile(t, "plug show on abort del")
	calls := []Call{{Command: "plug", Failed: true}, {Command: "del"}}
	if tr := m.Trace(calls); tr.Refused() != nil || !tr.Done || !tr.Steps[0].Failed || !tr.Steps[1].Aborted {
		t.Errorf("have\n%s", tr)
	}
	calls[0].Failed = false
	if tr := m.Trace(calls); tr.Refused() == nil {
		t.Errorf("have\n%s", tr)
	}
}

func FuzzReadRecording(f *testing.F) {
	f.Add([]byte(recordedSession))
	f.Add([]byte(`{"execute":"a","arguments":{"x":[1,2.5,"y",null]}}{"return":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		rec, err := ReadRecording(bytes.NewReader(data))
		if err != nil {
			return
		}
		total := rec.Elided()
		for _, c := range rec.Calls {
			if c.Command == "" {
				t.Fatal("a call without a name")
			}
			if _, err := json.Marshal(c); err != nil {
				t.Fatal(err)
			}
			if c.Elided == 0 {
				total++
			}
		}
		if total > maxTrace {
			t.Fatalf("%d calls", total)
		}
	})
}
