package vms

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/server/gatetest"
	"github.com/uvbond/uvbond/server/problem"
	"github.com/uvbond/uvbond/server/store"
	"github.com/uvbond/uvbond/server/toolstack"
)

// rig is a service with real records and a fake gate. Its images exist as
// records only.
type rig struct {
	*Service
	t      *testing.T
	tenant *store.Tenant
	gate   *gatetest.Gate
}

func newRig(t *testing.T) *rig {
	t.Helper()
	dir := t.TempDir()
	st, err := store.Open(t.Context(), filepath.Join(dir, "db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	token, err := st.CreateToken(t.Context(), "alice", "", 1<<40, 10)
	if err != nil {
		t.Fatal(err)
	}
	tenant, err := st.Authenticate(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "gate.sock")
	return &rig{t: t, tenant: tenant, gate: gatetest.Start(t, path), Service: &Service{
		Store: st, Log: slog.New(slog.DiscardHandler),
		Gate: &toolstack.Gate{Path: path, Wait: time.Second, Poll: time.Millisecond, Log: slog.New(slog.DiscardHandler)},
	}}
}

func id(n int) string { return fmt.Sprintf("%032x", n) }

func (r *rig) image(n int) []store.Disk {
	r.t.Helper()
	image := fmt.Sprintf("%032x", 1000+n)
	if _, _, err := r.Store.CreateImage(r.t.Context(), image, r.tenant, store.NewImage{Name: fmt.Sprint("disk", n), Size: 1, SHA256: [32]byte{byte(n)}}, 100); err != nil {
		r.t.Fatal(err)
	}
	if err := r.Store.SetImageState(r.t.Context(), image, store.ImageUploading, store.ImageReady, ""); err != nil {
		r.t.Fatal(err)
	}
	return []store.Disk{{Name: "root", Image: image}}
}

func (r *rig) register(n int, disks []store.Disk) (*store.VM, error) {
	return r.Register(r.t.Context(), r.tenant, id(n), fmt.Sprint("web", n), disks, gatetest.Registration(id(n)))
}

// phase is the phase of a record, "" without one.
func (r *rig) phase(n int) string {
	r.t.Helper()
	v, err := r.Store.VMByID(r.t.Context(), id(n))
	if errors.Is(err, store.ErrNotFound) {
		return ""
	} else if err != nil {
		r.t.Fatal(err)
	}
	return v.Phase
}

func wantProblem(t *testing.T, err error, status int, text string) {
	t.Helper()
	var p *problem.Problem
	if !errors.As(err, &p) || p.Status != status || !strings.Contains(p.Detail, text) {
		t.Fatalf("%v, want status %d and %q", err, status, text)
	}
}

// TestLostAnswer: the gate takes a registration and its answer does not come.
// Sent again, the record is kept for the owner to delete: a bond exists.
func TestLostAnswer(t *testing.T) {
	r := newRig(t)
	disks := r.image(1)
	r.gate.Handle(qmp.CmdRegister, func(c *gatetest.Call) (any, error) {
		r.gate.Edit(id(1), func(*gatetest.VM) {})
		return nil, gatetest.ErrDrop
	})
	_, err := r.register(1, disks)
	wantProblem(t, err, http.StatusBadGateway, "send the same request again")
	if r.phase(1) != store.PhaseRegistering {
		t.Fatalf("the record is %q", r.phase(1))
	}
	r.gate.Handle(qmp.CmdRegister, nil)
	_, err = r.register(1, disks)
	wantProblem(t, err, http.StatusConflict, "delete the VM and create it anew")
	if r.phase(1) != store.PhaseUnconfirmed {
		t.Fatalf("the record is %q", r.phase(1))
	}
	_, err = r.register(1, disks)
	wantProblem(t, err, http.StatusConflict, "confirmation was lost")
}

// TestNeverSent: what did not reach the gate leaves no record and keeps no disk.
func TestNeverSent(t *testing.T) {
	r := newRig(t)
	disks := r.image(1)
	r.gate.Stop()
	_, err := r.register(1, disks)
	wantProblem(t, err, http.StatusBadGateway, "gate")
	if r.phase(1) != "" {
		t.Fatalf("a record stays: %q", r.phase(1))
	}
	if err := r.gate.Listen(); err != nil {
		t.Fatal(err)
	}
	v, err := r.register(1, disks)
	if err != nil || v.Phase != store.PhaseActive {
		t.Fatal(v, err)
	}
}

// TestReplayedForeignID: an id that the gate used up earlier, for whoever, is
// refused, and the record of this attempt goes.
func TestReplayedForeignID(t *testing.T) {
	r := newRig(t)
	disks := r.image(1)
	r.gate.Handle(qmp.CmdRegister, func(*gatetest.Call) (any, error) { return nil, qmp.Errorf(qmp.ClassReplayed, "used before") })
	_, err := r.register(1, disks)
	wantProblem(t, err, http.StatusConflict, "used before")
	if r.phase(1) != "" {
		t.Fatalf("a record stays: %q", r.phase(1))
	}
}

// TestReconcile: records without an answer follow the gate's list, but neither
// young ones nor those whose registration is on its way.
func TestReconcile(t *testing.T) {
	r := newRig(t)
	for n := 1; n <= 3; n++ {
		if err := r.Store.CreateVM(t.Context(), &store.VM{ID: id(n), Name: fmt.Sprint("web", n), Tenant: r.tenant.ID}); err != nil {
			t.Fatal(err)
		}
	}
	release, ok := r.claim(id(3))
	if !ok {
		t.Fatal("claim")
	}
	live := []qmp.VMState{{VM: id(1), State: qmp.StateStopped}}
	r.Reconcile(t.Context(), live)
	for n := 1; n <= 3; n++ {
		if r.phase(n) != store.PhaseRegistering {
			t.Fatalf("young record %d became %q", n, r.phase(n))
		}
	}
	r.now = func() time.Time { return time.Now().Add(2 * settleAfter) }
	r.Reconcile(t.Context(), live)
	for n, want := range []string{store.PhaseUnconfirmed, "", store.PhaseRegistering} {
		if got := r.phase(n + 1); got != want {
			t.Errorf("record %d is %q, want %q", n+1, got, want)
		}
	}
	release()
	r.Reconcile(t.Context(), live)
	if got := r.phase(3); got != "" {
		t.Errorf("a record that nobody waits for stays: %q", got)
	}
}
