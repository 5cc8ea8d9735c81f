package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant"
	"github.com/uvbond/uvbond/tenant/fail"
	"github.com/uvbond/uvbond/tenant/store"
)

func (a *app) delegationCommand() *cobra.Command {
	c := &cobra.Command{Use: "delegation", Short: "Act on VMs of other owners, as they delegated it"}
	group(c)
	c.AddCommand(a.delegationAccept(), a.delegationList(), a.delegationShow(), a.delegationRun(), a.delegationForget())
	return c
}

func (a *app) grantNames() completer {
	return a.names(func(o *tenant.Owner) ([]string, error) { return o.Store.Grants() })
}

// grantView is an accepted delegation for programs.
type grantView struct {
	Name      string     `json:"name"`
	Host      string     `json:"host"`
	VM        string     `json:"vm"`
	ID        string     `json:"id"`
	Delegate  string     `json:"delegate"` // what the owner calls this client
	Allowed   []string   `json:"may"`
	Rules     []ruleView `json:"rules,omitempty"`
	Policy    string     `json:"policy"`
	Instance  uint64     `json:"instance,omitempty"`
	NotBefore int64      `json:"not_before"`
	NotAfter  int64      `json:"not_after"`
	State     string     `json:"state,omitempty"` // of the newest verified receipt
	StateTime int64      `json:"state_time,omitempty"`
	period    string
}

func (a *app) grantView(ctx context.Context, o *tenant.Owner, g *store.Grant) (grantView, error) {
	d, err := o.GrantTerms(ctx, g)
	if err != nil {
		return grantView{}, err
	}
	v := grantView{Name: g.Name, Host: g.Host, VM: g.VM, ID: fmt.Sprintf("%x", d.ID), Delegate: d.Name, Policy: d.Policy, Instance: d.Instance,
		NotBefore: d.NotBefore, NotAfter: d.NotAfter, State: g.State, StateTime: g.StateTime}
	v.Allowed, v.Rules = allowed(d.Policy)
	v.period = tenant.Period(&store.Delegation{NotBefore: d.NotBefore, NotAfter: d.NotAfter}, o.Now())
	return v, nil
}

func (v grantView) write(w io.Writer) {
	only := ""
	if v.Instance != 0 {
		only = fmt.Sprintf("%d only", v.Instance)
	}
	state := ""
	if v.StateTime != 0 {
		state = v.State + " (verified, " + clock(v.StateTime) + ")"
	}
	pairs(w, "name", v.Name, "host", v.Host, "vm", v.VM, "you are", v.Delegate, "you may", policyText(v.Policy), "in force", v.period, "instance", only, "state", state, "delegation", v.ID[:12])
}

func (a *app) delegationAccept() *cobra.Command {
	var host, name string
	c := &cobra.Command{
		Use: "accept FILE --host HOST", Short: "Keep a delegation that an owner gave to you",
		Long: `Opens the file with this client's own key and keeps it. That it opens does not prove who
made it: compare the fingerprint that is printed with its owner. The host must be pinned
(uvbond host add), with an account of your own on its server.`,
		Example: "  uvbond delegation accept web1-bob.grant --host lab --name web1",
		Args:    exactly(1),
		RunE: func(c *cobra.Command, args []string) error {
			o, err := a.owner()
			if err != nil {
				return err
			}
			blob, err := readHanded(args[0])
			if err != nil {
				return err
			}
			g, err := o.Accept(c.Context(), blob, host, name)
			if err != nil {
				return err
			}
			v, err := a.grantView(c.Context(), o, g)
			if err != nil {
				return err
			}
			view := struct {
				grantView
				Fingerprint string `json:"fingerprint"`
			}{v, bond.GrantFingerprint(blob)}
			return a.print(view, func(w io.Writer) {
				v.write(w)
				fmt.Fprintf(w, "compare with the VM's owner: %s\n", view.Fingerprint)
			})
		},
	}
	a.hostFlag(c, &host)
	c.Flags().StringVar(&name, "name", "", "what you call it")
	_ = c.MarkFlagRequired("name")
	return c
}

