package server_test

import (
	"os/exec"
	"strings"
	"testing"
)

// TestImports: the untrusted server holds no secret type and nothing of the
// other domains; what they agree on passes through it as opaque bytes.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "github.com/uvbond/uvbond/cmd/uvbond-server").Output()
	if err != nil {
		t.Fatal(err)
	}
	const module = "github.com/uvbond/uvbond/"
	seen := 0
	for pkg := range strings.Lines(string(out)) {
		path, ok := strings.CutPrefix(strings.TrimSpace(pkg), module)
		if !ok {
			continue
		}
		seen++
		top, _, _ := strings.Cut(path, "/")
		if top != "server" && top != "qmp" && top != "automata" && path != "cmd/uvbond-server" {
			t.Errorf("uvbond-server imports %s", path)
		}
		if path == "server/gatetest" {
			t.Error("uvbond-server contains the test gate")
		}
	}
	if seen < 5 {
		t.Fatalf("only %d packages of the module were seen", seen)
	}
}
