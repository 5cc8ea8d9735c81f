package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// storedImage is a line of `uvbond disk list --json`.
type storedImage struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	Offset int64  `json:"offset"`
	State  string `json:"state"`
}

func (u *user) images() map[string]storedImage {
	u.Helper()
	r := u.run(exitDone, "disk", "list", "--host", "lab", "--json")
	var list struct {
		Images []storedImage `json:"images"`
	}
	if err := json.Unmarshal([]byte(r.Stdout), &list); err != nil {
		u.Fatalf("%v: %s", err, r)
	}
	out := map[string]storedImage{}
	for _, i := range list.Images {
		out[i.Name] = i
	}
	return out
}

// bigDisk makes an encrypted disk whose upload takes a while.
func (u *user) bigDisk(name string, mib int64) {
	u.Helper()
	path := filepath.Join(u.TempDir(), name)
	cryptsetupFormat(u.T, path, mib<<20, 512)
	u.take(path, name)
}

// uploading waits until an upload has begun and not ended.
func (u *user) uploading(name string) storedImage {
	u.Helper()
	if !eventually(60*time.Second, func() bool { i := u.images()[name]; return i.Offset > 0 }) {
		u.Fatalf("the upload of %s does not get on: %+v", name, u.images())
	}
	i := u.images()[name]
	if i.State != "uploading" {
		u.Fatalf("the upload of %s was too quick for this test: %+v", name, i)
	}
	return i
}

// stored insists on an image being whole, by its content on the server's disk.
func (u *user) stored(name string) {
	u.Helper()
	i := u.images()[name]
	if i.State != "ready" {
		u.Fatalf("%+v", i)
	}
	found, _ := filepath.Glob(filepath.Join(u.lab.Dir, "server", "data", "images", i.ID+"*"))
	if len(found) != 1 {
		u.Fatalf("files of image %s: %v", i.ID, found)
	}
	if sum(u, found[0]) != sum(u, u.path(name)) {
		u.Errorf("the server stored something else than %s", name)
	}
}

func sum(u *user, path string) [32]byte {
	u.Helper()
	f, err := os.Open(path)
	if err != nil {
		u.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		u.Fatal(err)
	}
	return [32]byte(h.Sum(nil))
}

// TestUpload pushes over a network and to a server that both fail.
func TestUpload(t *testing.T) {
	w := newWorld(t)
	u := w.user("alice")
	net, url := w.cable()
	u.run(exitDone, "host", "add", "far", url, "--token-file", "token", "--yes")
	u.bigDisk("cut.luks", 96)
	u.bigDisk("killed.luks", 96)
	u.bigDisk("stopped.luks", 96)

	t.Run("connections break", func(t *testing.T) {
		u := &user{&world{t, w.lab}, u.tenant}
		done := make(chan struct{})
		go func() { // each 20 MiB
			for {
				net.set(0, 20<<20)
				for cuts := net.broken(); cuts == net.broken(); {
					select {
					case <-done:
						return
					case <-time.After(10 * time.Millisecond):
					}
				}
			}
		}()
		u.run(exitDone, "disk", "push", "cut.luks", "--host", "far")
		close(done)
		if net.broken() < 3 {
			t.Errorf("the connection broke %d times only", net.broken())
		}
		net.set(0, 0)
		u.stored("cut.luks")
	})

	t.Run("server killed", func(t *testing.T) {
		u := &user{&world{t, w.lab}, u.tenant}
		net.set(5*time.Millisecond, 0)
		_, wait := u.background("disk", "push", "killed.luks", "--host", "far")
		u.uploading("killed.luks")
		w.lab.StopServer(syscall.SIGKILL)
		time.Sleep(time.Second)
		if err := w.lab.StartServer(t.Context()); err != nil {
			t.Fatal(err)
		}
		if i := u.images()["killed.luks"]; i.Offset == 0 {
			t.Errorf("what had arrived is gone: %+v", i)
		}
		net.set(0, 0)
		if r := wait(); r.Code != exitDone {
			t.Fatal(r)
		}
		u.stored("killed.luks")
	})

	t.Run("client killed", func(t *testing.T) {
		u := &user{&world{t, w.lab}, u.tenant}
		net.set(5*time.Millisecond, 0)
		cmd, wait := u.background("disk", "push", "stopped.luks", "--host", "far")
		before := u.uploading("stopped.luks")
		_ = cmd.Process.Kill()
		wait()
		net.set(0, 0)
		u.run(exitDone, "disk", "push", "stopped.luks", "--host", "lab")
		u.stored("stopped.luks")
		if after := u.images()["stopped.luks"]; after.ID != before.ID {
			t.Error("the second push did not go on with the first one's image")
		}
	})
}

// TestFullDisk encrypts to a file system without room.
func TestFullDisk(t *testing.T) {
	w := newWorld(t)
	w.root() // mounts
	u := w.user("alice")
	small := u.path("small")
	if err := os.Mkdir(small, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=24m,mode=0777"); err != nil {
		t.Skip("no right to mount: ", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(small, 0) })
	if err := u.tenant.Write("plain", make([]byte, 32<<20)); err != nil {
		t.Fatal(err)
	}
	u.says(exitError, "no room for small/d.luks", append([]string{"disk", "encrypt", "plain", "small/d.luks", "--passphrase-file", "passphrase"}, cheap...)...)
	left, err := os.ReadDir(small)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}
