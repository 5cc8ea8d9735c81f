package firstboot

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant/fail"
)

// MaxKeyFile is the limit in bytes of a file with public keys, MaxKeys of the keys.
const (
	MaxKeyFile = 64 << 10
	MaxKeys    = 64
)

// ReadKeys reads a file of public keys, as ssh-keygen writes them or as they stand in
// authorized_keys, and returns a line for each. where names the file in errors,
// which are *fail.Error.
func ReadKeys(where string, text []byte) ([]string, error) {
	const hint = "give the public half, for example ~/.ssh/id_ed25519.pub; ssh-keygen makes a pair"
	if bytes.Contains(text, []byte("PRIVATE KEY-----")) || bytes.HasPrefix(text, []byte("PuTTY-User-Key-File-")) {
		return nil, fail.New(fail.Usage, hint, "%s is a private key, which stays with you", where)
	}
	var keys []string
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		key, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil || len(rest) > 0 {
			return nil, fail.New(fail.Usage, hint, "%s: line %d is not a public ssh key", where, n)
		}
		if key.Type() == "ssh-dss" {
			return nil, fail.New(fail.Usage, hint, "%s: line %d is a DSA key, which sshd refuses", where, n)
		}
		if _, signed := key.(*ssh.Certificate); signed {
			return nil, fail.New(fail.Usage, "give the key that it was made for, a .pub file without \"-cert\"", "%s: line %d is a certificate, which lets nobody in by itself", where, n)
		}
		if keys = append(keys, line); len(keys) > MaxKeys {
			return nil, fail.New(fail.Usage, hint, "%s has more than %d keys", where, MaxKeys)
		}
	}
	if len(keys) == 0 {
		return nil, fail.New(fail.Usage, hint, "%s has no public ssh key", where)
	}
	return keys, nil
}

// hostKeys makes the keys of a guest's sshd: Ed25519, and ECDSA for who may not use
// that. private is cloud-init's ssh_keys, which it writes into files as they are.
func hostKeys() (private map[string]string, public []string, err error) {
	private = map[string]string{}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("ssh host key: %w", err)
	}
	defer bond.Wipe(ed)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("ssh host key: %w", err)
	}
	for _, k := range []struct {
		name string
		key  crypto.Signer
	}{{"ed25519", ed}, {"ecdsa", ec}} {
		block, err := ssh.MarshalPrivateKey(k.key, "")
		if err != nil {
			return nil, nil, fmt.Errorf("ssh host key: %w", err)
		}
		pub, err := ssh.NewPublicKey(k.key.Public())
		if err != nil {
			return nil, nil, fmt.Errorf("ssh host key: %w", err)
		}
		line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(pub)))
		private[k.name+"_private"], private[k.name+"_public"] = string(pem.EncodeToMemory(block)), line+"\n"
		bond.Wipe(block.Bytes)
		public = append(public, line)
	}
	return private, public, nil
}

// Fingerprint shows a public key as ssh does: "SHA256:… (ED25519)".
func Fingerprint(line string) string {
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return "damaged"
	}
	name := strings.TrimPrefix(key.Type(), "ssh-")
	if strings.HasPrefix(name, "ecdsa") {
		name = "ecdsa"
	}
	return fmt.Sprintf("%s (%s)", ssh.FingerprintSHA256(key), strings.ToUpper(name))
}
