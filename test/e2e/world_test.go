package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/uvbond/uvbond/test/guest"
	"github.com/uvbond/uvbond/test/lab"
)

// Exit codes of uvbond, as docs/cli.md has them.
const (
	exitDone        = 0
	exitError       = 1
	exitRefused     = 3
	exitForged      = 4
	exitUnknown     = 5
	exitConnection  = 6
	exitInterrupted = 130
)

// bootLimit is how long a guest may take to say something. It takes some five
// seconds under TCG on a machine with nothing else to do.
const bootLimit = 3 * time.Minute

// passphrase opens every disk of these tests.
const passphrase = "correct horse battery staple"

// cheap makes a disk's key derivation quick; the passphrase is no secret here.
var cheap = []string{"--pbkdf", "pbkdf2", "--pbkdf-iterations", "1000"}

// world is a lab, and the test that it is for.
type world struct {
	*testing.T
	lab *lab.Lab
}

// user is a tenant with a pinned host and a passphrase file.
type user struct {
	*world
	tenant *lab.Tenant
}

// newWorld starts the three domains and ends them with the test. Whatever is
// left then is a failure, and a failed test shows what the domains logged.
func newWorld(t *testing.T) *world {
	t.Helper()
	return configured(t, "")
}

// configured is newWorld with more lines in the hypervisor's configuration.
func configured(t *testing.T, config string) *world {
	t.Helper()
	return bothConfigured(t, config, "")
}

