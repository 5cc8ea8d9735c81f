package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/tenant"
	"github.com/uvbond/uvbond/tenant/client"
	"github.com/uvbond/uvbond/tenant/firstboot"
	"github.com/uvbond/uvbond/tenant/store"
)

type vmView struct {
	Name    string     `json:"name"`
	ID      string     `json:"id"`
	Host    string     `json:"host"`
	Phase   string     `json:"phase"`
	Created int64      `json:"created"`
	Spec    store.Spec `json:"spec"`
	Policy  string     `json:"policy"`
	Allowed []string   `json:"operators_may"`
	Rules   []ruleView `json:"operators_rules,omitempty"`

	Delegations []delegationView `json:"delegations,omitempty"` // that this machine knows of
	HostKeys    []string         `json:"host_keys,omitempty"`   // public, of the guest's sshd
	Instance    uint64           `json:"instance,omitempty"`
	Descriptor  bool             `json:"has_descriptor"`
	State       string           `json:"state,omitempty"` // of the newest verified receipt
	StateTime   int64            `json:"state_time,omitempty"`
	AuditSeq    uint64           `json:"audit_records_verified,omitempty"`
	Unverified  *claim           `json:"server_unverified,omitempty"`
}

// claim is what the server says of a VM. Nothing vouches for it.
type claim struct {
	State  string         `json:"state,omitempty"`
	Limits []qmp.VMLimits `json:"disk_limits,omitempty"` // the provider's
	Error  string         `json:"error,omitempty"`
}

func vmJSON(vm *store.VM) vmView {
	v := vmView{
		Name: vm.Name, ID: vm.ID, Host: vm.Host, Phase: vm.Phase, Created: vm.Created, Spec: vm.Spec, Policy: vm.Policy,
		Instance: vm.Instance, Descriptor: len(vm.Descriptor) > 0, State: vm.State, StateTime: vm.StateTime, AuditSeq: vm.AuditSeq,
	}
	v.Allowed, v.Rules = allowed(vm.Policy)
	v.HostKeys = vm.HostKeys
	v.Delegations = delegationsJSON(vm.Delegations)
	return v
}

// claims asks every host once for its view of the VMs.
func claims(ctx context.Context, o *tenant.Owner, hosts map[string]bool) map[string]*claim {
	out := map[string]*claim{}
	for host := range hosts {
		conn, err := o.Connect(ctx, host)
		if err != nil {
			out[host] = &claim{Error: err.Error()}
			continue
		}
		list, err := conn.VMs(ctx)
		if err != nil {
			out[host] = &claim{Error: err.Error()}
			continue
		}
		for _, vm := range list {
			out[host+"/"+vm.ID] = &claim{State: client.Printable(vm.State), Limits: printableLimits(vm.Limits)}
		}
	}
	return out
}

func (c *claim) text() string {
	switch {
	case c == nil:
		return "not there"
	case c.Error != "":
		return "unreachable"
	default:
		return dash(c.State)
	}
}

func claimOf(all map[string]*claim, vm *store.VM) *claim {
	if c := all[vm.Host]; c != nil {
		return c
	}
	return all[vm.Host+"/"+vm.ID]
}

func (a *app) vmList() *cobra.Command {
	var offline bool
	c := &cobra.Command{
		Use: "list", Short: "List your VMs", Aliases: []string{"ls"},
		Long: `Lists the VMs from this machine's own state: STATE is from the newest receipt that was
verified. The last column is what the server says now; nothing vouches for it.`,
		Example: "  uvbond vm list\n  uvbond vm list --offline --json",
		Args:    exactly(0),
		RunE: func(c *cobra.Command, _ []string) error {
			o, err := a.owner()
			if err != nil {
				return err
			}
			return a.runList(c.Context(), o, offline)
		},
	}
	c.Flags().BoolVar(&offline, "offline", false, "do not ask the servers")
	return c
}

