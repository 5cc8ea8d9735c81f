package ui

import (
	"encoding/hex"
	"net/http"
	"slices"
	"sync"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant"
	"github.com/uvbond/uvbond/tenant/store"
)

// vmState is a VM in the list. State is what a receipt said; Claim is the server's
// word.
type vmState struct {
	Name     string `json:"name"`
	Host     string `json:"host"`
	Phase    string `json:"phase"`
	State    string `json:"state,omitempty"`
	At       int64  `json:"at,omitempty"`      // of the receipt, Unix seconds
	Since    int64  `json:"since,omitempty"`   // the first receipt in a row with this state
	Receipt  string `json:"receipt,omitempty"` // nonce of the newest
	Command  string `json:"command,omitempty"` // of that receipt
	Instance uint64 `json:"instance,omitempty"`
	Ended    bool   `json:"ended"` // no instance runs
	Running  string `json:"running,omitempty"`
	Memory   uint64 `json:"memory"`
	CPUs     uint32 `json:"cpus"`
	Screen   bool   `json:"screen"`
	Claim    *claim `json:"claim,omitempty"`
	Problem  string `json:"problem,omitempty"` // its state here is damaged

	id string
}

// grantState is somebody else's VM.
type grantState struct {
	Name  string `json:"name"`
	Host  string `json:"host"`
	State string `json:"state,omitempty"`
	At    int64  `json:"at,omitempty"`
}

// state is everything that the list shows.
func (s *Server) state(w http.ResponseWriter, _ *http.Request, _ *session) {
	names, err := s.owner.Store.VMs()
	if err != nil {
		s.failed(w, err)
		return
	}
	list := []vmState{}
	for _, n := range names {
		list = append(list, s.vmState(n))
	}
	s.refreshClaims(list)
	answer(w, map[string]any{"vms": list, "grants": s.grants(), "now": s.opts.Now().Unix()})
}

func (s *Server) vmState(name string) vmState {
	vm, err := s.owner.Store.VM(name)
	if err != nil {
		return vmState{Name: name, Problem: err.Error()}
	}
	v := vmState{
		Name: name, Host: vm.Host, Phase: vm.Phase, State: vm.State, At: vm.StateTime, Instance: vm.Instance,
		Ended: len(vm.Descriptor) == 0 || tenant.Ended(vm.State), Running: s.runs.of(name),
		Memory: vm.Spec.Memory, CPUs: vm.Spec.CPUs, Screen: vm.Spec.Screen, id: vm.ID,
	}
	if vm.StateTime != 0 {
		found := s.since.of(s.owner, vm)
		v.Since, v.Receipt, v.Command = found.since, found.receipt, found.command
	}
	v.Claim = s.claims.of(v)
	return v
}

func (s *Server) grants() []grantState {
	out := []grantState{}
	names, err := s.owner.Store.Grants()
	if err != nil {
		return out
	}
	for _, n := range names {
		if g, err := s.owner.Store.Grant(n); err == nil {
			out = append(out, grantState{Name: g.Name, Host: g.Host, State: g.State, At: g.StateTime})
		}
	}
	return out
}

// since finds out from which receipt on a VM was in its state, and remembers it:
// receipts are opened for that.
type since struct {
	mu sync.Mutex
	by map[string]sinceEntry
}

type sinceEntry struct {
	key     sinceKey
	since   int64
	receipt string
	command string
}

type sinceKey struct {
	state   string
	at      int64
	records uint64
}

func (c *since) of(o *tenant.Owner, vm *store.VM) sinceEntry {
	key := sinceKey{vm.State, vm.StateTime, vm.Records}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.by[vm.ID]; ok && e.key == key {
		return e
	}
	e := sinceEntry{key: key}
	list, _, err := o.Receipts(vm.Name)
	if err == nil {
		e.find(vm, list)
	}
	if c.by == nil {
		c.by = map[string]sinceEntry{}
	}
	c.by[vm.ID] = e
	return e
}

