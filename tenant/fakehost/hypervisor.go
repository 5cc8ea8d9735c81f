package fakehost

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant/client"
)

// vm is a VM as the fake hypervisor has it.
type vm struct {
	client.VM
	bond         *bond.Bond
	reg          *bond.Registration
	state        string
	live         bool
	instance     uint64
	descriptor   *bond.Descriptor
	first        []byte // sealed descriptor of the first start
	last         []byte // the last receipt, sealed
	confirmation []byte

	lastDelegated []byte         // the last receipt for a delegate
	built         map[string]int // steps done of the making of a disk
	revoked       map[[32]byte]bool
	revokedUntil  int64
	nonces        map[[32]byte]bool
	rewritten     bool
	records       [][]byte
	heads         [][32]byte // heads[n]: chain value after n records
}

// Seed returns the first boot that a VM was registered with under a name, or nil.
func (s *Server) Seed(name string) *bond.Seed {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.vms {
		if v.Name == name {
			return v.reg.Spec.Seed
		}
	}
	return nil
}

func (v *vm) record(kind, who, text string) { v.recordFields(kind, who, text, nil) }

func (v *vm) recordFields(kind, who, text string, fields map[string]string) {
	prev := v.heads[len(v.heads)-1]
	r := bond.AuditRecord{Seq: uint64(len(v.records)), Time: time.Now().UnixMilli(), Prev: prev, Kind: kind, Who: who, Text: text, Fields: fields}
	raw := r.Encode()
	v.records = append(v.records, raw)
	v.heads = append(v.heads, bond.HashRecord(prev, raw))
}

func (s *Server) createVM(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var in client.CreateVM
	if json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&in) != nil {
		problem(w, http.StatusBadRequest, "Invalid", "not JSON")
		return
	}
	if s.evil == RefuseCreate {
		problem(w, http.StatusConflict, "Invalid", "the disk is not the one registered")
		return
	}
	reg, b, err := bond.OpenRegistration(s.key, in.Registration)
	if err != nil {
		problem(w, http.StatusBadRequest, "Invalid", err.Error())
		return
	}
	if s.evil == SwappedKey {
		reg.Secret = bond.RandomSecret(bond.RegistrationSecretSize)
		if _, b, err = bond.SealRegistration(s.key.Public(), b.Tenant(), b.VM(), reg); err != nil {
			panic(err)
		}
	}
	v := &vm{bond: b, reg: reg, state: "stopped", nonces: map[[32]byte]bool{}, revoked: map[[32]byte]bool{}, built: map[string]int{}, heads: make([][32]byte, 1)}
	v.ID, v.Name, v.Disks = in.ID, in.Name, in.Disks
	v.record("registration", "pid 1 uid 0", "registered")
	if v.confirmation, err = bond.Seal(b, bond.NewConfirmation(b, reg, s.now())); err != nil {
		panic(err)
	}
	s.vms[in.ID] = v
	if s.evil == DropCreate {
		drop()
	}
	answer(w, s.view(v, true))
}

func (s *Server) view(v *vm, secrets bool) client.VM {
	out := v.VM
	out.State, out.Builds = v.state, v.builds()
	if secrets && s.evil != NoConfirmation {
		out.Confirmation = v.confirmation
	}
	if v.descriptor != nil && s.evil != NoDescriptor && secrets {
		out.Descriptor = v.sealed(v.descriptor)
	}
	return out
}

func (v *vm) sealed(m bond.Message) []byte {
	blob, err := bond.Seal(v.bond, m)
	if err != nil {
		panic(err)
	}
	return blob
}

func (s *Server) listVMs(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []client.VM{}
	for _, v := range s.vms {
		list = append(list, s.view(v, false))
	}
	answer(w, map[string]any{"vms": list})
}

func (s *Server) getVM(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.vms[r.PathValue("id")]; v != nil {
		answer(w, s.view(v, true))
		return
	}
	problem(w, http.StatusNotFound, "", "no such VM")
}

