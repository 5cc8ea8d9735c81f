package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/test/lab"
)

// Exit codes of uvbond, as docs/cli.md has them.
const (
	exitDone    = 0
	exitRefused = 3
	exitForged  = 4
	exitUnknown = 5
)

// bent is an attack by the proxy: a tenant's command meets an operator who
// bends it, and must end with an exit code and words that say so.
type bent struct {
	name    string
	attack  lab.Attack
	args    []string // what the tenant types
	code    int
	says    string // part of what the tenant is told
	stopped string // what stopped it
	view    string // the tenant's view, in a few words
}

// direct is an attack on the gate: it must be refused with a class.
type direct struct {
	name    string
	attack  lab.Attack
	class   string
	stopped string
}

func (d *demo) attacks() error {
	pause := []string{"vm", "pause", "web1"}
	if err := d.swapDisks(); err != nil {
		return err
	}
	for _, b := range []bent{
		{"redirect a ticket to another VM", lab.Attack{Kind: "redirect", VM: d.web2}, pause,
			exitForged, "redirected", "the ticket opens under web1's bond only", "exit 4: redirected"},
		{"boot a substitute VM", lab.Attack{Kind: "substitute"}, d.create("web3"),
			exitForged, "confirmation", "the confirmation does not open", "exit 4: not your VM"},
		{"swap the registered key", lab.Attack{Kind: "swap-key"}, d.create("web3"),
			exitForged, "confirmation", "the confirmation does not open", "exit 4: key was swapped"},
		{"swap the host's key", lab.Attack{Kind: "swap-host-key"}, []string{"vm", "status", "web1"},
			exitForged, "", "the hypervisor's key is pinned", "exit 4: another hypervisor"},
		{"run another command under a ticket", lab.Attack{Kind: "run-under-ticket", VM: d.web1, Command: "system_reset"}, pause,
			exitRefused, "system_reset", "the ticket's automaton", "exit 3, sealed: refused"},
		{"claim success, do nothing", lab.Attack{Kind: "bare-done"}, pause,
			exitUnknown, "", "no receipt", "exit 5: unknown"},
		{"deliver an old receipt", lab.Attack{Kind: "replay-receipt"}, []string{"vm", "status", "web1"},
			exitForged, "", "a receipt is for one nonce", "exit 4: forged"},
	} {
		if err := d.bent(b); err != nil {
			return err
		}
	}
	if err := d.replay(); err != nil {
		return err
	}
	if err := d.secondProcess(); err != nil {
		return err
	}
	for _, x := range []direct{
		{"take a screenshot", lab.Attack{Command: "screendump", Arguments: raw(`{"filename":"/tmp/screen.ppm"}`)}, qmp.ClassDenied, "no entry on the gate's allow-list"},
		{"press keys", lab.Attack{Command: "send-key", Arguments: raw(`{"keys":[{"type":"qcode","data":"ret"}]}`)}, qmp.ClassDenied, "no entry on the gate's allow-list"},
		{"dump the memory", lab.Attack{Command: "dump-guest-memory", Arguments: raw(`{"paging":false,"protocol":"file:/tmp/memory"}`)}, qmp.ClassDenied, "no entry on the gate's allow-list"},
		{"pass a monitor command through", lab.Attack{Command: "human-monitor-command", Arguments: raw(`{"command-line":"pmemsave 0 1048576 /tmp/memory"}`)}, qmp.ClassDenied, "no entry on the gate's allow-list"},
		{"pause it without a ticket", lab.Attack{Command: "stop"}, qmp.ClassDenied, "the owner's policy"},
		{"read the console without a ticket", lab.Attack{Command: qmp.CmdReadConsole, Arguments: raw(`{"offset":0}`)}, qmp.ClassDenied, "needs the owner's ticket"},
	} {
		x.attack.Kind, x.attack.VM = "gate", d.web1
		if err := d.direct(x); err != nil {
			return err
		}
	}
	if err := d.searchFiles(); err != nil {
		return err
	}
	r, err := d.as(exitDone, "vm", "status", "web1")
	if err == nil && !strings.Contains(r.Stdout, "running") {
		err = fmt.Errorf("web1 should still run: %s", r)
	}
	return err
}

// searchFiles looks for the guest's secret in all that the management domain
// owns: stored disks, records, logs.
func (d *demo) searchFiles() error {
	d.out.step("operator", "searches the stored disks, records and logs of the server for the guest's secret")
	found := ""
	err := filepath.WalkDir(d.lab.Dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || strings.HasPrefix(path, d.tenant.Home) {
			return err
		}
		b, err := os.ReadFile(path)
		if err == nil && bytes.Contains(b, []byte(d.secret)) {
			found = path
		}
		return err
	})
	if err != nil {
		return err
	}
	d.row("read the stored disks and logs", "ciphertext only, sealed messages only", "nothing to see", found == "", "the secret is in "+found)
	return nil
}

func (d *demo) create(name string) []string {
	return []string{"vm", "create", name, "--host", "lab", "--disk", "web2.luks", "--memory", "256MiB", "--passphrase-file", "passphrase2"}
}

func raw(s string) json.RawMessage { return json.RawMessage(s) }

