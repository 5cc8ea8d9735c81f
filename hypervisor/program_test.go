package hypervisor_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/hypervisor"
	"github.com/uvbond/uvbond/hypervisor/machine/machinetest"
	"github.com/uvbond/uvbond/qmp"
)

func TestConfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.toml")
	for name, c := range map[string]struct{ text, want string }{
		"unknown key":  {"state_dirr = \"/x\"", "state_dirr"},
		"syntax":       {"state_dir = ", "c.toml"},
		"type":         {"max_vms = \"many\"", "max_vms"},
		"relative":     {"run_dir = \"run\"", "run_dir must be an absolute path"},
		"long run_dir": {"run_dir = \"/" + strings.Repeat("x", 60) + "\"", "run_dir"},
		"long gate":    {"gate = \"/" + strings.Repeat("x", 120) + "\"", "107"},
		"no VMs":       {"max_vms = 0", "max_vms must be 1 to 4096"},
		"accel":        {"accel = \"hvf\"", "accel must be"},
		"log":          {"log_format = \"xml\"", "log_format"},
		"uid base":     {"uid_base = 5", "uid_base"},
		"fine":         {"max_vms = 3\naccel = \"tcg\"", ""},
	} {
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := hypervisor.LoadConfig(path)
		switch {
		case c.want == "" && (err != nil || got.MaxVMs != 3 || got.UIDBase != hypervisor.DefaultConfig().UIDBase):
			t.Errorf("%s: %+v %v", name, got, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, err := hypervisor.LoadConfig(filepath.Join(t.TempDir(), "none.toml")); err == nil {
		t.Error("a missing file that was named is accepted")
	}
}

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{nil, 2, "Usage:"},
		{[]string{"nonsense"}, 2, "not a command"},
		{[]string{"serve", "--nonsense"}, 2, "nonsense"},
		{[]string{"serve", "surplus"}, 2, "surplus"},
		{[]string{"--help"}, 0, "Usage:"},
		{[]string{"doctor", "--help"}, 0, "Usage:"},
		{[]string{"version"}, 0, hypervisor.Version},
		{[]string{"completion", "bash"}, 0, "complete "},
		{[]string{"serve", "--config", "/nonexistent.toml"}, 1, "/nonexistent.toml"},
	} {
		code, out, errs := run(t, c.args...)
		if code != c.code || !strings.Contains(out+errs, c.want) {
			t.Errorf("%v: %d %s%s", c.args, code, out, errs)
		}
	}
}

func TestDoctor(t *testing.T) {
	d := newDaemon(t, "qemu = \"/nonexistent/qemu\"")
	code, out, errs := run(t, "doctor", "--config", d.config)
	if code != 1 || !strings.Contains(out, "MISSING") || !strings.Contains(out, "mend it with") || !strings.Contains(errs, "checks failed") {
		t.Errorf("%d %s %s", code, out, errs)
	}
	code, out, _ = run(t, "doctor", "--json", "--config", d.config)
	var findings []hypervisor.Finding
	if err := json.Unmarshal([]byte(out), &findings); err != nil || code != 1 || len(findings) < 5 {
		t.Errorf("%d %v %s", code, err, out)
	}
	for _, f := range findings {
		if f.Name == "" || f.Detail == "" || f.OK && f.Fix != "" {
			t.Errorf("finding %+v", f)
		}
	}
}

