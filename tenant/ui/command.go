package ui

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"sync"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant"
	"github.com/uvbond/uvbond/tenant/client"
	"github.com/uvbond/uvbond/tenant/fail"
	"github.com/uvbond/uvbond/tenant/store"
)

// commands are what the page offers, with what each does to the VM.
var commands = []struct{ Command, Means string }{
	{tenant.Status, "look at the VM's run state"},
	{tenant.Start, "boot the VM from its registration"},
	{tenant.Pause, "stop the virtual processors; memory and disks stay as they are"},
	{tenant.Resume, "let a paused VM go on"},
	{tenant.Shutdown, "press the power button and wait for the guest to shut itself down"},
	{tenant.Reset, "press the reset button; unsaved data in the guest is lost"},
	{tenant.Poweroff, "end the instance at once; unsaved data in the guest is lost"},
}

func offered(command string) bool {
	return slices.ContainsFunc(commands, func(c struct{ Command, Means string }) bool { return c.Command == command })
}

// runs are the commands that are running, by VM.
type runs struct {
	mu sync.Mutex
	by map[string]string
}

func (r *runs) begin(vm, command string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, busy := r.by[vm]; busy {
		return false
	}
	if r.by == nil {
		r.by = map[string]string{}
	}
	r.by[vm] = command
	return true
}

func (r *runs) end(vm string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.by, vm)
}

func (r *runs) of(vm string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.by[vm]
}

// event is one line of a command that is watched.
type event struct {
	Event     string     `json:"event"` // begin, hypercall or end
	Automaton string     `json:"automaton,omitempty"`
	Drawing   string     `json:"drawing,omitempty"`
	Hypercall *hypercall `json:"hypercall,omitempty"`
	Result    *result    `json:"result,omitempty"`
}

// result is how a command ended. Only with a receipt is anything known.
type result struct {
	Outcome string   `json:"outcome"` // done, refused, incomplete, or the class of the error
	State   string   `json:"state,omitempty"`
	Error   string   `json:"error,omitempty"`
	Hint    string   `json:"hint,omitempty"`
	Receipt *receipt `json:"receipt,omitempty"`
}

// command runs a management command and streams what becomes of it. The command is
// not the request's: a page that is closed does not stop it half way.
func (s *Server) command(w http.ResponseWriter, r *http.Request, _ *session) {
	var in struct {
		Command string `json:"command"`
	}
	if !s.read(w, r, &in) {
		return
	}
	name := r.PathValue("name")
	if !offered(in.Command) {
		refuse(w, http.StatusBadRequest, "there is no such command on this page", "")
		return
	}
	vm, err := s.owner.Store.VM(name)
	if err != nil {
		s.failed(w, err)
		return
	}
	if !s.runs.begin(name, in.Command) {
		s.busy(w, name)
		return
	}
	events := make(chan event, maxFollowed)
	s.work.Go(func() {
		defer close(events)
		defer s.runs.end(name)
		defer s.claims.forget(vm.Host)
		s.run(name, in.Command, events)
	})
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc, flush := json.NewEncoder(w), http.NewResponseController(w).Flush
	for e := range events {
		if enc.Encode(e) != nil || flush() != nil {
			return // nobody watches any more; run goes on and drops what nobody takes
		}
	}
}

// busy refuses a second command on a VM.
func (s *Server) busy(w http.ResponseWriter, name string) {
	refuse(w, http.StatusConflict, cmp.Or(s.runs.of(name), "a command")+" is running on "+name+" just now", "wait until it has ended")
}

// run executes the command. Events that nobody takes are dropped, but not the end.
func (s *Server) run(name, command string, events chan<- event) {
	tell := func(e event) {
		select {
		case events <- e:
		default:
		}
	}
	f := follow(command)
	begin := event{Event: "begin"}
	if f != nil {
		begin.Automaton, _ = automata.Native(command)
		begin.Drawing = f.drawing()
	}
	tell(begin)
	// Room for the end is kept: of the server's lines only so many are passed on.
	left := cap(events) / 2
	res, err := s.owner.RunWatched(s.ctx, name, command, func(h client.Hypercall) {
		if left--; left < 0 {
			return
		}
		step := f.told(h)
		tell(event{Event: "hypercall", Hypercall: &step})
	})
	end := event{Event: "end", Result: &result{Outcome: fail.CodeOf(err).String()}}
	if err != nil {
		end.Result.Error, end.Result.Hint = err.Error(), fail.HintOf(err)
	}
	if res != nil && res.Receipt != nil {
		end.Result.Receipt = receiptOf(res.Receipt)
		end.Result.State, end.Result.Outcome = res.Receipt.State, res.Receipt.Verdict
		if err != nil && res.Receipt.Verdict == bond.VerdictDone {
			end.Result.Outcome = bond.VerdictIncomplete // executed, and not where it should have led
		}
		end.Drawing = drawn(res.Receipt)
	}
	s.log.Info("command", "vm", name, "command", command, "outcome", end.Result.Outcome)
	tell(end)
}

// failed answers with an error of package tenant.
func (s *Server) failed(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	switch fail.CodeOf(err) {
	case fail.Usage:
		status = http.StatusNotFound
	case fail.Connection, fail.Unknown:
		status = http.StatusBadGateway
	case fail.Refused, fail.Forged:
		status = http.StatusConflict
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(problem{Error: err.Error(), Hint: fail.HintOf(err), Class: fail.CodeOf(err).String()})
}

// bonded returns a VM whose registration was confirmed.
func (s *Server) bonded(name string) (*store.VM, error) {
	vm, err := s.owner.Store.VM(name)
	if err == nil && vm.Phase != store.PhaseBonded {
		err = fail.New(fail.Other, "uvbond vm create "+name+" --resume", "the registration of %q was interrupted", name)
	}
	return vm, err
}
