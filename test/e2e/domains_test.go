package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/uvbond/uvbond/disk/luks"
	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/tenant/client"
	"github.com/uvbond/uvbond/tenant/store"
	"github.com/uvbond/uvbond/test/guest"
	"github.com/uvbond/uvbond/test/lab"
)

// TestDomains looks at what one domain can get at of another while a VM runs.
func TestDomains(t *testing.T) {
	w := newWorld(t)
	alice := w.user("alice")
	alice.running("web1", image(t, guest.Options{Secret: secret}))
	bob := w.user("bob")
	bob.smallVM("bob1")
	for _, step := range []struct {
		name string
		run  func(w *world, alice, bob *user)
	}{
		{"uids", uids},
		{"out of reach", outOfReach},
		{"no right to the gate", noRight},
		{"no secrets", noSecrets},
		{"another tenant's records", otherRecords},
		{"another tenant's ticket", otherTicket},
		{"two clients at once", twoClients},
		{"operator", operatorCommands},
		{"operators' limits", limits},
		{"a delegate", delegates},
		{"server and its operator know no console", noConsole},
	} {
		t.Run(step.name, func(t *testing.T) {
			w := &world{t, w.lab}
			step.run(w, &user{w, alice.tenant}, &user{w, bob.tenant})
		})
	}
	alice.says(exitDone, "stopped", "vm", "poweroff", "web1")
}

// smallVM registers a VM that is never meant to boot.
func (u *user) smallVM(name string) {
	u.Helper()
	if err := u.tenant.Write("plain", make([]byte, 1<<20)); err != nil {
		u.Fatal(err)
	}
	u.run(exitDone, append([]string{"disk", "encrypt", "plain", name + ".luks", "--passphrase-file", "passphrase"}, cheap...)...)
	u.create(name, name+".luks")
}

// uids: each domain and each process of a VM has one that no other has.
func uids(w *world, _, _ *user) {
	w.root()
	seen := map[uint32]string{}
	for name, pid := range map[string]int{
		"daemon": w.lab.HypervisorPID(), "server": w.lab.ServerPID(),
		"QEMU": w.one("QEMU", w.lab.QEMUs), "keeper": w.one("keeper", w.lab.Keepers),
	} {
		st, err := os.Stat(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil {
			w.Fatal(err)
		}
		// The owner of a process that cannot be dumped is root: ask its status.
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			w.Fatal(err)
		}
		uid := st.Sys().(*syscall.Stat_t).Uid
		for _, line := range strings.Split(string(status), "\n") {
			if _, err := fmt.Sscanf(line, "Uid:\t%d", &uid); err == nil {
				break
			}
		}
		if other, ok := seen[uid]; ok {
			w.Errorf("%s and %s have the same uid %d", name, other, uid)
		}
		if (uid == 0) != (name == "daemon") {
			w.Errorf("%s has uid %d", name, uid)
		}
		seen[uid] = name
	}
}

// outOfReach: no socket and no file of the hypervisor's opens for others.
func outOfReach(w *world, _, _ *user) {
	w.root()
	var paths []string
	sockets := 0
	for _, dir := range []string{filepath.Join(w.lab.Run, "hv"), filepath.Join(w.lab.Dir, "hypervisor")} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			paths = append(paths, path)
			if err == nil && d.Type()&fs.ModeSocket != 0 {
				sockets++
			}
			return err
		})
		if err != nil {
			w.Fatal(err)
		}
	}
	if sockets < 4 { // NBD, console, QMP, control of the keeper
		w.Errorf("%d sockets only: %v", sockets, paths)
	}
	for _, uid := range []int{lab.ServerUID, lab.TenantUID} {
		out, err := w.asUID(uid, "reach", strings.Join(paths, "\n")).Output()
		if err != nil {
			w.Fatal(err)
		}
		if len(out) > 0 {
			w.Errorf("uid %d:\n%s", uid, out)
		}
	}
	if out, err := w.asUID(0, "reach", strings.Join(paths, "\n")).Output(); err != nil || !contains(string(out), "connected to") || !contains(string(out), "opened") {
		w.Errorf("root should reach what others do not: %v %s", err, out)
	}
}

