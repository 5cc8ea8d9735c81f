package cli

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant"
	"github.com/uvbond/uvbond/tenant/fail"
)

func (a *app) vmCommand() *cobra.Command {
	c := &cobra.Command{Use: "vm", Short: "Create and command virtual machines"}
	group(c)
	c.AddCommand(a.vmCreate(), a.vmList(), a.vmShow(), a.vmBuild(), a.vmStats(), a.vmLog(), a.vmConsole(), a.vmScreen(), a.vmScreenshot(), a.vmType(), a.vmSendKey(), a.vmAllow(), a.vmDelegate(), a.vmUndelegate(), a.vmDelete(),
		a.vmForward(), a.vmConnect(), a.vmSSH(), a.vmSSHConfig())
	for _, p := range plain {
		c.AddCommand(a.vmPlain(p.command, p.short, p.long, p.label))
	}
	return c
}

// plain are the management commands without parameters of their own.
var plain = []struct{ command, short, label, long string }{
	{tenant.Start, "Boot a VM", "starting",
		"Boots the VM from its registration and keeps the descriptor of the new instance."},
	{tenant.Status, "Show a VM's state, from a receipt", "asking",
		"Asks the hypervisor for the state. What is printed comes from a receipt that opened\nunder the VM's bond; the server's word is never shown for it."},
	{tenant.Pause, "Stop the VM's processors", "pausing", "Stops the virtual processors; memory and devices stay."},
	{tenant.Resume, "Let a paused VM go on", "resuming", "Lets a paused VM go on."},
	{tenant.Reset, "Reset a VM, like the button", "resetting", "Resets the VM like the button does; unsaved data in the guest is lost."},
	{tenant.Shutdown, "Ask the guest to shut down, and wait", "waiting for the guest to shut down",
		"Presses the power button and waits, two minutes at most, until the guest has shut down.\nA guest that does not react keeps its state (exit code 3); then there is `vm poweroff`."},
	{tenant.Poweroff, "End a VM at once", "powering off", "Ends the instance at once; unsaved data in the guest is lost."},
}

func (a *app) vmPlain(command, short, long, label string) *cobra.Command {
	return &cobra.Command{
		Use: command + " NAME", Short: short, Long: long,
		Example:           fmt.Sprintf("  uvbond vm %s web1\n  uvbond vm %s web1 --json", command, command),
		Args:              exactly(1),
		ValidArgsFunction: a.vmNames(),
		RunE: func(c *cobra.Command, args []string) error {
			return a.command(c.Context(), args[0], label, func(ctx context.Context, o *tenant.Owner) (*tenant.Result, error) {
				return o.Run(ctx, args[0], command)
			})
		},
	}
}

// command runs a management command behind a spinner and prints what was
// verified.
func (a *app) command(ctx context.Context, name, label string, run func(context.Context, *tenant.Owner) (*tenant.Result, error)) error {
	o, err := a.owner()
	if err != nil {
		return err
	}
	rep := a.reporter()
	rep.Begin(name+": "+label, 0)
	res, err := run(ctx, o)
	rep.End()
	return a.finish(res, err)
}

// finish prints a result. With --json a verified refusal is printed too.
func (a *app) finish(res *tenant.Result, err error) error {
	if res == nil || (err != nil && !a.json) {
		return err
	}
	v := resultJSON(res, err)
	perr := a.print(v, func(w io.Writer) { fmt.Fprintln(w, v.text()) })
	if err != nil {
		return err
	}
	return perr
}

type resultView struct {
	VM       string       `json:"vm"`
	Command  string       `json:"command"`
	Outcome  string       `json:"outcome"` // done, refused, incomplete; or the class of the error when nothing was verified
	Verified bool         `json:"verified"`
	State    string       `json:"state,omitempty"`
	Receipt  *receiptView `json:"receipt,omitempty"`
}

func resultJSON(res *tenant.Result, err error) resultView {
	v := resultView{VM: res.VM, Command: res.Command, Outcome: fail.CodeOf(err).String()}
	if res.Receipt != nil {
		r := receiptJSON(res.Receipt)
		v.Verified, v.State, v.Outcome, v.Receipt = true, r.State, r.Verdict, &r
		if err != nil && r.Verdict == bond.VerdictDone {
			v.Outcome = bond.VerdictIncomplete // executed, and the VM is not where the command takes it
		}
	}
	return v
}

