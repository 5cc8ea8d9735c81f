package qmp

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseRequest(t *testing.T) {
	r, err := ParseRequest([]byte(` {"id": [1, {"a": null}] , "execute":"uvbond-open","arguments":{"vm":"ab","wait":3}}` + " \t"))
	if err != nil {
		t.Fatal(err)
	}
	if r.Execute != "uvbond-open" || string(r.ID) != `[1, {"a": null}]` || r.Arguments["wait"] != json.Number("3") {
		t.Fatalf("%+v", r)
	}
	if r, err = ParseRequest([]byte(`{"execute":"stop"}`)); err != nil || r.Arguments == nil || r.ID != nil {
		t.Fatalf("%+v, %v", r, err)
	}
}

func TestParseRequestRefuses(t *testing.T) {
	deep := strings.Repeat("[", 40) + strings.Repeat("]", 40)
	many := "[" + strings.Repeat("0,", maxRequestValues) + "0]"
	for text, want := range map[string]string{
		``:                  "unexpected EOF",
		`{"execute":"stop"`: "unexpected EOF",
		`[]`:                "not a JSON object",
		`null`:              "not a JSON object",
		`{}`:                `no "execute"`,
		`{"id":1}`:          `no "execute"`,
		`{"execute":1}`:     "not a string",
		`{"execute":""}`:    "not a command name",
		`{"execute":"-a"}`:  "not a command name",
		`{"execute":"a b"}`: "not a command name",
		`{"execute":"` + strings.Repeat("a", 65) + `"}`:                "not a command name",
		`{"exec-oob":"stop"}`:                                          "out-of-band",
		`{"execute":"stop","control":{}}`:                              `unknown member "control"`,
		`{"execute":"stop","Execute":"quit"}`:                          `unknown member "Execute"`,
		`{"execute":"stop","execute":"quit"}`:                          "duplicate member",
		`{"execute":"stop","exec\u0075te":"quit"}`:                     "duplicate member",
		`{"execute":"stop","arguments":null}`:                          "not an object",
		`{"execute":"stop","arguments":[]}`:                            "not an object",
		`{"execute":"stop","arguments":{"a":1,"a":2}}`:                 "duplicate member",
		`{"execute":"stop","arguments":{"a":{"b":1,"b":2}}}`:           "duplicate member",
		`{"execute":"stop","arguments":{"a":` + deep + `}}`:            "nested deeper",
		`{"execute":"stop","id":` + deep + `}`:                         "nested deeper",
		`{"execute":"stop","arguments":{"a":` + many + `}}`:            "too many values",
		`{"execute":"stop","id":"` + strings.Repeat("a", maxID) + `"}`: "longer than",
		`{"execute":"stop","arguments":{"a":"\u0000"}}`:                "NUL",
		`{"execute":"stop","arguments":{"\u0000":"a"}}`:                "NUL",
		"{\"execute\":\"stop\",\"id\":\"\xff\"}":                       "UTF-8",
		`{"execute":"stop"} x`:                                         "after the message",
		`{"execute":"stop"}{"execute":"quit"}`:                         "after the message",
		`{"execute":"stop",}`:                                          "invalid",
		`{"execute" "stop"}`:                                           "invalid",
		`{"execute":"stop","arguments":{"a":01}}`:                      "invalid",
	} {
		_, err := ParseRequest([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: got %v, want an error with %q", text, err, want)
		}
	}
}

// The answer to a bad request should still carry its id.
func TestParseRequestKeepsTheID(t *testing.T) {
	r, err := ParseRequest([]byte(`{"execute":"a b","more":1,"id":"x"}`))
	if err == nil || string(r.ID) != `"x"` {
		t.Fatalf("%+v, %v", r, err)
	}
}

func TestDecodeArguments(t *testing.T) {
	parse := func(text string, v any) error {
		t.Helper()
		r, err := ParseRequest([]byte(`{"execute":"uvbond-launch","arguments":` + text + `}`))
		if err != nil {
			t.Fatal(err)
		}
		return r.DecodeArguments(v)
	}
	var l LaunchArgs
	if err := parse(`{"disks":[{"name":"root","fd-index":1}],"expect":{"memory":18446744073709551615}}`, &l); err != nil {
		t.Fatal(err)
	}
	if l.Disks[0] != (DiskFile{"root", 1}) || l.Expect.Memory != 1<<64-1 {
		t.Fatalf("%+v", l)
	}
	for text, want := range map[string]string{
		`{"Disks":[]}`:                            "unknown argument Disks",
		`{"disks":[{"Name":"root"}]}`:             "unknown argument disks[0].Name",
		`{"disks":[{"name":"a","fd-index":1.5}]}`: "fd-index",
		`{"disks":null}`:                          "disks is null",
		`{"disks":[null]}`:                        "disks[0] is null",
		`{"disks":{}}`:                            "disks",
		`{"expect":{"memory":-1}}`:                "memory",
		`{"expect":{"memory":1,"path":"/"}}`:      "unknown argument expect.path",
	} {
		var l LaunchArgs
		if err := parse(text, &l); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error with %q", text, err, want)
		}
	}
	var o OpenArgs
	if err := parse(`{"vm":"a","ticket":"not base64!"}`, &o); err == nil {
		t.Error("base64 is not checked")
	}
}