// noRight: the gate takes nothing from a uid that it was not told of.
func noRight(w *world, alice, _ *user) {
	w.root()
	out, err := w.asUID(lab.TenantUID, "speak", fmt.Sprintf(`{"Gate":%q,"VM":%q}`, w.lab.Gate, alice.id("web1"))).Output()
	if err != nil || !bytes.Contains(out, []byte("may not use the gate")) {
		w.Errorf("%v %s", err, out)
	}
}

// noSecrets: neither the guest's secret nor the keys are in the server's files
// and logs, in the daemon's log, or readable in its state.
func noSecrets(w *world, alice, _ *user) {
	f, err := os.Open(alice.path("web1.luks"))
	if err != nil {
		w.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		w.Fatal(err)
	}
	h, err := luks.ReadHeader(f, st.Size())
	if err != nil {
		w.Fatal(err)
	}
	key, err := h.Unlock([]byte(passphrase))
	if err != nil {
		w.Fatal(err)
	}
	vm, b := alice.bond("web1")
	defer b.Wipe()
	words := map[string][]byte{"the guest's secret": []byte(secret), "the passphrase": []byte(passphrase)}
	for name, secret := range map[string][]byte{"volume key": key, "descriptor": vm.Descriptor, "bond": b.Export().Bytes()} {
		words[name] = secret
		words[name+" in hex"] = []byte(hex.EncodeToString(secret))
		words[name+" in base64"] = []byte(base64.StdEncoding.EncodeToString(secret))
	}
	files := 0
	look := func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || err == nil && !d.Type().IsRegular() {
			return nil
		}
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		files++
		for name, word := range words {
			if bytes.Contains(data, word) {
				w.Errorf("%s is in %s", name, path)
			}
		}
		return err
	}
	for _, dir := range []string{"server", "server.log", "operator.log", "hypervisor.log", "hypervisor"} {
		if err := filepath.WalkDir(filepath.Join(w.lab.Dir, dir), look); err != nil {
			w.Fatal(err)
		}
	}
	if files < 6 {
		w.Errorf("%d files only were searched", files)
	}
	if !bytes.Contains([]byte(alice.run(exitDone, "vm", "log", "web1").Stdout), []byte(secret)) {
		w.Error("this test searches for something that the guest does not print")
	}
}

// api is a tenant's client without the checks of uvbond's command line.
func (u *user) api() *client.Client {
	u.Helper()
	data, err := os.ReadFile(u.path("token"))
	if err != nil {
		u.Fatal(err)
	}
	c, err := client.New(client.Options{URL: u.lab.URL, Token: strings.TrimSpace(string(data)), TLSPin: u.host().TLSPin})
	if err != nil {
		u.Fatal(err)
	}
	return c
}

func (u *user) host() *store.Host {
	u.Helper()
	h, err := u.store().Host("lab")
	if err != nil {
		u.Fatal(err)
	}
	return h
}

// otherRecords: what is another tenant's does not exist.
func otherRecords(w *world, alice, bob *user) {
	ctx, api, own := w.Context(), bob.api(), alice.images()["web1.luks"]
	bob.says(exitDone, "bob1", "vm", "list", "--json")
	if list := bob.images(); len(list) != 1 || own.ID == "" {
		w.Errorf("bob's images: %v, alice's: %+v", list, own)
	}
	id := alice.id("web1")
	_, err := api.Command(ctx, id, client.Command{Command: "pause", Ticket: alice.ticket("web1", "pause", nil)})
	notFound(w, "command", err)
	_, err = api.Image(ctx, own.ID)
	notFound(w, "image", err)
	_, err = api.PutImage(ctx, own.ID, 0, []byte("x"))
	notFound(w, "upload", err)
	notFound(w, "removal", api.RemoveImage(ctx, own.ID))
	_, err = api.CreateVM(ctx, client.CreateVM{ID: strings.Repeat("ab", 16), Name: "mine", Disks: []client.ImageDisk{{Name: "root", Image: own.ID}}, Registration: []byte("x")})
	notFound(w, "VM with another's image", err)
	alice.says(exitDone, "running", "vm", "status", "web1")
}

func notFound(w *world, what string, err error) {
	w.Helper()
	var api *client.APIError
	if !errors.As(err, &api) || api.Status != 404 {
		w.Errorf("%s: %v", what, err)
	}
}

