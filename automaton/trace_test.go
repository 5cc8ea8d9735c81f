package automaton

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestTrace(t *testing.T) {
	calls, err := ReadTrace(strings.NewReader(`{"execute":"query-migrate"}
		{"t":0.1,"dir":"out","msg":{"execute":"stop","id":"libvirt-1"}}
		{"t":0.2,"dir":"in","msg":{"return":{}}}
		{"t":0.3,"dir":"event","msg":{"event":"STOP"}} {"execute":"getfd","arguments":{"fdname":"mig0"}}
		{"execute":"migrate","arguments":{"uri":"exec:cat"}} {"execute":"cont"} {"execute":"quit"}`))
	if err != nil {
		t.Fatal(err)
	}
	tr := compile(t, save).Trace(calls)
	want := "t: starts in 0\n" +
		"   1  ok      query-migrate  0 -> 1\n" +
		"   2  ok      stop  1 -> 2\n" +
		"   3  ok      getfd {\"fdname\":\"mig0\"}  2 -> 3\n" +
		"   4  REFUSED migrate {\"uri\":\"exec:cat\"}\n" +
		"      `migrate.uri` must be \"fd:mig0\", was \"exec:cat\"\n" +
		"      (aborted: only what may follow an abort is accepted)\n" +
		"   5  ok      cont  6 -> 7\n" +
		"   6  REFUSED quit\n" +
		"      nothing more may follow, got `quit`\n" +
		"may end here, nothing more may follow\n"
	if tr.String() != want {
		t.Errorf("got\n%swant\n%s", tr, want)
	}
	if !reflect.DeepEqual(tr.Steps[2].Kept, map[string]string{"f": `"mig0"`}) || tr.Refused() != &tr.Steps[3] {
		t.Errorf("%+v", tr.Steps)
	}
	tr = compile(t, "query-status* stop query-status*").Trace(calls[1:2])
	if got, want := tr.String(), "t: starts in 0\n   1  ok      stop  0 -> 1\nmay end here, or go on with `query-status`\n"; got != want {
		t.Errorf("got\n%s", got)
	}
	tr = compile(t, "a b | a c").Trace([]Call{{Command: "a"}})
	if !strings.HasSuffix(tr.String(), "may not end here, expected `b` or `c`\n") {
		t.Errorf("got\n%s", tr)
	}
}

func TestReadTraceRefuses(t *testing.T) {
	for text, want := range map[string]string{
		`{"execute":"a"} {`:                           "object 2",
		`{"exec":"a"}`:                                "there is no hypercall",
		`{"dir":"out","msg":{"x":1}}`:                 "there is no hypercall",
		`{"execute":"a","arguments":5}`:               "object 1",
		strings.Repeat(`{"execute":"a"}`, maxTrace+1): fmt.Sprint("more than ", maxTrace),
	} {
		if _, err := ReadTrace(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v", text, err)
		}
	}
}
