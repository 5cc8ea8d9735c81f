// Package browser drives the page in a real Chromium, for tests: a script of web/test
// runs under node with Playwright, and asks the Go test for what only that can do, such
// as playing the operator. The two speak lines of JSON over the script's standard
// streams.
package browser

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// line is one message between script and test.
type line struct {
	Ask string `json:"ask,omitempty"` // the script wants something done
	Arg string `json:"arg,omitempty"`
	Log string `json:"log,omitempty"`

	Answer string `json:"answer,omitempty"`
	Error  string `json:"error,omitempty"`
}

// Ask does what a script asks for; arg is its argument.
type Ask func(arg string) (answer string, err error)

// Run runs a script of web/test against the page at url. Screenshots go to the
// repository's artifacts folder, which git ignores.
func Run(t *testing.T, script, url string, asks map[string]Ask) {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	web := filepath.Join(root, "web")
	if _, err := os.Stat(filepath.Join(web, "node_modules", "playwright-core")); err != nil {
		t.Fatal("the browser's driver is missing: make deps (or npm ci in web)")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", filepath.Join("test", script))
	cmd.Dir = web
	cmd.Env = append(os.Environ(), "UVBOND_URL="+url, "UVBOND_ARTIFACTS="+filepath.Join(root, "artifacts"), "UVBOND_PROFILE="+t.TempDir())
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it ends its browser
	cmd.WaitDelay = 20 * time.Second
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var l line
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			t.Errorf("%s printed %q", script, lines.Text())
			continue
		}
		if l.Ask == "" {
			t.Log(l.Log)
			continue
		}
		if err := json.NewEncoder(in).Encode(reply(asks, l)); err != nil {
			t.Error(err)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%s: %v", script, err)
	}
}

func reply(asks map[string]Ask, l line) line {
	ask := asks[l.Ask]
	if ask == nil {
		return line{Error: fmt.Sprintf("nobody does %q", l.Ask)}
	}
	answer, err := ask(l.Arg)
	if err != nil {
		return line{Error: err.Error()}
	}
	return line{Answer: answer}
}