func (a *app) delegationList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List what owners delegated to you", Aliases: []string{"ls"},
		Example: "  uvbond delegation list",
		Args:    exactly(0),
		RunE: func(c *cobra.Command, _ []string) error {
			o, err := a.owner()
			if err != nil {
				return err
			}
			names, err := o.Store.Grants()
			if err != nil {
				return err
			}
			views, rows := []grantView{}, [][]string{}
			var damaged error
			for _, n := range names {
				g, err := o.Store.Grant(n)
				var v grantView
				if err == nil {
					v, err = a.grantView(c.Context(), o, g)
				}
				if err != nil {
					damaged = errors.Join(damaged, err)
					continue
				}
				views, rows = append(views, v), append(rows, []string{v.Name, v.Host, dash(v.State), v.period, policyText(v.Policy)})
			}
			return errors.Join(a.print(views, func(w io.Writer) {
				table(w, []string{"NAME", "HOST", "STATE (verified)", "IN FORCE", "YOU MAY"}, rows)
			}), damaged)
		},
	}
}

func (a *app) delegationShow() *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "Show what an owner delegated to you",
		Example:           "  uvbond delegation show web1",
		Args:              exactly(1),
		ValidArgsFunction: a.grantNames(),
		RunE: func(c *cobra.Command, args []string) error {
			o, err := a.owner()
			if err != nil {
				return err
			}
			g, err := o.Store.Grant(args[0])
			if err != nil {
				return err
			}
			v, err := a.grantView(c.Context(), o, g)
			if err != nil {
				return err
			}
			return a.print(v, v.write)
		},
	}
}

func (a *app) delegationRun() *cobra.Command {
	var instance uint64
	c := &cobra.Command{
		Use: "run NAME COMMAND", Short: "Command somebody else's VM",
		Long: `Seals a ticket that names the delegation, and prints what a receipt vouches for. COMMAND is
status, pause, resume, reset, shutdown or poweroff, as far as it was delegated; what was
not is refused by the hypervisor (exit code 3), and is in its owner's audit log.`,
		Example: "  uvbond delegation run web1 status\n  uvbond delegation run web1 reset --json",
		Args:    exactly(2),
		ValidArgsFunction: func(c *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return automata.PolicyNames(), cobra.ShellCompDirectiveNoFileComp
			}
			return a.grantNames()(c, args, word)
		},
		RunE: func(c *cobra.Command, args []string) error {
			if !slices.Contains(automata.PolicyNames(), args[1]) {
				return fail.New(fail.Usage, "status, pause, resume, reset, shutdown or poweroff", "%q cannot be delegated", args[1])
			}
			o, err := a.owner()
			if err != nil {
				return err
			}
			rep := a.reporter()
			rep.Begin(args[0]+": "+args[1], 0)
			res, err := o.RunDelegated(c.Context(), args[0], args[1], instance)
			rep.End()
			return a.finishDelegated(res, err)
		},
	}
	c.Flags().Uint64Var(&instance, "instance", 0, "refuse another instance than this one (default: whichever runs)")
	return c
}

// finishDelegated is finish with the right by which it was done.
func (a *app) finishDelegated(res *tenant.DelegatedResult, err error) error {
	if res == nil || (err != nil && !a.json) {
		return err
	}
	v := struct {
		resultView
		Delegate   string `json:"delegate,omitempty"`
		Delegation string `json:"delegation,omitempty"`
	}{resultJSON(&res.Result, err), res.Delegate, res.Delegation}
	perr := a.print(v, func(w io.Writer) {
		fmt.Fprintf(w, "%s, as %s under delegation %s\n", v.text(), v.Delegate, v.Delegation[:12])
	})
	if err != nil {
		return err
	}
	return perr
}

func (a *app) delegationForget() *cobra.Command {
	return &cobra.Command{
		Use: "forget NAME", Short: "Forget a delegation",
		Long:              "Removes it from this machine. To end it everywhere, its owner takes it back.",
		Example:           "  uvbond delegation forget web1",
		Args:              exactly(1),
		ValidArgsFunction: a.grantNames(),
		RunE: func(c *cobra.Command, args []string) error {
			o, err := a.owner()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(c.Context(), time.Minute)
			defer cancel()
			if err := o.Store.RemoveGrant(ctx, args[0]); err != nil {
				return err
			}
			return a.print(map[string]string{"forgotten": args[0]}, func(w io.Writer) { fmt.Fprintf(w, "forgot %s\n", args[0]) })
		},
	}
}
