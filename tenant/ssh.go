package tenant

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/uvbond/uvbond/tenant/fail"
	"github.com/uvbond/uvbond/tenant/store"
)

// SSHPort is the guest's port of sshd.
const SSHPort = 22

// maxHostKeys bounds a file with host keys, bytes and keys.
const (
	maxHostKeyFile = 64 << 10
	maxHostKeys    = 16
)

// SSHName is the name by which ssh knows a VM: its configuration and known_hosts
// have it. It is in no name service.
func SSHName(vm string) string { return vm + ".uvbond" }

// RecordHostKeys replaces the host keys that are known of a guest's sshd. text has a
// public key in each line, as in the files /etc/ssh/ssh_host_*_key.pub, or as
// ssh-keyscan and known_hosts have them. How it came from the guest is the owner's to judge.
func (o *Owner) RecordHostKeys(ctx context.Context, name string, text []byte) (*store.VM, error) {
	keys, err := parseHostKeys(text)
	if err != nil {
		return nil, err
	}
	vm, err := o.Store.VM(name)
	if err != nil {
		return nil, err
	}
	return o.Store.UpdateVM(ctx, name, vm.ID, func(v *store.VM) { v.HostKeys = keys })
}

func parseHostKeys(text []byte) ([]string, error) {
	if len(text) > maxHostKeyFile {
		return nil, fail.New(fail.Usage, "give the guest's /etc/ssh/ssh_host_ed25519_key.pub", "the file with host keys is larger than %d KiB", maxHostKeyFile>>10)
	}
	var keys []string
	for i, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			var marker string
			if marker, _, key, _, _, err = ssh.ParseKnownHosts([]byte(line + "\n")); err == nil && marker != "" {
				return nil, fail.New(fail.Usage, "give the key of the guest itself: its /etc/ssh/ssh_host_ed25519_key.pub", "line %d is marked @%s: it is no key to know a host by", i+1, marker)
			}
		}
		if err != nil {
			return nil, fail.New(fail.Usage, "give the guest's /etc/ssh/ssh_host_ed25519_key.pub", "line %d is no public key of a host", i+1)
		}
		if k := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))); !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 || len(keys) > maxHostKeys {
		return nil, fail.New(fail.Usage, "give the guest's /etc/ssh/ssh_host_ed25519_key.pub", "%d host keys, 1 to %d are needed", len(keys), maxHostKeys)
	}
	return keys, nil
}

// KnownHosts writes the file by which ssh recognises a guest, and returns its path.
func (o *Owner) KnownHosts(name string) (string, error) {
	vm, err := o.Store.VM(name)
	if err != nil {
		return "", err
	}
	if len(vm.HostKeys) == 0 {
		return "", fail.New(fail.Usage, fmt.Sprintf("look at the guest's key on its console (uvbond vm console %s), and record it: uvbond vm ssh %s --host-key FILE", name, name),
			"no ssh host key of %q is known, so ssh could not tell it from another machine", name)
	}
	var b strings.Builder
	for _, key := range vm.HostKeys {
		fmt.Fprintf(&b, "%s %s\n", SSHName(name), key)
	}
	return o.Store.PutKnownHosts(name, []byte(b.String()))
}

// SSHOptions are the options by which OpenSSH reaches a VM: through a channel, and
// trusting the recorded host keys alone. Each is a name and a value as in ssh_config.
// program is the path of uvbond, knownHosts of the file of KnownHosts.
func SSHOptions(name, program, home, knownHosts string) [][2]string {
	connect := shellQuote(program) + " vm connect " + shellQuote(name) + " %p"
	if home != "" {
		connect = "env UVBOND_HOME=" + shellQuote(home) + " " + connect // ssh puts exec before it
	}
	return [][2]string{
		{"HostKeyAlias", SSHName(name)},
		{"ProxyCommand", connect},
		{"StrictHostKeyChecking", "yes"},
		{"UserKnownHostsFile", configQuote(knownHosts)},
		{"GlobalKnownHostsFile", "/dev/null"},
		{"VerifyHostKeyDNS", "no"}, // a name service would vouch for keys that are not recorded
		{"CheckHostIP", "no"},
		{"UpdateHostKeys", "no"},
	}
}

// shellQuote is for ProxyCommand: a word of the shell in which ssh expands nothing.
func shellQuote(s string) string {
	s = strings.ReplaceAll(s, "%", "%%")
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./%+:@,") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// configQuote is for a file name in ssh_config.
func configQuote(s string) string {
	s = strings.ReplaceAll(s, "%", "%%")
	if strings.ContainsAny(s, " \t#\"'\\") {
		return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
	}
	return s
}
