package server_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/server/config"
	"github.com/uvbond/uvbond/server/gatetest"
)

func unbase64(t *testing.T, s string) string {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestHost(t *testing.T) {
	r := start(t)
	a := r.want(r.do(r.token("alice"), "GET", "/v1/host", nil), 200, "")
	if a.text("host") != "aa" || a.text("accel") != "tcg" || unbase64(t, a.text("public_key")) != "key" || a.text("name") != "uvbond" {
		t.Fatal(a.raw)
	}
	if len(a.header.Get("X-Request-Id")) != 16 {
		t.Fatal("no request id")
	}
}

// TestLife takes a VM through every management command.
func TestLife(t *testing.T) {
	r := start(t)
	tok := r.token("alice")
	vm, image := r.register(tok, 1)
	a := r.want(r.do(tok, "GET", "/v1/vms/"+vm, nil), 200, "")
	if a.text("state") != "stopped" || unbase64(t, a.text("confirmation")) != "confirmation "+vm {
		t.Fatal(a.raw)
	}
	r.gate.Calls()
	steps := []struct {
		command string
		calls   []string
	}{
		{"start", []string{"uvbond-open", "uvbond-launch", "cont", "query-status", "uvbond-close"}},
		{"status", []string{"uvbond-open", "query-status", "uvbond-close"}},
		{"pause", []string{"uvbond-open", "stop", "query-status", "uvbond-close"}},
		{"resume", []string{"uvbond-open", "cont", "query-status", "uvbond-close"}},
		{"reset", []string{"uvbond-open", "system_reset", "query-status", "uvbond-close"}},
		{"log", []string{"uvbond-open", "uvbond-read-console", "uvbond-close"}},
		{"audit", []string{"uvbond-open", "uvbond-read-audit", "uvbond-close"}},
		{"allow", []string{"uvbond-open", "uvbond-set-policy", "uvbond-close"}},
		{"undelegate", []string{"uvbond-open", "uvbond-revoke", "uvbond-close"}},
		{"shutdown", []string{"uvbond-open", "system_powerdown", "query-status", "uvbond-close"}},
		{"poweroff", []string{"uvbond-open", "quit", "query-status", "uvbond-close"}},
		{"delete", []string{"uvbond-open", "uvbond-delete", "uvbond-close"}},
	}
	for _, s := range steps {
		a := r.run1(tok, vm, s.command)
		if a.text("outcome") != "done" || unbase64(t, a.text("receipt")) != "receipt "+s.command+" done" {
			t.Fatalf("%s: %s", s.command, a.raw)
		}
		if got := r.gate.Calls(); !slices.Equal(got, s.calls) {
			t.Fatalf("%s: calls %v, want %v", s.command, got, s.calls)
		}
		if s.command == "start" {
			if unbase64(t, a.text("descriptor")) != "descriptor "+vm || r.gate.VM(vm).Disks != 1 {
				t.Fatalf("start: %s", a.raw)
			}
			if a := r.do(tok, "GET", "/v1/vms/"+vm, nil); unbase64(t, a.text("descriptor")) != "descriptor "+vm {
				t.Fatalf("the descriptor is not kept: %s", a.raw)
			}
			r.want(r.do(tok, "DELETE", "/v1/images/"+image, nil), 409, "Conflict")
		}
	}
	r.want(r.do(tok, "GET", "/v1/vms/"+vm, nil), 404, "NotFound")
	r.want(r.do(tok, "DELETE", "/v1/images/"+image, nil), 204, "")
	if files, _ := os.ReadDir(r.cfg.ImageDir()); len(files) != 0 {
		t.Fatalf("files stay: %v", files)
	}
}

func TestChunkParameters(t *testing.T) {
	r := start(t)
	tok := r.token("alice")
	vm, _ := r.register(tok, 1)
	for _, c := range []struct{ command, key, want string }{
		{"log", "offset", "uvbond-read-console map[offset:77]"}, {"audit", "from", "uvbond-read-audit map[from:77]"},
	} {
		body := command(vm, c.command)
		body["params"] = map[string]any{c.key: 77}
		a := r.want(r.do(tok, "POST", "/v1/vms/"+vm+"/commands", body), 200, "")
		chunks, _ := a.body["chunks"].([]any)
		if len(chunks) != 1 || unbase64(t, chunks[0].(string)) != c.want {
			t.Fatal(a.raw)
		}
	}
}

func TestRegistrationErrors(t *testing.T) {
	r := start(t, func(c *config.Config) { c.Limits.MaxVMs = 3 })
	tok := r.token("alice")
	vm, image := r.register(tok, 1)
	free := r.upload(tok, "free", sample(10))
	half := r.want(r.do(tok, "POST", "/v1/images", announce("half", sample(20))), 200, "").text("id")
	edit := func(key string, v any) map[string]any {
		b := newVM(vmID(2), "web2", free)
		b[key] = v
		return b
	}
	disk := func(name, image string) []any { return []any{map[string]any{"name": name, "image": image}} }
	cases := []struct {
		name   string
		body   map[string]any
		status int
		class  string
	}{
		{"image in use", newVM(vmID(2), "web2", image), 409, "Conflict"},
		{"image not ready", newVM(vmID(2), "web2", half), 409, "Conflict"},
		{"no such image", newVM(vmID(2), "web2", vmID(99)), 404, "NotFound"},
		{"name taken", newVM(vmID(2), "web1", free), 409, "Conflict"},
		{"id taken", newVM(vm, "web2", free), 409, "Conflict"},
		{"bad id", newVM("XYZ", "web2", free), 422, "Invalid"},
		{"bad name", newVM(vmID(2), "../web", free), 422, "Invalid"},
		{"bad disk name", edit("disks", disk("Root!", free)), 422, "Invalid"},
		{"bad image id", edit("disks", disk("root", "../../x")), 422, "Invalid"},
		{"no disks", edit("disks", []any{}), 422, "Invalid"},
		{"image twice", edit("disks", append(disk("a", free), disk("b", free)...)), 422, "Invalid"},
		{"no registration", edit("registration", []byte{}), 422, "Invalid"},
		{"unknown member", edit("owner", "bob"), 422, "Invalid"},
		{"refused by the gate", edit("registration", []byte("garbage")), 422, "Invalid"},
		{"registration too long", edit("registration", make([]byte, 300<<10)), 413, "TooLarge"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			sub := *r
			sub.t = t
			sub.want(sub.do(tok, "POST", "/v1/vms", c.body), c.status, c.class)
		})
	}
	// Nothing of the refused ones stays: the image is free.
	r.want(r.do(tok, "POST", "/v1/vms", newVM(vmID(2), "web2", free)), 200, "")
	// The same again is answered alike, without the gate.
	r.gate.Calls()
	a := r.want(r.do(tok, "POST", "/v1/vms", newVM(vmID(2), "web2", free)), 200, "")
	if unbase64(t, a.text("confirmation")) != "confirmation "+vmID(2) || len(r.gate.Calls()) != 0 {
		t.Fatal(a.raw)
	}
	third := r.upload(tok, "third", sample(30))
	r.want(r.do(tok, "POST", "/v1/vms", newVM(vmID(3), "web3", third)), 200, "")
	fourth := r.upload(tok, "fourth", sample(31))
	if a := r.want(r.do(tok, "POST", "/v1/vms", newVM(vmID(4), "web4", fourth)), 403, "Quota"); !strings.Contains(a.text("detail"), "3 of 3") {
		t.Fatal(a.raw)
	}
}

