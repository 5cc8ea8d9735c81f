package ui

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/uvbond/uvbond/policy"
	"github.com/uvbond/uvbond/tenant"
)

// right is one row of the table of who may do what.
type right struct {
	Who     string   `json:"who"`
	Command string   `json:"command"`
	Means   string   `json:"means"`
	Limits  []string `json:"limits"` // in words; none: at any time, as often as wanted
	InForce bool     `json:"in_force"`
	Period  string   `json:"period,omitempty"` // of a delegation
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
	operators, err := rights("operators of "+vm.Host, vm.Policy)
	problem := ""
	if err != nil {
		problem = "the policy kept here does not parse: " + err.Error()
	}
	delegates := []right{}
	for _, d := range vm.Delegations {
		list, err := rights(d.Name, d.Policy)
		if err != nil {
			continue
		}
		for _, one := range list {
			if d.Instance != 0 {
				one.Limits = append(one.Limits, fmt.Sprintf("on instance %d only", d.Instance))
			}
			one.Period = tenant.Period(&d, now)
			one.InForce = d.Revoked == 0 && now.Unix() >= d.NotBefore && now.Unix() <= d.NotAfter && (d.Instance == 0 || d.Instance == vm.Instance)
			delegates = append(delegates, one)
		}
	}
	answer(w, map[string]any{"operators": operators, "delegates": delegates, "never": never, "policy": vm.Policy, "problem": problem})
}

// rights puts a policy into words, a row for each automaton.
func rights(who, text string) ([]right, error) {
	out := []right{}
	if strings.TrimSpace(text) == "" {
		return out, nil
	}
	p, err := policy.Parse(text)
	if err != nil {
		return out, err
	}
	for _, name := range p.Names() {
		out = append(out, right{Who: who, Command: name, Means: means(name), Limits: limits(p.Rule(name)), InForce: true})
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
