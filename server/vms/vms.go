// Package vms keeps one record of every bonded VM and relays registrations
// and commands between tenants and the hypervisor.
//
// Whether a bond exists is the hypervisor's to say. A record is made before
// the hypervisor is asked, settled by its answer, and reconciled with its list
// of VMs when the answer was lost.
package vms

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"sync"
	"time"

	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/server/bases"
	"github.com/uvbond/uvbond/server/images"
	"github.com/uvbond/uvbond/server/problem"
	"github.com/uvbond/uvbond/server/store"
	"github.com/uvbond/uvbond/server/toolstack"
)

// Limits of sealed blobs, in bytes.
const (
	MaxRegistration = 256 << 10
	MaxTicket       = 128 << 10
	maxDisks        = 8
)

// States beside those of the gate.
const (
	StateUnknown = "unknown" // the gate cannot be asked
	StateMissing = "missing" // the gate does not know this VM
)

var (
	idPattern   = regexp.MustCompile(`^[0-9a-f]{32}$`)
	diskPattern = regexp.MustCompile(`^[a-z][a-z0-9-]{0,15}$`)
)

// Service registers and commands VMs.
type Service struct {
	Store  *store.Store
	Images *images.Manager
	Bases  *bases.Store
	Gate   *toolstack.Gate
	Taps   map[string][]string // VM id -> tap interfaces
	Log    *slog.Logger

	now      func() time.Time // nil: the machine's clock
	mu       sync.Mutex
	inFlight map[string]bool // VM ids whose registration is on its way
}

// VM is a record with the state that the gate tells.
type VM struct {
	store.VM
	State  string
	Limits []qmp.VMLimits   // in force, of the disks that have any
	Builds []qmp.BuildState // of the disks that are still to be made from base images
}

// Gone turns an error of the gate into a problem for a request that the gate
// did not decide.
func Gone(err error) *problem.Problem {
	if e, ok := errors.AsType[*toolstack.UnavailableError](err); ok {
		return problem.New(http.StatusBadGateway, problem.ClassUnavailable, "%s", e.Error()).Because(err)
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return problem.New(http.StatusServiceUnavailable, problem.ClassUnavailable, "the request ended before the hypervisor was asked; try again").Because(err)
	}
	return problem.Of(err)
}

// List returns a tenant's VMs with their states.
func (s *Service) List(ctx context.Context, t *store.Tenant) ([]VM, error) {
	list, err := s.Store.VMs(ctx, t.ID)
	if err != nil {
		return nil, problem.Internal(err)
	}
	return s.WithState(ctx, list), nil
}

// Get returns a tenant's VM with its state.
func (s *Service) Get(ctx context.Context, t *store.Tenant, id string) (*VM, error) {
	v, err := s.find(ctx, t, id)
	if err != nil {
		return nil, err
	}
	return &s.WithState(ctx, []store.VM{*v})[0], nil
}

// Disks asks the gate for limits and statistics of a tenant's VM.
func (s *Service) Disks(ctx context.Context, t *store.Tenant, id string) ([]qmp.DiskState, error) {
	v, err := s.find(ctx, t, id)
	if err != nil {
		return nil, err
	}
	disks, err := s.Gate.QueryDisks(ctx, v.ID)
	if qmp.ClassOf(err) == qmp.ClassDeviceNotFound || err == nil && disks == nil {
		return []qmp.DiskState{}, nil // no bond, or no instance: there is nothing to tell
	}
	if err != nil {
		return nil, Gone(err)
	}
	return disks, nil
}

// Find returns a tenant's record, without asking the gate for its state.
func (s *Service) Find(ctx context.Context, t *store.Tenant, id string) (*store.VM, error) {
	return s.find(ctx, t, id)
}

func (s *Service) find(ctx context.Context, t *store.Tenant, id string) (*store.VM, error) {
	v, err := s.Store.VM(ctx, t.ID, id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, problem.NotFound("VM", id)
	} else if err != nil {
		return nil, problem.Internal(err)
	}
	return v, nil
}

// WithState adds what the gate says to records.
func (s *Service) WithState(ctx context.Context, list []store.VM) []VM {
	out := make([]VM, len(list))
	states, err := s.Gate.QueryVMs(ctx)
	for i, v := range list {
		out[i] = VM{VM: v, State: StateUnknown}
		if err == nil {
			out[i].State = StateMissing
			if st, ok := states[v.ID]; ok {
				out[i].State, out[i].Limits, out[i].Builds = st.State, st.Limits, st.Builds
			}
		}
	}
	return out
}

