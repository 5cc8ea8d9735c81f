package firstboot

import (
	"bytes"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant/terminal/ttytest"
)

// vendorParts reads vendor data as a mail program would: by type, the texts.
func vendorParts(t *testing.T, r *Result) map[string][]byte {
	t.Helper()
	m, err := mail.ReadMessage(bytes.NewReader(r.Seed.VendorData.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/mixed" || m.Header.Get("MIME-Version") != "1.0" {
		t.Fatalf("vendor data are %q (%v)", kind, err)
	}
	parts := map[string][]byte{}
	for in := multipart.NewReader(m.Body, params["boundary"]); ; {
		p, err := in.NextPart()
		if err == io.EOF {
			return parts
		}
		if err != nil {
			t.Fatal(err)
		}
		kind, _, err := mime.ParseMediaType(p.Header.Get("Content-Type"))
		if err != nil || parts[kind] != nil {
			t.Fatalf("a part is %q (%v)", kind, err)
		}
		if parts[kind], err = io.ReadAll(p); err != nil {
			t.Fatal(err)
		}
	}
}

func TestVendorParts(t *testing.T) {
	o := options()
	o.AuthorizedKeys = []string{testKey + " für 😀"}
	r := mustMake(t, o)
	for _, b := range r.Seed.VendorData.Bytes() {
		if b >= 0x80 {
			t.Fatal("vendor data are not in ASCII")
		}
	}
	parts := vendorParts(t, r)
	if len(parts) != 2 || !bytes.Equal(parts["text/cloud-boothook"], boothook()) {
		t.Errorf("%d parts, the boothook is %q", len(parts), parts["text/cloud-boothook"])
	}
	vendor := parse(t, parts["text/cloud-config"], "#cloud-config\n")
	if keys := vendor["ssh_authorized_keys"].([]any); len(keys) != 1 || keys[0] != o.AuthorizedKeys[0] {
		t.Errorf("authorized keys: %q", keys)
	}
	if private := vendor["ssh_keys"].(map[string]any)["ed25519_private"].(string); !strings.HasPrefix(private, "-----BEGIN OPENSSH PRIVATE KEY-----\n") {
		t.Error("the private host key is damaged")
	}
	o.NoConsoleSize = true
	parse(t, mustMake(t, o).Seed.VendorData.Bytes(), "#cloud-config\n")
}

// TestConsoleSizeAlone: without keys the boothook is all there is; and who changes vendor_data, or has no
// room for it, does without, and is told.
func TestConsoleSizeAlone(t *testing.T) {
	o := Options{VM: bond.NewVMID(), Hostname: "a", NoHostKeys: true, UserData: []byte("#cloud-config\n{}\n")}
	if r := mustMake(t, o); !bytes.Equal(r.Seed.VendorData.Bytes(), boothook()) || r.Notes != nil {
		t.Errorf("%q, %q", r.Seed.VendorData.Bytes(), r.Notes)
	}
	for _, text := range []string{"vendor_data: {enabled: false}\n", "#" + strings.Repeat("x", bond.MaxSeed-1000) + "\n"} {
		o.UserData = []byte("#cloud-config\n" + text)
		if r := mustMake(t, o); r.Seed.VendorData.Len() != 0 || len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "console's size") {
			t.Errorf("%d, %q", r.Seed.VendorData.Len(), r.Notes)
		}
	}
	o.NoConsoleSize = true
	if r := mustMake(t, o); r.Notes != nil {
		t.Errorf("%q", r.Notes)
	}
}

