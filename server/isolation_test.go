package server_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/uvbond/uvbond/server/gatetest"
)

// TestIsolation: on every route that names a record, another tenant's is the
// same as none, to the letter; and no list shows it.
func TestIsolation(t *testing.T) {
	r := start(t)
	alice, mallory := r.token("alice"), r.token("mallory")
	vm, image := r.register(alice, 1)
	data := sample(100)
	half := r.want(r.do(alice, "POST", "/v1/images", announce("half", data)), 200, "").text("id")
	own := r.upload(mallory, "own", sample(50))
	none := strings.Repeat("0f", 16)
	routes := []struct {
		method, path string // %s is the record
		id           string
		body         func(id string) any
	}{
		{"GET", "/v1/images/%s", image, nil},
		{"DELETE", "/v1/images/%s", half, nil},
		{"PUT", "/v1/images/%s/data?offset=0", half, func(string) any { return data }},
		{"GET", "/v1/vms/%s", vm, nil},
		{"POST", "/v1/vms/%s/commands", vm, func(id string) any { return command(id, "pause") }},
		{"POST", "/v1/vms/%s/commands/live", vm, func(id string) any { return command(id, "pause") }},
		{"POST", "/v1/vms", image, func(id string) any { return newVM(vmID(9), "stolen", id) }},
	}
	r.gate.Calls()
	for _, route := range routes {
		ask := func(id string) string {
			var body any
			if route.body != nil {
				body = route.body(id)
			}
			a := r.want(r.do(mallory, route.method, strings.Replace(route.path, "%s", id, 1), body), 404, "NotFound")
			a.body["request_id"] = ""
			raw, err := json.Marshal(a.body)
			if err != nil {
				t.Fatal(err)
			}
			return strings.ReplaceAll(string(raw), id, "ID")
		}
		if foreign, missing := ask(route.id), ask(none); foreign != missing {
			t.Errorf("%s %s tells a foreign record from none:\n%s\n%s", route.method, route.path, foreign, missing)
		}
	}
	for _, path := range []string{"/v1/images", "/v1/vms"} {
		raw := r.do(mallory, "GET", path, nil).raw
		for _, id := range []string{vm, image, half} {
			if strings.Contains(raw, id) {
				t.Errorf("%s shows a foreign record: %s", path, raw)
			}
		}
	}
	// The same upload by another tenant is another image.
	if id := r.do(mallory, "POST", "/v1/images", announce("half", data)).text("id"); id == half {
		t.Error("tenants share an upload")
	}
	if calls := r.gate.Calls(); len(calls) != 0 {
		t.Errorf("the gate was asked: %v", calls)
	}
	// Names are each tenant's own.
	body := newVM(vmID(9), "web1", own)
	r.want(r.do(mallory, "POST", "/v1/vms", body), 200, "")
	// A foreign VM's id is refused, and its record untouched.
	other := r.upload(mallory, "other", sample(51))
	r.want(r.do(mallory, "POST", "/v1/vms", newVM(vm, "web3", other)), 409, "Conflict")
	r.want(r.do(alice, "GET", "/v1/vms/"+vm, nil), 200, "")
	r.want(r.do(alice, "PUT", "/v1/images/"+half+"/data?offset=0", data), 200, "")
}

func TestNoToken(t *testing.T) {
	r := start(t)
	vm, image := r.register(r.token("alice"), 1)
	for _, route := range [][2]string{
		{"GET", "/v1/host"}, {"GET", "/v1/images"}, {"POST", "/v1/images"}, {"GET", "/v1/images/" + image}, {"DELETE", "/v1/images/" + image},
		{"PUT", "/v1/images/" + image + "/data?offset=0"}, {"GET", "/v1/vms"}, {"POST", "/v1/vms"}, {"GET", "/v1/vms/" + vm}, {"POST", "/v1/vms/" + vm + "/commands"},
	} {
		for _, token := range []string{"", "x", "uvb_" + strings.Repeat("A", 43), strings.Repeat("y", 4000)} {
			a := r.want(r.do(token, route[0], route[1], nil), 401, "Unauthorized")
			if a.header.Get("WWW-Authenticate") != "Bearer" {
				t.Fatal("no WWW-Authenticate")
			}
		}
	}
	r.want(r.do("", "GET", "/nowhere", nil), 404, "NotFound")
	if a := r.want(r.do("", "PATCH", "/v1/images", nil), 405, "Invalid"); a.header.Get("Allow") != "GET, POST" {
		t.Fatal(a.header)
	}
}

// TestLogHoldsNoSecrets: neither tokens nor blobs get into the log.
func TestLogHoldsNoSecrets(t *testing.T) {
	r := start(t)
	tok := r.token("alice")
	vm, _ := r.register(tok, 1)
	r.run1(tok, vm, "start")
	r.do(tok, "POST", "/v1/vms/"+vm+"/commands", map[string]any{"command": 5, "ticket": gatetest.Ticket(vm, "pause")})
	r.do(tok+"x", "GET", "/v1/vms?token="+tok, nil)
	log := r.log.String()
	for _, secret := range []string{tok, tok[4:20], "descriptor", "confirmation", `"vm"`, "eyJ"} {
		if strings.Contains(log, secret) {
			t.Errorf("the log holds %q", secret)
		}
	}
	if !strings.Contains(log, "tenant=alice") {
		t.Error("the log names no tenant")
	}
}
