package cli

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/uvbond/uvbond/channel"
	"github.com/uvbond/uvbond/channel/forward"
	"github.com/uvbond/uvbond/tenant/fakehost"
)

// ports is a keeper that joins the guest's ports to listeners of a test.
func ports(s *fakehost.Server, at func(port uint16) string) {
	s.Keeper(channel.KindForward, func(ctx context.Context, c net.Conn, port uint16) {
		forward.Serve(ctx, c, func(ctx context.Context) (net.Conn, error) { //nolint:errcheck // the client is told
			var d net.Dialer
			return d.DialContext(ctx, "tcp", at(port))
		})
	})
}

// command runs a program with the test's uvbond in its path.
func command(t *testing.T, stdin string, name string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v (hack/install-deps.sh test installs it)", name, err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// guestSSH is a real sshd at the guest's port 22: it returns its public host key and
// the private key that it lets in.
func guestSSH(t *testing.T, s *fakehost.Server) (hostKey, identity string) {
	t.Helper()
	dir := t.TempDir()
	for _, key := range []string{"host", "user"} {
		if _, stderr, code := command(t, "", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key)); code != 0 {
			t.Fatal(stderr)
		}
	}
	if os.Geteuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	config := fmt.Sprintf("HostKey %s/host\nAuthorizedKeysFile %s/user.pub\nStrictModes no\nUsePAM no\nPidFile none\nPasswordAuthentication no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n", dir, dir)
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	sshd, err := exec.LookPath("/usr/sbin/sshd")
	if err != nil {
		t.Fatal("sshd is missing: apt-get install openssh-server")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f, err := c.(*net.TCPConn).File()
			c.Close()
			if err != nil {
				t.Error(err)
				return
			}
			cmd := exec.Command(sshd, "-i", "-f", filepath.Join(dir, "config"), "-E", filepath.Join(dir, "log"))
			cmd.Stdin, cmd.Stdout = f, f
			if err := cmd.Start(); err != nil {
				t.Error(err)
			}
			f.Close()
			go cmd.Wait() //nolint:errcheck // its log is not the test's
		}
	}()
	ports(s, func(port uint16) string {
		if port != 22 {
			return "127.0.0.1:1"
		}
		return l.Addr().String()
	})
	return filepath.Join(dir, "host.pub"), filepath.Join(dir, "user")
}