// TestRegisteredOtherVM: the hypervisor's id counts, so that no bond is hidden.
func TestRegisteredOtherVM(t *testing.T) {
	r := start(t)
	tok := r.token("alice")
	image := r.upload(tok, "d", sample(10))
	body := newVM(vmID(7), "web", image)
	body["registration"] = gatetest.Registration(vmID(8))
	r.want(r.do(tok, "POST", "/v1/vms", body), 409, "Invalid")
	r.want(r.do(tok, "GET", "/v1/vms/"+vmID(7), nil), 404, "NotFound")
	r.want(r.do(tok, "GET", "/v1/vms/"+vmID(8), nil), 200, "")
	r.run1(tok, vmID(8), "delete")
}

// TestLostConfirmation: the gate takes a registration and dies before it
// answers.
func TestLostConfirmation(t *testing.T) {
	r := start(t)
	tok := r.token("alice")
	image := r.upload(tok, "d", sample(10))
	r.gate.Handle(qmp.CmdRegister, func(*gatetest.Call) (any, error) {
		r.gate.Edit(vmID(1), func(*gatetest.VM) {})
		return nil, gatetest.ErrDrop
	})
	body := newVM(vmID(1), "web", image)
	r.want(r.do(tok, "POST", "/v1/vms", body), 502, "Unavailable")
	r.gate.Handle(qmp.CmdRegister, nil)
	r.want(r.do(tok, "POST", "/v1/vms", body), 409, "Replayed")
	r.run1(tok, vmID(1), "delete")
	r.want(r.do(tok, "POST", "/v1/vms", body), 200, "")
}

