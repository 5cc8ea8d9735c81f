package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/uvbond/uvbond/test/guest"
)

// readsSeed has a guest read the disk of its first boot again and again, past its
// own cache, and try to write to it once.
const readsSeed = `
	driver seed
	n=0
	while [ $n -lt 1000 ]; do
		n=$((n + 1))
		dev=$(findfs LABEL=CIDATA)
		mount -t vfat -o ro "$dev" /mnt && echo "SEED on $dev"
		for f in user-data meta-data vendor-data network-config; do
			if [ "$(wc -c </mnt/$f)" -gt 4096 ]; then
				echo "SEED $n sum-of-$f $(sha256sum </mnt/$f | cut -c1-64)"
			else
				echo "SEED $n $f $(base64 -w0 </mnt/$f)"
			fi
		done
		umount /mnt
		if [ $n = 1 ]; then
			dd if=/dev/zero of="$dev" bs=512 seek=500 count=1 conv=fsync,notrunc 2>/dev/null && echo "SEED written" || echo "SEED not written"
		fi
		echo 3 >/proc/sys/vm/drop_caches
		sleep 1
	done`

const userDataSecret = "the vault opens with 4711 0815"

var seedLine = regexp.MustCompile(`SEED (\d+) ([a-z-]+) ([A-Za-z0-9+/=]+)`)

// seedFiles are those of the guest's first boot as it printed them in one round.
func (u *user) seedFiles(name, round string) map[string]string {
	u.Helper()
	files := map[string]string{}
	for _, m := range seedLine.FindAllStringSubmatch(u.await(name, "SEED "+round+" network-config "), -1) {
		if strings.HasPrefix(m[2], "sum-of-") && m[1] == round {
			files[m[2]] = m[3]
		} else if text, err := base64.StdEncoding.DecodeString(m[3]); err == nil && m[1] == round {
			files[m[2]] = string(text)
		}
	}
	return files
}