func (a *app) runList(ctx context.Context, o *tenant.Owner, offline bool) error {
	names, err := o.Store.VMs()
	if err != nil {
		return err
	}
	var vms []*store.VM
	var damaged error // the others are listed all the same
	hosts := map[string]bool{}
	for _, n := range names {
		vm, err := o.Store.VM(n)
		if err != nil {
			damaged = errors.Join(damaged, err)
			continue
		}
		vms = append(vms, vm)
		hosts[vm.Host] = true
	}
	var said map[string]*claim
	if !offline {
		said = claims(ctx, o, hosts)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		for h := range hosts {
			if c := said[h]; c != nil {
				a.note("note: %s", c.Error)
			}
		}
	}
	views, rows := []vmView{}, [][]string{}
	for _, vm := range vms {
		v := vmJSON(vm)
		row := []string{vm.Name, vm.Host, stateText(vm), clock(vm.StateTime)}
		if !offline {
			v.Unverified = claimOf(said, vm)
			row = append(row, v.Unverified.text())
		}
		views, rows = append(views, v), append(rows, row)
	}
	head := []string{"NAME", "HOST", "STATE (verified)", "AT"}
	if !offline {
		head = append(head, "SERVER SAYS (unverified)")
	}
	return errors.Join(a.print(views, func(w io.Writer) { table(w, head, rows) }), damaged)
}

func stateText(vm *store.VM) string {
	if vm.Phase == store.PhasePending {
		return "registration interrupted"
	}
	return dash(vm.State)
}

func (a *app) vmShow() *cobra.Command {
	var offline bool
	c := &cobra.Command{
		Use: "show NAME", Short: "Show a VM's registration and last verified state",
		Example:           "  uvbond vm show web1",
		Args:              exactly(1),
		ValidArgsFunction: a.vmNames(),
		RunE: func(c *cobra.Command, args []string) error {
			o, err := a.owner()
			if err != nil {
				return err
			}
			vm, err := o.Store.VM(args[0])
			if err != nil {
				return err
			}
			v := vmJSON(vm)
			if !offline {
				v.Unverified = claimOf(claims(c.Context(), o, map[string]bool{vm.Host: true}), vm)
			}
			return a.print(v, func(w io.Writer) {
				v.write(w, vm, offline)
				for i := range vm.Delegations {
					fmt.Fprintf(w, "delegated: %s\n", delegationText(o, &vm.Delegations[i]))
				}
			})
		},
	}
	c.Flags().BoolVar(&offline, "offline", false, "do not ask the server")
	return c
}

func (v vmView) write(w io.Writer, vm *store.VM, offline bool) {
	state := stateText(vm)
	if vm.StateTime > 0 {
		state += " (verified, " + clock(vm.StateTime) + ")"
	}
	instance := "none started from here"
	if v.Descriptor {
		instance = fmt.Sprintf("%d (descriptor held)", v.Instance)
		if tenant.Ended(v.State) {
			instance = fmt.Sprintf("%d (ended)", v.Instance)
		}
	}
	said := ""
	if !offline {
		said = v.Unverified.text() + " (unverified)"
	}
	pairs(w, "name", v.Name, "id", v.ID, "host", v.Host, "registered", clock(v.Created), "state", state, "instance", instance,
		"server says", said, "operators may", policyText(vm.Policy),
		"machine", fmt.Sprintf("%s, %s, %s, %s", v.Spec.Machine, v.Spec.Firmware, counted(int(v.Spec.CPUs), "cpu"), bytesText(v.Spec.Memory)))
	for i, d := range v.Spec.Disks {
		extra := ""
		if i == 0 {
			extra += ", boots"
		}
		if d.ReadOnly {
			extra += ", read-only"
		}
		if d.Discard {
			extra += ", discard"
		}
		if d.Length > 0 {
			extra += ", " + bytesText(d.Length)
		}
		fmt.Fprintf(w, "disk %s: %s%s, LUKS %s, from %s\n", d.Name, d.Bus, extra, d.UUID, originText(&d))
	}
	if v.Unverified != nil {
		for _, l := range v.Unverified.Limits {
			fmt.Fprintf(w, "limit of disk %s: %s (unverified; changes are in the audit log)\n", l.Disk, qmp.DiskLimits{IOPS: l.IOPS, Bytes: l.Bytes, Burst: l.Burst})
		}
	}
	if v.Spec.FirstBoot {
		fmt.Fprintln(w, "first boot: sealed, on the disk cidata")
	}
	for _, k := range v.HostKeys {
		fmt.Fprintf(w, "ssh host key: %s\n", firstboot.Fingerprint(k))
	}
	for _, n := range v.Spec.NICs {
		fmt.Fprintf(w, "nic: %s, %s\n", n.Model, n.MAC)
	}
	if v.Spec.ChannelMAC != "" {
		fmt.Fprintf(w, "nic for ssh and forward: %s\n", v.Spec.ChannelMAC)
	}
	if v.Spec.Screen {
		fmt.Fprintln(w, "screen: yes")
	}
}
