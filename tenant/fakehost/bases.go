package fakehost

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/uvbond/uvbond/automaton"
	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/tenant/client"
)

// Offer offers a base image. said is the digest that the server tells; empty: the
// right one.
func (s *Server) Offer(name string, content []byte, said string) {
	sum := sha256.Sum256(content)
	if said == "" {
		said = hex.EncodeToString(sum[:])
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bases[name] = base{client.Base{Name: name, Size: int64(len(content)), SHA256: said}, sum}
}

type base struct {
	client.Base
	sum [32]byte // of what the hypervisor gets to read
}

// Received is how many bytes of bodies came with requests.
func (s *Server) Received() int64 { return s.received.Load() }

// counted is a body that is counted.
type counted struct {
	io.ReadCloser
	s *Server
}

func (c counted) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	c.s.received.Add(int64(n))
	return n, err
}

func (s *Server) listBases(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []client.Base{}
	for _, b := range s.bases {
		list = append(list, b.Base)
	}
	answer(w, map[string]any{"bases": list})
}

func (s *Server) newBlank(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var in client.Image
	b, ok := s.bases[r.PathValue("name")]
	if json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&in) != nil || !ok {
		problem(w, http.StatusNotFound, "NotFound", "no such base image")
		return
	}
	i := &image{Image: client.Image{ID: fmt.Sprintf("img-%d", len(s.images)+1), Name: in.Name, Size: in.Size, Offset: in.Size, State: client.ImageReady}, base: b.Name}
	s.images[i.ID] = i
	answer(w, i.Image)
}

// builds tells how far a VM's disks are.
func (v *vm) builds() (out []qmp.BuildState) {
	for _, d := range v.reg.Spec.Disks {
		if d.Base != nil && v.built[d.Name] < len(steps) {
			st := steps[v.built[d.Name]]
			out = append(out, qmp.BuildState{Disk: d.Name, Phase: st, Done: d.Base.Size / 2, Total: d.Base.Size})
		}
	}
	return out
}

// steps of a build, one a ticket; then it is done.
var steps = []string{qmp.BuildCheck, qmp.BuildWrite}

// build does what the ticket's automaton lets pass: one step.
func (s *Server) build(v *vm, t *bond.Ticket, p *client.Params) (class, reason string) {
	f, err := automaton.Parse("ticket", []byte(t.Automaton))
	if err != nil {
		return "Invalid", err.Error()
	}
	m, err := f.Compile(t.Command)
	if err != nil {
		return "Invalid", err.Error()
	}
	if p == nil {
		return "Invalid", "no disk"
	}
	if err := m.Start().Step(qmp.CmdBuild, map[string]any{"disk": p.Disk}); err != nil {
		return "Refused", err.Error()
	}
	for i := range v.reg.Spec.Disks {
		d := &v.reg.Spec.Disks[i]
		if d.Name != p.Disk || d.Base == nil {
			continue
		}
		if have := s.bases[s.images[v.Disks[i].Image].base].sum; have != d.Base.SHA256 {
			return "Invalid", fmt.Sprintf("disk %s: the base image has SHA-256 %x, its owner registered %x; nothing was written", d.Name, have, d.Base.SHA256)
		}
		if s.evil != EndlessBuild {
			v.built[d.Name]++
		}
		return "", ""
	}
	return "Invalid", "no such disk"
}

// buildCall is the receipt's call of a step.
func (v *vm) buildCall(p *client.Params) bond.Call {
	st := qmp.BuildState{Disk: p.Disk, Phase: qmp.BuildDone}
	for _, b := range v.builds() {
		if b.Disk == p.Disk {
			st = b
		}
	}
	return bond.Call{Command: qmp.CmdBuild, Verdict: bond.CallOK, Detail: st.Detail()}
}