func TestGateSocket(t *testing.T) {
	d := newDaemon(t, "")
	serve := func(want string) {
		t.Helper()
		code, _, errs := run(t, "serve", "--config", d.config)
		if code != 1 || !strings.Contains(errs, want) {
			t.Errorf("%d %s, want %q", code, errs, want)
		}
	}
	if err := os.MkdirAll(filepath.Dir(d.gate), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.gate, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	serve("in the way")
	if b, err := os.ReadFile(d.gate); err != nil || string(b) != "precious" {
		t.Fatalf("a file at the gate's path was destroyed: %v", err)
	}
	os.Remove(d.gate)
	l, err := net.Listen("unix", d.gate)
	if err != nil {
		t.Fatal(err)
	}
	serve("another daemon listens")
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close() // stale from here on: it is replaced

	d.start()
	serve("in use by another daemon")
	if code, _, errs := run(t, "fingerprint", "--config", d.config); code != 1 || !strings.Contains(errs, "in use") {
		t.Errorf("fingerprint: %d %s", code, errs)
	}
	d.kill()
	if _, err := os.Stat(d.gate); err != nil {
		t.Fatal("nothing stale to test with")
	}
	d.start()
	d.stop()
	if _, err := os.Stat(d.gate); err == nil {
		t.Error("an orderly stop leaves the socket")
	}
	code, out, _ := run(t, "fingerprint", "--config", d.config)
	if code != 0 || strings.TrimSpace(out) != d.host.Fingerprint() {
		t.Errorf("fingerprint: %d %s", code, out)
	}
}

// TestStrangers: who may not use the gate is told so, and cannot fill it.
func TestStrangers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: without it there is one uid only, which may use the gate")
	}
	d := newDaemon(t, "")
	d.start()
	for range 40 { // as root, which is not the management domain
		c, err := net.Dial("unix", d.gate)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	err := d.session(func(c *qmp.Client) error { return c.Execute(context.Background(), qmp.CmdQueryHost, nil, nil) })
	if err != nil {
		t.Errorf("the gate's user does not get in: %v", err)
	}
	time.Sleep(5500 * time.Millisecond) // strangers that say nothing are gone by now
	c, err := qmp.Dial(t.Context(), d.gate)
	if qmp.ClassOf(err) != qmp.ClassDenied {
		t.Errorf("a stranger: %v", err)
	}
	if c != nil {
		c.Close()
	}
}

// TestKilledAnywhere kills the daemon while bonds are registered and tickets
// used: what was acknowledged is there afterwards, and the audit verifies.
func TestKilledAnywhere(t *testing.T) {
	d := newDaemon(t, "")
	_, disk := machinetest.NewDisk(t, t.TempDir(), "root")
	var owners []*bond.Bond
	used := map[*bond.Bond][][]byte{}
	heads := map[*bond.Bond]*bond.Receipt{}
	for round := range 4 {
		d.start()
		time.AfterFunc(time.Duration(60+70*round)*time.Millisecond, func() { _ = d.cmd.Process.Kill() })
		err := d.session(func(c *qmp.Client) error {
			for {
				sealed, o := machinetest.Register(t, d.host, "", disk)
				if err := c.Execute(context.Background(), qmp.CmdRegister, qmp.RegisterArgs{Registration: sealed}, nil); err != nil {
					return err
				}
				owners = append(owners, o)
				for range 3 {
					k, err := ticket(o, "status", nil)
					if err != nil {
						return err
					}
					r, err := status(c, o, k)
					if err != nil {
						return err
					}
					used[o], heads[o] = append(used[o], k), r
				}
			}
		})
		if qmp.ClassOf(err) != "" {
			t.Fatalf("the gate refused: %v", err)
		}
		_ = d.cmd.Wait()
	}
	d.start()
	if len(owners) < 4 {
		t.Errorf("only %d registrations between the kills", len(owners))
	}
	err := d.session(func(c *qmp.Client) error {
		for _, o := range owners {
			for _, k := range used[o] {
				if _, err := status(c, o, k); qmp.ClassOf(err) != qmp.ClassReplayed {
					return fmt.Errorf("a used ticket again: %v", err)
				}
			}
			if err := verifyAudit(c, o, heads[o]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d registrations survived 4 kills", len(owners))
}

// verifyAudit reads the whole log as its owner does and finds the receipt's head in it.
func verifyAudit(c *qmp.Client, o *bond.Bond, r *bond.Receipt) error {
	sealed, err := ticket(o, "audit", nil)
	if err != nil {
		return err
	}
	ctx := context.Background()
	if err := c.Execute(ctx, qmp.CmdOpen, qmp.OpenArgs{VM: o.VM().String(), Ticket: sealed}, nil); err != nil {
		return err
	}
	var head [32]byte
	seen := r == nil
	for from := uint64(0); ; {
		var res qmp.ChunkResult
		if err := c.Execute(ctx, qmp.CmdReadAudit, qmp.ReadAuditArgs{From: from}, &res); err != nil {
			return err
		}
		var chunk bond.AuditChunk
		if err := bond.Open(o, res.Chunk, &chunk); err != nil {
			return err
		}
		if _, err := chunk.Verify(head); err != nil {
			return err
		}
		for i, rec := range chunk.Records {
			if head = bond.HashRecord(head, rec); r != nil && chunk.From+uint64(i)+1 == r.AuditSeq && head == r.AuditHead {
				seen = true
			}
		}
		if from = chunk.Next; !chunk.More {
			break
		}
	}
	if _, err := closed(c, o); err != nil {
		return err
	}
	if !seen {
		return errors.New("the head of the last receipt is not in the audit")
	}
	return nil
}