var past = map[string]string{
	tenant.Start: "started", tenant.Pause: "paused", tenant.Resume: "resumed", tenant.Reset: "was reset",
	tenant.Shutdown: "has shut down", tenant.Poweroff: "is powered off", tenant.Delete: "deleted",
}

func (v resultView) text() string {
	if v.Receipt == nil {
		return fmt.Sprintf("%s: %s %s", v.VM, v.Command, v.Outcome)
	}
	how := fmt.Sprintf("verified: receipt %s", v.Receipt.Nonce[:12])
	if v.Receipt.Instance > 0 {
		how = fmt.Sprintf("instance %d, %s", v.Receipt.Instance, how)
	}
	if did, ok := past[v.Command]; ok {
		return fmt.Sprintf("%s %s; state %s (%s)", v.VM, did, v.State, how)
	}
	return fmt.Sprintf("%s: %s (%s)", v.VM, v.State, how)
}

type receiptView struct {
	Nonce     string     `json:"nonce"`
	Command   string     `json:"command"`
	Instance  uint64     `json:"instance"`
	Verdict   string     `json:"verdict"`
	Class     string     `json:"class,omitempty"`
	Reason    string     `json:"reason,omitempty"`
	State     string     `json:"state"`
	HostTime  int64      `json:"host_time"`
	Calls     []callView `json:"calls"`
	AuditSeq  uint64     `json:"audit_seq"`
	AuditHead string     `json:"audit_head"`
}

type callView struct {
	Command   string `json:"command"`
	Arguments string `json:"arguments,omitempty"`
	Verdict   string `json:"verdict"`
	Detail    string `json:"detail,omitempty"`
	Result    string `json:"result_sha256,omitempty"`
}

func receiptJSON(r *bond.Receipt) receiptView {
	v := receiptView{
		Nonce: hex.EncodeToString(r.Nonce[:]), Command: r.Command, Instance: r.Instance, Verdict: r.Verdict, Class: r.Class, Reason: r.Reason,
		State: r.State, HostTime: r.HostTime, AuditSeq: r.AuditSeq, AuditHead: hex.EncodeToString(r.AuditHead[:]), Calls: []callView{},
	}
	for _, c := range r.Calls {
		cv := callView{Command: c.Command, Arguments: c.Arguments, Verdict: c.Verdict, Detail: c.Detail}
		if c.Result != [32]byte{} {
			cv.Result = hex.EncodeToString(c.Result[:])
		}
		v.Calls = append(v.Calls, cv)
	}
	return v
}

func (a *app) vmDelete() *cobra.Command {
	var yes, forget bool
	c := &cobra.Command{
		Use: "delete NAME", Short: "End the bond with a VM",
		Long: `Ends the bond: the hypervisor forgets the VM's keys, and so does this machine. The VM
must not have an instance. Its receipts here are removed too; to keep a record, save
"uvbond audit NAME --json" first. The stored images stay (see: uvbond disk remove).

--forget removes the local state only, for a host that is gone for good. A VM that
still exists can be commanded by nobody then.`,
		Example:           "  uvbond vm delete web1",
		Args:              exactly(1),
		ValidArgsFunction: a.vmNames(),
		RunE: func(c *cobra.Command, args []string) error {
			o, err := a.owner()
			if err != nil {
				return err
			}
			if _, err := o.Store.VM(args[0]); err != nil {
				return err
			}
			if !yes {
				if err := a.confirm(c.Context(), fmt.Sprintf("End the bond with %s? Its local keys and receipts are removed.", args[0]), "say so with --yes"); err != nil {
					return err
				}
			}
			if forget {
				if err := o.Forget(c.Context(), args[0]); err != nil {
					return err
				}
				return a.print(map[string]string{"forgotten": args[0]}, func(w io.Writer) { fmt.Fprintf(w, "forgot %s; the host was not asked\n", args[0]) })
			}
			return a.command(c.Context(), args[0], "deleting", func(ctx context.Context, o *tenant.Owner) (*tenant.Result, error) {
				return o.Delete(ctx, args[0])
			})
		},
	}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	c.Flags().BoolVar(&forget, "forget", false, "remove the local state only")
	return c
}

func stamp(ms int64) string { return time.UnixMilli(ms).Local().Format("2006-01-02 15:04:05.000") }
