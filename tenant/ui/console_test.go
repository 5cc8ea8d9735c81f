package ui

import (
	"strings"
	"testing"
)

// FuzzControl: what a page sends beside its input is taken strictly.
func FuzzControl(f *testing.F) {
	for _, s := range []string{`{"resize":{"columns":80,"rows":24}}`, `{"resize":{"columns":0,"rows":0}}`, `{"mode":"take"}`, `{"taken":4096}`,
		`{"mode":"take","taken":1}`, `{}`, `{"resize":null}`, `{"resize":{"columns":70000}}`, `{"taken":-1}`, `[]`, `{"mode":"take"}{}`, "\xff"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseControl(data)
		if (c == nil) == (err == nil) {
			t.Fatal("neither a message nor an error")
		}
		if c == nil {
			return
		}
		if len(data) > 256 || !strings.Contains(string(data), "{") {
			t.Fatalf("%q is taken", data)
		}
		if _, known := modes[c.Mode]; c.Mode != "" && !known || c.Mode == "" && c.Resize == nil && c.Taken == nil {
			t.Fatalf("%q is taken as %+v", data, c)
		}
	})
}

func TestControl(t *testing.T) {
	for text, ok := range map[string]bool{
		`{"resize":{"columns":80,"rows":24}}`: true, `{"resize":{"columns":0,"rows":0}}`: true, `{"mode":"read"}`: true, `{"taken":0}`: true,
		`{}`: false, `{"mode":""}`: false, `{"mode":"root"}`: false, `{"mode":"take","taken":1}`: false, `{"taken":1} x`: false,
		`{"resize":{"columns":80,"rows":24,"x":1}}`: false, `{"resize":{"columns":65536,"rows":24}}`: false, `{"taken":` + strings.Repeat(" ", 300) + `1}`: false,
	} {
		if _, err := parseControl([]byte(text)); (err == nil) != ok {
			t.Errorf("%.60s: %v", text, err)
		}
	}
}
