package cli

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant"
	"github.com/uvbond/uvbond/tenant/fail"
	"github.com/uvbond/uvbond/tenant/store"
)

// delegationView is a delegation for programs.
type delegationView struct {
	ID          string     `json:"id"`
	Name        string     `json:"name"`
	Fingerprint string     `json:"fingerprint"`
	Allowed     []string   `json:"may"`
	Rules       []ruleView `json:"rules,omitempty"`
	Policy      string     `json:"policy"`
	Instance    uint64     `json:"instance,omitempty"` // the only one that it is for
	NotBefore   int64      `json:"not_before"`
	NotAfter    int64      `json:"not_after"`
	Revoked     int64      `json:"revoked,omitempty"`
}

func delegationJSON(d *store.Delegation) delegationView {
	v := delegationView{ID: d.ID, Name: d.Name, Policy: d.Policy, Instance: d.Instance, NotBefore: d.NotBefore, NotAfter: d.NotAfter, Revoked: d.Revoked}
	v.Allowed, v.Rules = allowed(d.Policy)
	if id, err := bond.ParseHostID(d.Delegate); err == nil {
		v.Fingerprint = id.Fingerprint()
	}
	return v
}

func delegationsJSON(list []store.Delegation) []delegationView {
	out := []delegationView{}
	for i := range list {
		out = append(out, delegationJSON(&list[i]))
	}
	return out
}

// delegationText is one line about a delegation.
func delegationText(o *tenant.Owner, d *store.Delegation) string {
	text := fmt.Sprintf("%s (%s): %s, %s", d.Name, d.ID[:12], policyText(d.Policy), tenant.Period(d, o.Now()))
	if d.Instance != 0 {
		text += fmt.Sprintf(", instance %d only", d.Instance)
	}
	return text
}

func (a *app) vmDelegate() *cobra.Command {
	var f termFlags
	var to, name, out, allow string
	var thisInstance bool
	c := &cobra.Command{
		Use: "delegate NAME --to FILE --allow COMMANDS --until TIME", Short: "Let somebody else act on a VM, within limits",
		Long: `Seals a delegation: a part of what you may do on this VM, for a time, for the holder of
one key. The hypervisor checks it without asking you; the server can neither read nor
change it. Nobody is told: send the file to the delegate, and compare its fingerprint by
a way that does not lead through the server.

The delegate makes a key with "uvbond identity export", accepts the file with
"uvbond delegation accept", and acts with "uvbond delegation run", each with an account
of its own on the server. Its receipts name it, and so does your audit log. It cannot
pass the delegation on.

COMMANDS are those of "uvbond vm allow". The hypervisor compares by what they let
through, not by name. The limits count for this delegation by itself.`,
		Example: `  uvbond vm delegate web1 --to bob.pub --allow status,reset --until 2027-01-01
  uvbond vm delegate web1 --to ci.pub --allow maintain --until 30day --limit 4/day --window "mon-fri 08:00-18:00" -o ci.grant`,
		Args:              exactly(1),
		ValidArgsFunction: a.vmNames(),
		RunE: func(c *cobra.Command, args []string) error {
			req := tenant.DelegateRequest{VM: args[0], Name: name, Allow: f.terms(words(allow)), ThisOne: thisInstance}
			return a.runDelegate(c, req, to, out)
		},
	}
	c.Flags().StringVar(&to, "to", "", "the delegate's public key file")
	c.Flags().StringVar(&name, "name", "", "what you call the delegate (default: as in its key file)")
	c.Flags().StringVar(&allow, "allow", "", "what is delegated: status,reset,... or observe, maintain")
	c.Flags().BoolVar(&thisInstance, "this-instance", false, "for the instance that runs now only; a restart of the VM ends it")
	c.Flags().StringVarP(&out, "output", "o", "", "file to write (default: VM-DELEGATE.grant)")
	addTermFlags(c, &f)
	_ = c.MarkFlagRequired("to")
	choice(c, "allow", "observe", "maintain", "status,reset")
	return c
}

func (a *app) runDelegate(c *cobra.Command, req tenant.DelegateRequest, to, out string) error {
	o, err := a.owner()
	if err != nil {
		return err
	}
	raw, err := readHanded(to)
	if err != nil {
		return err
	}
	var known string
	if req.To, known, err = tenant.ReadDelegate(string(raw)); err != nil {
		return err
	}
	if req.Name == "" {
		req.Name = known
	}
	if req.Name == "" {
		return fail.New(fail.Usage, "give one with --name", "the key file has no name in it")
	}
	if out == "" {
		out = req.VM + "-" + strings.ReplaceAll(req.Name, "/", "-") + ".grant"
	}
	if _, err := os.Lstat(out); err == nil {
		return fail.New(fail.Usage, "choose another file with -o, or move it away", "%s is there already", out)
	}
	d, blob, err := o.Delegate(c.Context(), req)
	if err != nil {
		return err
	}
	if err := os.WriteFile(out, blob, 0o600); err != nil {
		return fail.Wrap(err, fail.Other, "take it back with: uvbond vm undelegate "+req.VM+" "+d.ID[:12]+", and try again", "the delegation was made, and its file cannot be written")
	}
	view := map[string]any{"vm": req.VM, "file": out, "fingerprint": bond.GrantFingerprint(blob), "delegation": delegationJSON(d)}
	return a.print(view, func(w io.Writer) {
		fmt.Fprintf(w, "%s may on %s: %s, %s\n", d.Name, req.VM, policyText(d.Policy), tenant.Period(d, o.Now()))
		pairs(w, "delegation", d.ID[:12], "delegate's key", req.To.ID().Fingerprint(), "file", out, "its fingerprint", bond.GrantFingerprint(blob))
		fmt.Fprintf(w, "take it back with: uvbond vm undelegate %s %s\n", req.VM, d.ID[:12])
	})
}