// TestSSH uses OpenSSH's own programs through channels.
func TestSSH(t *testing.T) {
	s, _ := bonded(t)
	hostKey, identity := guestSSH(t, s)
	_, stderr, code := command(t, "", "uvbond", "vm", "ssh", "web1", "--", "true")
	if code != 2 || !strings.Contains(stderr, "--host-key FILE") {
		t.Fatalf("without a known host key: exit %d, %s", code, stderr)
	}
	if _, stderr, code = command(t, "", "uvbond", "vm", "ssh", "web1", "--host-key", hostKey); code != 0 {
		t.Fatal(stderr)
	}
	login := []string{"vm", "ssh", "web1", "-i", identity, "--ssh-arg=-oBatchMode=yes", "--"}
	stdout, stderr, code := command(t, "typed", "uvbond", append(login, "cat; echo there >&2; exit 42")...)
	if stdout != "typed" || stderr != "there\n" || code != 42 {
		t.Fatalf("exit %d, %q, %q", code, stdout, stderr)
	}
	// ssh notices when the guest's sshd dies, as it does without a channel.
	if _, stderr, code = command(t, "", "uvbond", append(login, "kill -9 $PPID")...); code != 255 || !strings.Contains(stderr, "closed by") {
		t.Fatalf("sshd was killed: exit %d, %s", code, stderr)
	}

	dir := t.TempDir()
	config, stderr, code := command(t, "", "uvbond", "vm", "ssh-config")
	if code != 0 || !strings.HasPrefix(config, "Host web1.uvbond\n") {
		t.Fatal(stderr, config)
	}
	file := filepath.Join(dir, "config")
	if err := os.WriteFile(file, []byte(config+"    BatchMode yes\n    IdentityFile "+identity+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	big := make([]byte, 3<<20)
	rand.Read(big)
	from := filepath.Join(dir, "from")
	if err := errors.Join(os.Mkdir(from, 0o700), os.WriteFile(filepath.Join(from, "big"), big, 0o600)); err != nil {
		t.Fatal(err)
	}
	same := func(path string) {
		t.Helper()
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, big) {
			t.Fatalf("%s: %d bytes, %v", path, len(got), err)
		}
	}
	must := func(name string, args ...string) {
		t.Helper()
		if _, stderr, code := command(t, "", name, args...); code != 0 {
			t.Fatalf("%s: exit %d: %s", name, code, stderr)
		}
	}
	must("ssh", "-F", file, "web1.uvbond", "true")
	must("scp", "-q", "-F", file, filepath.Join(from, "big"), "web1.uvbond:"+dir+"/scp")
	same(dir + "/scp")
	must("scp", "-q", "-F", file, "web1.uvbond:"+dir+"/scp", dir+"/back")
	same(dir + "/back")
	must("rsync", "-a", "-e", "ssh -F "+file, from+"/", "web1.uvbond:"+dir+"/rsync/")
	same(dir + "/rsync/big")
	t.Setenv("GIT_SSH_COMMAND", "ssh -F "+file)
	t.Setenv("GIT_CONFIG_GLOBAL", filepath.Join(dir, "gitconfig"))
	must("git", "config", "--global", "user.email", "a@example.org")
	must("git", "config", "--global", "user.name", "a")
	must("git", "init", "-q", "--bare", dir+"/origin.git")
	must("git", "clone", "-q", "web1.uvbond:"+dir+"/origin.git", dir+"/work")
	must("cp", filepath.Join(from, "big"), dir+"/work/big")
	must("git", "-C", dir+"/work", "add", "big")
	must("git", "-C", dir+"/work", "commit", "-qm", "a")
	must("git", "-C", dir+"/work", "push", "-q", "origin", "HEAD")
	must("git", "clone", "-q", "web1.uvbond:"+dir+"/origin.git", dir+"/again")
	same(dir + "/again/big")

	// Another machine at the end of the channel is not the VM, for ssh too.
	guestSSH(t, s)
	if _, stderr, code = command(t, "", "uvbond", append(login, "true")...); code != 255 || !strings.Contains(stderr, "verification failed") {
		t.Fatalf("another host key: exit %d, %s", code, stderr)
	}
}

func TestHostKeyFiles(t *testing.T) {
	_, o := bonded(t)
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDnw2sRJhV5xUw9nSTuCmB4tUpFrlkEcbXlu9PmX8bzT"
	for text, want := range map[string]int{
		key + " root@web1\n": 1,
		"# web1:22 SSH-2.0-OpenSSH\nweb1 " + key + "\n" + key + "\n": 1,
		"@revoked web1 " + key + "\n":                                0, "@cert-authority *.example.org " + key + "\n": 0,
		"": 0, "no key\n": 0, key[:40]: 0, strings.Repeat("#", 70<<10): 0,
	} {
		_, _, code := command(t, text, "uvbond", "vm", "ssh", "web1", "--host-key", "-")
		if want == 0 && code != 2 || want > 0 && code != 0 {
			t.Errorf("%.30q: exit %d", text, code)
		}
		if vm, err := o.Store.VM("web1"); err != nil || want > 0 && (len(vm.HostKeys) != want || vm.HostKeys[0] != key) {
			t.Errorf("%.30q: %v, %v", text, vm.HostKeys, err)
		}
	}
}

// TestForward: a web server in the guest, reached by a program here; the channel
// breaks in between.
func TestForward(t *testing.T) {
	s, _ := bonded(t)
	web, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body) //nolint:errcheck // the client notices
	})}
	go server.Serve(web) //nolint:errcheck // ends with the test
	defer server.Close()
	ports(s, func(uint16) string { return web.Addr().String() })
	cmd := exec.Command("uvbond", "vm", "forward", "web1", "0:80", "127.0.0.1:0:80", "0:8080")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var notes bytes.Buffer
	cmd.Stderr = &notes
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	defer cmd.Process.Kill() //nolint:errcheck // it has ended if all is well
	var addresses []string
	for range 3 {
		var address, to string
		var port int
		if _, err := fmt.Fscanf(out, "%s %s port %d of web1\n", &address, &to, &port); err != nil {
			t.Fatal(err)
		}
		addresses = append(addresses, address)
	}
	go func() { ended <- cmd.Wait() }()
	data := make([]byte, 1<<20)
	rand.Read(data)
	echo := func(address string) error {
		resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}).Post("http://"+address, "application/octet-stream", bytes.NewReader(data))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		got, err := io.ReadAll(resp.Body)
		if err == nil && !bytes.Equal(got, data) {
			err = errors.New("the echo differs")
		}
		return err
	}
	for _, a := range addresses {
		if err := echo(a); err != nil {
			t.Fatal(a, err)
		}
	}
	s.CutChannels()
	for _, a := range addresses {
		if err := echo(a); err != nil { // waits for the new channel
			if err = echo(a); err != nil { // this one may have been on the old
				t.Fatal(a, err)
			}
		}
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatalf("interrupted: %v\n%s", err, notes.String())
	}
	if !strings.Contains(notes.String(), "is open again") || !strings.HasSuffix(notes.String(), "no longer forwarding\n") {
		t.Errorf("notes: %s", notes.String())
	}
}

