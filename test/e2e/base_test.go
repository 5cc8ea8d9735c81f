package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/uvbond/uvbond/disk/luks"
	"github.com/uvbond/uvbond/disk/xts"
	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/test/guest"
)

// baseSize is enough for three steps of each phase of a build, so that it can be
// interrupted behind what is recorded.
const baseSize = 768 << 20

// TestBase: a VM boots from a disk that the hypervisor made of a public image. The
// tenant uploads nothing; the daemon, the server and the client are stopped in the
// middle; the operator gives other images at every stage.
func TestBase(t *testing.T) {
	w := newWorld(t)
	u := w.user("alice")
	plain, sum := w.offer(image(t, guest.Options{Secret: secret}), "debian-12.raw", baseSize)
	u.says(exitDone, "debian-12.raw", "base", "list", "--host", "lab")
	create := func(name string) []string {
		return []string{"vm", "create", name, "--host", "lab", "--base", "debian-12.raw", "--sha256", sum, "--disk-size", "800MiB",
			"--memory", "256MiB", "--passphrase-file", "passphrase", "--pbkdf-memory", "1024"}
	}
	u.says(exitError+1, "--sha256 is missing", "vm", "create", "web1", "--host", "lab", "--base", "debian-12.raw", "--passphrase-file", "passphrase")

	u.killedAt(qmp.BuildCheck, 256<<20, exitUnknown, w.lab.KillHypervisor, create("web1")...)
	if err := w.lab.StartHypervisor(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Behind 256 MiB a step was over, at whichever piece its time ended.
	if st := w.building(); st.Phase == qmp.BuildCheck && st.Done == 0 || st.Done%(1<<20) != 0 {
		t.Errorf("the new daemon begins at %+v", st)
	}
	u.says(exitRefused, "uvbond vm build web1", "vm", "start", "web1")

	u.killedAt(qmp.BuildWrite, 0, exitUnknown, func() { w.lab.StopServer(syscall.SIGKILL) }, "vm", "build", "web1")
	if err := w.lab.StartServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := w.building(); st.Phase != qmp.BuildWrite {
		t.Errorf("after the server was killed: %+v", st)
	}
	w.otherImages(u, plain)

	u.says(exitDone, "verified: receipt", "vm", "build", "web1")
	u.says(exitDone, "no disk that is to be made", "vm", "build", "web1")
	w.holds(u, plain)
	u.run(exitDone, "vm", "start", "web1")
	u.await("web1", "UVBOND-SECRET "+secret)
	u.await("web1", "UVBOND-READY")
	u.audit("web1", "disk disk0 was made from the base image with SHA-256 "+sum, "it changed between", "of 805306368 bytes")
	u.says(exitDone, "the guest: told", "disk", "grow", "web1", "disk0", "+8MiB")
	if log := w.lab.Log("server"); strings.Contains(log, "PUT /v1/images") {
		t.Error("something was uploaded")
	}
	u.run(exitDone, "vm", "poweroff", "web1")
	u.run(exitDone, "vm", "start", "web1")
	u.await("web1", "UVBOND-READY")

	// Ctrl-C, and a second VM from the same image.
	r := u.interrupt(func() bool { st := w.building(); return st.Phase == qmp.BuildCheck && st.Done > 0 }, create("web2")...)
	if r.Code != exitInterrupted || !strings.Contains(r.Stderr, "uvbond vm build web2") {
		t.Errorf("Ctrl-C: %s", r)
	}
	u.says(exitDone, "web2 is bonded", "vm", "create", "web2", "--resume")
}

// TestWrongBase: an image with another SHA-256 than the owner's is refused before the
// first boot, although the server claims the right one; nothing of it is encrypted.
func TestWrongBase(t *testing.T) {
	w := newWorld(t)
	u := w.user("alice")
	path := filepath.Join(w.lab.Dir, "small.raw")
	content := bytes.Repeat([]byte("a public image. "), 1<<18)
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	w.operator(exitDone, "offered as small.raw", "base", "add", path)
	sum := fmt.Sprintf("%x", sha256.Sum256(content))
	u.says(exitRefused, "another SHA-256 than yours", "vm", "create", "web1", "--host", "lab", "--base", "small.raw", "--sha256", strings.Repeat("0", 64), "--passphrase-file", "passphrase")
	evil := bytes.Clone(content)
	copy(evil[len(evil)-8:], "malware!")
	w.exchange(evil)
	create := []string{"vm", "create", "web1", "--host", "lab", "--base", "small.raw", "--sha256", sum, "--memory", "64MiB", "--passphrase-file", "passphrase", "--pbkdf-memory", "1024"}
	u.says(exitRefused, "nothing was written", create...)
	u.says(exitRefused, "another SHA-256 than its owner's", "vm", "start", "web1")
	u.audit("web1", "its owner registered "+sum)
	for _, b := range w.images() {
		if raw, err := os.ReadFile(b); err != nil || len(bytes.Trim(raw, "\x00")) != 0 {
			t.Errorf("%s holds something: %v", b, err)
		}
	}
	w.exchange(content[:len(content)/2])
	u.says(exitRefused, "the base image has 2097152 bytes, its owner registered 4194304", "vm", "build", "web1")
	w.exchange(content)
	u.says(exitDone, "verified: receipt", "vm", "build", "web1")
	// Without a ticket, and with files of its own, the operator can do nothing.
	w.operator(exitRefused, "Denied", "gate", "--vm", u.id("web1"), "uvbond-build", `{"disk":"disk0"}`)
}

// offer makes a guest's disk size bytes long and offers it, as the operator does. It
// returns the file and its SHA-256.
func (w *world) offer(from, name string, size int64) (path, sum string) {
	w.Helper()
	path = filepath.Join(w.lab.Dir, name)
	if err := guest.Copy(w.Context(), from, path); err != nil {
		w.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		w.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		w.Fatal(err)
	}
	r := w.operator(exitDone, "offered as "+name, "base", "add", path)
	f, err := os.Open(path)
	if err != nil {
		w.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		w.Fatal(err)
	}
	sum = fmt.Sprintf("%x", h.Sum(nil))
	if !strings.Contains(r.Stdout, sum) {
		w.Errorf("the server found another SHA-256: %s", r)
	}
	return path, sum
}

// building is what the hypervisor tells of the one disk that is being made.
func (w *world) building() qmp.BuildState {
	w.Helper()
	r, err := w.lab.Server(w.Context(), "gate", "uvbond-query-vms")
	if err != nil {
		w.Fatal(err)
	}
	var list qmp.QueryVMsResult
	if r.Code != exitDone || json.Unmarshal([]byte(r.Stdout), &list) != nil {
		return qmp.BuildState{}
	}
	for _, v := range list.VMs {
		for _, b := range v.Builds {
			return b
		}
	}
	return qmp.BuildState{}
}

// killedAt runs uvbond, kills something else when a build has come so far, and
// insists on how uvbond ends: with a way to go on.
func (u *user) killedAt(phase string, done uint64, want int, kill func(), args ...string) {
	u.Helper()
	cmd, wait := u.background(args...)
	ended := false
	if !eventuallyFast(60*time.Second, func() bool {
		st := u.building()
		ended = cmd.ProcessState != nil
		return ended || st.Phase == phase && st.Done > done || phase == qmp.BuildCheck && st.Phase == qmp.BuildWrite
	}) {
		_ = cmd.Process.Kill()
		u.Fatalf("the build never came to %s %d: %s", phase, done, wait())
	}
	kill()
	if r := wait(); r.Code != want || !strings.Contains(r.Stderr, "uvbond vm build web1") {
		u.Errorf("exit status %d and the way on were expected: %s", want, r)
	}
}

// eventuallyFast polls without long pauses.
func eventuallyFast(limit time.Duration, holds func() bool) bool {
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if holds() {
			return true
		}
	}
	return holds()
}