// Register relays a registration and keeps the VM when the hypervisor took it.
// The same request again, after a lost answer, returns the same confirmation.
func (s *Service) Register(ctx context.Context, t *store.Tenant, id, name string, disks []store.Disk, registration []byte) (*store.VM, error) {
	if err := checkRegistration(id, name, disks, registration); err != nil {
		return nil, err
	}
	release, ok := s.claim(id)
	if !ok {
		return nil, problem.New(http.StatusConflict, problem.ClassBusy, "VM %s is being registered just now", id)
	}
	defer release()
	v := &store.VM{ID: id, Name: name, Tenant: t.ID, Registration: sha256.Sum256(registration), Disks: disks}
	known, err := s.Store.VM(ctx, t.ID, id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		if err := s.Store.CreateVM(ctx, v); err != nil {
			return nil, createProblem(v, err)
		}
	case err != nil:
		return nil, problem.Internal(err)
	case known.Registration != v.Registration || known.Name != v.Name:
		return nil, problem.New(http.StatusConflict, problem.ClassConflict, "VM %s exists already", id)
	case known.Phase == store.PhaseActive:
		return known, nil
	case known.Phase == store.PhaseUnconfirmed:
		return nil, lostConfirmation(id)
	}
	return s.relay(ctx, v, registration)
}

// relay asks the hypervisor and settles the record by its answer.
func (s *Service) relay(ctx context.Context, v *store.VM, registration []byte) (*store.VM, error) {
	// Once sent it cannot be taken back: the client's going away changes nothing.
	ctx = context.WithoutCancel(ctx)
	r, sent, err := s.Gate.Register(ctx, registration)
	refusal, refused := errors.AsType[*qmp.Error](err)
	switch {
	case err == nil:
	case !sent || refused && refusal.Class != qmp.ClassReplayed:
		if derr := s.Store.DeleteVM(ctx, v.ID); derr != nil {
			s.Log.Error("the record of a refused VM stays", "vm", v.ID, "error", derr)
		}
		if refused {
			return nil, refusedRegistration(refusal)
		}
		return nil, Gone(err)
	case refused:
		return nil, s.settleReplayed(ctx, v, refusal)
	default:
		p := Gone(err)
		p.Detail += "; whether the registration arrived is unknown: send the same request again"
		return nil, p
	}
	if r.VM != v.ID {
		return nil, s.keepOther(ctx, v, r)
	}
	if err := s.Store.ActivateVM(ctx, v.ID, store.PhaseActive, r.Confirmation, r.Memory, r.VCPUs); err != nil {
		return nil, problem.Internal(err)
	}
	v.Phase, v.Confirmation, v.Memory, v.VCPUs = store.PhaseActive, r.Confirmation, r.Memory, r.VCPUs
	return v, nil
}

func refusedRegistration(e *qmp.Error) *problem.Problem {
	status := http.StatusUnprocessableEntity
	switch e.Class {
	case qmp.ClassReplayed:
		status = http.StatusConflict
	case qmp.ClassInternal, qmp.ClassUnavailable:
		status = http.StatusBadGateway
	}
	return problem.New(status, e.Class, "the hypervisor refused the registration: %s", e.Desc)
}

// settleReplayed handles "this VM id was used before". When the gate's list has
// the VM and only this record waits for it, the earlier answer was lost.
func (s *Service) settleReplayed(ctx context.Context, v *store.VM, refusal *qmp.Error) error {
	known, err := s.Store.VMByID(ctx, v.ID)
	if err != nil {
		return problem.Internal(err)
	}
	live, err := s.Gate.QueryVMs(ctx)
	if err != nil {
		return Gone(err)
	}
	if _, there := live[v.ID]; there && known.Phase == store.PhaseRegistering {
		if err := s.Store.ActivateVM(ctx, v.ID, store.PhaseUnconfirmed, nil, 0, 0); err != nil {
			return problem.Internal(err)
		}
		return lostConfirmation(v.ID)
	}
	if err := s.Store.DeleteVM(ctx, v.ID); err != nil {
		return problem.Internal(err)
	}
	return refusedRegistration(refusal)
}

func lostConfirmation(id string) *problem.Problem {
	return problem.New(http.StatusConflict, qmp.ClassReplayed,
		"the hypervisor took the registration of VM %s earlier, but its confirmation was lost; delete the VM and create it anew", id)
}

