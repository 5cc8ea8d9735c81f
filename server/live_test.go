package server_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/server/api"
	"github.com/uvbond/uvbond/server/gatetest"
)

// TestLive: each hypercall is told while the command runs, and the result is the
// same as without.
func TestLive(t *testing.T) {
	r := start(t)
	tok := r.token("alice")
	vm, _ := r.register(tok, 1)
	r.run1(tok, vm, "start")
	stop := make(chan struct{})
	r.gate.Handle(qmp.CmdStop, func(*gatetest.Call) (any, error) {
		<-stop
		return nil, &qmp.Error{Class: qmp.ClassGeneric, Desc: "it does not work"}
	})
	raw, err := json.Marshal(command(vm, "pause"))
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), "POST", r.base+"/v1/vms/"+vm+"/commands/live", bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+tok)
	req.Header.Set("Content-Type", "application/json")
	resp, err := httpClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if ct := resp.Header.Get("Content-Type"); resp.StatusCode != 200 || ct != "application/x-ndjson" {
		t.Fatalf("%d %s", resp.StatusCode, ct)
	}
	var lines []string
	in := bufio.NewScanner(resp.Body)
	for in.Scan() {
		if len(lines) == 0 {
			close(stop) // the first line came while the hypercall was being executed
		}
		var l api.LiveLine
		if err := json.Unmarshal(in.Bytes(), &l); err != nil {
			t.Fatal(err)
		}
		if l.Result != nil {
			lines = append(lines, fmt.Sprintf("%s %s %s", l.Result.Outcome, l.Result.Class, l.Result.Receipt))
		} else {
			lines = append(lines, fmt.Sprintf("%s %v %s", l.Hypercall.Command, l.Hypercall.Answered, l.Hypercall.Class))
		}
	}
	want := "stop false |stop true GenericError|error GenericError receipt pause done"
	if got := strings.Join(lines, "|"); got != want {
		t.Fatalf("%s\nwant %s", got, want)
	}
}

// TestLiveErrors: what fails before the first hypercall has the status and the
// form of every error.
func TestLiveErrors(t *testing.T) {
	r := start(t)
	tok := r.token("alice")
	vm, _ := r.register(tok, 1)
	path := "/v1/vms/" + vm + "/commands/live"
	r.want(r.do("", "POST", path, command(vm, "pause")), 401, "")
	r.want(r.do(tok, "POST", "/v1/vms/"+vmID(9)+"/commands/live", command(vm, "pause")), 404, "NotFound")
	r.want(r.do(tok, "POST", path, map[string]any{"command": "pause", "ticket": ""}), 422, "")
	r.gate.Stop()
	r.want(r.do(tok, "POST", path, command(vm, "status")), 502, "Unavailable")
}