func TestForwardErrors(t *testing.T) {
	s, _ := bonded(t)
	ports(s, func(uint16) string { return "127.0.0.1:1" })
	for _, bad := range []string{"80", ":80", "8080:", "8080:0", "x:80", "70000:80", "8080:70000", "example.org:80:80", "1:2:3:4"} {
		if out, err := uvbond(t, "vm", "forward", "web1", bad); err == nil || err.Error() != "usage" {
			t.Errorf("%s: %v %s", bad, err, out)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, taken, _ := net.SplitHostPort(l.Addr().String())
	if out, err := uvbond(t, "vm", "forward", "web1", taken+":80"); err == nil || !strings.Contains(out, "cannot listen on") {
		t.Errorf("a taken port: %v %s", err, out)
	}
	if _, stderr, code := command(t, "", "uvbond", "vm", "connect", "web1", "80"); code != 1 || !strings.Contains(stderr, `port 80 of "web1": connection refused`) {
		t.Errorf("exit %d, %s", code, stderr)
	}
	s.Evil(fakehost.OtherKeeper)
	if _, stderr, code := command(t, "", "uvbond", "vm", "connect", "web1", "22"); code != 4 || !strings.Contains(stderr, "REDIRECTED") {
		t.Errorf("exit %d, %s", code, stderr)
	}
	if out, err := uvbond(t, "vm", "forward", "web1", "0:80"); err == nil || err.Error() != "forged" {
		t.Errorf("%v %s", err, out)
	}
}

// TestConnect: the ends of both directions are passed on, each by itself.
func TestConnect(t *testing.T) {
	s, _ := bonded(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				all, _ := io.ReadAll(c) // to the end of standard input
				fmt.Fprintf(c, "%d bytes", len(all))
			}()
		}
	}()
	ports(s, func(uint16) string { return l.Addr().String() })
	stdout, stderr, code := command(t, strings.Repeat("x", 1<<20), "uvbond", "vm", "connect", "web1", "7")
	if code != 0 || stdout != "1048576 bytes" || stderr != "" {
		t.Fatalf("exit %d, %q, %s", code, stdout, stderr)
	}
}

// TestConnectUnanswered: QEMU takes connections for a guest and ends them when the guest
// says no. That is an error, and a program that ends without a word is none.
func TestConnectUnanswered(t *testing.T) {
	s, _ := bonded(t)
	at := map[uint16]string{}
	for port, serve := range map[uint16]func(*net.TCPConn){
		1: func(*net.TCPConn) {}, // closed at once
		2: func(c *net.TCPConn) { // what was sent is not taken: the kernel resets
			waitReadable(t, c)
		},
		3: func(c *net.TCPConn) { io.Copy(io.Discard, c) }, //nolint:errcheck // takes it all
		4: func(c *net.TCPConn) { // says at once that it says nothing, and takes it all
			c.CloseWrite()         //nolint:errcheck // the client tells
			io.Copy(io.Discard, c) //nolint:errcheck // as above
		},
		5: func(c *net.TCPConn) { // breaks off behind a word
			io.Copy(io.Discard, c)  //nolint:errcheck // as above
			c.Write([]byte("word")) //nolint:errcheck // the client tells
			c.SetLinger(0)          //nolint:errcheck // as above
		},
	} {
		at[port] = listening(t, serve)
	}
	ports(s, func(port uint16) string { return at[port] })
	const nobody = "nobody listens there in the guest, or the connection was closed at once"
	for _, tt := range []struct {
		port, stdin string
		code        int
		said        string
	}{
		{"1", "", 1, `port 1 of "web1": ` + nobody},
		{"2", "hello", 1, nobody},
		{"3", "hello", 0, ""},
		{"4", "hello", 0, ""},
		{"5", "hello", 1, "the connection was reset"},
	} {
		_, stderr, code := command(t, tt.stdin, "uvbond", "vm", "connect", "web1", tt.port)
		if code != tt.code || !strings.Contains(stderr, tt.said) || tt.said == "" && stderr != "" {
			t.Errorf("port %s: exit %d, %s", tt.port, code, stderr)
		}
	}
}

// listening serves connections until the test ends.
func listening(t *testing.T, serve func(*net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c.(*net.TCPConn))
			}()
		}
	}()
	return l.Addr().String()
}

// waitReadable returns when bytes wait to be read, and leaves them there.
func waitReadable(t *testing.T, c *net.TCPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		t.Error(err)
		return
	}
	err = raw.Read(func(fd uintptr) bool {
		_, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK)
		return err != syscall.EAGAIN //nolint:errorlint // it is the plain number
	})
	if err != nil {
		t.Error(err)
	}
}

// TestConnectEnd: the end of the guest's direction reaches whoever reads, while standard
// input is open.
func TestConnectEnd(t *testing.T) {
	s, _ := bonded(t)
	at := listening(t, func(c *net.TCPConn) {
		c.Write([]byte("bye")) //nolint:errcheck // the reader notices
		c.CloseWrite()         //nolint:errcheck // as above
		io.Copy(io.Discard, c) //nolint:errcheck // until the tenant's end
	})
	ports(s, func(uint16) string { return at })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "uvbond", "vm", "connect", "web1", "7")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if all, err := io.ReadAll(out); err != nil || string(all) != "bye" || ctx.Err() != nil {
		t.Errorf("%q, %v, %v", all, err, ctx.Err())
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
