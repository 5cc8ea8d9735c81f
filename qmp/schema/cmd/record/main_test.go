package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"testing"

	"github.com/uvbond/uvbond/qmp/schema/recorded"
)

// TestRecordedIsInstalled: where the installed QEMU is of a recorded version, it
// says of itself what was recorded.
func TestRecordedIsInstalled(t *testing.T) {
	path, err := record(t.Context(), "qemu-system-x86_64", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	var have recorded.Recording
	if err := json.Unmarshal(text, &have); err != nil {
		t.Fatal(err)
	}
	for _, v := range recorded.Versions() {
		want, err := recorded.Read(v)
		if err != nil {
			t.Fatal(err)
		}
		if want.FileName() == have.FileName() && !bytes.Equal(want.Schema, have.Schema) {
			t.Errorf("QEMU %s says something else than was recorded: run go run ./qmp/schema/cmd/record", v)
		}
	}
}