func TestGateErrors(t *testing.T) {
	r := start(t)
	tok := r.token("alice")
	vm, _ := r.register(tok, 1)
	other := vmID(50)
	r.gate.Edit(other, func(*gatetest.VM) {})
	redirected := map[string]any{"command": "pause", "ticket": gatetest.Ticket(other, "pause")}
	a := r.want(r.do(tok, "POST", "/v1/vms/"+vm+"/commands", redirected), 200, "")
	if a.text("outcome") != "refused" || a.text("class") != "Redirected" {
		t.Fatal(a.raw)
	}
	if a := r.run1(tok, vm, "pause"); a.text("outcome") != "refused" || a.text("class") != "NotRunning" || unbase64(t, a.text("receipt")) != "receipt pause refused" {
		t.Fatal(a.raw)
	}
	for class, outcome := range map[string]string{
		qmp.ClassBusy: "refused", qmp.ClassExpired: "refused", qmp.ClassReplayed: "refused", qmp.ClassStale: "refused",
		qmp.ClassInternal: "error", qmp.ClassUnavailable: "error", qmp.ClassGeneric: "error", "Novelty": "error",
	} {
		r.gate.Handle(qmp.CmdOpen, func(*gatetest.Call) (any, error) {
			return nil, &qmp.Error{Class: class, Desc: "because", Receipt: []byte("sealed refusal")}
		})
		a := r.run1(tok, vm, "status")
		if a.text("outcome") != outcome || a.text("class") != class || a.text("reason") != "because" || unbase64(t, a.text("receipt")) != "sealed refusal" {
			t.Fatalf("%s: %s", class, a.raw)
		}
	}
	r.gate.Handle(qmp.CmdOpen, nil)
	url := "/v1/vms/" + vm + "/commands"
	r.want(r.do(tok, "POST", url, map[string]any{"command": "screendump", "ticket": []byte("x")}), 422, "Invalid")
	r.want(r.do(tok, "POST", url, map[string]any{"command": "pause", "ticket": ""}), 422, "Invalid")
	r.want(r.do(tok, "POST", url, map[string]any{"command": "pause", "ticket": make([]byte, 150<<10)}), 413, "TooLarge")
	r.want(r.do(tok, "POST", url, `{"command":"pause","command":"quit","ticket":"eA=="}`), 400, "Invalid")
	r.want(r.do(tok, "POST", url, strings.Repeat("[", 100)), 400, "Invalid")
}

// TestStartRollsBack: a launch that cannot run is ended again.
func TestStartRollsBack(t *testing.T) {
	r := start(t)
	tok := r.token("alice")
	vm, _ := r.register(tok, 1)
	r.gate.Handle(qmp.CmdCont, func(*gatetest.Call) (any, error) { return nil, qmp.Errorf(qmp.ClassGeneric, "no KVM") })
	a := r.run1(tok, vm, "start")
	if a.text("outcome") != "error" || a.text("reason") != "no KVM" || r.gate.VM(vm).State != qmp.StateStopped {
		t.Fatal(a.raw, r.gate.VM(vm))
	}
	r.gate.Handle(qmp.CmdCont, nil)
	if err := os.RemoveAll(r.cfg.ImageDir()); err != nil {
		t.Fatal(err)
	}
	r.want(r.do(tok, "POST", "/v1/vms/"+vm+"/commands", command(vm, "start")), 500, "Internal")
	if strings.Contains(r.do(tok, "POST", "/v1/vms/"+vm+"/commands", command(vm, "start")).raw, r.cfg.DataDir) {
		t.Fatal("a path of the server reaches the tenant")
	}
}

