package ui

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/uvbond/uvbond/policy"
	"github.com/uvbond/uvbond/tenant"
	"github.com/uvbond/uvbond/tenant/fail"
	"github.com/uvbond/uvbond/tenant/store"
)

// right is one row of the table of who may do what.
type right struct {
	Command string   `json:"command"`
	Means   string   `json:"means"`
	Limits  []string `json:"limits"` // in words; none: at any time, as often as wanted
}

// delegation is what was given to one person.
type delegation struct {
	ID      string  `json:"id"`
	Who     string  `json:"who"`
	Issued  int64   `json:"issued"` // Unix seconds
	InForce bool    `json:"in_force"`
	Ended   bool    `json:"ended"`  // for good: nothing is left to take back
	Period  string  `json:"period"` // until when, in words
	Rights  []right `json:"rights"`
	Text    string  `json:"text"` // what is enforced
	Problem string  `json:"problem,omitempty"`
}

// never is what no policy and no delegation can hold.
var never = []string{
	"start the VM: only your ticket boots it",
	"read or type into its console, see its screen, press its keys",
	"read its memory, or attach devices, disks or other media",
	"change the registration, the disks' size, or this list",
	"delete the bond",
}

// access explains what others may do to a VM.
func (s *Server) access(w http.ResponseWriter, r *http.Request, _ *session) {
	vm, err := s.owner.Store.VM(r.PathValue("name"))
	if err != nil {
		s.failed(w, err)
		return
	}
	now := s.opts.Now()
	operators, err := rights(vm.Policy)
	problem := ""
	if err != nil {
		problem = "the policy kept here does not parse: " + err.Error()
	}
	delegates := []delegation{}
	for i := range vm.Delegations {
		delegates = append(delegates, delegationOf(&vm.Delegations[i], vm, now))
	}
	slices.SortStableFunc(delegates, func(a, b delegation) int { // what is in force first, then the newest
		return cmp.Or(cmp.Compare(order(a), order(b)), cmp.Compare(b.Issued, a.Issued))
	})
	answer(w, map[string]any{"operators": operators, "delegates": delegates, "never": never, "policy": vm.Policy, "problem": problem})
}

func order(d delegation) int {
	switch {
	case d.InForce:
		return 0
	case !d.Ended:
		return 1
	}
	return 2
}

func delegationOf(d *store.Delegation, vm *store.VM, now time.Time) delegation {
	out := delegation{
		ID: d.ID, Who: d.Name, Issued: d.Issued, Period: tenant.Period(d, now), Text: d.Policy,
		InForce: d.Revoked == 0 && now.Unix() >= d.NotBefore && now.Unix() <= d.NotAfter && (d.Instance == 0 || d.Instance == vm.Instance),
		Ended:   d.Revoked != 0 || now.Unix() > d.NotAfter || d.Instance != 0 && d.Instance < vm.Instance,
	}
	if d.Instance != 0 {
		out.Period += fmt.Sprintf(", on instance %d only", d.Instance)
	}
	var err error
	if out.Rights, err = rights(d.Policy); err != nil {
		out.Problem = "what is kept here of it does not parse: " + err.Error()
	}
	return out
}

// undelegate takes one delegation back. It is the only change of access that the page
// offers: it gives nobody anything.
func (s *Server) undelegate(w http.ResponseWriter, r *http.Request, _ *session) {
	var in struct {
		Delegation string `json:"delegation"`
	}
	if !s.read(w, r, &in) {
		return
	}
	name := r.PathValue("name")
	vm, err := s.bonded(name)
	if err != nil {
		s.failed(w, err)
		return
	}
	if !slices.ContainsFunc(vm.Delegations, func(d store.Delegation) bool { return d.ID == in.Delegation && d.Revoked == 0 }) {
		refuse(w, http.StatusNotFound, "there is no such delegation any more", "")
		return
	}
	if !s.runs.begin(name, tenant.Undelegate) {
		s.busy(w, name)
		return
	}
	defer s.runs.end(name)
	res, _, err := s.owner.Undelegate(s.ctx, name, in.Delegation, false)
	s.log.Info("command", "vm", name, "command", tenant.Undelegate, "outcome", fail.CodeOf(err).String())
	if err != nil {
		s.failed(w, err)
		return
	}
	answer(w, map[string]any{"receipt": receiptOf(res.Receipt)})
}

// rights puts a policy into words, a row for each automaton.
func rights(text string) ([]right, error) {
	out := []right{}
	if strings.TrimSpace(text) == "" {
		return out, nil
	}
	p, err := policy.Parse(text)
	if err != nil {
		return out, err
	}
	for _, name := range p.Names() {
		out = append(out, right{Command: name, Means: means(name), Limits: limits(p.Rule(name))})
	}
	return out, nil
}

func means(command string) string {
	for _, c := range commands {
		if c.Command == command {
			return c.Means
		}
	}
	return "an automaton of your own: see the text below"
}

func limits(r *policy.Rule) []string {
	out := []string{}
	if r == nil {
		return out
	}
	for _, l := range r.Limits {
		out = append(out, fmt.Sprintf("at most %s in any %s", times(l.Uses), long(l.Period)))
	}
	if r.From != 0 {
		out = append(out, "not before "+day(r.From))
	}
	if r.Until != 0 {
		out = append(out, "not after "+day(r.Until))
	}
	var windows []string
	for _, w := range r.Windows {
		windows = append(windows, w.String())
	}
	if len(windows) > 0 {
		out = append(out, "only "+strings.Join(windows, " or ")+" UTC")
	}
	if r.Pause != 0 {
		out = append(out, "paused for "+long(r.Pause)+" at most, then the hypervisor resumes it")
	}
	return out
}

func times(n int) string {
	switch n {
	case 1:
		return "once"
	case 2:
		return "twice"
	}
	return fmt.Sprintf("%d times", n)
}

func day(sec int64) string { return time.Unix(sec, 0).UTC().Format("2 January 2006, 15:04 UTC") }

// long writes a period in the largest unit that it is whole in.
func long(d time.Duration) string {
	for _, u := range []struct {
		name string
		size time.Duration
	}{{"day", 24 * time.Hour}, {"hour", time.Hour}, {"minute", time.Minute}, {"second", time.Second}} {
		if n := d / u.size; d%u.size == 0 && n > 0 {
			if n == 1 {
				return u.name
			}
			return fmt.Sprintf("%d %ss", n, u.name)
		}
	}
	return d.String()
}
