package server_test

import (
	"slices"
	"testing"

	"github.com/uvbond/uvbond/server/gatetest"
)

// TestDelegated: another tenant's ticket for a VM is relayed and nothing else of
// the VM is open to it.
func TestDelegated(t *testing.T) {
	r := start(t)
	alice, bob := r.token("alice"), r.token("bob")
	vm, _ := r.register(alice, 1)
	r.run1(alice, vm, "start")
	r.gate.Calls()
	url := "/v1/vms/" + vm + "/delegated"
	a := r.want(r.do(bob, "POST", url, command(vm, "pause")), 200, "")
	if a.text("outcome") != "done" || unbase64(t, a.text("receipt")) != "receipt pause done" {
		t.Fatal(a.raw)
	}
	if calls := r.gate.Calls(); !slices.Contains(calls, "stop") {
		t.Errorf("calls %v", calls)
	}
	r.want(r.do("", "POST", url, command(vm, "pause")), 401, "")
	r.want(r.do(bob, "POST", "/v1/vms/"+vmID(77)+"/delegated", command(vmID(77), "pause")), 404, "NotFound")
	for _, owners := range []string{"start", "log", "audit", "allow", "undelegate", "delete", "grow"} {
		r.want(r.do(bob, "POST", url, command(vm, owners)), 422, "Invalid")
	}
	r.want(r.do(bob, "POST", url, map[string]any{"command": "pause", "ticket": ""}), 422, "Invalid")
	r.want(r.do(bob, "POST", url, map[string]any{"command": "pause", "ticket": make([]byte, 150<<10)}), 413, "TooLarge")
	a = r.want(r.do(bob, "POST", url, map[string]any{"command": "pause", "ticket": gatetest.Ticket(vmID(50), "pause")}), 200, "")
	if a.text("class") != "Redirected" {
		t.Error(a.raw)
	}
	r.want(r.do(bob, "GET", "/v1/vms/"+vm, nil), 404, "NotFound")
	r.want(r.do(bob, "POST", "/v1/vms/"+vm+"/commands", command(vm, "pause")), 404, "NotFound")
}
