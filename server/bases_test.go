package server_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/server"
	"github.com/uvbond/uvbond/server/config"
	"github.com/uvbond/uvbond/server/gatetest"
	"github.com/uvbond/uvbond/server/store"
)

// offer adds a base image as uvbond-server base add does, while the server runs.
func (r *rig) offer(name string, content []byte) {
	r.t.Helper()
	st, err := store.Open(r.t.Context(), r.cfg.Database())
	if err != nil {
		r.t.Fatal(err)
	}
	defer st.Close()
	path := filepath.Join(r.t.TempDir(), "base")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		r.t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	if _, err := server.BaseStore(r.cfg, st).Add(r.t.Context(), name, f, nil); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) blank(token, base, name string, size int64) answer {
	r.t.Helper()
	return r.do(token, "POST", "/v1/bases/"+base+"/images", map[string]any{"name": name, "size": size})
}

// TestBases: base images are offered to every tenant, and an image for a disk made
// from one is the tenant's, as long as the disk, within quota and room, and once.
func TestBases(t *testing.T) {
	r := start(t, func(c *config.Config) { c.Limits.Quota = 10 << 20 })
	alice, bob := r.token("alice"), r.token("bob")
	if a := r.want(r.do(alice, "GET", "/v1/bases", nil), 200, ""); a.raw != "{\"bases\":[]}\n" {
		t.Error(a.raw)
	}
	r.want(r.do("", "GET", "/v1/bases", nil), 401, "")
	content := sample(1 << 20)
	r.offer("debian-12.raw", content)
	sum := sha256.Sum256(content)
	for _, token := range []string{alice, bob} {
		a := r.want(r.do(token, "GET", "/v1/bases", nil), 200, "")
		if want := fmt.Sprintf(`{"name":"debian-12.raw","size":1048576,"sha256":%q}`, hex.EncodeToString(sum[:])); !strings.Contains(a.raw, want) {
			t.Errorf("%s", a.raw)
		}
	}
	r.want(r.blank(alice, "debian-13.raw", "x", 4<<20), 404, "NotFound")
	r.want(r.blank(alice, "..%2f..%2fetc", "x", 4<<20), 404, "NotFound")
	r.want(r.blank(alice, "debian-12.raw", "x", 1<<20-1), 422, "Invalid")
	r.want(r.blank(alice, "debian-12.raw", "x", 1<<60), 422, "Invalid")
	r.want(r.blank(alice, "debian-12.raw", "", 4<<20), 422, "")
	r.want(r.blank(alice, "debian-12.raw", "x", 11<<20), 413, "Quota")
	a := r.want(r.blank(alice, "debian-12.raw", "web1-disk0", 4<<20), 200, "")
	id := a.text("id")
	if a.text("state") != "ready" || a.text("base") != "debian-12.raw" || a.body["size"] != float64(4<<20) || a.body["offset"] != float64(4<<20) {
		t.Error(a.raw)
	}
	info, err := os.Stat(filepath.Join(r.cfg.ImageDir(), id))
	if err != nil || info.Size() != 4<<20 {
		t.Fatal(info, err)
	}
	if again := r.want(r.blank(alice, "debian-12.raw", "web1-disk0", 4<<20), 200, ""); again.text("id") != id {
		t.Error("the same request made another image")
	}
	if other := r.want(r.blank(bob, "debian-12.raw", "web1-disk0", 4<<20), 200, ""); other.text("id") == id {
		t.Error("two tenants have one image")
	}
	r.want(r.do(bob, "GET", "/v1/images/"+id, nil), 404, "NotFound")
	r.want(r.do(alice, "PUT", "/v1/images/"+id+"/data?offset=0", []byte("x")), 409, "")
	r.want(r.blank(alice, "debian-12.raw", "another", 7<<20), 413, "Quota")
	r.want(r.do(alice, "DELETE", "/v1/images/"+id, nil), 204, "")
	r.want(r.blank(alice, "debian-12.raw", "another", 7<<20), 200, "")
}