// readHanded reads a file that a person was given; it is never large.
func readHanded(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > bond.MaxGrant {
		return nil, fail.New(fail.Usage, "", "%s is no file of at most %d bytes", path, bond.MaxGrant)
	}
	return os.ReadFile(path)
}

func (a *app) vmUndelegate() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use: "undelegate NAME [DELEGATE]", Short: "Take delegations back", Aliases: []string{"revoke"},
		Long: `Takes back the delegations of a delegate, by name, or one by the beginning of its id
(see: uvbond vm show). It holds at once, for sessions that are open too. With --all
every delegation of the VM ends, also those made on another machine.`,
		Example: "  uvbond vm undelegate web1 bob\n  uvbond vm undelegate web1 --all",
		Args:    between(1, 2),
		ValidArgsFunction: func(c *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
			o, err := a.owner()
			if len(args) != 1 || err != nil {
				return a.vmNames()(c, args, word)
			}
			var names []cobra.Completion
			if vm, err := o.Store.VM(args[0]); err == nil {
				for _, d := range vm.Delegations {
					if d.Revoked == 0 {
						names = append(names, d.Name)
					}
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error {
			which := ""
			if len(args) == 2 {
				which = args[1]
			}
			if (which == "") == !all {
				return fail.New(fail.Usage, "see: uvbond vm show "+args[0], "give a delegate or --all")
			}
			o, err := a.owner()
			if err != nil {
				return err
			}
			res, list, err := o.Undelegate(c.Context(), args[0], which, all)
			if err != nil {
				return a.finish(res, err)
			}
			r := receiptJSON(res.Receipt)
			view := map[string]any{"vm": args[0], "verified": true, "revoked": delegationsJSON(list), "receipt": r}
			return a.print(view, func(w io.Writer) {
				for i := range list {
					fmt.Fprintf(w, "taken back: %s\n", delegationText(o, &list[i]))
				}
				fmt.Fprintf(w, "%s of %s ended (verified: receipt %s)\n", counted(len(list), "delegation"), args[0], r.Nonce[:12])
			})
		},
	}
	c.Flags().BoolVar(&all, "all", false, "all delegations of the VM")
	return c
}

func (a *app) identityCommand() *cobra.Command {
	c := &cobra.Command{Use: "identity", Short: "This client's own key, to act for other owners"}
	group(c)
	c.AddCommand(a.identityShow(), a.identityExport())
	return c
}

func (a *app) identityShow() *cobra.Command {
	return &cobra.Command{
		Use: "show", Short: "Show the fingerprint of this client's key",
		Long:    "The key is made at first use and stays in the state folder. Owners of VMs delegate to it\n(see: uvbond vm delegate).",
		Example: "  uvbond identity show",
		Args:    exactly(0),
		RunE: func(c *cobra.Command, _ []string) error {
			o, err := a.owner()
			if err != nil {
				return err
			}
			k, err := o.Store.DelegateKey(c.Context())
			if err != nil {
				return err
			}
			defer k.Wipe()
			id := k.Public().ID()
			return a.print(map[string]string{"id": id.String(), "fingerprint": id.Fingerprint()}, func(w io.Writer) { fmt.Fprintln(w, id.Fingerprint()) })
		},
	}
}

func (a *app) identityExport() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "export [FILE]", Short: "Write this client's public key, for owners of VMs",
		Long:    "Writes one line that proves nothing by itself: the owner compares the fingerprint with\nyou. Without FILE it goes to standard output.",
		Example: "  uvbond identity export bob.pub --name bob",
		Args:    between(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			o, err := a.owner()
			if err != nil {
				return err
			}
			k, err := o.Store.DelegateKey(c.Context())
			if err != nil {
				return err
			}
			defer k.Wipe()
			text, id := k.Public().Text(name), k.Public().ID()
			view := map[string]string{"id": id.String(), "fingerprint": id.Fingerprint(), "public_key": strings.TrimSpace(text)}
			if len(args) == 0 {
				return a.print(view, func(w io.Writer) { fmt.Fprint(w, text) })
			}
			if err := os.WriteFile(args[0], []byte(text), 0o644); err != nil {
				return err
			}
			view["file"] = args[0]
			return a.print(view, func(w io.Writer) { fmt.Fprintf(w, "wrote %s; its fingerprint is %s\n", args[0], id.Fingerprint()) })
		},
	}
	c.Flags().StringVar(&name, "name", "", "a name for people, written into the line")
	return c
}
