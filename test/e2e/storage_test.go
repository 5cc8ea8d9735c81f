package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/uvbond/uvbond/disk/nbdclient/nbdtest"
	"github.com/uvbond/uvbond/test/guest"
)

// TestStorage boots a guest whose ciphertext is on an NBD server, and kills that
// server, the daemon and the keeper under it.
func TestStorage(t *testing.T) {
	exports := t.TempDir()
	s := nbdtest.Nbdkit(t, "file", "dir="+exports)
	w := configured(t, fmt.Sprintf("[storage.ceph1]\nuri = %q\nconnections = 2", "nbd+unix:///?socket="+s.Path))
	u := w.user("alice")
	u.disk(image(t, guest.Options{Secret: secret}), "web1.luks")
	u.create("web1", "web1.luks")
	img := w.stored()
	file := filepath.Join(w.lab.Dir, "server", "data", "images", img)
	copyFile(t, file, filepath.Join(exports, "web1"))
	w.operator(exitDone, "is on ceph1:web1", "image", "place", img, "--storage", "ceph1", "--export", "web1")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	u.run(exitDone, "vm", "start", "web1")
	u.await("web1", "UVBOND-READY")
	u.await("web1", "tick 1")
	w.operator(exitRefused, "stop it first", "image", "place", img, "--file")

	// The storage is gone for a while: the guest waits, and goes on.
	s.Kill()
	outage(t, 2*time.Second)
	s.Start()
	u.ticksOn("web1")

	// It is restarted while the daemon is away; the next daemon connects again.
	w.lab.KillHypervisor()
	s.Kill()
	s.Start()
	u.restart()
	u.ticksOn("web1")

	// Keeper and daemon die: the management domain is not needed.
	keeper := w.one("keeper", w.lab.Keepers)
	w.lab.KillHypervisor()
	if err := syscall.Kill(keeper, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	u.restart()
	u.ticksOn("web1")

	w.operator(exitDone, "disk0: 2 connections to its storage", "vm", "stats", "web1")

	// What the guest wrote is on the storage.
	u.counterSurvives()
	u.run(exitDone, "vm", "poweroff", "web1")

	// A place that does not hold the disk is refused.
	w.operator(exitDone, "ceph1:other", "image", "place", img, "--storage", "ceph1", "--export", "other")
	u.says(exitRefused, "has no such export", "vm", "start", "web1")
	if err := os.WriteFile(filepath.Join(exports, "other"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	u.says(exitRefused, "disk disk0", "vm", "start", "web1")
	w.operator(exitDone, "other:x", "image", "place", img, "--storage", "other", "--export", "x")
	u.says(exitRefused, "no storage", "vm", "start", "web1")
}

// stored is the id of the one image that the server has.
func (w *world) stored() string {
	w.Helper()
	var list struct{ Images []struct{ Image string } }
	r := w.operator(exitDone, "images", "image", "list", "--json")
	if err := json.NewDecoder(strings.NewReader(r.Stdout)).Decode(&list); err != nil || len(list.Images) != 1 {
		w.Fatalf("%v: %s", err, r)
	}
	return list.Images[0].Image
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
