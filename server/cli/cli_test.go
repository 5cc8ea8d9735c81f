package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/server/gatetest"
	"github.com/uvbond/uvbond/server/store"
)

type rig struct {
	t      *testing.T
	config string
	data   string
	gate   string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	dir := t.TempDir()
	r := &rig{t, filepath.Join(dir, "server.toml"), filepath.Join(dir, "data"), filepath.Join(dir, "gate.sock")}
	text := fmt.Sprintf("listen = \"127.0.0.1:0\"\ndata_dir = %q\ngate = %q\n[limits]\nquota = \"1GiB\"\n", r.data, r.gate)
	if err := os.WriteFile(r.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return r
}

// run fails unless the command ends with this code, and returns its output.
func (r *rig) run(code int, args ...string) (stdout, stderr string) {
	r.t.Helper()
	var out, errs bytes.Buffer
	if got := Run(r.t.Context(), append([]string{"--config", r.config}, args...), &out, &errs); got != code {
		r.t.Fatalf("%v: exit %d, want %d: %s%s", args, got, code, out.String(), errs.String())
	}
	return out.String(), errs.String()
}

func (r *rig) store() *store.Store {
	r.t.Helper()
	st, err := store.Open(r.t.Context(), filepath.Join(r.data, "server.db"))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { st.Close() })
	return st
}

