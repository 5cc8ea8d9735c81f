package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"crypto/rand"

	"github.com/uvbond/uvbond/test/guest"
	"github.com/uvbond/uvbond/test/lab"
)

// demo is one run of it.
type demo struct {
	ctx       context.Context
	bin, self string
	out       *screen
	began     time.Time

	lab    *lab.Lab
	tenant *lab.Tenant
	secret string
	rows   []row
	web1   string // VM ids
	web2   string
}

// play is the whole story. An error is a step that must work and did not;
// what operators try goes into the table instead.
func (d *demo) play() error {
	for _, chapter := range []struct {
		title string
		run   func() error
	}{
		{"1. A guest disk, encrypted by its owner", d.disk},
		{"2. The owner's VM: pinned, registered, confirmed, booted", d.boot},
		{"3. Management commands: tickets and receipts", d.commands},
		{"4. The operator of the management server tries", d.attacks},
		{"5. What the owner sees of it", d.audit},
		{"6. The end: power off, delete the bonds", d.end},
	} {
		d.out.title(chapter.title)
		if err := chapter.run(); err != nil {
			return err
		}
	}
	return nil
}

// end leaves no VM and no bond.
func (d *demo) end() error {
	return d.expect([]step{
		{[]string{"vm", "poweroff", "web1"}, "stopped"},
		{[]string{"vm", "delete", "web1", "--yes"}, "web1"},
		{[]string{"vm", "delete", "web2", "--yes"}, "web2"},
	})
}

func (d *demo) close() error {
	if d.lab == nil {
		return nil
	}
	err := d.lab.Close()
	d.lab = nil
	return err
}

// table prints the end and returns the exit code.
func (d *demo) table() int {
	d.out.title("What was tried, what stopped it")
	d.out.rows(d.rows)
	wrong := 0
	for _, r := range d.rows {
		if !r.ok {
			wrong++
		}
	}
	fmt.Fprintf(d.out.w, "\n%d attacks, %d wrong; %.0f seconds\n", len(d.rows), wrong, time.Since(d.began).Seconds())
	if wrong > 0 {
		return 1
	}
	return 0
}

// as runs uvbond as the tenant, shows it, and insists on an exit code.
func (d *demo) as(want int, args ...string) (lab.Result, error) {
	r, err := d.tenant.Run(d.ctx, args...)
	if err != nil {
		return r, err
	}
	d.out.step("tenant", "uvbond %s", strings.Join(args, " "))
	d.out.quote(tail(r.Stdout+r.Stderr, 6))
	if r.Code != want {
		return r, fmt.Errorf("expected exit status %d: %s", want, r)
	}
	return r, nil
}

func (d *demo) disk() error {
	d.secret = "the launch code is " + randomHex(8)
	path, err := guest.Build(d.ctx, guest.Options{Secret: d.secret})
	if err != nil {
		return err
	}
	d.out.step("tenant", "a bootable disk: boot loader, Debian's cloud kernel, busybox on ext4, a secret file")
	if d.lab, err = lab.New(d.ctx, lab.Options{Bin: d.bin, Operator: []string{d.self, "operator"}}); err != nil {
		return err
	}
	if d.lab.Separated {
		d.out.step("lab", "hypervisor daemon as root, management server as uid %d, tenant as uid %d, each VM as a uid of its own", lab.ServerUID, lab.TenantUID)
	} else {
		d.out.step("lab", "NOT ROOT: all domains share uid %d, so they are NOT separated from each other in this run", os.Geteuid())
	}
	if d.tenant, err = d.lab.Tenant(d.ctx, "alice", 0); err != nil {
		return err
	}
	if err := d.tenant.Take(path, "debian.raw"); err != nil {
		return err
	}
	for name, text := range map[string]string{"passphrase": "correct horse battery staple", "passphrase2": "another disk, another passphrase"} {
		if err := d.tenant.Write(name, []byte(text+"\n")); err != nil {
			return err
		}
	}
	for _, disk := range []struct{ out, pass string }{{"web1.luks", "passphrase"}, {"web2.luks", "passphrase2"}} {
		if _, err := d.as(0, "disk", "encrypt", "debian.raw", disk.out, "--passphrase-file", disk.pass); err != nil {
			return err
		}
	}
	plain, err := os.ReadFile(filepath.Join(d.tenant.Home, "web1.luks"))
	if err != nil {
		return err
	}
	if strings.Contains(string(plain), d.secret) {
		return errors.New("the secret can be read in the encrypted disk")
	}
	d.out.step("lab", "the secret is nowhere in web1.luks")
	return nil
}