// otherTicket: bob's ticket does not open on alice's VM; both learn of it.
func otherTicket(w *world, alice, bob *user) {
	a, b := alice.id("web1"), bob.id("bob1")
	h := w.speak(speech{VM: a, Ticket: bob.ticket("bob1", "pause", make([]byte, 32)), Commands: []string{"stop"}})
	if h.Class != qmp.ClassRedirected || len(h.Receipt) != 0 {
		w.Errorf("%+v", h)
	}
	alice.audit("web1", "a ticket that does not open under this bond was presented")
	bob.audit("bob1", "ticket for pause was presented for VM "+a)
	if h := w.speak(speech{VM: b, Ticket: alice.ticket("web1", "audit", nil), Commands: []string{"query-status"}}); h.Class != qmp.ClassRedirected {
		w.Errorf("%+v", h)
	}
	alice.says(exitDone, "running", "vm", "status", "web1")
}

// twoClients: commands of one tenant at once wait for each other or pass each
// other by; none is lost.
func twoClients(w *world, alice, _ *user) {
	var wg sync.WaitGroup
	for _, command := range []string{"pause", "status", "resume", "status", "pause", "status"} {
		wg.Add(1)
		go func() {
			defer wg.Done()
			r, err := alice.tenant.Run(w.Context(), "vm", command, "web1")
			if err != nil || r.Code != exitDone {
				w.Errorf("%v %s", err, r)
			}
		}()
	}
	wg.Wait()
	alice.says(exitDone, "running", "vm", "resume", "web1")
	if n := strings.Count(alice.run(exitDone, "receipt", "list", "web1").Stdout, "pause"); n < 2 {
		w.Errorf("%d receipts of two pauses", n)
	}
	alice.audit("web1")
}

// operatorCommands: the owner's policy decides on what operators do.
func operatorCommands(w *world, alice, _ *user) {
	id := alice.id("web1")
	w.operator(exitDone, "running", "vm", "status", "web1") // the default policy
	w.operator(exitRefused, "policy", "vm", "pause", "web1")
	alice.says(exitDone, "pause", "vm", "allow", "web1", "status,pause")
	w.operator(exitDone, "paused", "vm", "pause", "web1")
	alice.says(exitDone, "paused", "vm", "status", "web1")
	w.operator(exitRefused, "policy", "vm", "resume", "web1")
	alice.run(exitDone, "vm", "allow", "web1", "none")
	w.operator(exitRefused, "policy", "vm", "status", "web1")
	alice.says(exitDone, "running", "vm", "resume", "web1")
	list := w.operator(exitDone, id, "vm", "list")
	if !contains(list.Stdout, "alice") || !contains(list.Stdout, "bob1") || !contains(list.Stdout, "running") {
		w.Error(list)
	}
	w.operator(exitDone, id, "gate", "uvbond-query-vms")
	w.operator(exitRefused, "screendump", "gate", "--vm", "web1", "screendump", `{"filename":"/tmp/x"}`)
	w.operator(exitRefused, "ticket", "gate", "--vm", "web1", "uvbond-read-console", `{"offset":0}`)
	out := alice.run(exitDone, "audit", "web1", "--refused").Stdout
	for _, part := range []string{"stop", "cont", "query-status", "screendump", "uvbond-read-console", fmt.Sprintf("uid %d", serverUID(w))} {
		if !contains(out, part) {
			w.Errorf("the audit log has nothing of %q:\n%s", part, out)
		}
	}
}

func serverUID(w *world) int {
	if w.lab.Separated {
		return lab.ServerUID
	}
	return os.Geteuid()
}

// noConsole: a log ticket gives the server chunks that it cannot read.
func noConsole(w *world, alice, _ *user) {
	out, err := alice.api().Command(w.Context(), alice.id("web1"), client.Command{Command: "log", Ticket: alice.ticket("web1", "log", nil)})
	if err != nil || len(out.Chunks) == 0 {
		w.Fatalf("%v %+v", err, out)
	}
	for _, c := range out.Chunks {
		if bytes.Contains(c, []byte("UVBOND")) || bytes.Contains(c, []byte(secret)) {
			w.Error("the console's text can be read in a chunk")
		}
	}
}