func (s *Server) command(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var in client.Command
	v := s.vms[r.PathValue("id")]
	if json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&in) != nil || v == nil {
		problem(w, http.StatusNotFound, "", "no such VM")
		return
	}
	if s.evil == Hang {
		s.mu.Unlock()
		<-r.Context().Done()
		s.mu.Lock()
		return
	}
	if s.evil == ReplayedReceipt && v.last != nil {
		answer(w, outcomeOf(r, &client.Outcome{Outcome: "done", Receipt: v.last}))
		return
	}
	if live(r) {
		s.mu.Unlock() // a slow step holds nobody else up
		s.tellHypercalls(w, in.Command)
		s.mu.Lock()
	}
	out := s.execute(v, in)
	switch s.evil {
	case DropCommands:
		drop()
	case NoReceipt:
		out.Receipt = nil
	case ForgedReceipt:
		_, _ = rand.Read(out.Receipt[len(out.Receipt)/2:])
	case NoDescriptor:
		out.Descriptor = nil
	case OldDescriptor:
		if out.Descriptor != nil {
			out.Descriptor = v.first
		}
	case NoChunks:
		out.Chunks = nil
	}
	answer(w, outcomeOf(r, out))
}

// ticketOf opens a ticket of either kind.
func ticketOf(b *bond.Bond, sealed []byte) (*bond.Ticket, error) {
	t := new(bond.Ticket)
	if err := bond.Open(b, sealed, t); err == nil {
		return t, nil
	}
	bt := new(bond.BootTicket)
	if err := bond.Open(b, sealed, bt); err != nil {
		return nil, err
	}
	return &bond.Ticket{Nonce: bt.Nonce, Command: bt.Command, Automaton: bt.Automaton, NotBefore: bt.NotBefore, NotAfter: bt.NotAfter}, nil
}

func (s *Server) execute(v *vm, in client.Command) *client.Outcome {
	target := v
	if s.evil == Redirect {
		for _, other := range s.vms {
			if other != v {
				target = other
			}
		}
	}
	t, err := ticketOf(target.bond, in.Ticket)
	if err != nil || target != v {
		v.record("refused", "pid 4242 uid 990", "a ticket of this VM was presented for another VM")
		return &client.Outcome{Outcome: "refused", Class: "Redirected", Reason: "the ticket does not open under the bond of this VM"}
	}
	if v.nonces[t.Nonce] {
		return &client.Outcome{Outcome: "refused", Class: "Replayed", Reason: "the ticket was used before"}
	}
	v.nonces[t.Nonce] = true
	out := &client.Outcome{Outcome: "done"}
	class, reason := s.act(v, t, in.Params, out)
	r := &bond.Receipt{Nonce: t.Nonce, Command: t.Command, Instance: v.instance, Verdict: bond.VerdictDone, State: v.state, HostTime: s.now(),
		Calls: callsOf(t.Command)}
	switch {
	case t.Command == "grow" && class == "":
		r.Calls = []bond.Call{v.grown(in.Params)}
	case t.Command == "build" && class == "":
		r.Calls = []bond.Call{v.buildCall(in.Params)}
	}
	if class != "" {
		out.Outcome, out.Class, out.Reason = "refused", class, reason
		r.Verdict, r.Class, r.Reason, r.Calls = bond.VerdictRefused, class, reason, nil
	}
	v.recordFields("close", "uid 990, process 100", fmt.Sprintf("%s: %s", t.Command, r.Verdict),
		map[string]string{"session": fmt.Sprint(len(v.nonces)), "command": t.Command, "verdict": r.Verdict})
	r.AuditSeq, r.AuditHead = uint64(len(v.records)), v.heads[len(v.heads)-1]
	if s.evil == SetBack {
		r.AuditSeq = 1
	}
	if s.evil == OtherBond {
		_, b, err := bond.SealRegistration(s.key.Public(), v.bond.Tenant(), v.bond.VM(), v.reg)
		if err != nil {
			panic(err)
		}
		out.Receipt, err = bond.Seal(b, r)
		if err != nil {
			panic(err)
		}
		return out
	}
	out.Receipt = v.sealed(r)
	v.last = bytes.Clone(out.Receipt)
	if t.Command == "delete" && class == "" {
		delete(s.vms, v.ID)
	}
	return out
}

