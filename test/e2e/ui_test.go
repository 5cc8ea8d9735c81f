package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"syscall"
	"testing"

	"github.com/uvbond/uvbond/test/browser"
	"github.com/uvbond/uvbond/test/guest"
)

// TestUI: the owner's page in a real Chromium, with the three programs and a real
// guest behind it. The script is web/test/ui.mjs.
func TestUI(t *testing.T) {
	w := newWorld(t)
	u := w.user("alice")
	u.disk(image(t, guest.Options{Kernel: guest.Cloud, Secret: secret}), "web1.luks")
	u.create("web1", "web1.luks")

	cmd := u.tenant.Command(t.Context(), "ui", "--json")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	links := bufio.NewScanner(out)
	link := func(string) (string, error) {
		var l struct{ URL string }
		if !links.Scan() {
			return "", fmt.Errorf("uvbond ui printed no link: %v", links.Err())
		}
		return l.URL, json.Unmarshal(links.Bytes(), &l)
	}
	first, err := link("")
	if err != nil {
		t.Fatal(err)
	}
	page, err := url.Parse(first)
	if err != nil {
		t.Fatal(err)
	}
	browser.Run(t, "ui.mjs", "http://"+page.Host, map[string]browser.Ask{
		"link": func(string) (string, error) { return first, nil },
		"another": func(string) (string, error) {
			if err := cmd.Process.Signal(syscall.SIGUSR1); err != nil {
				return "", err
			}
			return link("")
		},
		"operator": func(string) (string, error) {
			w.operator(exitRefused, "the screen belongs to the owner", "gate", "--vm", "web1", "screendump", `{"filename":"/tmp/x"}`)
			return "", nil
		},
	})
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // its code is looked at
	if code := cmd.ProcessState.ExitCode(); code != exitDone {
		t.Errorf("uvbond ui ended with %d", code)
	}
	if !t.Failed() {
		u.audit("web1", "console opened", "screen opened", "screendump refused")
	}
}
