package e2e

import (
	"testing"
	"time"
)

// TestServerGone: a server that never comes back. The client gives up by
// itself, which takes more than a minute, beside other tests.
func TestServerGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user("alice")
	net, url := w.cable()
	u.run(exitDone, "host", "add", "far", url, "--token-file", "token", "--yes")
	u.bigDisk("d.luks", 64)
	net.set(5*time.Millisecond, 0)
	_, wait := u.background("disk", "push", "d.luks", "--host", "far")
	u.uploading("d.luks")
	net.pull()
	u.run(exitConnection, "disk", "list", "--host", "far")
	u.run(exitConnection, "vm", "create", "v", "--host", "far", "--disk", "d.luks", "--passphrase-file", "passphrase")
	if r := wait(); r.Code != exitConnection || !contains(r.Stderr, "far") {
		t.Errorf("%s", r)
	}
	u.says(exitDone, "[]", "vm", "list", "--offline", "--json")
	if i := u.images()["d.luks"]; i.State != "uploading" || i.Offset == 0 || i.Offset == i.Size {
		t.Errorf("%+v", i)
	}
	u.run(exitDone, "disk", "push", "d.luks", "--host", "lab")
	u.stored("d.luks")
}
