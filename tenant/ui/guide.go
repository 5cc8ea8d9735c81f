package ui

import (
	"context"
	"net/http"
	"time"

	"github.com/uvbond/uvbond/tenant/store"
)

// task is one thing to do before there is a running VM, with the commands to type.
// They are typed in a terminal: they ask for passphrases, which this page never does.
type task struct {
	Title    string   `json:"title"`
	Text     string   `json:"text"`
	Commands []string `json:"commands"`
	Done     bool     `json:"done"`
}

// guide tells a new owner what to do next, and what `uvbond doctor` finds.
func (s *Server) guide(w http.ResponseWriter, r *http.Request, _ *session) {
	hosts, err := s.owner.Store.Hosts()
	if err != nil {
		s.failed(w, err)
		return
	}
	names, err := s.owner.Store.VMs()
	if err != nil {
		s.failed(w, err)
		return
	}
	bonded, started := false, false
	for _, n := range names {
		if vm, err := s.owner.Store.VM(n); err == nil && vm.Phase == store.PhaseBonded {
			bonded = true
			started = started || vm.StateTime != 0
		}
	}
	host := "lab"
	if len(hosts) > 0 {
		host = hosts[0]
	}
	tasks := []task{
		{"Pin the hypervisor", "The provider gives you the server's address, a token, and the hypervisor's fingerprint by another way, such as a letter or a call. " +
			"With the fingerprint you know that no other machine answers in its place.",
			[]string{"uvbond host add lab https://SERVER:8443 --token-file FILE --fingerprint SHA256:..."}, len(hosts) > 0},
		{"Encrypt a disk and store it", "Any raw or qcow2 image of a PC will do. You choose a passphrase; it never leaves your machine. The server stores only what is encrypted.",
			[]string{"uvbond disk encrypt debian.qcow2 web1.luks", "uvbond disk push web1.luks --host " + host}, bonded},
		{"Register the VM", "The registration says what the VM is made of, and is sealed for the hypervisor. What it answers proves that it holds your key, and no other.",
			[]string{"uvbond vm create web1 --host " + host + " --disk web1.luks --memory 1GiB --cpus 1"}, bonded},
		{"Boot it", "From here on this page can do it: choose the VM and press Start. Or type:",
			[]string{"uvbond vm start web1"}, started},
	}
	ctx, cancel := context.WithTimeout(r.Context(), 20*time.Second)
	defer cancel()
	findings := []Finding{}
	if s.opts.Doctor != nil {
		findings = append(findings, s.opts.Doctor(ctx)...)
	}
	answer(w, map[string]any{"tasks": tasks, "findings": findings})
}