// TestBuildCommand: the gate gets base and image, each open as it has to be, until
// the disk is made; the record tells how far it is.
func TestBuildCommand(t *testing.T) {
	r := start(t)
	tok := r.token("alice")
	content := sample(100_000)
	r.offer("debian-12.raw", content)
	image := r.want(r.blank(tok, "debian-12.raw", "web1-disk0", 1<<20), 200, "").text("id")
	vm := vmID(1)
	r.want(r.do(tok, "POST", "/v1/vms", newVM(vm, "web1", image)), 200, "")
	r.gate.Edit(vm, func(v *gatetest.VM) {
		v.Builds = []qmp.BuildState{{Disk: "root", Phase: qmp.BuildWrite, Done: 3, Total: 7}}
	})
	for _, path := range []string{"/v1/vms", "/v1/vms/" + vm} {
		if a := r.want(r.do(tok, "GET", path, nil), 200, ""); !strings.Contains(a.raw, `"builds":[{"disk":"root","phase":"write","done":3,"total":7}]`) {
			t.Error(a.raw)
		}
	}
	var mu sync.Mutex // the gate's goroutine writes, too
	var calls int
	var problems []string
	r.gate.Handle(qmp.CmdBuild, func(c *gatetest.Call) (any, error) {
		mu.Lock()
		defer mu.Unlock()
		calls++
		if len(c.Files) != 2 || c.Arguments["disk"] != "root" {
			problems = append(problems, fmt.Sprintf("%d files for %v", len(c.Files), c.Arguments))
			return nil, qmp.Errorf(qmp.ClassInvalid, "no")
		}
		if got, err := io.ReadAll(c.Files[0]); err != nil || calls == 1 && !bytes.Equal(got, content) {
			problems = append(problems, fmt.Sprint("another base: ", err))
		}
		if _, err := c.Files[0].WriteAt([]byte("x"), 0); err == nil {
			problems = append(problems, "the base is open for writing")
		}
		if _, err := c.Files[1].WriteAt([]byte("made"), 0); err != nil {
			problems = append(problems, err.Error())
		}
		st := qmp.BuildState{Disk: "root", Phase: qmp.BuildWrite, Done: uint64(calls), Total: 5}
		if calls == 5 {
			st.Phase = qmp.BuildDone
		}
		return st, nil
	})
	build := func(disk string) answer {
		c := command(vm, "build")
		c["params"] = map[string]any{"disk": disk}
		return r.do(tok, "POST", "/v1/vms/"+vm+"/commands", c)
	}
	r.want(build("data"), 422, "Invalid")
	if a := r.want(build("root"), 200, ""); a.text("outcome") != "done" || a.text("receipt") == "" {
		t.Fatal(a.raw)
	}
	mu.Lock()
	if calls != 5 || len(problems) > 0 {
		t.Errorf("%d calls, %q", calls, problems)
	}
	mu.Unlock()
	if b, err := os.ReadFile(filepath.Join(r.cfg.ImageDir(), image)); err != nil || string(b[:4]) != "made" {
		t.Errorf("%q, %v", b[:4], err)
	}
	r.gate.Handle(qmp.CmdBuild, func(*gatetest.Call) (any, error) {
		return nil, qmp.Errorf(qmp.ClassInvalid, "the base image has SHA-256 x")
	})
	if a := r.want(build("root"), 200, ""); a.text("outcome") != "refused" || !strings.Contains(a.text("reason"), "SHA-256") {
		t.Error(a.raw)
	}
	plain, _ := r.register(tok, 2)
	c := command(plain, "build")
	c["params"] = map[string]any{"disk": "root"}
	if a := r.want(r.do(tok, "POST", "/v1/vms/"+plain+"/commands", c), 422, "Invalid"); !strings.Contains(a.raw, "not made from a base image") {
		t.Error(a.raw)
	}
	r.want(r.do(r.token("bob"), "POST", "/v1/vms/"+vm+"/commands", command(vm, "build")), 404, "NotFound")
	r.remove("debian-12.raw")
	if a := r.want(build("root"), 404, "NotFound"); !strings.Contains(a.raw, "not offered any more") {
		t.Error(a.raw)
	}
}

