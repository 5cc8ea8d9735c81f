package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/policy"
	"github.com/uvbond/uvbond/tenant"
	"github.com/uvbond/uvbond/tenant/fail"
)

// termFlags are the flags that say when, how often and for how long.
type termFlags struct {
	limits, windows             []string
	from, until, maxPause, file string
}

func addTermFlags(c *cobra.Command, f *termFlags) {
	c.Flags().StringArrayVar(&f.limits, "limit", nil, "how often: N/PERIOD, such as 3/day or 1/10min, for each command that changes the VM; COMMAND=N/PERIOD for one (repeatable)")
	c.Flags().StringVar(&f.from, "from", "", "not before: a date, a time, or a time from now such as 12h")
	c.Flags().StringVar(&f.until, "until", "", "not after: a date, a time, or a time from now such as 30day")
	c.Flags().StringArrayVar(&f.windows, "window", nil, `at these hours only, UTC: 08:00-18:00 or "mon-fri 08:00-18:00" (repeatable)`)
	c.Flags().StringVar(&f.maxPause, "max-pause", "", "longest pause, such as 10min; then the hypervisor resumes the VM")
	c.Flags().StringVar(&f.file, "policy-file", "", "take the policy from a file instead (see docs/automata.md)")
}

func (f *termFlags) terms(commands []string) tenant.Terms {
	return tenant.Terms{Commands: commands, Limits: f.limits, From: f.from, Until: f.until, Windows: f.windows, MaxPause: f.maxPause, File: f.file}
}

// ruleView is a rule for programs.
type ruleView struct {
	Automata []string    `json:"automata"`
	Limits   []limitView `json:"limits,omitempty"`
	From     int64       `json:"from,omitempty"`  // Unix seconds
	Until    int64       `json:"until,omitempty"` // Unix seconds
	Windows  []string    `json:"windows,omitempty"`
	MaxPause int64       `json:"max_pause_seconds,omitempty"`
}

type limitView struct {
	Uses    int   `json:"uses"`
	Seconds int64 `json:"seconds"`
}

// allowed names the automata of a policy, and its rules.
func allowed(text string) ([]string, []ruleView) {
	p, err := policy.Parse(text)
	if err != nil {
		return []string{"(damaged)"}, nil
	}
	names, rules := append([]string{}, p.Names()...), []ruleView(nil)
	seen := map[*policy.Rule]bool{nil: true}
	for _, name := range names {
		r := p.Rule(name)
		if seen[r] {
			continue
		}
		seen[r] = true
		v := ruleView{Automata: r.Names, From: r.From, Until: r.Until, MaxPause: int64(r.Pause / time.Second)}
		for _, l := range r.Limits {
			v.Limits = append(v.Limits, limitView{l.Uses, int64(l.Period / time.Second)})
		}
		for _, w := range r.Windows {
			v.Windows = append(v.Windows, w.String())
		}
		rules = append(rules, v)
	}
	return names, rules
}

func policyText(text string) string {
	p, err := policy.Parse(text)
	if err != nil {
		return "(damaged)"
	}
	what := p.Describe()
	switch _, rules := allowed(text); {
	case len(what) == 0:
		return "nothing"
	case len(rules) == 0:
		return strings.Join(what, ", ")
	}
	return strings.Join(what, "; ")
}

func (a *app) vmAllow() *cobra.Command {
	var f termFlags
	c := &cobra.Command{
		Use: "allow NAME COMMANDS", Short: "Choose what operators may do without a ticket",
		Long: `Replaces the policy of a VM, at once and also for sessions that are open. COMMANDS is a
list such as status,pause, or a ready-made set:

  observe    status (what a new VM begins with)
  maintain   status, pause, resume, reset, shutdown
  none       nothing

Possible are status, pause, resume, reset, shutdown and poweroff. Reading the
console, growing disks, deleting and starting always need your ticket.

The flags limit it. The hypervisor keeps the counts: they outlast its restart, and a
clock that is set back changes nothing. What was used before a policy was replaced by
one with the same commands still counts. A VM that operators paused for longer than
--max-pause is resumed; what you paused yourself is not.

The text that is sealed is printed: it is what the hypervisor will enforce.`,
		Example: `  uvbond vm allow web1 status,pause
  uvbond vm allow web1 maintain --limit 3/day --window "mon-fri 08:00-18:00" --until 2027-01-31 --max-pause 10min
  uvbond vm allow web1 maintain --limit reset=1/day --limit pause=5/h
  uvbond vm allow web1 --policy-file night-shift.uva
  uvbond vm allow web1 none`,
		Args: between(1, 2),
		ValidArgsFunction: func(c *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return append([]cobra.Completion{"status,pause,resume"}, automata.Presets...), cobra.ShellCompDirectiveNoFileComp
			}
			return a.vmNames()(c, args, word)
		},
		RunE: func(c *cobra.Command, args []string) error {
			var list []string
			if len(args) == 2 {
				list = words(args[1])
			}
			if len(list) == 0 && f.file == "" {
				return fail.New(fail.Usage, "to allow nothing, write: uvbond vm allow "+args[0]+" none", "no commands are given")
			}
			return a.runAllow(c, args[0], f.terms(list))
		},
	}
	addTermFlags(c, &f)
	return c
}

func (a *app) runAllow(c *cobra.Command, name string, terms tenant.Terms) error {
	o, err := a.owner()
	if err != nil {
		return err
	}
	res, text, err := o.Allow(c.Context(), name, terms)
	if err != nil {
		return a.finish(res, err)
	}
	r := receiptJSON(res.Receipt)
	names, rules := allowed(text)
	view := map[string]any{"vm": name, "verified": true, "operators_may": names, "operators_rules": rules, "policy": text, "receipt": r}
	return a.print(view, func(w io.Writer) {
		fmt.Fprintf(w, "operators of %s may now do: %s (verified: receipt %s)\n", name, policyText(text), r.Nonce[:12])
		if text != "" {
			fmt.Fprintf(w, "\n%s\n", strings.TrimSpace(text))
		}
	})
}
