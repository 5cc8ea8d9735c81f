package fakehost

import (
	"net/http"

	"github.com/uvbond/uvbond/qmp"
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