func TestTokensAndTenants(t *testing.T) {
	r := newRig(t)
	out, _ := r.run(0, "token", "create", "alice", "--note", "laptop")
	token := strings.TrimSpace(out)
	r.run(2, "token", "create", "Not A Name")
	out, _ = r.run(0, "token", "list", "--json")
	if !strings.Contains(out, "laptop") || strings.Contains(out, token) {
		t.Fatal(out)
	}
	st := r.store()
	if _, err := st.Authenticate(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	r.run(2, "token", "revoke", "alice")
	r.run(1, "token", "revoke", "alice", "--id", "7")
	r.run(0, "token", "revoke", "alice", "--id", "1")
	if _, err := st.Authenticate(t.Context(), token); err == nil {
		t.Fatal("a revoked token is good")
	}
	r.run(2, "tenant", "quota", "alice")
	r.run(2, "tenant", "quota", "alice", "--size", "many")
	r.run(1, "tenant", "quota", "nobody", "--vms", "1")
	r.run(0, "tenant", "quota", "alice", "--size", "5GiB")
	out, _ = r.run(0, "tenant", "list")
	if !strings.Contains(out, "5GiB") {
		t.Fatal(out)
	}
	if raw, err := os.ReadFile(filepath.Join(r.data, "server.db")); err != nil || bytes.Contains(raw, []byte(token)) {
		t.Fatal("the database holds a token", err)
	}
}

func TestOperator(t *testing.T) {
	r := newRig(t)
	r.run(0, "token", "create", "alice")
	st := r.store()
	id := strings.Repeat("a", 32)
	vm := &store.VM{ID: id, Name: "web1", Tenant: 1}
	if err := st.CreateVM(t.Context(), vm); err != nil {
		t.Fatal(err)
	}
	if _, errs := r.run(6, "vm", "status", "web1"); !strings.Contains(errs, "does not exist") {
		t.Fatal(errs)
	}
	if out, _ := r.run(0, "vm", "list"); !strings.Contains(out, "unknown") {
		t.Fatal(out)
	}
	g := gatetest.Start(t, r.gate)
	g.Edit(id, func(v *gatetest.VM) { v.State = qmp.StateRunning; v.Allowed = []string{"query-status", "stop"} })
	if out, _ := r.run(0, "vm", "pause", "alice/web1"); !strings.Contains(out, "state paused") {
		t.Fatal(out)
	}
	if _, errs := r.run(3, "vm", "resume", id); !strings.Contains(errs, "Denied: the owner's policy does not allow cont") {
		t.Fatal(errs)
	}
	out, _ := r.run(0, "vm", "status", "web1", "--json")
	var status struct{ State string }
	if err := json.Unmarshal([]byte(out), &status); err != nil || status.State != "paused" {
		t.Fatal(out, err)
	}
	r.run(1, "vm", "status", "web2")
	if out, _ := r.run(0, "gate", "--vm", "web1", "query-status"); !strings.Contains(out, "paused") {
		t.Fatal(out)
	}
	if _, errs := r.run(3, "gate", "--vm", "web1", "screendump", `{"filename":"/tmp/x"}`); !strings.Contains(errs, "Denied") {
		t.Fatal(errs)
	}
	r.run(2, "gate", "query-status", "[1]")
	g.Handle(qmp.CmdQueryStatus, func(*gatetest.Call) (any, error) { return nil, gatetest.ErrDrop })
	r.run(5, "vm", "status", "web1")
}

func TestImagePlace(t *testing.T) {
	r := newRig(t)
	r.run(0, "token", "create", "alice")
	st := r.store()
	tenant := &store.Tenant{ID: 1}
	var ids []string
	for i, name := range []string{"a", "b"} {
		id := strings.Repeat(name, 32)
		img, _, err := st.CreateImage(t.Context(), id, tenant, store.NewImage{Name: name, Size: 1 << 20, SHA256: [32]byte{byte(i)}}, 10)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, img.ID)
	}
	onCeph := func(id, export string) []string {
		return []string{"image", "place", id, "--storage", "ceph1", "--export", export}
	}
	if _, errs := r.run(1, onCeph(ids[0], "x")...); !strings.Contains(errs, "uploading, not ready") {
		t.Fatal(errs)
	}
	for _, id := range ids {
		if err := st.SetImageState(t.Context(), id, store.ImageUploading, store.ImageReady, ""); err != nil {
			t.Fatal(err)
		}
	}
	if out, _ := r.run(0, onCeph(ids[0], "pool/x")...); !strings.Contains(out, "is on ceph1:pool/x") || !strings.Contains(out, filepath.Join("images", ids[0])) {
		t.Fatal(out)
	}
	if _, errs := r.run(1, onCeph(ids[1], "pool/x")...); !strings.Contains(errs, "another image is there") {
		t.Fatal(errs)
	}
	if out, _ := r.run(0, "image", "list", "alice"); !strings.Contains(out, "ceph1:pool/x") || !strings.Contains(out, "file") {
		t.Fatal(out)
	}
	for _, args := range [][]string{
		{"image", "place"}, {"image", "place", ids[0]}, {"image", "place", ids[0], "--file", "--storage", "ceph1"}, {"image", "place", ids[0], "--file", "--export", "x"},
		{"image", "place", ids[0], "--storage", "nbd://10.0.0.1"}, onCeph(ids[0], "a b"),
	} {
		r.run(2, args...)
	}
	r.run(1, onCeph(strings.Repeat("f", 32), "y")...)

	// A VM that runs keeps its disk where it is.
	vm := &store.VM{ID: strings.Repeat("c", 32), Name: "web1", Tenant: 1, Disks: []store.Disk{{Name: "root", Image: ids[0]}}}
	if err := st.CreateVM(t.Context(), vm); err != nil {
		t.Fatal(err)
	}
	r.run(6, "image", "place", ids[0], "--file")
	g := gatetest.Start(t, r.gate)
	g.Edit(vm.ID, func(v *gatetest.VM) { v.State = qmp.StateRunning })
	if _, errs := r.run(3, "image", "place", ids[0], "--file"); !strings.Contains(errs, "stop it first") {
		t.Fatal(errs)
	}
	g.Edit(vm.ID, func(v *gatetest.VM) { v.State = qmp.StateStopped })
	r.run(0, "image", "place", ids[0], "--file")
	r.run(0, onCeph(ids[1], "pool/x")...)
}