// act changes the VM's state. It returns a class to refuse.
func (s *Server) act(v *vm, t *bond.Ticket, p *client.Params, out *client.Outcome) (class, reason string) {
	if err := t.CheckValidity(s.now()); err != nil {
		return "Expired", err.Error()
	}
	if len(t.Descriptor) > 0 {
		switch {
		case !v.live:
			return "NotRunning", "the instance of this ticket's descriptor has ended"
		case !v.descriptor.Matches(t.Descriptor):
			return "Stale", "the descriptor belongs to another instance"
		}
	}
	switch t.Command {
	case "start":
		if v.live {
			return "Running", "the VM has an instance already"
		}
		if len(v.builds()) > 0 {
			return "NotBuilt", "disk disk0: it is to be made from its base image first"
		}
		v.instance++
		v.live, v.state = true, "running"
		v.descriptor = bond.NewDescriptor(v.instance, t.Nonce, s.now())
		out.Descriptor = v.sealed(v.descriptor)
		if v.first == nil {
			v.first = out.Descriptor
		}
	case "pause":
		v.state = "paused"
	case "resume", "reset":
		v.state = "running"
	case "shutdown", "poweroff":
		if s.evil == DeafGuest && t.Command == "shutdown" {
			break
		}
		v.live, v.state = false, "stopped"
	case "allow":
		if t.Policy == nil {
			return "Invalid", "the ticket carries no policy"
		}
		v.record("policy", "pid 100 uid 990", "policy changed")
	case "undelegate":
		return v.undelegate(t, p)
	case "delete":
		if v.live {
			return "Running", "the VM has an instance"
		}
	case "grow":
		return v.grow(t, p)
	case "build":
		return s.build(v, t, p)
	case "log":
		s.console(v, t, p, out)
	case "audit":
		s.audit(v, t, p, out)
	}
	return "", ""
}

// Console is what every instance has written.
const Console = "uvbond guest is up\r\n\x1b[31mred\x1b[0m\x1b]0;title\x07 text\r\n"

func (s *Server) console(v *vm, t *bond.Ticket, p *client.Params, out *client.Outcome) {
	from := uint64(0)
	if p != nil && p.Offset != nil {
		from = min(*p.Offset, uint64(len(Console)))
	}
	end := min(from+20, uint64(len(Console))) // small pieces
	out.Chunks = [][]byte{v.sealed(&bond.ConsoleChunk{Nonce: t.Nonce, Instance: v.instance, Offset: from, Data: []byte(Console[from:end]), End: uint64(len(Console))})}
}

func (s *Server) audit(v *vm, t *bond.Ticket, p *client.Params, out *client.Outcome) {
	if s.evil == Rewritten && (!v.rewritten || p == nil || p.From == nil || *p.From == 0) {
		old := v.records
		v.rewritten = true
		v.records, v.heads = nil, make([][32]byte, 1)
		for range old {
			v.record("call", "nobody", "nothing happened")
		}
	}
	from := uint64(0)
	if p != nil && p.From != nil {
		from = min(*p.From, uint64(len(v.records)))
	}
	if s.evil == CutAudit {
		from = uint64(len(v.records)) / 2
	}
	end := min(from+2, uint64(len(v.records)))
	out.Chunks = [][]byte{v.sealed(&bond.AuditChunk{Nonce: t.Nonce, From: from, Records: v.records[from:end], Head: v.heads[end], Next: end, More: end < uint64(len(v.records))})}
}

// Tried notes in the log of every VM that an operator tried something.
func (s *Server) Tried(hypercall, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.vms {
		v.recordFields("refused", "uid 990, process 4242", hypercall+" refused: "+why, map[string]string{"class": "Denied", "hypercall": hypercall})
	}
}
