package fakehost

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/uvbond/uvbond/automaton"
	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/tenant/client"
)

// disks shows one disk of a VM that runs, with a control sequence in its name.
func (s *Server) disks(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.vms[r.PathValue("id")]
	if v == nil {
		problem(w, http.StatusNotFound, "", "no such VM")
		return
	}
	list := []qmp.DiskState{}
	if v.live {
		list = append(list, qmp.DiskState{Name: "root\x1b[2J", FrontEnd: "nbd", Size: 1 << 20, Limits: qmp.DiskLimits{IOPS: 500}, Stats: &qmp.DiskStats{
			Kinds: []qmp.KindStats{{Kind: "read", Count: 2, Bytes: 8192, Nanoseconds: 6000, Latency: []uint64{0, 1, 1}}},
		}})
	}
	answer(w, map[string]any{"disks": list})
}

// grow holds what the server was asked for against the ticket, as the gate does.
func (v *vm) grow(t *bond.Ticket, p *client.Params) (class, reason string) {
	d := v.reg.Spec.BootDisk()
	if p == nil || p.Disk != d.Name || p.Stored != d.DataOffset+p.Size {
		return "Invalid", "the image was not made as long as the disk needs"
	}
	f, err := automaton.Parse("ticket", []byte(t.Automaton))
	if err != nil {
		return "Invalid", err.Error()
	}
	m, err := f.Compile(t.Command)
	if err != nil {
		return "Invalid", err.Error()
	}
	args := map[string]any{"disk": p.Disk, "size": json.Number(fmt.Sprint(p.Size))}
	if err := m.Start().Step(qmp.CmdGrow, args); err != nil {
		return "Refused", err.Error()
	}
	return "", ""
}

// grown is the receipt's call of a growth, which takes effect with it.
func (v *vm) grown(p *client.Params) bond.Call {
	d := v.reg.Spec.BootDisk()
	c := bond.Call{Command: qmp.CmdGrow, Verdict: bond.CallOK, Detail: fmt.Sprintf("from %d to %d bytes; the guest: told", d.Length, p.Size)}
	d.Length = p.Size
	return c
}