// bent has the operator bend what the tenant does, and judges what it is told.
func (d *demo) bent(b bent) error {
	d.out.step("operator", "tries to %s", b.name)
	if _, err := d.lab.Operator(d.ctx, b.attack); err != nil {
		return err
	}
	r, err := d.tenant.Run(d.ctx, b.args...)
	if err != nil {
		return err
	}
	if _, err := d.lab.Operator(d.ctx, lab.Attack{Kind: "none"}); err != nil {
		return err
	}
	d.out.step("tenant", "uvbond %s   → exit status %d", strings.Join(b.args, " "), r.Code)
	d.out.quote(tail(r.Stdout+r.Stderr, 4))
	ok := r.Code == b.code && strings.Contains(strings.ToLower(r.Stdout+r.Stderr), b.says)
	d.row(b.name, b.stopped, b.view, ok, fmt.Sprintf("exit %d", r.Code))
	return nil
}

func (d *demo) row(attack, stopped, view string, ok bool, seen string) {
	if !ok {
		stopped, view = "NOT AS IT SHOULD BE", seen
	}
	d.rows = append(d.rows, row{attack: attack, stopped: stopped, view: view, ok: ok})
}

// direct sends something to the gate that must be refused.
func (d *demo) direct(x direct) error {
	out, err := d.lab.Operator(d.ctx, x.attack)
	if err != nil {
		return err
	}
	d.out.step("operator", "tries to %s", x.name)
	d.out.quote(out.Class + ": " + out.Reason)
	d.row(x.name, x.stopped, "in the audit log", out.Class == x.class, "the gate said: "+out.Class+" "+out.Reason)
	return nil
}

// swapDisks lets the server hand over another disk under the owner's boot
// ticket. web1 runs and has its own open; web2 gets web1's.
func (d *demo) swapDisks() error {
	if err := d.exchange(); err != nil {
		return err
	}
	d.out.step("operator", "exchanges the stored disks of web1 and web2")
	r, err := d.tenant.Run(d.ctx, "vm", "start", "web2")
	if err != nil {
		return err
	}
	d.out.step("tenant", "uvbond vm start web2   → exit status %d", r.Code)
	d.out.quote(tail(r.Stdout+r.Stderr, 4))
	ok := r.Code == exitRefused && strings.Contains(r.Stdout+r.Stderr, "not the registered disk")
	d.row("swap disks", "the header is compared with the registration", "exit 3, sealed: refused", ok, fmt.Sprintf("exit %d", r.Code))
	return d.exchange()
}

func (d *demo) exchange() error {
	out, err := d.lab.Operator(d.ctx, lab.Attack{Kind: "swap-disks"})
	if err == nil && out.Class != "" {
		err = fmt.Errorf("swap-disks: %s", out.Reason)
	}
	return err
}

// replay presents a ticket again that has been used.
func (d *demo) replay() error {
	if _, err := d.as(exitDone, "vm", "status", "web1"); err != nil {
		return err
	}
	return d.direct(direct{"replay a ticket", lab.Attack{Kind: "replay-ticket", VM: d.web1}, qmp.ClassReplayed, "its nonce is remembered"})
}

// secondProcess lets another process speak in a session that it did not open.
func (d *demo) secondProcess() error {
	if _, err := d.lab.Operator(d.ctx, lab.Attack{Kind: "hold"}); err != nil {
		return err
	}
	r, err := d.tenant.Run(d.ctx, "vm", "pause", "web1")
	if err != nil {
		return err
	}
	if _, err := d.lab.Operator(d.ctx, lab.Attack{Kind: "none"}); err != nil {
		return err
	}
	d.out.step("operator", "keeps a ticket back; the tenant sees: exit status %d", r.Code)
	if err := d.direct(direct{"speak to the gate from a second process", lab.Attack{Kind: "pass-connection", VM: d.web1, Command: "stop"}, qmp.ClassRefused, "the kernel names every message's sender"}); err != nil {
		return err
	}
	return nil
}

// ids learns the VM ids as everybody may know them.
func (d *demo) ids() error {
	for name, id := range map[string]*string{"web1": &d.web1, "web2": &d.web2} {
		r, err := d.tenant.Run(d.ctx, "vm", "show", name, "--offline", "--json")
		if err != nil {
			return err
		}
		var v struct {
			ID string `json:"id"`
		}
		if err := json.Unmarshal([]byte(r.Stdout), &v); err != nil || v.ID == "" {
			return fmt.Errorf("no id in: %s", r)
		}
		*id = v.ID
	}
	return nil
}

// audit fetches the sealed log; every attempt on web1 must be in it.
func (d *demo) audit() error {
	r, err := d.tenant.Run(d.ctx, "audit", "web1", "--refused")
	if err != nil {
		return err
	}
	d.out.step("tenant", "uvbond audit web1 --refused")
	d.out.quote(r.Stdout + r.Stderr)
	if r.Code != exitDone {
		return fmt.Errorf("the audit log does not verify: %s", r)
	}
	for _, want := range []string{"presented for VM " + d.web2, "presented again", "screendump", "send-key", "dump-guest-memory", "human-monitor-command", "sent by process", "system_reset"} {
		if !strings.Contains(r.Stdout, want) {
			return fmt.Errorf("the audit log has nothing of %q", want)
		}
	}
	return nil
}