func TestGateGone(t *testing.T) {
	r := start(t)
	tok := r.token("alice")
	vm, image := r.register(tok, 1)
	for name, err := range map[string]error{"dropped": gatetest.ErrDrop, "garbage": gatetest.ErrGarbage} {
		for _, at := range []string{qmp.CmdQueryStatus, qmp.CmdClose} {
			r.gate.Handle(at, func(*gatetest.Call) (any, error) { return nil, err })
			a := r.run1(tok, vm, "status")
			if a.text("outcome") != "unknown" || a.body["receipt"] != nil || !strings.Contains(a.text("reason"), "unknown") {
				t.Fatalf("%s at %s: %s", name, at, a.raw)
			}
			r.gate.Handle(at, nil)
		}
		r.gate.Handle(qmp.CmdOpen, func(*gatetest.Call) (any, error) { return nil, err })
		r.want(r.do(tok, "POST", "/v1/vms/"+vm+"/commands", command(vm, "status")), 502, "Unavailable")
		r.gate.Handle(qmp.CmdOpen, nil)
	}
	r.gate.Stop()
	r.want(r.do(tok, "GET", "/v1/host", nil), 502, "Unavailable")
	r.want(r.do(tok, "POST", "/v1/vms/"+vm+"/commands", command(vm, "status")), 502, "Unavailable")
	free := r.upload(tok, "free", sample(9))
	r.want(r.do(tok, "POST", "/v1/vms", newVM(vmID(2), "web2", free)), 502, "Unavailable")
	r.want(r.do(tok, "DELETE", "/v1/images/"+free, nil), 204, "")
	if a := r.want(r.do(tok, "GET", "/v1/vms/"+vm, nil), 200, ""); a.text("state") != "unknown" {
		t.Fatal(a.raw)
	}
	if err := r.gate.Listen(); err != nil {
		t.Fatal(err)
	}
	if a := r.run1(tok, vm, "status"); a.text("outcome") != "done" {
		t.Fatal(a.raw)
	}
	// A hypervisor that lost the VM cannot delete it: the record goes all the same.
	r.gate.Handle(qmp.CmdOpen, func(*gatetest.Call) (any, error) { return nil, qmp.Errorf(qmp.ClassDeviceNotFound, "no VM") })
	r.run1(tok, vm, "delete")
	r.want(r.do(tok, "DELETE", "/v1/images/"+image, nil), 204, "")
}

// TestShutdownWaits: the guest takes its time, or none is left.
func TestShutdownWaits(t *testing.T) {
	r := start(t)
	tok := r.token("alice")
	vm, _ := r.register(tok, 1)
	r.run1(tok, vm, "start")
	var looks atomic.Int64
	r.gate.Handle(qmp.CmdSystemPowerdown, func(*gatetest.Call) (any, error) { return nil, nil })
	r.gate.Handle(qmp.CmdQueryStatus, func(*gatetest.Call) (any, error) {
		if looks.Add(1) < 5 {
			return qmp.StatusResult{Status: qmp.StateRunning, Running: true}, nil
		}
		return qmp.StatusResult{Status: qmp.StateShutdown}, nil
	})
	if a := r.run1(tok, vm, "shutdown"); a.text("outcome") != "done" || looks.Load() != 5 {
		t.Fatal(looks.Load(), a.raw)
	}
	r.gate.Handle(qmp.CmdQueryStatus, nil)
	r.gate.Handle(qmp.CmdOpen, func(*gatetest.Call) (any, error) { return qmp.OpenResult{Session: "1", Deadline: 2}, nil })
	r.gate.Handle(qmp.CmdQueryStatus, func(*gatetest.Call) (any, error) {
		return qmp.StatusResult{Status: qmp.StateRunning, Running: true}, nil
	})
	r.gate.Handle(qmp.CmdClose, func(*gatetest.Call) (any, error) { return qmp.CloseResult{Verdict: "done"}, nil })
	if a := r.run1(tok, vm, "shutdown"); a.text("outcome") != "error" || !strings.Contains(a.text("reason"), "still running") {
		t.Fatal(a.raw)
	}
}

