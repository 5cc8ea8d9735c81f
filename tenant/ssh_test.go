package tenant

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestSSHOptions: OpenSSH understands what is written for it, wherever the state folder
// is, and what the person's own configuration says does not weaken it.
func TestSSHOptions(t *testing.T) {
	weak := filepath.Join(t.TempDir(), "weak")
	if err := os.WriteFile(weak, []byte("VerifyHostKeyDNS yes\nStrictHostKeyChecking no\nUserKnownHostsFile /elsewhere\nProxyCommand none\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/home/a/known_hosts", "/home/o'brien/known_hosts", `/home/two words/"x"#/known_hosts`, `/home/back\slash/known_hosts`, "/home/100%d/known_hosts"} {
		var file strings.Builder
		args := []string{"-G", "-F", weak}
		for _, o := range SSHOptions("web1", "/usr/bin/uvbond", "/home/o'brien", path) {
			args = append(args, "-o", o[0]+"="+o[1])
			file.WriteString(o[0] + " " + o[1] + "\n")
		}
		config := filepath.Join(t.TempDir(), "config")
		if err := os.WriteFile(config, []byte("Host web1.uvbond\n"+file.String()+"Host *\nInclude "+weak+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{append(args, "web1.uvbond"), {"-G", "-F", config, "web1.uvbond"}} {
			out, err := exec.Command("ssh", args...).CombinedOutput()
			if err != nil {
				t.Fatalf("%s: %v: %s", path, err, out)
			}
			for _, want := range []string{
				"userknownhostsfile " + path, "verifyhostkeydns false", "stricthostkeychecking true", "globalknownhostsfile /dev/null",
				`proxycommand env UVBOND_HOME='/home/o'\''brien' /usr/bin/uvbond vm connect web1 %p`, "hostkeyalias web1.uvbond",
			} {
				if !strings.Contains("\n"+string(out), "\n"+want+"\n") {
					t.Errorf("%s: %q is not in what ssh understood:\n%s", path, want, out)
				}
			}
		}
	}
}