// exports is a program that makes files of a folder, writes down how it was run, and
// fails while there is a file "full" in it.
func exports(t *testing.T) (program, dir string) {
	t.Helper()
	dir = t.TempDir()
	program = filepath.Join(dir, "exports")
	text := fmt.Sprintf(`#!/bin/sh
echo "$*" >> %[1]s/log
test ! -e %[1]s/full || { echo "the pool is full" >&2; exit 1; }
case $1 in
make) truncate -s "$4" "%[1]s/$3" ;;
remove) rm -f "%[1]s/$3" ;;
esac
`, dir)
	if err := os.WriteFile(program, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return program, dir
}

// TestBuildOnStorage: the provider's configuration puts disks that are made from base
// images on a storage. Their exports are made, named to the gate, and removed.
func TestBuildOnStorage(t *testing.T) {
	program, dir := exports(t)
	r := start(t, func(c *config.Config) {
		c.Bases = config.Bases{Storage: "ceph1", Exports: program}
		c.Limits.FreeSpace = 1 << 60 // of which nothing is needed
		c.Limits.Quota = 10 << 20
	})
	tok := r.token("alice")
	roomy := *r.cfg // the base itself is a file
	roomy.Limits.FreeSpace = 0
	served := r.cfg
	r.cfg = &roomy
	r.offer("debian-12.raw", sample(100_000))
	r.cfg = served
	r.want(r.blank(tok, "debian-12.raw", "x", 11<<20), 413, "Quota")
	full := filepath.Join(dir, "full")
	if err := os.WriteFile(full, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if a := r.want(r.blank(tok, "debian-12.raw", "web1-disk0", 1<<20), 503, "Unavailable"); !strings.Contains(a.raw, "ceph1") || strings.Contains(a.raw, dir) || strings.Contains(a.raw, "pool") {
		t.Error(a.raw)
	}
	os.Remove(full)
	image := r.want(r.blank(tok, "debian-12.raw", "web1-disk0", 1<<20), 200, "").text("id")
	if a := r.want(r.blank(tok, "debian-12.raw", "web1-disk0", 1<<20), 200, ""); a.text("id") != image || a.text("state") != "ready" {
		t.Error(a.raw)
	}
	if info, err := os.Stat(filepath.Join(dir, image)); err != nil || info.Size() != 1<<20 {
		t.Fatal(info, err)
	}
	if _, err := os.Stat(filepath.Join(r.cfg.ImageDir(), image)); err == nil {
		t.Error("there is a file as well")
	}
	vm := vmID(1)
	r.want(r.do(tok, "POST", "/v1/vms", newVM(vm, "web1", image)), 200, "")
	var mu sync.Mutex
	var problems []string
	r.gate.Handle(qmp.CmdBuild, func(c *gatetest.Call) (any, error) {
		mu.Lock()
		defer mu.Unlock()
		place, _ := c.Arguments["place"].(map[string]any)
		if len(c.Files) != 1 || c.Arguments["disk"] != "root" || place["storage"] != "ceph1" || place["export"] != image {
			problems = append(problems, fmt.Sprintf("%d files for %v", len(c.Files), c.Arguments))
		}
		return qmp.BuildState{Disk: "root", Phase: qmp.BuildDone, Done: 5, Total: 5}, nil
	})
	for name, params := range map[string]map[string]any{"build": {"disk": "root"}, "start": nil} {
		c := command(vm, name)
		if params != nil {
			c["params"] = params
		}
		if a := r.want(r.do(tok, "POST", "/v1/vms/"+vm+"/commands", c), 200, ""); a.text("outcome") != "done" {
			t.Error(a.raw)
		}
	}
	mu.Lock()
	if len(problems) > 0 {
		t.Errorf("%q", problems)
	}
	mu.Unlock()
	// An image that no VM has goes with its export.
	other := r.want(r.blank(tok, "debian-12.raw", "another", 1<<20), 200, "").text("id")
	r.want(r.do(tok, "DELETE", "/v1/images/"+other, nil), 204, "")
	log, err := os.ReadFile(filepath.Join(dir, "log"))
	make := "make ceph1 %s 1048576\n"
	if want := fmt.Sprintf(make+make+make+"remove ceph1 %s\n", image, image, other, other); string(log) != want || err != nil {
		t.Errorf("%v, the program was run as %s, want %s", err, log, want)
	}
	if _, err := os.Stat(filepath.Join(dir, other)); err == nil {
		t.Error("its export is still there")
	}
	r.want(r.do(tok, "DELETE", "/v1/images/"+image, nil), 409, "Conflict")
}

func (r *rig) remove(base string) {
	r.t.Helper()
	st, err := store.Open(r.t.Context(), r.cfg.Database())
	if err != nil {
		r.t.Fatal(err)
	}
	defer st.Close()
	if err := server.BaseStore(r.cfg, st).Remove(r.t.Context(), base); err != nil {
		r.t.Fatal(err)
	}
}