// TestDisksOfferedAgain: the watcher serves a VM that lost its descriptors.
func TestDisksOfferedAgain(t *testing.T) {
	r := start(t)
	tok := r.token("alice")
	vm, _ := r.register(tok, 1)
	r.gate.Edit(vm, func(v *gatetest.VM) { v.NeedsDisks = []string{"root"} })
	r.gate.Edit(vmID(77), func(v *gatetest.VM) { v.NeedsDisks = []string{"root"} }) // no record of it
	deadline := time.Now().Add(8 * time.Second)
	for len(r.gate.VM(vm).NeedsDisks) > 0 {
		if time.Now().After(deadline) {
			t.Fatal("no attach came")
		}
		time.Sleep(20 * time.Millisecond)
	}
	if !slices.Contains(r.gate.Calls(), qmp.CmdAttach) {
		t.Fatal("not by uvbond-attach")
	}
}

func TestOpenAPI(t *testing.T) {
	r := start(t)
	a := r.want(r.do("", "GET", "/openapi.json", nil), 200, "")
	if a.text("openapi") != "3.1.0" {
		t.Fatal(a.raw[:200])
	}
	var doc struct {
		Paths map[string]map[string]struct {
			OperationID string              `json:"operationId"`
			Security    []map[string][]any  `json:"security"`
			Responses   map[string]struct{} `json:"responses"`
		} `json:"paths"`
	}
	if err := json.Unmarshal([]byte(a.raw), &doc); err != nil {
		t.Fatal(err)
	}
	var got []string
	for path, methods := range doc.Paths {
		for method, op := range methods {
			got = append(got, strings.ToUpper(method)+" "+path)
			if op.OperationID == "" || len(op.Responses) == 0 {
				t.Errorf("%s %s is not described", method, path)
			}
			if strings.HasPrefix(path, "/v1/") != (len(op.Security) == 1) {
				t.Errorf("%s %s: security %v", method, path, op.Security)
			}
		}
	}
	slices.Sort(got)
	want := []string{"DELETE /v1/images/{id}", "GET /healthz", "GET /metrics", "GET /v1/bases", "GET /v1/host", "GET /v1/images", "GET /v1/images/{id}",
		"GET /v1/vms", "GET /v1/vms/{id}", "GET /v1/vms/{id}/channel", "GET /v1/vms/{id}/disks", "POST /v1/bases/{name}/images", "POST /v1/images", "POST /v1/vms", "POST /v1/vms/{id}/commands", "POST /v1/vms/{id}/commands/live", "POST /v1/vms/{id}/delegated", "PUT /v1/images/{id}/data"}
	if !slices.Equal(got, want) {
		t.Fatalf("routes %v, want %v", got, want)
	}
	// Every reference in the document leads somewhere.
	for ref := range strings.SplitSeq(a.raw, `"$ref":"#/components/schemas/`) {
		name, _, _ := strings.Cut(ref, `"`)
		if ref != a.raw && strings.HasPrefix(ref, name) && name != "" && name[0] != '{' && !strings.Contains(a.raw, fmt.Sprintf("%q:{", name)) {
			t.Errorf("schema %s is missing", name)
		}
	}
}

func TestFileModes(t *testing.T) {
	r := start(t)
	r.upload(r.token("alice"), "disk", sample(100))
	err := filepath.Walk(r.cfg.DataDir, func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().Perm()&0o077 != 0 && filepath.Base(path) != "cert.pem" {
			t.Errorf("%s has mode %o", path, info.Mode().Perm())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