// bothConfigured has more lines in the server's configuration as well.
func bothConfigured(t *testing.T, config, server string) *world {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l, err := lab.New(t.Context(), lab.Options{Bin: bin, Operator: []string{self, "operator"}, Config: config, Server: server})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, lab: l}
	t.Cleanup(func() {
		if t.Failed() {
			for _, name := range []string{"hypervisor", "server", "operator"} {
				t.Logf("log of %s:\n%s", name, withoutRequests(l.Log(name)))
			}
		}
		for _, pid := range l.QEMUs() {
			_ = syscall.Kill(pid, syscall.SIGTERM)
		}
		eventually(10*time.Second, func() bool { return len(l.QEMUs())+len(l.Keepers()) == 0 })
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// root skips a test that needs domains with uids of their own.
func (w *world) root() {
	w.Helper()
	if !w.lab.Separated {
		w.Skip("the domains have one uid without root")
	}
}

var tenants = []string{"alice", "bob"}

// user makes a tenant, and its host "lab".
func (w *world) user(name string) *user {
	w.Helper()
	n := 0
	for i, known := range tenants {
		if known == name {
			n = i
		}
	}
	t, err := w.lab.Tenant(w.Context(), name, n)
	if err != nil {
		w.Fatal(err)
	}
	u := &user{w, t}
	if err := t.Write("passphrase", []byte(passphrase+"\n")); err != nil {
		w.Fatal(err)
	}
	u.run(exitDone, "host", "add", "lab", w.lab.URL, "--token-file", "token", "--yes")
	return u
}

// run runs uvbond and insists on its exit code.
func (u *user) run(want int, args ...string) lab.Result {
	u.Helper()
	r, err := u.tenant.Run(u.Context(), args...)
	if err != nil {
		u.Fatal(err)
	}
	if r.Code != want {
		u.Fatalf("exit status %d was expected: %s", want, r)
	}
	return r
}

// says is run, and insists on part of what is printed.
func (u *user) says(want int, part string, args ...string) lab.Result {
	u.Helper()
	r := u.run(want, args...)
	if !strings.Contains(r.Stdout+r.Stderr, part) {
		u.Fatalf("%q was expected: %s", part, r)
	}
	return r
}

// path is a file in the tenant's home.
func (u *user) path(name string) string { return filepath.Join(u.tenant.Home, name) }

// take puts a file into the tenant's home.
func (u *user) take(from, name string) {
	u.Helper()
	if err := u.tenant.Take(from, name); err != nil {
		u.Fatal(err)
	}
}

// disk encrypts a guest's disk.
func (u *user) disk(image, name string) {
	u.Helper()
	u.take(image, "plain")
	u.run(exitDone, append([]string{"disk", "encrypt", "plain", name, "--passphrase-file", "passphrase"}, cheap...)...)
	if err := os.Remove(u.path("plain")); err != nil {
		u.Fatal(err)
	}
}

// create registers a VM.
func (u *user) create(name, disk string, flags ...string) {
	u.Helper()
	u.run(exitDone, append([]string{"vm", "create", name, "--host", "lab", "--disk", disk, "--memory", "256MiB", "--passphrase-file", "passphrase"}, flags...)...)
}

// running makes a VM of a guest's disk, boots it and waits until it is ready.
func (u *user) running(name, image string) {
	u.Helper()
	u.disk(image, name+".luks")
	u.create(name, name+".luks")
	u.run(exitDone, "vm", "start", name)
	u.await(name, "UVBOND-READY")
	u.await(name, "tick 1")
}

// await polls a VM's console until it holds a text, and returns the console.
func (u *user) await(name, text string) string {
	u.Helper()
	return u.awaitMatch(name, regexp.QuoteMeta(text))
}

func (u *user) awaitMatch(name, pattern string) string {
	u.Helper()
	re := regexp.MustCompile(pattern)
	var r lab.Result
	if !eventually(bootLimit, func() bool {
		var err error
		if r, err = u.tenant.Run(u.Context(), "vm", "log", name); err != nil {
			u.Fatal(err)
		}
		return re.MatchString(r.Stdout)
	}) {
		u.Fatalf("%s did not print %q in %s: %s", name, pattern, bootLimit, r)
	}
	return r.Stdout
}

var tickLine = regexp.MustCompile(`tick (\d+)`)

// ticks counts the guest's ticks so far. Each is a write that reached its disk.
func (u *user) ticks(name string) int {
	u.Helper()
	return len(tickLine.FindAllString(u.run(exitDone, "vm", "log", name).Stdout, -1))
}

// ticksOn waits for two more ticks: the first may have been under way.
func (u *user) ticksOn(name string) {
	u.Helper()
	before := u.ticks(name)
	if !eventually(bootLimit, func() bool { return u.ticks(name) >= before+2 }) {
		u.Fatalf("%s does not tick any more: %s", name, u.run(exitDone, "vm", "log", name))
	}
}

// state waits for a state in a verified receipt.
func (u *user) state(name, want string) {
	u.Helper()
	var r lab.Result
	if !eventually(30*time.Second, func() bool {
		var err error
		r, err = u.tenant.Run(u.Context(), "vm", "status", name, "--json")
		return err == nil && r.Code == exitDone && strings.Contains(r.Stdout, `"state": "`+want+`"`)
	}) {
		u.Fatalf("%s should be %s: %s", name, want, r)
	}
}

// id is a VM's public id.
func (u *user) id(name string) string {
	u.Helper()
	var v struct {
		ID string `json:"id"`
	}
	r := u.run(exitDone, "vm", "show", name, "--offline", "--json")
	if err := json.Unmarshal([]byte(r.Stdout), &v); err != nil || v.ID == "" {
		u.Fatalf("no id: %s", r)
	}
	return v.ID
}

// audit fetches and verifies a VM's log and insists on parts of it.
func (u *user) audit(name string, parts ...string) string {
	u.Helper()
	r := u.says(exitDone, "verified: the chain is whole", "audit", name)
	for _, p := range parts {
		if !strings.Contains(r.Stdout, p) {
			r.Stdout = r.Stdout[max(0, len(r.Stdout)-8192):]
			u.Errorf("the audit log has nothing of %q; it ends with: %s", p, r)
		}
	}
	return r.Stdout
}

// background starts uvbond and returns a function that waits for its end.
func (u *user) background(args ...string) (*exec.Cmd, func() lab.Result) {
	u.Helper()
	cmd := u.tenant.Command(u.Context(), args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Start(); err != nil {
		u.Fatal(err)
	}
	return cmd, func() lab.Result {
		u.Helper()
		var exit *exec.ExitError
		if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
			u.Fatal(err)
		}
		return lab.Result{Args: args, Stdout: out.String(), Stderr: errOut.String(), Code: cmd.ProcessState.ExitCode()}
	}
}

// operator types a command on the management server.
func (w *world) operator(want int, part string, args ...string) lab.Result {
	w.Helper()
	r, err := w.lab.Server(w.Context(), args...)
	if err != nil {
		w.Fatal(err)
	}
	if r.Code != want || !strings.Contains(r.Stdout+r.Stderr, part) {
		w.Fatalf("exit status %d and %q were expected: %s", want, part, r)
	}
	return r
}

// one is the only process number of a list.
func (w *world) one(what string, list func() []int) int {
	w.Helper()
	var pids []int
	if !eventually(20*time.Second, func() bool { pids = list(); return len(pids) == 1 }) {
		w.Fatalf("%d processes instead of one %s: %v", len(pids), what, w.lab.Leftovers())
	}
	return pids[0]
}

// image builds a guest's disk, or finds it in the cache.
func image(t *testing.T, o guest.Options) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	path, err := guest.Build(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// eventually polls until something holds.
func eventually(limit time.Duration, holds func() bool) bool {
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); {
		if holds() {
			return true
		}
		time.Sleep(200 * time.Millisecond)
	}
	return holds()
}

func contains(s, part string) bool { return strings.Contains(s, part) }

// withoutRequests leaves out what a server logs all the time.
func withoutRequests(log string) string {
	var out []string
	for _, line := range strings.Split(log, "\n") {
		if !contains(line, "level=INFO msg=request") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "\n")
}
