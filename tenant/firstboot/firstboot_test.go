package firstboot

import (
	"bytes"
	"compress/gzip"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"golang.org/x/crypto/ssh"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant/fail"
)

const testKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKjWfI0Nvvd3fPdrTV+RjkL0JNqG2em5pwpCB44CIvB4 owner@home"

func options() Options {
	return Options{
		VM: bond.NewVMID(), Hostname: "web1", UserData: []byte("#cloud-config\npackages: [git]\n"), AuthorizedKeys: []string{testKey},
		NICs: []bond.NIC{{MAC: [6]byte{0x52, 0x54, 0, 1, 2, 3}, Model: "virtio"}}, Channel: [6]byte{0x52, 0x54, 0, 9, 9, 9},
	}
}

func mustMake(t *testing.T, o Options) *Result {
	t.Helper()
	r, err := Make(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// parse reads YAML as another program would.
func parse(t *testing.T, text []byte, first string) map[string]any {
	t.Helper()
	if !bytes.HasPrefix(text, []byte(first)) {
		t.Fatalf("begins with %.20q, not %q", text, first)
	}
	v := map[string]any{}
	if err := yaml.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestMake(t *testing.T) {
	o := options()
	r := mustMake(t, o)
	if !bytes.Equal(r.Seed.UserData.Bytes(), o.UserData) {
		t.Error("the user data changed")
	}
	meta := parse(t, r.Seed.MetaData.Bytes(), "{")
	if meta["instance-id"] != o.VM.String() || meta["local-hostname"] != "web1" {
		t.Errorf("meta-data: %v", meta)
	}
	vendor := parse(t, vendorParts(t, r)["text/cloud-config"], "#cloud-config\n")
	if keys := vendor["ssh_authorized_keys"].([]any); len(keys) != 1 || keys[0] != testKey {
		t.Errorf("authorized keys: %v", keys)
	}
	if len(r.HostKeys) != 2 || !strings.HasPrefix(r.HostKeys[0], "ssh-ed25519 ") || !strings.HasPrefix(r.HostKeys[1], "ecdsa-sha2-nistp256 ") {
		t.Fatalf("host keys: %q", r.HostKeys)
	}
	network := parse(t, r.Seed.NetworkConfig.Bytes(), "{")
	ethernets := network["ethernets"].(map[string]any)
	channel := ethernets["channel"].(map[string]any)
	overrides := channel["dhcp4-overrides"].(map[string]any)
	if network["version"] != 2 || len(ethernets) != 2 || channel["optional"] != true || overrides["use-routes"] != false || overrides["use-dns"] != false ||
		channel["match"].(map[string]any)["macaddress"] != "52:54:00:09:09:09" || channel["dhcp4"] != true {
		t.Errorf("network-config: %v", network)
	}
	nic := ethernets["nic0"].(map[string]any)
	if nic["match"].(map[string]any)["macaddress"] != "52:54:00:01:02:03" || nic["dhcp4"] != true || nic["optional"] != nil {
		t.Errorf("the owner's NIC: %v", nic)
	}
}

// TestHostKeys has ssh-keygen derive each public half again.
func TestHostKeys(t *testing.T) {
	r := mustMake(t, options())
	keys := parse(t, vendorParts(t, r)["text/cloud-config"], "#cloud-config\n")["ssh_keys"].(map[string]any)
	for i, name := range []string{"ed25519", "ecdsa"} {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(keys[name+"_private"].(string)), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("ssh-keygen", "-y", "-f", path).CombinedOutput()
		if err != nil {
			t.Fatalf("ssh-keygen: %v %s (apt-get install openssh-client)", err, out)
		}
		if have := strings.TrimSpace(string(out)); have != r.HostKeys[i] || have+"\n" != keys[name+"_public"] {
			t.Errorf("%s: ssh-keygen derives %q, known is %q", name, have, r.HostKeys[i])
		}
		if p := Fingerprint(r.HostKeys[i]); !strings.HasPrefix(p, "SHA256:") || !strings.HasSuffix(p, "("+strings.ToUpper(name)+")") {
			t.Error(p)
		}
	}
	if again := mustMake(t, options()); slices.Equal(again.HostKeys, r.HostKeys) {
		t.Error("two guests have the same host keys")
	}
}

func TestNothingGiven(t *testing.T) {
	r := mustMake(t, Options{VM: bond.NewVMID(), Hostname: "a.example.org", NoHostKeys: true, NoConsoleSize: true})
	if string(r.Seed.UserData.Bytes()) != "#cloud-config\n{}\n" || r.Seed.VendorData.Len() != 0 || r.Seed.NetworkConfig.Len() != 0 || r.HostKeys != nil {
		t.Errorf("%q, %d, %d", r.Seed.UserData.Bytes(), r.Seed.VendorData.Len(), r.Seed.NetworkConfig.Len())
	}
}

// TestResultHidesKeys: the result may be printed by mistake.
func TestResultHidesKeys(t *testing.T) {
	r := mustMake(t, options())
	b, err := json.Marshal(r.HostKeys)
	if err != nil || bytes.Contains(b, []byte("PRIVATE")) {
		t.Errorf("%s %v", b, err)
	}
	if _, err := json.Marshal(r.Seed); err == nil {
		t.Error("a seed can be marshalled")
	}
}

func gzipped(text string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write([]byte(text))
	_ = w.Close()
	return b.String()
}

// mimeOf is a message with a script and a part.
func mimeOf(kind, encoding, part string) string {
	if encoding != "" {
		encoding = "Content-Transfer-Encoding: " + encoding + "\n"
	}
	return "Content-Type: multipart/mixed; boundary=\"=\"\nMIME-Version: 1.0\n\n--=\nContent-Type: text/x-shellscript\n\n#!/bin/sh\n\n" +
		"--=\nContent-Type: " + kind + "\n" + encoding + "\n" + part + "\n--=--\n"
}

func TestUserData(t *testing.T) {
	for _, c := range []struct {
		name, text string
		change     func(*Options)
		err        string // in the error; empty: it is taken
	}{
		{"script", "#!/bin/sh\n\xff\x00", nil, ""},
		{"blank lines first", "\n\n#cloud-config\nhostname: x\n", nil, ""},
		{"comments only", "#cloud-config\n# nothing\n", nil, ""},
		{"null", "#cloud-config\n~\n", nil, ""},
		{"jinja", "## template: jinja\n#cloud-config\nx: {{ y }}\n", nil, ""},
		{"include", "#include\nhttps://example.org/x\n", nil, ""},
		{"mime", "Content-Type: multipart/mixed; boundary=\"=\"\nMIME-Version: 1.0\n\n--=\n", nil, ""},
		{"gzip", gzipped("#!/bin/sh\n"), nil, ""},
		{"gzip, damaged", "\x1f\x8b\x08\x00garbage", nil, "cannot unpack"},
		{"gzip, too much", gzipped("#cloud-config\n" + strings.Repeat("#\n", 9<<20)), nil, "more than 16777216 bytes"},
		{"gzip of nothing known", gzipped("hello"), nil, "no format of cloud-init's"},
		{"gzip with host keys", gzipped("#cloud-config\nssh_keys: {}\n"), nil, "ssh_keys of their own"},
		{"gzip of MIME", gzipped(mimeOf("text/cloud-config", "", "ssh_keys: {}\n")), nil, "ssh_keys of their own"},
		{"mime with host keys", mimeOf("text/cloud-config", "", "ssh_keys: {}\n"), nil, "ssh_keys of their own"},
		{"mime of the owner's", mimeOf("text/cloud-config", "", "ssh_keys: {}\n"), func(o *Options) { o.NoHostKeys = true }, ""},
		{"mime in lines that end otherwise", strings.ReplaceAll(mimeOf("text/cloud-config", "", "ssh_keys: {}\n"), "\n", "\r\n"), nil, "ssh_keys of their own"},
		{"mime from a mailbox", "From nobody Tue Nov 24 10:00:00 2026\n" + mimeOf("text/cloud-config", "", "ssh_keys: {}\n"), nil, "ssh_keys of their own"},
		{"mime, plain", mimeOf("text/plain; charset=us-ascii", "", "#cloud-config\nssh_authorized_keys: [x]\n"), nil, "in the place of --ssh-key"},
		{"mime, base64", mimeOf("text/cloud-config", "base64", base64.StdEncoding.EncodeToString([]byte("ssh_keys: {}\n"))), nil, "ssh_keys of their own"},
		{"mime, quoted", mimeOf("text/cloud-config", "Quoted-Printable", "ssh=5Fkeys: {}\n"), nil, "ssh_keys of their own"},
		{"mime, damaged", mimeOf("text/cloud-config", "base64", "????"), nil, "damaged"},
		{"mime, compressed", mimeOf("application/gzip", "base64", base64.StdEncoding.EncodeToString([]byte(gzipped("#cloud-config\nssh_keys: {}\n")))), nil, "ssh_keys of their own"},
		{"mime in mime", mimeOf("multipart/mixed; boundary=inner", "", "--inner\nContent-Type: text/cloud-config\n\nssh_keys: {}\n--inner--\n"), nil, "ssh_keys of their own"},
		{"mime with a script", mimeOf("text/x-shellscript", "", "#!/bin/sh\necho ssh_keys: >x\n"), nil, ""},
		{"mime with what is left alone", mimeOf("text/x-other", "", "#cloud-config\nssh_keys: {}\n"), nil, ""},
		{"mime, not YAML", mimeOf("text/cloud-config", "", "a: [\n"), nil, "part 2 of the user data are not valid YAML"},
		{"mime that is none", "x\nMIME-Version: 1.0\n\nssh_keys: {}\n", nil, "ssh_keys of their own"},
		{"archive with host keys", "#cloud-config-archive\n- type: text/cloud-config\n  content: |\n    ssh_keys: {}\n", nil, "ssh_keys of their own"},
		{"archive of texts", "#cloud-config-archive\n- |\n  #!/bin/sh\n- |\n  ssh_keys: {}\n", nil, "ssh_keys of their own"},
		{"archive that is none", "#cloud-config-archive\na: b\n", nil, "not a valid archive"},
		{"jinja with host keys", "## template: jinja\n#cloud-config\n{% if x %}\nssh_keys : {}\n{% endif %}\n", nil, "ssh_keys of their own"},
		{"host keys, merged", "#cloud-config\na: &a {ssh_keys: {}}\n<<: [*a]\n", nil, "ssh_keys of their own"},
		{"documents", "#cloud-config\na: 1\n---\nb: 2\n", nil, "several documents"},
		{"document with ends", "#cloud-config\n---\na: 1\n...\n", nil, ""},
		{"tag", "#cloud-config\na: !!str 1\nb:\n- !vault x\n", nil, "does not know the tag \"!vault\""},
		{"crlf", "#cloud-config\r\nhostname: x\r\n", nil, ""},
		{"archive", "#cloud-config-archive\n- type: text/cloud-config\n", nil, ""},
		{"no format", "hostname: web1\n", nil, "first line"},
		{"binary", "\x7fELF\x02\x01", nil, "first line"},
		{"binary behind the first line", "#cloud-config\n\x00\x01\xfe", nil, "not text"},
		{"mark", "\xef\xbb\xbf#cloud-config\n", nil, "byte order mark"},
		{"empty", " \n", nil, "empty"},
		{"list", "#cloud-config\n- a\n", nil, "not valid YAML"},
		{"yaml", "#cloud-config\na: b: c\n", nil, "not valid YAML"},
		{"tab", "#cloud-config\na:\n\t- b\n", nil, "not valid YAML"},
		{"host keys", "#cloud-config\nssh_keys: {}\n", nil, "ssh_keys of their own"},
		{"host keys, flow", "#cloud-config\n{\"ssh_keys\": {}}\n", nil, "ssh_keys of their own"},
		{"host keys of the owner's", "#cloud-config\nssh_keys: {}\n", func(o *Options) { o.NoHostKeys = true }, ""},
		{"keys", "#cloud-config\nssh_authorized_keys: [x]\n", nil, "in the place of --ssh-key"},
		{"keys of the owner's", "#cloud-config\nssh_authorized_keys: [x]\n", func(o *Options) { o.AuthorizedKeys = nil }, ""},
		{"vendor data off", "#cloud-config\nvendor_data: {enabled: false}\n", nil, "vendor_data"},
		{"too long", "#cloud-config\n#" + strings.Repeat("x", bond.MaxSeed), nil, "at most 131072"},
		{"too long together", "#cloud-config\n#" + strings.Repeat("x", bond.MaxSeed-100), nil, "at most 131072"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := options()
			o.UserData = []byte(c.text)
			if c.change != nil {
				c.change(&o)
			}
			r, err := Make(o)
			var f *fail.Error
			switch {
			case c.err == "" && err != nil:
				t.Error(err)
			case c.err == "" && string(r.Seed.UserData.Bytes()) != c.text:
				t.Error("the user data changed")
			case c.err != "" && (!errors.As(err, &f) || f.Code != fail.Usage || f.Hint == "" || !strings.Contains(err.Error(), c.err)):
				t.Errorf("%v, want %q, a usage error with a hint", err, c.err)
			}
		})
	}
}

func TestUsersWithoutDefault(t *testing.T) {
	o := options()
	for text, notes := range map[string]int{
		"#cloud-config\nusers:\n- name: deploy\n":                        1,
		"#cloud-config\nusers:\n- name: deploy\n  shell: /bin/default\n": 1,
		"#cloud-config\nusers: []\n":                                     1,
		"#cloud-config\nusers: bob\n":                                    1,
		"#cloud-config\nusers:\n- default\n- name: deploy\n":             0,
		"#cloud-config\nusers:\n- {name: default}\n":                     0,
		"#cloud-config\nusers: default, bob\n":                           0,
		"#!/bin/sh\n":                                                    0,
		mimeOf("text/cloud-config", "base64", base64.StdEncoding.EncodeToString([]byte("users: [{name: deploy}]"))): 1,
	} {
		o.UserData = []byte(text)
		if r := mustMake(t, o); len(r.Notes) != notes {
			t.Errorf("%q: %q", text, r.Notes)
		}
	}
}

func TestNetworkConfig(t *testing.T) {
	for text, want := range map[string]string{
		"version: 2\nethernets: {}\n":            "",
		"network:\n  version: 1\n  config: []\n": "",
		"config: disabled\n":                     "",
		"network: {config: disabled}\n":          "",
		"version: 1\n":                           "no \"config\"",
		"version: 3\n":                           "neither 1 nor 2",
		"version: \"2\"\n":                       "neither 1 nor 2",
		"network: {ethernets: {}}\n":             "no \"version: 2\"",
		"version: 2\n---\nversion: 2\n":          "several documents",
		"ethernets: {}\n":                        "no \"version: 2\"",
		"":                                       "no \"version: 2\"",
		"- a\n":                                  "not valid YAML",
		"a: [\n":                                 "not valid YAML",
		strings.Repeat("#", bond.MaxSeed+1):      "at most 131072",
	} {
		o := options()
		o.NetworkConfig = []byte(text)
		r, err := Make(o)
		switch {
		case want == "" && (err != nil || string(r.Seed.NetworkConfig.Bytes()) != text):
			t.Errorf("%.30q: %v", text, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%.30q: %v, want %q", text, err, want)
		}
	}
}

func TestHostname(t *testing.T) {
	for name, good := range map[string]bool{"web1": true, "a.b-c.example": true, "": false, "-a": false, "a_b": false, "a..b": false, "a\nb": false, strings.Repeat("a", 64): false} {
		o := options()
		if o.Hostname = name; (checkHostname(name) == nil) != good {
			t.Errorf("%q", name)
		}
	}
	if have := DefaultHostname("my_vm-1."); have != "my-vm-1" {
		t.Error(have)
	}
}

// certificate returns the line of a key that an authority signed.
func certificate(t *testing.T) string {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	authority, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	c := &ssh.Certificate{Key: authority.PublicKey(), CertType: ssh.UserCert, KeyId: "x", ValidPrincipals: []string{"debian"}, ValidBefore: ssh.CertTimeInfinity}
	if err := c.SignCert(rand.Reader, authority); err != nil {
		t.Fatal(err)
	}
	return string(ssh.MarshalAuthorizedKey(c))
}

func TestReadKeys(t *testing.T) {
	rsa := "ssh-rsa " + "AAAA"
	for name, c := range map[string]struct {
		text string
		keys int
		err  string
	}{
		"one":         {testKey + "\n", 1, ""},
		"options":     {"# mine\n\nno-pty,from=\"10.0.0.1\" " + testKey + "\r\n", 1, ""},
		"two":         {testKey + "\n" + testKey, 2, ""},
		"private":     {"-----BEGIN OPENSSH PRIVATE KEY-----\nxyz\n-----END OPENSSH PRIVATE KEY-----\n", 0, "private key"},
		"PuTTY":       {"PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\nPrivate-Lines: 1\nxyz\n", 0, "private key"},
		"signed":      {certificate(t), 0, "line 1 is a certificate"},
		"empty":       {"# nothing\n", 0, "no public ssh key"},
		"garbage":     {"\x00\x01\x02", 0, "line 1 is not"},
		"second":      {testKey + "\n" + rsa + "\n", 0, "line 2 is not"},
		"cut":         {testKey[:40], 0, "line 1 is not"},
		"too many":    {strings.Repeat(testKey+"\n", MaxKeys+1), 0, "more than 64"},
		"certificate": {"---- BEGIN SSH2 PUBLIC KEY ----\n", 0, "line 1 is not"},
	} {
		keys, err := ReadKeys("id.pub", []byte(c.text))
		if c.err == "" && (err != nil || len(keys) != c.keys) || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "xyz")) {
			t.Errorf("%s: %q %v", name, keys, err)
		}
	}
}

// FuzzUserData: whatever a file holds, it is taken as it is or refused with an error
// that says what to do.
func FuzzUserData(f *testing.F) {
	for _, text := range []string{
		"#cloud-config\nusers: [default]\na: &a {ssh_keys: {}}\n<<: *a\n", "#cloud-config-archive\n- {type: text/plain, content: \"#!/bin/sh\"}\n",
		mimeOf("multipart/mixed; boundary=inner", "", "--inner\nContent-Type: text/cloud-config\n\na: 1\n--inner--\n"), mimeOf("application/gzip", "base64", "H4sIAAAAAAAA"),
		gzipped("## template: jinja\n#cloud-config\n"), "version: 2\n---\n",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		o := options()
		o.UserData = text
		var refused *fail.Error
		switch r, err := Make(o); {
		case err == nil && !bytes.Equal(r.Seed.UserData.Bytes(), text):
			t.Error("the user data changed")
		case err != nil && (!errors.As(err, &refused) || refused.Hint == ""):
			t.Errorf("no hint: %v", err)
		}
		_ = checkNetworkConfig(text)
	})
}
