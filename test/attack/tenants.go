package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/uvbond/uvbond/hypervisor/machine/machinetest"
	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/test/lab"
)

// Exit codes of uvbond, as docs/cli.md has them.
const (
	exitRefused = 3
	exitForged  = 4
	exitUnknown = 5
)

// tryTenants bends what passes between a tenant's client and the server. The
// tenant is the real client, the server the real server behind the operator's
// proxy. What the tenant is told must be the truth.
func tryTenants(t *trial) error {
	alice, err := t.lab.Tenant(t.ctx, "alice", 0)
	if err != nil {
		return err
	}
	for n := range 2 {
		// Their passphrases cost little, unlike those that uvbond itself makes.
		var path string
		err := asTest(func(tb *tb) { path, _ = machinetest.NewDisk(tb, t.disks(), fmt.Sprintf("tenant%d", n+1)) })
		if err == nil {
			err = alice.Take(path, fmt.Sprintf("web%d.luks", n+1))
		}
		if err != nil {
			return err
		}
	}
	if err := alice.Write("pass", []byte("test\n")); err != nil {
		return err
	}
	create := func(name, n string) []string {
		return []string{"vm", "create", name, "--host", "lab", "--disk", "web" + n + ".luks", "--memory", "32MiB", "--passphrase-file", "pass"}
	}
	for _, args := range [][]string{
		{"host", "add", "lab", t.lab.URL, "--token-file", "token", "--yes"},
		{"disk", "push", "web1.luks", "--host", "lab"}, {"disk", "push", "web2.luks", "--host", "lab"},
		create("web1", "1"), create("web2", "2"), {"vm", "start", "web1"},
	} {
		r, err := alice.Run(t.ctx, args...)
		if err != nil {
			return err
		}
		if r.Code != 0 {
			return fmt.Errorf("%s", r)
		}
	}
	b := &bending{t: t, alice: alice, ids: map[string]string{}}
	for _, name := range []string{"web1", "web2"} {
		if err := b.learn(name); err != nil {
			return err
		}
	}
	if err := b.disks(); err != nil { // while there are only these two images
		return err
	}
	if err := b.all(create); err != nil {
		return err
	}
	return b.end()
}

// bending is the operator between a tenant and the server.
type bending struct {
	t     *trial
	alice *lab.Tenant
	ids   map[string]string
}

// learn reads a VM's id from the tenant's own records.
func (b *bending) learn(name string) error {
	r, err := b.alice.Run(b.t.ctx, "vm", "show", name, "--offline", "--json")
	if err != nil {
		return err
	}
	var v struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal([]byte(r.Stdout), &v); err != nil || v.ID == "" {
		return fmt.Errorf("no id in: %s", r)
	}
	b.ids[name] = v.ID
	return nil
}

func (b *bending) all(create func(name, n string) []string) error {
	pause, status := []string{"vm", "pause", "web1"}, []string{"vm", "status", "web1"}
	for _, c := range []struct {
		name   string
		attack lab.Attack
		args   []string
		code   int
		says   string
	}{
		{"boots a VM of its own and says it is the tenant's", lab.Attack{Kind: "substitute"}, create("web3", "1"), exitForged, "confirmation"},
		{"swaps the registered key", lab.Attack{Kind: "swap-key"}, create("web3", "1"), exitForged, "confirmation"},
		{"swaps the host's key", lab.Attack{Kind: "swap-host-key"}, status, exitForged, ""},
		{"sends a ticket to another VM", lab.Attack{Kind: "redirect", VM: b.ids["web2"]}, pause, exitForged, "redirected"},
		{"runs another command under a ticket", lab.Attack{Kind: "run-under-ticket", VM: b.ids["web1"], Command: "system_reset"}, pause, exitRefused, "system_reset"},
		{"takes the screen under a ticket", lab.Attack{Kind: "run-under-ticket", VM: b.ids["web1"], Command: "screendump"}, pause, exitRefused, "screendump"},
		{"claims success without doing it", lab.Attack{Kind: "bare-done"}, pause, exitUnknown, ""},
		{"does it and keeps the receipt", lab.Attack{Kind: "no-receipt"}, status, exitUnknown, ""},
		{"shows an old receipt", lab.Attack{Kind: "replay-receipt"}, status, exitForged, ""},
		{"answers with nonsense", lab.Attack{Kind: "garbage"}, status, exitUnknown, ""},
		{"keeps a ticket back", lab.Attack{Kind: "hold"}, pause, exitUnknown, ""},
	} {
		if _, err := b.t.lab.Operator(b.t.ctx, c.attack); err != nil {
			return err
		}
		r, err := b.alice.Run(b.t.ctx, c.args...)
		if err != nil {
			return err
		}
		if _, err := b.t.lab.Operator(b.t.ctx, lab.Attack{Kind: "none"}); err != nil {
			return err
		}
		why := ""
		if r.Code != c.code || !strings.Contains(strings.ToLower(r.Stdout+r.Stderr), c.says) {
			why = fmt.Sprintf("expected exit %d and %q: %s", c.code, c.says, r)
		}
		b.t.refused(c.name, why)
	}
	return nil
}

// disks exchanges the stored disks.
func (b *bending) disks() error {
	exchange := func() error {
		o, err := b.t.lab.Operator(b.t.ctx, lab.Attack{Kind: "swap-disks"})
		if err == nil && o.Class != "" {
			err = fmt.Errorf("swap-disks: %s", o.Reason)
		}
		return err
	}
	if err := exchange(); err != nil {
		return err
	}
	r, err := b.alice.Run(b.t.ctx, "vm", "start", "web2")
	if err != nil {
		return err
	}
	why := ""
	if r.Code != exitRefused || !strings.Contains(r.Stdout+r.Stderr, "not the registered disk") {
		why = r.String()
	}
	b.t.refused("exchanges the stored disks", why)
	return exchange()
}

// end has the tenant look at what was tried, and leaves nothing.
func (b *bending) end() error {
	r, err := b.alice.Run(b.t.ctx, "vm", "status", "web1")
	if err != nil {
		return err
	}
	why := ""
	if r.Code != 0 || !strings.Contains(r.Stdout, qmp.StateRunning) {
		why = r.String()
	}
	b.t.accepted("a status after all that", why)
	r, err = b.alice.Run(b.t.ctx, "audit", "web1", "--refused")
	if err != nil {
		return err
	}
	why = ""
	for _, want := range []string{"presented for VM " + b.ids["web2"], "system_reset", "screendump"} {
		if r.Code != 0 || !strings.Contains(r.Stdout, want) {
			why = fmt.Sprintf("nothing of %q: %s", want, r)
		}
	}
	b.t.accepted("the owner's audit log has them", why)
	for _, args := range [][]string{{"vm", "poweroff", "web1"}, {"vm", "delete", "web1", "--yes"}, {"vm", "delete", "web2", "--yes"}} {
		if r, err = b.alice.Run(b.t.ctx, args...); err != nil {
			return err
		}
		if r.Code != 0 {
			return fmt.Errorf("%s", r)
		}
	}
	return nil
}