// bases and images are the server's files.
func (w *world) files(folder string) []string {
	w.Helper()
	paths, err := filepath.Glob(filepath.Join(w.lab.Dir, "server", "data", folder, "*"))
	if err != nil || len(paths) == 0 {
		w.Fatalf("no %s: %v", folder, err)
	}
	return paths
}

func (w *world) images() []string { return w.files("images") }

// exchange gives the only base image another content, behind the server's back.
func (w *world) exchange(content []byte) {
	w.Helper()
	path := w.files("bases")[0]
	if err := os.Chmod(path, 0o644); err != nil {
		w.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		w.Fatal(err)
	}
}

// otherImages plays an operator who exchanges the image after it was checked: a
// changed one, a truncated one. Neither gets further, and the right one does.
func (w *world) otherImages(u *user, plain string) {
	w.Helper()
	path := w.files("bases")[0]
	const at = baseSize - 3<<20 // in the last step, which is still to come
	patch := func(b []byte) {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			w.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt(b, at); err != nil {
			w.Fatal(err)
		}
	}
	if err := os.Chmod(path, 0o644); err != nil {
		w.Fatal(err)
	}
	patch([]byte("malware"))
	u.says(exitRefused, "it changed between", "vm", "build", "web1")
	patch(make([]byte, 7))
	if err := os.Truncate(path, 700<<20); err != nil {
		w.Fatal(err)
	}
	u.says(exitRefused, "the base image has 734003200 bytes, its owner registered 805306368", "vm", "build", "web1")
	if err := os.Truncate(path, baseSize); err != nil {
		w.Fatal(err)
	}
}