func TestAmbiguousName(t *testing.T) {
	r := newRig(t)
	r.run(0, "token", "create", "alice")
	r.run(0, "token", "create", "bob")
	st := r.store()
	for i, id := range []string{strings.Repeat("a", 32), strings.Repeat("b", 32)} {
		if err := st.CreateVM(t.Context(), &store.VM{ID: id, Name: "web", Tenant: int64(i + 1)}); err != nil {
			t.Fatal(err)
		}
	}
	if _, errs := r.run(2, "vm", "pause", "web"); !strings.Contains(errs, "alice/web, bob/web") {
		t.Fatal(errs)
	}
}

func TestDoctor(t *testing.T) {
	r := newRig(t)
	out, _ := r.run(1, "doctor")
	for _, want := range []string{"does not exist", "install -d", "mend:"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
	g := gatetest.Start(t, r.gate)
	r.run(0, "token", "create", "alice")
	g.Handle(qmp.CmdCapabilities, func(*gatetest.Call) (any, error) { return nil, qmp.Errorf(qmp.ClassDenied, "not you") })
	if out, _ = r.run(1, "doctor"); !strings.Contains(out, "to gate_users in hypervisor.toml") {
		t.Fatalf("a gate that does not admit the server: %s", out)
	}
	g.Handle(qmp.CmdCapabilities, nil)
	out, _ = r.run(0, "doctor", "--json")
	if !strings.Contains(out, `"missing": 0`) {
		t.Fatal(out)
	}
	for program, want := range map[string]string{"/bin/true": "makes exports for new disks on ceph1", "": "nobody makes exports", r.config: "cannot be run by this user"} {
		conf, err := os.ReadFile(r.config)
		if err != nil {
			t.Fatal(err)
		}
		more := fmt.Appendf(conf, "\n[bases]\nstorage = \"ceph1\"\nexports = %q\n", program)
		if err := os.WriteFile(r.config, more, 0o600); err != nil {
			t.Fatal(err)
		}
		code := 0
		if program == r.config {
			code = 1
		}
		if out, _ := r.run(code, "doctor"); !strings.Contains(out, want) {
			t.Errorf("%q: no %q in %s", program, want, out)
		}
		if err := os.WriteFile(r.config, more[:len(conf)], 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestUsage(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"vm", "pause"}, "NAME-or-ID is missing; use: uvbond-server vm pause NAME-or-ID\nsee uvbond-server vm pause --help"},
		{[]string{"vm", "pause", "a", "b"}, "\"b\" is one argument too many"},
		{[]string{"token"}, "needs a command: create, list, revoke"},
		{[]string{"gate"}, "COMMAND is missing"},
	} {
		if _, errs := r.run(2, c.args...); !strings.Contains(errs, c.want) {
			t.Errorf("%v: %s", c.args, errs)
		}
	}
	for _, args := range [][]string{{}, {"nothing"}, {"vm"}, {"vm", "explode", "x"}, {"serve", "x"}, {"--nonsense"}, {"vm", "pause"}} {
		r.run(2, args...)
	}
	r.run(0, "version")
	r.run(0, "completion", "bash")
	for _, args := range [][]string{{"serve"}, {"token", "create"}, {"token", "list"}, {"token", "revoke"}, {"tenant", "list"}, {"tenant", "quota"},
		{"vm", "list"}, {"vm", "pause"}, {"gate"}, {"doctor"}, {"version"}} {
		if out, _ := r.run(0, append(args, "--help")...); !strings.Contains(out, "Examples:") {
			t.Errorf("%v has no examples", args)
		}
	}
	for text, want := range map[string]string{
		"listen = \"nowhere\"": "host:port", "lissten = \"x\"": "unknown key", "data_dir = \"x\"": "absolute", "[log]\nformat = \"xml\"": "text or json",
		"[limits]\nquota = \"-1\"": "size", "[timeouts]\nbody = \"soon\"": "duration", "a = [": "server.toml",
	} {
		if err := os.WriteFile(r.config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, errs := r.run(1, "token", "list"); !strings.Contains(errs, want) {
			t.Errorf("%q: %s", text, errs)
		}
	}
}

// TestLimitsAndStats: what is not given stays, and what would starve a guest is refused.
func TestLimitsAndStats(t *testing.T) {
	r := newRig(t)
	r.run(0, "token", "create", "alice")
	id := strings.Repeat("a", 32)
	if err := r.store().CreateVM(t.Context(), &store.VM{ID: id, Name: "web1", Tenant: 1}); err != nil {
		t.Fatal(err)
	}
	g := gatetest.Start(t, r.gate)
	g.Edit(id, func(v *gatetest.VM) {})
	if _, errs := r.run(3, "vm", "limit", "web1"); !strings.Contains(errs, "does not run") {
		t.Fatal(errs)
	}
	g.Edit(id, func(v *gatetest.VM) { v.State = qmp.StateRunning })
	if out, _ := r.run(0, "vm", "limit", "web1"); !strings.Contains(out, "no limit") {
		t.Fatal(out)
	}
	r.run(0, "vm", "limit", "web1", "--disk", "root", "--iops", "500", "--burst", "2")
	if out, _ := r.run(0, "vm", "limit", "web1", "--disk", "root", "--bytes", "50MiB"); !strings.Contains(out, "500") || !strings.Contains(out, "50MiB") || !strings.Contains(out, "2 s") {
		t.Fatal(out)
	}
	out, _ := r.run(0, "vm", "limit", "web1", "--json")
	var v struct{ Limits []qmp.VMLimits }
	if err := json.Unmarshal([]byte(out), &v); err != nil || len(v.Limits) != 1 || v.Limits[0] != (qmp.VMLimits{Disk: "root", IOPS: 500, Bytes: 50 << 20, Burst: 2}) {
		t.Fatal(out, err)
	}
	for _, args := range [][]string{{"--iops", "500"}, {"--disk", "data", "--iops", "500"}, {"--disk", "root", "--iops", "5"}, {"--disk", "root", "--bytes", "much"}, {"--disk", "root", "--burst", "61"}} {
		r.run(2, append([]string{"vm", "limit", "web1"}, args...)...)
	}
	if out, _ := r.run(0, "vm", "stats", "web1"); !strings.Contains(out, "read") || !strings.Contains(out, "8KiB") {
		t.Fatal(out)
	}
	if out, _ := r.run(0, "vm", "stats", "web1", "--json"); !strings.Contains(out, `"enciphered": 8192`) {
		t.Fatal(out)
	}
}

// TestBase: base images are added, listed and removed.
func TestBase(t *testing.T) {
	r := newRig(t)
	file := filepath.Join(t.TempDir(), "debian 12.raw")
	if err := os.WriteFile(file, []byte("a public image"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, errs := r.run(2, "base", "add", file); !strings.Contains(errs, "give one with --name") {
		t.Error(errs)
	}
	r.run(2, "base", "add")
	if _, errs := r.run(1, "base", "add", file+"x", "--name", "x"); !strings.Contains(errs, "no such file") {
		t.Error(errs)
	}
	out, _ := r.run(0, "base", "add", file, "--name", "debian-12.raw", "--json")
	var b struct {
		Name, SHA256 string
		Size         int64
	}
	if err := json.Unmarshal([]byte(out), &b); err != nil || b.Name != "debian-12.raw" || len(b.SHA256) != 64 || b.Size != 14 {
		t.Fatal(out, err)
	}
	if out, _ := r.run(0, "base", "list"); !strings.Contains(out, "debian-12.raw") || !strings.Contains(out, b.SHA256) {
		t.Error(out)
	}
	if _, errs := r.run(1, "base", "add", file, "--name", "debian-12.raw"); !strings.Contains(errs, "already") {
		t.Error(errs)
	}
	r.run(1, "base", "remove", "debian-13.raw")
	r.run(0, "base", "remove", "debian-12.raw")
	if out, _ := r.run(0, "base", "list", "--json"); !strings.Contains(out, `"bases": []`) {
		t.Error(out)
	}
	if left, err := os.ReadDir(filepath.Join(r.data, "bases")); err != nil || len(left) != 0 {
		t.Error(left, err)
	}
}
