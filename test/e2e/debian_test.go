package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/uvbond/uvbond/tenant/terminal/ttytest"
	"github.com/uvbond/uvbond/test/guest"
	"github.com/uvbond/uvbond/test/lab"
)

// debianLimit is how long Debian's cloud-init may take to be done. It takes half a
// minute under TCG on a machine with nothing else to do.
const debianLimit = 5 * time.Minute

const consolePassword = "typed-on-the-console-0815"

const debianUserData = `#cloud-config
users:
  - default
  - name: deploy
    shell: /bin/bash
    sudo: ALL=(ALL) NOPASSWD:ALL
    lock_passwd: false
    plain_text_passwd: "` + consolePassword + `"
write_files:
  - path: /etc/vault
    permissions: "0600"
    content: "` + userDataSecret + `\n"
runcmd:
  - [sh, -c, "echo ran >>/root/ran"]
`

// TestDebian boots a Debian 12 with the cloud-init and the sshd that Debian has, gives
// it a sealed first boot, and works on it as its owner would, by ssh through
// channels. It is make debian.
func TestDebian(t *testing.T) {
	if os.Getenv("UVBOND_DEBIAN") == "" {
		t.Skip("a Debian under TCG takes minutes: make debian")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	path, err := guest.Debian(ctx, guest.DebianOptions{Log: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	u := w.user("alice")
	u.disk(path, "deb.luks")
	u.run(exitDone, "disk", "push", "deb.luks", "--host", "lab")
	traffic, err := w.lab.Record(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := u.tenant.Write("cloud.yaml", []byte(debianUserData)); err != nil {
		t.Fatal(err)
	}
	u.tool("mkdir", "-p", ".ssh")
	u.tool("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", ".ssh/id_ed25519")
	u.create("deb", "deb.luks", "--memory", "512MiB", "--user-data", "cloud.yaml", "--ssh-key", ".ssh/id_ed25519.pub")
	began := time.Now()
	u.run(exitDone, "vm", "start", "deb")
	u.applied("deb")
	t.Logf("cloud-init was done %.0f s after the start", time.Since(began).Seconds())
	u.firstBoot()
	u.hostKeys()
	u.consoleSize()
	u.ownTools()
	console := u.run(exitDone, "vm", "log", "deb").Stdout
	if !contains(console, "Datasource DataSourceNoCloud") {
		t.Errorf("cloud-init took something else:\n%s", console)
	}

	// The next start finds the same disk, and cloud-init knows that it was there before.
	u.try("ssh", "-o", "BatchMode=yes", "deb.uvbond", "sudo systemctl poweroff")
	if !eventually(bootLimit, func() bool { return len(w.lab.QEMUs()) == 0 }) {
		t.Fatal("the guest does not switch itself off")
	}
	u.state("deb", "stopped")
	u.run(exitDone, "vm", "start", "deb")
	u.applied("deb")
	if ran := u.inside("sudo cat /root/ran"); ran != "ran\n" {
		t.Errorf("after the second start: %q", ran)
	}
	private := u.inside("sudo sed -n 2p /etc/ssh/ssh_host_ed25519_key")
	u.says(exitDone, "stopped", "vm", "poweroff", "deb")
	nowhere(w, traffic, map[string]string{"the owner's user data": userDataSecret, "the console's password": consolePassword, "the guest's host key": strings.TrimSpace(private)}, u.id("deb"))
}

// tool runs a program as the tenant and returns its output.
func (u *user) tool(name string, args ...string) string {
	u.Helper()
	r := u.try(name, args...)
	if r.Code != 0 {
		u.Fatal(r)
	}
	return r.Stdout
}

func (u *user) try(name string, args ...string) lab.Result {
	u.Helper()
	r, err := u.tenant.RunProgram(u.Context(), name, args...)
	if err != nil {
		u.Fatal(err)
	}
	return r
}

// applied writes ssh's configuration and waits until the guest's cloud-init is done.
func (u *user) applied(name string) {
	u.Helper()
	config := u.run(exitDone, "vm", "ssh-config", name, "--user", "debian").Stdout
	if err := u.tenant.Write(".ssh/config", []byte(config)); err != nil {
		u.Fatal(err)
	}
	var r lab.Result
	if !eventually(debianLimit, func() bool {
		r = u.try("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", name+".uvbond", "cloud-init status --wait")
		return r.Code == 0
	}) {
		u.Fatalf("%s\n%s", r, u.run(exitDone, "vm", "log", name).Stdout)
	}
	if !contains(r.Stdout, "status: done") {
		u.Errorf("cloud-init: %s", r)
	}
}

// inside runs a command in the guest.
func (u *user) inside(command string) string {
	u.Helper()
	return u.tool(u.lab.Bin("uvbond"), "vm", "ssh", "deb", "--user", "debian", "--identity", u.path(".ssh/id_ed25519"), "--", command)
}

// firstBoot: what the owner asked for was done, and nothing that leads elsewhere.
func (u *user) firstBoot() {
	u.Helper()
	for command, want := range map[string]string{
		"sudo cat /etc/vault":                       userDataSecret + "\n",
		"sudo cat /root/ran":                        "ran\n",
		"hostname":                                  "deb\n",
		"sudo -u deploy sudo id -u":                 "0\n",
		"ip route show default":                     "",
		"ip -6 route show default":                  "",
		"ip -br link show channel | cut -c1-7":      "channel\n",
		"sudo passwd --status root | cut -d' ' -f2": "L\n",
		"cloud-init query instance_id":              u.id("deb") + "\n",
		"lsblk -no SERIAL,RO,LABEL | awk '$3==\"CIDATA\"{print $1, $2}'": "cidata 1\n",
	} {
		if have := u.inside(command); have != want {
			u.Errorf("%s: %q, want %q", command, have, want)
		}
	}
}

// hostKeys: the guest has the keys that were made before it was, and ssh takes no others.
func (u *user) hostKeys() {
	u.Helper()
	var v struct {
		HostKeys []string `json:"host_keys"`
	}
	r := u.run(exitDone, "vm", "show", "deb", "--offline", "--json")
	if err := json.Unmarshal([]byte(r.Stdout), &v); err != nil || len(v.HostKeys) != 2 {
		u.Fatalf("host keys: %v %s", err, r)
	}
	files := u.inside("sudo sh -c 'cat /etc/ssh/ssh_host_*_key.pub' | cut -d\" \" -f1,2")
	if n := strings.Count(files, "\n"); n != 2 || !contains(files, v.HostKeys[0]) || !contains(files, v.HostKeys[1]) {
		u.Errorf("the guest has %q, known are %q", files, v.HostKeys)
	}
	// With another key on record it is another machine.
	config, err := os.ReadFile(u.path(".ssh/config"))
	if err != nil {
		u.Fatal(err)
	}
	known := regexp.MustCompile(`UserKnownHostsFile .*`).ReplaceAll(config, []byte("UserKnownHostsFile "+u.path("wrong")))
	mine := strings.TrimSpace(u.tool("cut", "-d ", "-f1,2", ".ssh/id_ed25519.pub"))
	for name, text := range map[string][]byte{"wrong": []byte("deb.uvbond " + mine + "\n"), "wrong.conf": known} {
		if err := u.tenant.Write(name, text); err != nil {
			u.Fatal(err)
		}
	}
	if r := u.try("ssh", "-F", "wrong.conf", "-o", "BatchMode=yes", "-o", "HostKeyAlgorithms=ssh-ed25519", "deb.uvbond", "true"); r.Code != 255 || !contains(r.Stderr, "Host key verification failed") {
		u.Errorf("ssh took a guest with another key: %s", r)
	}
}

// consoleSize: who logs in on the serial console has a shell that knows the terminal's size, and learns at
// the next prompt when it changes.
func (u *user) consoleSize() {
	u.Helper()
	d := ttytest.Start(u, u.tenant.Command(u.Context(), "vm", "console", "deb"))
	d.Resize(137, 53)
	d.Expect("deb login: ")
	d.Keys("deploy\r")
	d.Expect("Password: ")
	d.Keys(consolePassword + "\r")
	d.Expect("$ ")
	d.Keys("stty size\r")
	d.Expect("53 137\r\n")
	d.Expect("$ ")
	d.Resize(100, 30)
	for known := false; !known; known = strings.Contains(d.Expect(" (you) ---"), "100x30") {
		d.Keys("~#")
	}
	d.Keys("\r")
	d.Expect("$ ")
	d.Keys("stty size; echo $COLUMNS\r")
	d.Expect("30 100\r\n100\r\n")
	d.Keys("exit\r")
	d.Expect("deb login: ")
	d.Keys("~.")
	d.Leaves(exitDone)
}

// ownTools: what an owner has uses the channel by ssh's configuration.
func (u *user) ownTools() {
	u.Helper()
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	if err := u.tenant.Write("data", data); err != nil {
		u.Fatal(err)
	}
	u.tool("scp", "-q", "data", "deb.uvbond:data")
	u.tool("scp", "-q", "deb.uvbond:data", "back")
	if back, err := os.ReadFile(u.path("back")); err != nil || !bytes.Equal(back, data) {
		u.Errorf("scp: %d bytes came back, %v", len(back), err)
	}
	u.tool("mkdir", "-p", "site/css")
	u.tool("cp", "data", "site/css/a.css")
	u.tool("rsync", "-a", "site/", "deb.uvbond:site/")
	if sums := u.inside("cmp data site/css/a.css && echo same"); sums != "same\n" {
		u.Errorf("rsync: %q", sums)
	}
	u.inside("git init -q --bare repo.git")
	u.tool("git", "init", "-q", "-b", "main", "work")
	u.tool("cp", "data", "work/file")
	u.tool("git", "-C", "work", "add", "file")
	u.tool("git", "-C", "work", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "one")
	u.tool("git", "-C", "work", "push", "-q", "deb.uvbond:repo.git", "main")
	u.tool("git", "clone", "-q", "-b", "main", "deb.uvbond:repo.git", "clone")
	if file, err := os.ReadFile(filepath.Join(u.path("clone"), "file")); err != nil || !bytes.Equal(file, data) {
		u.Errorf("git: %d bytes came back, %v", len(file), err)
	}
	if out := u.tool("ansible", "all", "-i", "deb.uvbond,", "-m", "ping", "-e", "ansible_python_interpreter=/usr/bin/python3"); !contains(out, "pong") {
		u.Errorf("ansible: %s", out)
	}
}