// TestFirstBoot registers first boots, reads them in guests, and looks for them
// everywhere in the management domain.
func TestFirstBoot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user("alice")
	u.disk(image(t, guest.Options{Script: readsSeed}), "web1.luks")
	u.run(exitDone, "disk", "push", "web1.luks", "--host", "lab")
	traffic, err := w.lab.Record(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cloud := "#cloud-config\nchpasswd: {list: \"root:" + userDataSecret + "\"}\n"
	if err := u.tenant.Write("cloud.yaml", []byte(cloud)); err != nil {
		t.Fatal(err)
	}
	u.create("web1", "web1.luks", "--user-data", "cloud.yaml", "--nic", "mac=52:54:00:12:34:56")
	u.run(exitDone, "vm", "start", "web1")
	files := u.seedFiles("web1", "1")
	u.await("web1", "SEED not written")
	if files["user-data"] != cloud || !contains(files["meta-data"], u.id("web1")) || !contains(files["network-config"], "52:54:00:12:34:56") {
		t.Errorf("the guest read %q", files)
	}
	private := regexp.MustCompile(`-----BEGIN OPENSSH PRIVATE KEY-----\\n([A-Za-z0-9+/]{64})`).FindAllStringSubmatch(files["vendor-data"], -1)
	if len(private) != 2 {
		t.Fatalf("%d host keys in %q", len(private), files["vendor-data"])
	}
	// Another keeper makes the same disk again.
	if err := syscall.Kill(w.one("keeper", w.lab.Keepers), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	last := seedLine.FindAllStringSubmatch(u.run(exitDone, "vm", "log", "web1").Stdout, -1)
	round := last[len(last)-1][1] + "0" // several rounds later
	if again := u.seedFiles("web1", round); again["user-data"] != cloud || again["vendor-data"] != files["vendor-data"] {
		t.Errorf("after the keeper's end the guest read %q", again)
	}
	u.audit("web1", "keeper of the disks was started again")
	for _, args := range [][]string{{"vm", "list"}, {"vm", "stats", "web1"}, {"vm", "limit", "web1"}, {"gate", "uvbond-query-vms"}, {"gate", "--vm", "web1", "query-status"}, {"gate", "--vm", "web1", "query-block"}} {
		r, err := w.lab.Server(t.Context(), args...)
		if err != nil {
			t.Fatal(err)
		}
		if contains(r.Stdout+r.Stderr, "cidata") {
			t.Errorf("an operator sees the disk: %s", r)
		}
	}
	u.says(exitDone, "stopped", "vm", "poweroff", "web1")
	words := map[string]string{"the owner's user data": userDataSecret, "the first host key": private[0][1], "the second host key": private[1][1]}
	nowhere(w, traffic, words, u.id("web1"))
	if data, err := os.ReadFile(u.path("cloud.yaml")); err != nil || !bytes.Contains(data, []byte(userDataSecret)) {
		t.Error("this test looks for something that the owner does not have")
	}
}

// TestFirstBootOnIDE: a bus without read-only disks takes writes, which are gone with the VM.
func TestFirstBootOnIDE(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	u := w.user("alice")
	u.disk(image(t, guest.Options{Script: readsSeed}), "web1.luks")
	if err := u.tenant.Write("id.pub", []byte("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKjWfI0Nvvd3fPdrTV+RjkL0JNqG2em5pwpCB44CIvB4 owner@home\n")); err != nil {
		t.Fatal(err)
	}
	// As long as user data can be, beside the keys.
	cloud := []byte("#cloud-config\n" + strings.Repeat("# as long as can be\n", 6200))
	if err := u.tenant.Write("cloud.yaml", cloud); err != nil {
		t.Fatal(err)
	}
	u.create("web1", "web1.luks", "--bus", "ide", "--user-data", "cloud.yaml", "--ssh-key", "id.pub", "--hostname", "db")
	u.run(exitDone, "vm", "start", "web1")
	files := u.seedFiles("web1", "1")
	if sum := sha256.Sum256(cloud); files["sum-of-user-data"] != hex.EncodeToString(sum[:]) {
		t.Errorf("user data of %d bytes became others", len(cloud))
	}
	if !contains(files["vendor-data"], "owner@home") || !contains(files["meta-data"], `"db"`) {
		t.Errorf("the guest read %q", files)
	}
	console := u.await("web1", "SEED written")
	if !contains(console, "SEED on /dev/sd") || !contains(console, "root /dev/sd") {
		t.Errorf("the disks are not on one bus:\n%s", console)
	}
	u.run(exitDone, "vm", "poweroff", "web1")
}

// nowhere looks for words in all that the management domain has and saw, and in what
// the hypervisor domain stores. there is a word that has to be found.
func nowhere(w *world, traffic string, words map[string]string, there string) {
	w.Helper()
	type needle struct {
		name  string
		bytes []byte
	}
	var needles []needle
	for name, word := range words {
		needles = append(needles, needle{name, []byte(word)}, needle{name + " in hex", []byte(hex.EncodeToString([]byte(word)))})
		// As base64 of something longer it has one of three forms; its ends depend on
		// what is beside it.
		for shift := range 3 {
			text := base64.StdEncoding.EncodeToString(append(make([]byte, shift), word...))
			needles = append(needles, needle{name + " in base64", []byte(strings.TrimRight(text, "=")[4 : len(text)-6])})
		}
	}
	files := 0
	look := func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // ended meanwhile
		}
		data, err := os.ReadFile(path)
		files++
		for _, n := range needles {
			if bytes.Contains(data, n.bytes) {
				w.Errorf("%s is in %s", n.name, path)
			}
		}
		return err
	}
	for _, dir := range []string{"server", "server.log", "operator.log", "hypervisor.log", "hypervisor"} {
		if err := filepath.WalkDir(filepath.Join(w.lab.Dir, dir), look); err != nil {
			w.Fatal(err)
		}
	}
	if data, err := os.ReadFile(traffic); err != nil || !bytes.Contains(data, []byte(there)) || !bytes.Contains(data, []byte("uvbond-launch")) {
		w.Errorf("the traffic was not recorded: %d bytes, %v", len(data), err)
	}
	if files < 7 {
		w.Errorf("%d files only were searched", files)
	}
}