// holds opens the stored image as its owner can: with cryptsetup, and by reading it.
func (w *world) holds(u *user, plain string) {
	w.Helper()
	stored := w.images()[0]
	w.opens(stored)
	ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
	defer cancel()
	dump, err := exec.CommandContext(ctx, "/usr/sbin/cryptsetup", "luksDump", stored).CombinedOutput()
	if err != nil || !regexp.MustCompile(`(?s)aes-xts-plain64.*argon2id`).Match(dump) {
		w.Errorf("cryptsetup luksDump: %v %s", err, dump)
	}
	if have, want := w.deciphered(stored), w.prefix(plain); have != want {
		w.Errorf("the disk holds %x, the image %x", have, want)
	}
}

// prefix is the SHA-256 of the base's content.
func (w *world) prefix(path string) [32]byte {
	w.Helper()
	f, err := os.Open(path)
	if err != nil {
		w.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		w.Fatal(err)
	}
	return [32]byte(h.Sum(nil))
}

// deciphered is the SHA-256 of as much of a stored disk.
func (w *world) deciphered(path string) [32]byte {
	w.Helper()
	f, err := os.Open(path)
	if err != nil {
		w.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		w.Fatal(err)
	}
	hd, err := luks.ReadHeader(f, info.Size())
	if err != nil {
		w.Fatal(err)
	}
	key, err := hd.Unlock([]byte(passphrase))
	if err != nil {
		w.Fatal(err)
	}
	s := hd.Segment
	c, err := xts.New(key, int(s.SectorSize), uint64(s.SectorSize)/512)
	if err != nil {
		w.Fatal(err)
	}
	h, buf := sha256.New(), make([]byte, 1<<20)
	for off := int64(0); off < baseSize; off += int64(len(buf)) {
		if _, err := f.ReadAt(buf, int64(s.Offset)+off); err != nil {
			w.Fatal(err)
		}
		if err := c.DecryptSectors(buf, buf, uint64(off)/512); err != nil {
			w.Fatal(err)
		}
		h.Write(buf)
	}
	return [32]byte(h.Sum(nil))
}
