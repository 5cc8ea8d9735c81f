package cli

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/uvbond/uvbond/channel"
	"github.com/uvbond/uvbond/tenant"
	"github.com/uvbond/uvbond/tenant/fail"
	"github.com/uvbond/uvbond/tenant/fakehost"
	"github.com/uvbond/uvbond/tenant/store"
)

// bonded returns a fake host with a running VM web1, and its owner.
func bonded(t *testing.T) (*fakehost.Server, *tenant.Owner) {
	t.Helper()
	s, err := fakehost.New()
	if err != nil {
		t.Fatal(err)
	}
	s.HTTP.Config.ErrorLog = nil
	t.Cleanup(s.Close)
	dir := t.TempDir()
	t.Setenv("UVBOND_HOME", filepath.Join(dir, "home"))
	t.Setenv("UVBOND_TOKEN", fakehost.Token)
	file := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(os.WriteFile(file("pass"), []byte("correct horse\n"), 0o600), os.WriteFile(file("raw"), make([]byte, 1<<20), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"host add lab " + s.HTTP.URL + " --fingerprint " + s.Fingerprint() + " --tls-fingerprint " + s.TLSFingerprint(),
		"disk encrypt raw web1.luks --passphrase-file pass --pbkdf pbkdf2 --pbkdf-iterations 1000",
		"vm create web1 --host lab --disk web1.luks --memory 64MiB --cpus 1 --passphrase-file pass",
		"vm start web1",
	} {
		args := strings.Fields(line)
		for i, a := range args {
			if a == "raw" || a == "pass" || a == "web1.luks" {
				args[i] = file(a)
			}
		}
		if out, err := uvbond(t, args...); err != nil {
			t.Fatalf("uvbond %s: %v\n%s", line, err, out)
		}
	}
	st, err := store.Open(filepath.Join(dir, "home"))
	if err != nil {
		t.Fatal(err)
	}
	return s, tenant.NewOwner(st)
}

// uvbond runs a command in this process and returns all that it printed.
func uvbond(t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, err := os.CreateTemp(t.TempDir(), "out")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	code := run(t.Context(), args, null, out, out)
	text, err := os.ReadFile(out.Name())
	if err == nil && code != fail.Done {
		err = errors.New(code.String())
	}
	return string(text), err
}

func TestOpenChannel(t *testing.T) {
	s, o := bonded(t)
	ports := make(chan uint16, 1)
	s.Keeper(channel.KindForward, func(_ context.Context, c net.Conn, port uint16) {
		ports <- port
		io.Copy(c, c) //nolint:errcheck // ends with the channel
	})
	ctx, cancel := context.WithCancel(t.Context())
	c, err := o.OpenChannel(ctx, "web1", channel.KindForward, 22)
	if err != nil {
		t.Fatal(err)
	}
	cancel() // is for the opening only
	if port := <-ports; port != 22 {
		t.Errorf("port %d", port)
	}
	data := make([]byte, 1<<20)
	rand.Read(data)
	go c.Write(data) //nolint:errcheck // the reader notices
	got := make([]byte, len(data))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, data) {
		t.Fatal("the echo differs", err)
	}
	begin := time.Now()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("closing took %v", took)
	}
	list, _, err := o.Receipts("web1")
	if err != nil || list[len(list)-1].Opened.Command != "forward" {
		t.Fatal("the receipt is not kept", err)
	}
	s.Keeper(channel.KindConsole, func(_ context.Context, c net.Conn, _ uint16) { c.Write([]byte("bye")) }) //nolint:errcheck // the reader notices
	if c, err = o.OpenChannel(t.Context(), "web1", channel.KindConsole, 0); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || string(got) != "bye" {
		t.Fatalf("the keeper's last words: %q, %v", got, err)
	}
	if _, err := o.OpenChannel(t.Context(), "web1", channel.KindForward, 0); fail.CodeOf(err) != fail.Usage {
		t.Fatal(err)
	}
}

// TestChannelAttacks: what an operator does to a channel, and what the owner is told.
func TestChannelAttacks(t *testing.T) {
	s, o := bonded(t)
	for _, tt := range []struct {
		mode, text string
		code       fail.Code
	}{
		{fakehost.OtherKeeper, "redirected", fail.Forged},
		{fakehost.TamperChannel, "tampered", fail.Forged},
		{fakehost.ReplayChannel, "replayed", fail.Forged},
		{fakehost.CutChannel, "truncated", fail.Connection},
		{fakehost.NoReceipt, "withholds the receipt", fail.Unknown},
		{fakehost.ForgedReceipt, "does not open", fail.Forged},
		{fakehost.Trouble, "503", fail.Connection},
		{fakehost.OldServer, "no channels", fail.Connection},
		{fakehost.LateTicket, "Expired", fail.Refused},
	} {
		t.Run(tt.mode, func(t *testing.T) {
			s.Evil(tt.mode)
			defer s.Evil("")
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			c, err := o.OpenChannel(ctx, "web1", channel.KindConsole, 0)
			for err == nil {
				var p [1]byte
				if _, err = c.Write([]byte("x")); err == nil {
					_, err = c.Read(p[:])
				}
				err = tenant.ChannelFailure("web1", err)
			}
			if fail.CodeOf(err) != tt.code || !strings.Contains(err.Error(), tt.text) {
				t.Fatalf("%v (%v), want %v with %q", err, fail.CodeOf(err), tt.code, tt.text)
			}
			if fail.HintOf(err) == "" {
				t.Error("no next step")
			}
		})
	}
	s.Evil("")
	if out, err := uvbond(t, "vm", "poweroff", "web1"); err != nil {
		t.Fatal(err, out)
	}
	if _, err := o.OpenChannel(t.Context(), "web1", channel.KindConsole, 0); fail.CodeOf(err) != fail.Refused || !strings.Contains(err.Error(), "NotRunning") {
		t.Fatal(err)
	}
}
