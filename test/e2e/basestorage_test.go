package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/uvbond/uvbond/disk/nbdclient/nbdtest"
	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/test/guest"
)

// exportMaker makes and removes the files of a folder that an NBD server exports.
const exportMaker = `#!/bin/sh
case $1 in
make) exec truncate -s "$4" "$(dirname "$0")/exports/$3" ;;
remove) exec rm -f "$(dirname "$0")/exports/$3" ;;
esac
`

// TestBaseOnStorage: the provider's disks lie on an NBD server. A VM boots from one
// that the hypervisor made there of a public image, although the server was not there
// at first, and was killed while it was written to.
func TestBaseOnStorage(t *testing.T) {
	dir, err := os.MkdirTemp("", "uve") // not t.TempDir: the server's user must get there
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	exports, maker := filepath.Join(dir, "exports"), filepath.Join(dir, "make-export")
	for _, err := range []error{os.Chmod(dir, 0o711), os.Mkdir(exports, 0o777), os.Chmod(exports, 0o777), os.WriteFile(maker, []byte(exportMaker), 0o755)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	s := nbdtest.Nbdkit(t, "--filter=rate", "file", "dir="+exports, "rate=1G") // bits a second, for a time to be killed in
	w := bothConfigured(t, fmt.Sprintf("[storage.ceph1]\nuri = %q", "nbd+unix:///?socket="+s.Path), fmt.Sprintf("[bases]\nstorage = \"ceph1\"\nexports = %q", maker))
	u := w.user("alice")
	_, sum := w.offer(image(t, guest.Options{Secret: secret}), "debian-12.raw", 320<<20)
	create := []string{"vm", "create", "web1", "--host", "lab", "--base", "debian-12.raw", "--sha256", sum, "--memory", "256MiB", "--passphrase-file", "passphrase", "--pbkdf-memory", "1024"}

	s.Kill()
	r := u.says(exitRefused, "storage ceph1 cannot be reached", create...)
	if !strings.Contains(r.Stderr, "uvbond vm build web1") || strings.Contains(r.Stderr, s.Path) {
		t.Errorf("%s", r)
	}
	u.says(exitRefused, "uvbond vm build web1", "vm", "start", "web1")
	s.Start()

	_, wait := u.background("vm", "build", "web1")
	if eventuallyFast(60*time.Second, func() bool { st := w.building(); return st.Phase == qmp.BuildWrite && st.Done > 0 }) {
		s.Kill()
		s.Start()
	}
	if r := wait(); r.Code != exitDone || !strings.Contains(r.Stdout, "verified: receipt") {
		t.Fatalf("%s", r)
	}
	image := w.stored()
	w.operator(exitDone, "ceph1:"+image, "image", "list")
	if _, err := os.Stat(filepath.Join(w.lab.Dir, "server", "data", "images", image)); err == nil {
		t.Error("there is a file as well")
	}
	w.opens(filepath.Join(exports, image))
	u.run(exitDone, "vm", "start", "web1")
	u.await("web1", "UVBOND-SECRET "+secret)
	u.await("web1", "UVBOND-READY")
	u.audit("web1", "disk disk0 was made from the base image with SHA-256 "+sum)
}

// opens: the owner's passphrase opens a disk with cryptsetup.
func (w *world) opens(path string) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
	defer cancel()
	open := exec.CommandContext(ctx, "/usr/sbin/cryptsetup", "open", "--test-passphrase", "--key-file", "-", path)
	open.Stdin = strings.NewReader(passphrase)
	if out, err := open.CombinedOutput(); err != nil {
		w.Errorf("cryptsetup open: %v %s", err, out)
	}
}
