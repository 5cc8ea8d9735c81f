package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/uvbond/uvbond/test/guest"
	"github.com/uvbond/uvbond/test/lab"
)

// networked boots a guest and waits until its card for channels has an address.
func (u *user) networked(name string) {
	u.Helper()
	u.running(name, image(u.T, guest.Options{Kernel: guest.Cloud, Secret: secret}))
	u.await(name, "UVBOND-NETWORK inet ")
}

// feed runs uvbond with standard input.
func (u *user) feed(stdin io.Reader, args ...string) lab.Result {
	u.Helper()
	ctx, cancel := context.WithTimeout(u.Context(), 2*time.Minute)
	defer cancel()
	cmd := u.tenant.Command(ctx, args...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errOut
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		u.Fatal(err)
	}
	return lab.Result{Args: args, Stdout: out.String(), Stderr: errOut.String(), Code: cmd.ProcessState.ExitCode()}
}

// TestForward: the owner reaches programs in a real guest, through a server that
// records all and learns nothing, and that is killed in between. Nothing is left.
func TestForward(t *testing.T) {
	w := newWorld(t)
	u := w.user("alice")
	u.networked("web1")
	traffic, err := w.lab.Record(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const marker = "nobody-in-between-reads-this"
	long := strings.Repeat(marker+"\n", 20_000)
	if r := u.feed(strings.NewReader(long), "vm", "connect", "web1", "7"); r.Code != exitDone || r.Stdout != long {
		r.Stdout = r.Stdout[:min(len(r.Stdout), 200)]
		t.Fatalf("the guest's echo differs: %s", r)
	}
	page := u.feed(strings.NewReader("GET / HTTP/1.0\r\n\r\n"), "vm", "connect", "web1", "80")
	if page.Code != exitDone || !strings.Contains(page.Stdout, "UVBond guest") {
		t.Fatalf("the guest's page: %s", page)
	}
	if seen, err := os.ReadFile(traffic); err != nil || len(seen) < 2*len(long) || bytes.Contains(seen, []byte(marker)) || bytes.Contains(seen, []byte("UVBond guest")) {
		t.Errorf("of %d bytes that the management domain saw, %v, some are what was sent", len(seen), err)
	}

	if r := u.feed(strings.NewReader(""), "vm", "connect", "web1", "99"); r.Code != exitError || !strings.Contains(r.Stderr, "nobody listens there") {
		t.Errorf("a port where nobody listens: %s", r)
	}
	cmd, address, notes := u.forwarding("web1", "0:7")
	echo := func() error {
		c, err := net.DialTimeout("tcp", address, 10*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.WriteString(c, "hello\n"); err != nil {
			return err
		}
		line, err := bufio.NewReader(c).ReadString('\n')
		if err == nil && line != "hello\n" {
			err = fmt.Errorf("the echo is %q", line)
		}
		return err
	}
	if err := echo(); err != nil {
		t.Fatal(err)
	}
	w.lab.StopServer(syscall.SIGKILL)
	if err := w.lab.StartServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !eventually(30*time.Second, func() bool { return echo() == nil }) {
		t.Errorf("no connection after the server was killed: %v", echo())
	}
	_ = cmd.Process.Signal(os.Interrupt)
	if err := cmd.Wait(); err != nil || !strings.Contains(notes(), "truncated") || !strings.Contains(notes(), "is open again") {
		t.Errorf("vm forward: %v\n%s", err, notes())
	}

	u.stuck("web1")
	u.audit("web1", "forward to port 7 opened", "forward to port 7 ended: done", "forward to port 7 ended: truncated")
}

// stuck floods the guest's echo, reads nothing of it, and then does not run at all: nobody
// else is held up, and the guest neither.
func (u *user) stuck(name string) {
	u.Helper()
	zero, err := os.Open("/dev/zero")
	if err != nil {
		u.Fatal(err)
	}
	defer zero.Close()
	cmd := u.tenant.Command(u.Context(), "vm", "connect", name, "7")
	cmd.Stdin = zero
	out, err := cmd.StdoutPipe()
	if err != nil {
		u.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		u.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 1<<20)); err != nil {
		u.Fatal(err)
	}
	others := func() {
		u.Helper()
		if r := u.feed(strings.NewReader("beside it\n"), "vm", "connect", name, "7"); r.Code != exitDone || r.Stdout != "beside it\n" {
			u.Errorf("beside a client that reads nothing: %s", r)
		}
	}
	others()
	_ = cmd.Process.Signal(syscall.SIGSTOP)
	others()
	u.ticksOn(name)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// forwarding starts vm forward and returns where it listens and what it said since.
func (u *user) forwarding(args ...string) (cmd *exec.Cmd, address string, notes func() string) {
	u.Helper()
	cmd = u.tenant.Command(u.Context(), append([]string{"vm", "forward"}, args...)...)
	log, err := os.Create(u.path("notes"))
	if err != nil {
		u.Fatal(err)
	}
	u.Cleanup(func() { log.Close() })
	cmd.Stderr = log
	out, err := cmd.StdoutPipe()
	if err != nil {
		u.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		u.Fatal(err)
	}
	notes = func() string {
		b, err := os.ReadFile(log.Name())
		if err != nil {
			u.Fatal(err)
		}
		return string(b)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if address, _, _ = strings.Cut(line, " "); err != nil || address == "" {
		u.Fatalf("%v: %s", err, notes())
	}
	return cmd, address, notes
}

// TestBentChannels: whatever an operator does to a channel ends it, and the owner is
// told what it was.
func TestBentChannels(t *testing.T) {
	w := newWorld(t)
	u := w.user("alice")
	u.networked("web1")
	for _, tt := range []struct {
		kind, direction string
		said            []string
		code            int
	}{
		{"channel-flip", "", []string{"tampered"}, exitForged},
		{"channel-replay", "", []string{"replayed"}, exitForged},
		{"channel-drop", "", []string{"reordered"}, exitForged},
		{"channel-reorder", "", []string{"reordered"}, exitForged},
		{"channel-cut", "", []string{"truncated"}, exitConnection},
		{"channel-flip", "to-keeper", []string{"tampered"}, exitForged},
		{"channel-replay", "to-keeper", []string{"replayed"}, exitForged},
		{"channel-drop", "to-keeper", []string{"reordered"}, exitForged},
		{"channel-reorder", "to-keeper", []string{"reordered"}, exitForged},
		{"channel-cut", "to-keeper", []string{"truncated"}, exitConnection},
	} {
		t.Run(tt.kind+" "+tt.direction, func(t *testing.T) {
			if _, err := w.lab.Operator(t.Context(), lab.Attack{Kind: tt.kind, Command: tt.direction}); err != nil {
				t.Fatal(err)
			}
			in, feed := io.Pipe()
			go func() {
				for range 200 { // small parts, so that there are records to bend
					if _, err := io.WriteString(feed, "x\n"); err != nil {
						break
					}
					time.Sleep(20 * time.Millisecond)
				}
				feed.Close()
			}()
			r := u.feed(in, "vm", "connect", "web1", "7")
			in.Close()
			for _, part := range tt.said {
				if r.Code != tt.code || !strings.Contains(r.Stderr, part) {
					t.Errorf("exit %d and %q are due: %s", tt.code, part, r)
				}
			}
		})
	}
	if _, err := w.lab.Operator(t.Context(), lab.Attack{Kind: "channel-splice"}); err != nil {
		t.Fatal(err)
	}
	other := make(chan lab.Result, 1)
	go func() { other <- u.feed(strings.NewReader(""), "vm", "connect", "web1", "80") }()
	for _, r := range []lab.Result{u.feed(strings.NewReader(""), "vm", "connect", "web1", "7"), <-other} {
		if r.Code != exitForged || !strings.Contains(r.Stderr, "redirected") {
			t.Errorf("channels that are exchanged: %s", r)
		}
	}
	if _, err := w.lab.Operator(t.Context(), lab.Attack{Kind: "none"}); err != nil {
		t.Fatal(err)
	}
	refused := u.says(exitDone, "!!", "audit", "web1", "--refused").Stdout
	for _, part := range []string{"tampered", "replayed", "reordered", "redirected"} {
		if !strings.Contains(refused, part) {
			t.Errorf("the audit log does not tell of channels that were %s:\n%s", part, refused)
		}
	}
	if r := u.feed(strings.NewReader("again\n"), "vm", "connect", "web1", "7"); r.Code != exitDone || r.Stdout != "again\n" {
		t.Errorf("afterwards: %s", r)
	}
}