// keepOther handles a registration whose sealed VM id is not the request's: the
// record follows the hypervisor, so that the bond stays visible and deletable.
func (s *Service) keepOther(ctx context.Context, v *store.VM, r *qmp.RegisterResult) error {
	p := problem.New(http.StatusConflict, problem.ClassInvalid, "the registration is of VM %s, the request of VM %s; delete the VM and create it anew", r.VM, v.ID)
	if !idPattern.MatchString(r.VM) {
		return problem.New(http.StatusBadGateway, problem.ClassUnavailable, "the hypervisor answered with a malformed VM id")
	}
	if err := s.Store.RenameVMID(ctx, v.ID, r.VM); err != nil {
		return p.Because(errors.Join(err, s.Store.DeleteVM(ctx, v.ID)))
	}
	if err := s.Store.ActivateVM(ctx, r.VM, store.PhaseUnconfirmed, nil, r.Memory, r.VCPUs); err != nil {
		return problem.Internal(err)
	}
	return p
}

func checkRegistration(id, name string, disks []store.Disk, registration []byte) error {
	invalid := func(format string, args ...any) error {
		return problem.New(http.StatusUnprocessableEntity, problem.ClassInvalid, format, args...)
	}
	if !idPattern.MatchString(id) {
		return invalid("VM id: 32 lower-case hex digits are needed")
	}
	if err := store.CheckName(name); err != nil {
		return invalid("VM %v", err)
	}
	if len(disks) < 1 || len(disks) > maxDisks {
		return invalid("disks: 1 to %d are needed", maxDisks)
	}
	names, used := map[string]bool{}, map[string]bool{}
	for _, d := range disks {
		if !diskPattern.MatchString(d.Name) {
			return invalid("disk name %q: a letter and up to 15 letters, digits and '-' are needed", d.Name)
		}
		if !idPattern.MatchString(d.Image) {
			return invalid("disk %s: %q is not an image id", d.Name, d.Image)
		}
		if names[d.Name] || used[d.Image] {
			return invalid("disk %s: each name and each image may stand once", d.Name)
		}
		names[d.Name], used[d.Image] = true, true
	}
	if len(registration) == 0 || len(registration) > MaxRegistration {
		return invalid("registration: 1 to %d bytes are needed", MaxRegistration)
	}
	return nil
}

func createProblem(v *store.VM, err error) error {
	var q *store.QuotaError
	var d *store.DiskError
	switch {
	case errors.As(err, &q):
		return problem.New(http.StatusForbidden, problem.ClassQuota, "quota: %d of %d VMs are used; delete one or ask the operator for more", q.Used, q.Limit)
	case errors.As(err, &d) && errors.Is(err, store.ErrNotFound):
		return problem.New(http.StatusNotFound, problem.ClassNotFound, "%s", d.Error())
	case errors.As(err, &d):
		return problem.New(http.StatusConflict, problem.ClassConflict, "%s", d.Error())
	case errors.Is(err, store.ErrConflict):
		// The id may be another tenant's: the text must not tell which it was.
		return problem.New(http.StatusConflict, problem.ClassConflict, "the VM name %s or the id %s is taken; choose another", v.Name, v.ID)
	case errors.Is(err, store.ErrNoSpace):
		return problem.New(http.StatusInsufficientStorage, problem.ClassNoSpace, "the server's disk is full").Because(err)
	}
	return problem.Internal(fmt.Errorf("record of VM %s: %w", v.ID, err))
}

func (s *Service) claim(id string) (release func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inFlight[id] {
		return nil, false
	}
	if s.inFlight == nil {
		s.inFlight = map[string]bool{}
	}
	s.inFlight[id] = true
	return func() {
		s.mu.Lock()
		delete(s.inFlight, id)
		s.mu.Unlock()
	}, true
}

// settleAfter keeps Reconcile away from records that are younger than a list
// of VMs may be.
const settleAfter = 5 * time.Second

func (s *Service) clock() time.Time {
	if s.now != nil {
		return s.now()
	}
	return time.Now()
}

// Reconcile settles records whose answer was lost, by the gate's list of VMs.
func (s *Service) Reconcile(ctx context.Context, live []qmp.VMState) {
	waiting, err := s.Store.VMsInPhase(ctx, store.PhaseRegistering)
	if err != nil || len(waiting) == 0 {
		return
	}
	there := make(map[string]bool, len(live))
	for _, v := range live {
		there[v.VM] = true
	}
	for _, v := range waiting {
		release, ok := s.claim(v.ID)
		if !ok {
			continue // its registration is on its way
		}
		if s.clock().Sub(v.Created) < settleAfter {
			release()
			continue
		}
		if there[v.ID] {
			err = s.Store.ActivateVM(ctx, v.ID, store.PhaseUnconfirmed, nil, 0, 0)
		} else {
			err = s.Store.DeleteVM(ctx, v.ID)
		}
		release()
		s.Log.Info("a registration without an answer was settled", "vm", v.ID, "kept", there[v.ID], "error", err)
	}
}