// TestBoothook runs it as cloud-init does, at several starts of a guest.
func TestBoothook(t *testing.T) {
	root := t.TempDir()
	script := strings.NewReplacer("/etc/", root+"/etc/", "/var/", root+"/var/").Replace(strings.TrimPrefix(string(boothook()), "#cloud-boothook\n"))
	hook := filepath.Join(root, "hook")
	if err := os.WriteFile(hook, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	boot := func() ([]byte, error) {
		t.Helper()
		if out, err := exec.Command(hook).CombinedOutput(); err != nil || len(out) > 0 {
			t.Fatalf("%v: %s", err, out)
		}
		return os.ReadFile(root + consoleSizePath)
	}
	if _, err := boot(); err == nil {
		t.Fatal("it made the folder of a system that does not have it")
	}
	for _, dir := range []string{"/etc/profile.d", "/var/lib/cloud/instance/sem"} {
		if err := os.MkdirAll(root+dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if text, err := boot(); err != nil || string(text) != consoleSize {
		t.Fatalf("%v: %q", err, text)
	}
	if st, err := os.Stat(root + consoleSizePath); err != nil || st.Mode() != 0o644 {
		t.Errorf("%v, %v", st, err)
	}
	if err := os.Remove(root + consoleSizePath); err != nil {
		t.Fatal(err)
	}
	if _, err := boot(); err == nil {
		t.Fatal("it came back after it was deleted")
	}
}

// onSerial starts a shell that reads the snippet and takes its terminal for a serial port.
func onSerial(t *testing.T, rc string, shell ...string) *ttytest.Desk {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"tty": "#!/bin/sh\necho /dev/ttyS0\n", "size": consoleSize, "rc": "PS1='at> '\n" + rc + ". " + dir + "/size\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(shell[0], shell[1:]...)
	for i := range cmd.Args {
		cmd.Args[i] = strings.ReplaceAll(cmd.Args[i], "RC", dir+"/rc")
	}
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "TERM=vt220", "HISTFILE=", "ENV="+dir+"/rc")
	return ttytest.Start(t, cmd)
}

// TestConsoleSize has real shells ask, and answers as package terminal does.
func TestConsoleSize(t *testing.T) {
	for name, rc := range map[string]string{
		"plain": "", "vi": "set -o vi\n", "text": "PROMPT_COMMAND='echo $?; '\n",
		"array": "PROMPT_COMMAND=(true 'echo $?')\n", "strict": "set -u\n",
	} {
		t.Run(name, func(t *testing.T) {
			d := onSerial(t, rc, "bash", "--noprofile", "--rcfile", "RC", "-i")
			d.Expect("\x1b[18;24;80t")
			d.Expect("at> ")
			d.Keys("\x1b[8;53;137tstty size\r")
			d.Expect("\r53 137\r\n")
			d.Expect("\x1b[18;53;137t")
			d.Expect("at> ")
			d.Keys("echo in the mid")
			d.Expect("in the mid")
			d.Keys("\x1b[8;50;100tdle: $LINES $COLUMNS; (exit 3)\r")
			d.Expect("in the middle: 50 100\r\n")
			d.Expect("\x1b[18;50;100t")
			if name == "text" || name == "array" { // others still get the exit code
				d.Expect("3\r\n")
			}
			d.Expect("at> ")
			d.Keys("\x1b[8;x;1techo \"code $?\"\r") // no answer, and it changes nothing
			d.Expect("code 3\r\n")
			d.Expect("\x1b[18;50;100t")
			// Nobody asks while lines that were typed ahead wait, and none of them is lost.
			d.Keys("read -n 1; echo one\r")
			d.Expect("echo one\r\n")
			d.Keys("kecho two\recho three\recho four\r")
			if seen := d.Expect("\rfour\r\n"); strings.Contains(seen, "\x1b[18;") || strings.Contains(seen, "not found") {
				t.Errorf("it asked between lines that were typed ahead: %q", seen)
			}
			d.Expect("\x1b[18;50;100t")
			d.Expect("at> ")
			d.Keys("set +o emacs +o vi\r")
			d.Expect("vi\r\n")
			if seen := d.Expect("at> "); strings.Contains(seen, "\x1b[18;") {
				t.Errorf("it asked without a line editor: %q", seen)
			}
			d.Keys("exec true\r")
			d.Leaves(0)
		})
	}
}

// TestConsoleSizeElsewhere: shells that are not for this say nothing, and go on.
func TestConsoleSizeElsewhere(t *testing.T) {
	for name, shell := range map[string][]string{
		"dash": {"dash", "-i"}, "busybox": {"busybox", "sh", "-i"},
		"no line editor": {"bash", "--noprofile", "--noediting", "--rcfile", "RC", "-i"},
	} {
		t.Run(name, func(t *testing.T) {
			d := onSerial(t, "", shell...)
			d.Expect("at> ")
			d.Keys("echo here\r")
			d.Expect("\r\nhere\r\n")
			if shown := d.Shown(); strings.Contains(shown, "\x1b[18;") || strings.Contains(shown, "rror") {
				t.Errorf("%q", shown)
			}
		})
	}
	for _, shell := range []string{"sh", "bash", "busybox sh"} { // no terminal at all
		args := append(strings.Fields(shell), "-euc", ". ./console-size.sh; echo here")
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil || string(out) != "here\n" {
			t.Errorf("%s: %v %s", shell, err, out)
		}
	}
}