// find walks back from the newest receipt of the VM's state to the first in a row.
func (e *sinceEntry) find(vm *store.VM, list []tenant.Stored) {
	for _, r := range slices.Backward(list) {
		switch o := r.Opened; {
		case o == nil || o.HostTime > vm.StateTime:
		case e.receipt == "" && (o.State != vm.State || o.HostTime != vm.StateTime):
		case e.receipt == "":
			e.since, e.receipt, e.command = o.HostTime, hex.EncodeToString(o.Nonce[:]), o.Command
		case o.State != vm.State || vm.Instance != 0 && o.Instance != vm.Instance && o.Instance != 0 && !tenant.Ended(vm.State):
			return
		default:
			e.since = o.HostTime
		}
	}
}

// receipt is a verified receipt for the page.
type receipt struct {
	Nonce    string `json:"nonce"`
	Command  string `json:"command"`
	Instance uint64 `json:"instance,omitempty"`
	Verdict  string `json:"verdict"`
	Class    string `json:"class,omitempty"`
	Reason   string `json:"reason,omitempty"`
	State    string `json:"state"`
	At       int64  `json:"at"` // Unix seconds, the host's clock
	Calls    []call `json:"calls"`
	Records  uint64 `json:"records"` // of the audit log so far
	Head     string `json:"head"`
}

type call struct {
	Command   string `json:"command"`
	Arguments string `json:"arguments,omitempty"`
	Verdict   string `json:"verdict"`
	Detail    string `json:"detail,omitempty"`
}

func receiptOf(r *bond.Receipt) *receipt {
	out := &receipt{
		Nonce: hex.EncodeToString(r.Nonce[:]), Command: r.Command, Instance: r.Instance, Verdict: r.Verdict, Class: r.Class, Reason: r.Reason,
		State: r.State, At: r.HostTime, Calls: []call{}, Records: r.AuditSeq, Head: hex.EncodeToString(r.AuditHead[:]),
	}
	for _, c := range r.Calls {
		out.Calls = append(out.Calls, call{c.Command, clip(c.Arguments, maxArguments), c.Verdict, c.Detail})
	}
	return out
}

// vm shows one VM's registration.
func (s *Server) vm(w http.ResponseWriter, r *http.Request, _ *session) {
	vm, err := s.owner.Store.VM(r.PathValue("name"))
	if err != nil {
		s.failed(w, err)
		return
	}
	offered := []map[string]string{}
	for _, c := range commands {
		offered = append(offered, map[string]string{"command": c.Command, "means": c.Means})
	}
	disks := []map[string]any{}
	for _, d := range vm.Spec.Disks {
		disks = append(disks, map[string]any{"name": d.Name, "bus": d.Bus, "length": d.Length, "read_only": d.ReadOnly, "file": d.File})
	}
	nics := []map[string]string{}
	for _, n := range vm.Spec.NICs {
		nics = append(nics, map[string]string{"model": n.Model, "mac": n.MAC})
	}
	if mac := vm.Spec.ChannelMAC; mac != "" {
		nics = append(nics, map[string]string{"model": "card for ssh and forwarded ports, leads nowhere else", "mac": mac})
	}
	answer(w, map[string]any{
		"name": vm.Name, "id": vm.ID, "host": vm.Host, "phase": vm.Phase, "created": vm.Created, "instance": vm.Instance,
		"memory": vm.Spec.Memory, "cpus": vm.Spec.CPUs, "firmware": vm.Spec.Firmware, "machine": vm.Spec.Machine,
		"disks": disks, "nics": nics, "fingerprint": s.fingerprint(vm.Host), "commands": offered,
	})
}

// fingerprint is that of the pinned hypervisor.
func (s *Server) fingerprint(host string) string {
	h, err := s.owner.Store.Host(host)
	if err != nil {
		return ""
	}
	public, err := bond.ParseHostPublic(h.PublicKey)
	if err != nil {
		return ""
	}
	return public.Fingerprint()
}
