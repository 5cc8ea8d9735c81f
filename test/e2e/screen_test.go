package e2e

import (
	"context"
	"encoding/json"
	picture "image"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/uvbond/uvbond/channel"
	"github.com/uvbond/uvbond/tenant"
	"github.com/uvbond/uvbond/tenant/rfb/rfbtest"
	"github.com/uvbond/uvbond/tenant/store"
	"github.com/uvbond/uvbond/test/guest"
)

// TestScreen: the owner sees a real guest's text console and types into it, with
// UVBond's own client and with a VNC viewer that is not ours. Operators can do neither.
func TestScreen(t *testing.T) {
	w := newWorld(t)
	u := w.user("alice")
	u.running("web1", image(t, guest.Options{Kernel: guest.Cloud, Secret: secret}))

	before := u.screenshot("web1", "before.png")
	if r := before.Bounds(); r.Dx() < 640 || r.Dy() < 400 || rfbtest.Lit(before) < 1000 {
		t.Fatalf("the picture is %v with %d lit pixels", r, rfbtest.Lit(before))
	}
	u.says(exitDone, "pressed ret", "vm", "send-key", "web1", "ret") // for a shell on tty1
	u.says(exitDone, "typed", "vm", "type", "web1", `echo "Typed-$((6*7))" >/dev/ttyS0; echo '~@{}|<>'`, "--enter", "--delay", "30ms")
	u.await("web1", "Typed-42")
	if rfbtest.Same(before, u.screenshot("web1", "after.png")) {
		t.Error("the screen shows nothing of what was typed")
	}

	u.realViewer("web1")
	u.garbageForQEMU("web1")

	w.operator(exitRefused, "the screen belongs to the owner", "gate", "--vm", "web1", "screendump", `{"filename":"/tmp/x"}`)
	w.operator(exitRefused, "send-key", "gate", "--vm", "web1", "send-key", `{"keys":[{"type":"qcode","data":"ret"}]}`)

	u.says(exitDone, "pressed ctrl-alt-delete", "vm", "send-key", "web1", "ctrl-alt-delete")
	u.await("web1", "UVBOND-BOOTS 2")
	u.audit("web1", "screen opened", "screen ended", "screendump refused", "send-key refused")
	u.run(exitDone, "vm", "poweroff", "web1")
	u.says(exitRefused, "web1", "vm", "screenshot", "web1", "late.png")
}

// screenshot takes a picture and reads it.
func (u *user) screenshot(name, file string) *picture.RGBA {
	u.Helper()
	u.says(exitDone, "wrote the screen of "+name, "vm", "screenshot", name, file, "--force")
	p, err := rfbtest.Read(u.path(file))
	if err != nil {
		u.Fatal(err)
	}
	return p
}

// realViewer lets gvnccapture in by a local port, and holds its pictures against
// UVBond's until the guest's cursor blinked alike. Garbage disturbs neither.
func (u *user) realViewer(name string) {
	u.Helper()
	ctx, cancel := context.WithTimeout(u.Context(), 2*time.Minute)
	defer cancel()
	cmd := u.tenant.Command(ctx, "vm", "screen", name, "--json")
	var log strings.Builder
	cmd.Stderr = &log
	out, err := cmd.StdoutPipe()
	if err != nil {
		u.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		u.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != exitInterrupted {
			u.Errorf("vm screen ended with %d: %s", code, log.String())
		}
	}()
	invitations := json.NewDecoder(out)
	for same := false; !same; {
		var in struct{ Address, Password string }
		if err := invitations.Decode(&in); err != nil {
			u.Fatalf("%v: %s", err, log.String())
		}
		u.garbage(ctx, in.Address)
		_, port, _ := net.SplitHostPort(in.Address)
		n, err := strconv.Atoi(port)
		if err != nil {
			u.Fatal(err)
		}
		theirs, err := rfbtest.Capture(ctx, n, in.Password)
		if err != nil {
			u.Fatalf("%v: %s", err, log.String())
		}
		same = rfbtest.Same(theirs, u.screenshot(name, "ours.png"))
	}
}

// garbage connects to a VNC port and does not speak RFB.
func (u *user) garbage(ctx context.Context, address string) {
	u.Helper()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		u.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\n\r\n")
	if said, err := io.ReadAll(conn); os.IsTimeout(err) {
		u.Errorf("the connection stays, and %q was said", said)
	}
}

// garbageForQEMU sends through channels what is no VNC, past what checks it on the
// owner's machine: an owner is a stranger to the host. Each channel ends, and the VM has
// a screen still.
func (u *user) garbageForQEMU(name string) {
	u.Helper()
	home := filepath.Join(u.TempDir(), "home")
	if err := os.CopyFS(home, os.DirFS(u.path(".uvbond"))); err != nil {
		u.Fatal(err)
	}
	if err := os.Chmod(home, 0o700); err != nil {
		u.Fatal(err)
	}
	s, err := store.Open(home)
	if err != nil {
		u.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(u.Context(), 2*time.Minute)
	defer cancel()
	const entered = "RFB 003.008\n\x01\x01" // version, security type None, shared
	for what, sent := range map[string]string{
		"no version":   "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"no message":   entered + "\xfe\xfe\xfe\xfe",
		"no clipboard": entered + "\x06\x00\x00\x00\x7f\xff\xff\xff",
		"no pixels":    entered + "\x00\x00\x00\x00\x07" + strings.Repeat("\xff", 15),
	} {
		conn, err := tenant.NewOwner(s).OpenChannel(ctx, name, channel.KindScreen, 0)
		if err != nil {
			u.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		_, _ = io.WriteString(conn, sent)
		if _, err := io.Copy(io.Discard, conn); os.IsTimeout(err) {
			u.Errorf("%s: QEMU goes on", what)
		}
		_ = conn.Close()
	}
	u.screenshot(name, "unharmed.png")
}