func (d *demo) boot() error {
	for _, args := range [][]string{
		{"host", "add", "lab", d.lab.URL, "--token-file", "token", "--yes"},
		{"disk", "push", "web1.luks", "--host", "lab"},
		{"vm", "create", "web1", "--host", "lab", "--disk", "web1.luks", "--memory", "256MiB", "--passphrase-file", "passphrase"},
		{"vm", "create", "web2", "--host", "lab", "--disk", "web2.luks", "--memory", "256MiB", "--passphrase-file", "passphrase2"},
		{"vm", "start", "web1"},
	} {
		if _, err := d.as(0, args...); err != nil {
			return err
		}
	}
	if err := d.ids(); err != nil {
		return err
	}
	return d.awaitGuest("UVBOND-SECRET " + d.secret)
}

// awaitGuest polls the sealed console until it holds a text.
func (d *demo) awaitGuest(text string) error {
	deadline := time.Now().Add(60 * time.Second)
	for {
		r, err := d.tenant.Run(d.ctx, "vm", "log", "web1")
		if err != nil {
			return err
		}
		if strings.Contains(r.Stdout, text) {
			d.out.step("tenant", "uvbond vm log web1     (sealed for the owner)")
			d.out.quote(grep(r.Stdout, "UVBOND-"))
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the guest did not print %q within 60 s: %s\n%s", text, r, d.lab.Log("hypervisor"))
		}
		select {
		case <-d.ctx.Done():
			return d.ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (d *demo) commands() error {
	if _, err := d.awaitReady(1); err != nil {
		return err
	}
	if err := d.expect([]step{
		{[]string{"vm", "status", "web1"}, "running"},
		{[]string{"vm", "pause", "web1"}, "paused"},
		{[]string{"vm", "status", "web1"}, "paused"},
		{[]string{"vm", "resume", "web1"}, "running"},
		{[]string{"vm", "reset", "web1"}, "running"},
		{[]string{"vm", "allow", "web1", "status,pause"}, "pause"},
	}); err != nil {
		return err
	}
	if err := d.operatorPauses(); err != nil {
		return err
	}
	if err := d.expect([]step{
		{[]string{"vm", "status", "web1"}, "paused"},
		{[]string{"vm", "resume", "web1"}, "running"},
		{[]string{"vm", "allow", "web1", "status"}, "status"},
	}); err != nil {
		return err
	}
	text, err := d.awaitReady(2)
	if err != nil {
		return err
	}
	d.out.step("tenant", "uvbond vm log web1     (the guest is up again after the reset)")
	d.out.quote(tail(grep(text, "UVBOND-"), 4))
	return d.expect([]step{
		{[]string{"vm", "shutdown", "web1"}, "stopped"},
		{[]string{"vm", "start", "web1"}, "running"},
		{[]string{"receipt", "list", "web1"}, "shutdown"},
	})
}

// step is a command of the tenant and what its verified result must contain.
type step struct {
	args []string
	want string
}

func (d *demo) expect(steps []step) error {
	for _, s := range steps {
		r, err := d.as(0, s.args...)
		if err != nil {
			return err
		}
		if !strings.Contains(r.Stdout, s.want) {
			return fmt.Errorf("the result should say %q: %s", s.want, r)
		}
	}
	return nil
}

// operatorPauses shows that operators can do what the owner's policy allows.
func (d *demo) operatorPauses() error {
	r, err := d.lab.Server(d.ctx, "vm", "pause", d.web1)
	if err != nil {
		return err
	}
	d.out.step("operator", "uvbond-server vm pause web1   (the owner's policy allows it)")
	d.out.quote(tail(r.Stdout+r.Stderr, 2))
	if r.Code != 0 {
		return fmt.Errorf("the owner's policy allows it: %s", r)
	}
	return nil
}

// awaitReady waits until the guest has said n times that its power button works.
func (d *demo) awaitReady(n int) (console string, err error) {
	deadline := time.Now().Add(90 * time.Second)
	for time.Now().Before(deadline) {
		r, err := d.tenant.Run(d.ctx, "vm", "log", "web1")
		if err != nil {
			return "", err
		}
		if strings.Count(r.Stdout, "UVBOND-READY") >= n {
			return r.Stdout, nil
		}
		select {
		case <-d.ctx.Done():
			return "", d.ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
	return "", fmt.Errorf("the guest was not up %d times", n)
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

func tail(s string, lines int) string {
	l := strings.Split(strings.TrimRight(s, "\n"), "\n")
	if len(l) > lines {
		l = l[len(l)-lines:]
	}
	return strings.Join(l, "\n")
}

func grep(s, part string) string {
	var out []string
	for _, l := range strings.Split(s, "\n") {
		if strings.Contains(l, part) {
			out = append(out, l)
		}
	}
	return strings.Join(out, "\n")
}
