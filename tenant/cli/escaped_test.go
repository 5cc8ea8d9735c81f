package cli

import (
	"bytes"
	"encoding/json"
	"testing"
)

// TestEscaped: JSON is printable, and means the same.
func TestEscaped(t *testing.T) {
	for in, want := range map[string]string{
		"plain ü 日本": `"plain ü 日本"`, "\u009b2J": `"\u009b2J"`, "a\u202eb": `"a\u202eb"`, "\U000e0041": `"\udb40\udc41"`, "\x7f": `"\u007f"`, "a\nb": `"a\nb"`,
	} {
		var out bytes.Buffer
		a := &app{out: &out, json: true}
		if err := a.print(in, nil); err != nil {
			t.Fatal(err)
		}
		var back string
		if err := json.Unmarshal(out.Bytes(), &back); err != nil || back != in || out.String() != want+"\n" {
			t.Errorf("%q became %s, and %q again (%v)", in, out.String(), back, err)
		}
	}
}