func TestRequestRoundTrip(t *testing.T) {
	for _, r := range []Request{
		{Execute: "stop"},
		{Execute: "a", Arguments: map[string]any{"x": json.Number("1")}, ID: json.RawMessage(`"<1>"`)},
	} {
		data, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParseRequest(data)
		if err != nil {
			t.Fatal(err)
		}
		again, err := json.Marshal(back)
		if err != nil || string(again) != string(data) {
			t.Fatalf("%s became %s (%v)", data, again, err)
		}
	}
}

func TestParseMessage(t *testing.T) {
	m, err := ParseMessage([]byte(`{"QMP":{"version":{"qemu":{"micro":22,"minor":2,"major":7},"package":"Debian"},"capabilities":["oob"]}}`))
	if err != nil || m.Greeting == nil || m.Greeting.QMP.Version.QEMU != (VersionTriple{7, 2, 22}) {
		t.Fatalf("%+v, %v", m, err)
	}
	m, err = ParseMessage([]byte(`{"timestamp":{"seconds":5,"microseconds":6},"event":"STOP","new":1}`))
	if err != nil || m.Event == nil || m.Event.Timestamp.Seconds != 5 {
		t.Fatalf("%+v, %v", m, err)
	}
	m, err = ParseMessage([]byte(`{"return":{"a":1},"id":7,"RETURN":2}`))
	if err != nil || string(m.Response.Return) != `{"a":1}` || string(m.Response.ID) != "7" {
		t.Fatalf("%+v, %v", m, err)
	}
	m, err = ParseMessage([]byte(`{"error":{"class":"Busy","desc":"d","receipt":"AQI="},"id":7}`))
	if err != nil || ClassOf(m.Response.Error) != ClassBusy || string(m.Response.Error.Receipt) != "\x01\x02" {
		t.Fatalf("%+v, %v", m, err)
	}
	for _, text := range []string{``, `1`, `{}`, `{"return":1,"error":{}}`, `{"return":1,"return":2}`, `{"return":1}2`,
		`{"error":5}`, `{"event":7}`, `{"QMP":[]}`, `{"EVENT":"STOP"}`} {
		if m, err := ParseMessage([]byte(text)); err == nil {
			t.Errorf("%s was taken as %+v", text, m)
		}
	}
}

func TestRespond(t *testing.T) {
	for want, f := range map[string]func() (*Response, error){
		`{"return":{},"id":1}`:                           func() (*Response, error) { return Respond(json.RawMessage("1"), nil, nil) },
		`{"return":{"status":"running","running":true}}`: func() (*Response, error) { return Respond(nil, StatusResult{"running", true}, nil) },
		`{"error":{"class":"Denied","desc":"no 5"},"id":"a"}`: func() (*Response, error) {
			return Respond(json.RawMessage(`"a"`), nil, Errorf(ClassDenied, "no %d", 5))
		},
	} {
		r, err := f()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := json.Marshal(r); err != nil || string(got) != want {
			t.Errorf("%s (%v), want %s", got, err, want)
		}
	}
	if _, err := Respond(nil, func() {}, nil); err == nil {
		t.Error("a function was encoded")
	}
}

// seeds adds the files of testdata/seeds with this prefix, and fails without any.
func seeds(f *testing.F, prefix string) {
	f.Helper()
	names, err := filepath.Glob(filepath.Join("testdata", "seeds", prefix+"*.json"))
	if err != nil || len(names) == 0 {
		f.Fatalf("no seeds testdata/seeds/%s*.json (%v)", prefix, err)
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
}

func FuzzParseRequest(f *testing.F) {
	seeds(f, "request")
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseRequest(data)
		if err != nil {
			return
		}
		if !json.Valid(data) {
			t.Fatalf("not JSON, but accepted: %q", data)
		}
		once, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParseRequest(once)
		if err != nil {
			t.Fatalf("%q was accepted, its encoding %q is not: %v", data, once, err)
		}
		if twice, err := json.Marshal(back); err != nil || string(twice) != string(once) {
			t.Fatalf("%q changed to %q (%v)", once, twice, err)
		}
		var l LaunchArgs
		_ = r.DecodeArguments(&l)
	})
}

func FuzzParseMessage(f *testing.F) {
	seeds(f, "message")
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ParseMessage(data)
		if err != nil {
			return
		}
		set := 0
		for _, is := range []bool{m.Greeting != nil, m.Response != nil, m.Event != nil} {
			if is {
				set++
			}
		}
		if set != 1 || !json.Valid(data) {
			t.Fatalf("%q was read as %+v", data, m)
		}
	})
}
