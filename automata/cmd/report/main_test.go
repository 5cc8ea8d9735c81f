package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/uvbond/uvbond/automata"
)

// TestReport holds docs/automata.md to what the automata are.
func TestReport(t *testing.T) {
	root := filepath.Join("..", "..", "..")
	report, err := write(filepath.Join(root, "automata", "testdata", automata.SetLibvirt+".jsonl.gz"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "docs", "automata.md"))
	if err != nil {
		t.Fatal(err)
	}
	want, err := replace(string(text), report)
	if err != nil {
		t.Fatal(err)
	}
	if want != string(text) {
		t.Error("docs/automata.md is not current: go run ./automata/cmd/report docs/automata.md")
	}
	for _, l := range automata.Libvirt {
		if !l.Part && !strings.Contains(report, "| "+l.Name+" |") {
			t.Errorf("%s is not in the report", l.Name)
		}
	}
}
