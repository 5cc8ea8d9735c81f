package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/uvbond/uvbond/server"
	"github.com/uvbond/uvbond/server/config"
	"github.com/uvbond/uvbond/server/store"
	"github.com/uvbond/uvbond/server/toolstack"
	"github.com/uvbond/uvbond/server/vms"
)

var vmShort = map[string]string{
	"status": "Ask for a VM's run state", "pause": "Stop a VM's vCPUs", "resume": "Let a paused VM run",
	"reset": "Reset a VM", "shutdown": "Ask the guest to power off and wait for it", "poweroff": "End a VM at once",
}

func (a *app) vm() *cobra.Command {
	c := group("vm", "List VMs and run what their owners allow operators", a.vmList(), a.vmLimit(), a.vmStats())
	c.Long = "Operator commands go to the gate without a ticket. The owner of a VM decides which of them\n" +
		"work (uvbond vm allow); all others end with the gate's reason and exit code 3."
	for _, name := range toolstack.OperatorCommands() {
		c.AddCommand(a.vmOperate(name))
	}
	return c
}

func service(cfg *config.Config, st *store.Store, a *app) *vms.Service {
	log := cfg.Log.Logger(a.err)
	return &vms.Service{Store: st, Gate: server.NewGate(cfg, log), Taps: cfg.Taps, Log: log}
}

type vmLine struct {
	ID     string       `json:"id"`
	Tenant string       `json:"tenant"`
	Name   string       `json:"name"`
	State  string       `json:"state"`
	Phase  string       `json:"phase"`
	Disks  []store.Disk `json:"disks"`
}

func (a *app) vmList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List all VMs", Args: exactly(0), Example: "  uvbond-server vm list --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, st, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			defer st.Close()
			all, err := st.AllVMs(cmd.Context())
			if err != nil {
				return err
			}
			lines := []vmLine{}
			for _, v := range service(cfg, st, a).WithState(cmd.Context(), all) {
				lines = append(lines, vmLine{v.ID, v.TenantName, v.Name, v.State, v.Phase, v.Disks})
			}
			if a.json {
				return a.print(map[string]any{"vms": lines})
			}
			return table(a.out, "ID\tTENANT\tNAME\tSTATE\tRECORD", len(lines), func(i int) string {
				l := lines[i]
				return strings.Join([]string{l.ID, l.Tenant, l.Name, l.State, l.Phase}, "\t")
			})
		},
	}
}

func (a *app) vmOperate(command string) *cobra.Command {
	return &cobra.Command{
		Use: command + " NAME-or-ID", Short: vmShort[command], Args: exactly(1),
		Example: fmt.Sprintf("  uvbond-server vm %s web1\n  uvbond-server vm %s alice/web1", command, command),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, st, err := a.open(cmd.Context())
			if err != nil {
				return err
			}
			defer st.Close()
			v, err := findVM(cmd.Context(), st, args[0])
			if err != nil {
				return err
			}
			r, err := service(cfg, st, a).Operate(cmd.Context(), v, command)
			if err != nil {
				return err
			}
			return a.report(v, command, r)
		},
	}
}

func (a *app) report(v *store.VM, command string, r *toolstack.Result) error {
	if r.Outcome == toolstack.Done {
		if a.json {
			return a.print(map[string]string{"vm": v.ID, "name": v.Name, "command": command, "outcome": r.Outcome, "state": r.Status})
		}
		_, err := fmt.Fprintf(a.out, "%s: %s done, state %s\n", v.Name, command, r.Status)
		return err
	}
	err := fmt.Errorf("%s %s: %s", command, v.Name, strings.TrimPrefix(r.Class+": "+r.Reason, ": "))
	switch r.Outcome {
	case toolstack.Refused:
		return &codeError{err, exitRefused}
	case toolstack.Unknown:
		return &codeError{err, exitUnknown}
	}
	return err
}

// findVM takes an id, a name or TENANT/NAME.
func findVM(ctx context.Context, st *store.Store, what string) (*store.VM, error) {
	all, err := st.AllVMs(ctx)
	if err != nil {
		return nil, err
	}
	var found []store.VM
	for _, v := range all {
		if v.ID == what || v.Name == what || v.TenantName+"/"+v.Name == what {
			found = append(found, v)
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("no VM %s; see uvbond-server vm list", what)
	case 1:
		return &found[0], nil
	}
	names := make([]string, len(found))
	for i, v := range found {
		names[i] = v.TenantName + "/" + v.Name
	}
	return nil, &usageError{fmt.Errorf("more than one VM is named %s: say which of %s", what, strings.Join(names, ", "))}
}

func (a *app) gate() *cobra.Command {
	var vm string
	c := &cobra.Command{
		Use: "gate COMMAND [ARGUMENTS]", Short: "Send one command to the gate and print its answer",
		Long: "Speaks to the hypervisor's gate directly, for debugging. With --vm the command is sent in a\n" +
			"session without a ticket: what the owner's policy does not allow is refused (exit code 3).\n" +
			"ARGUMENTS is a JSON object.",
		Example: "  uvbond-server gate uvbond-query-vms\n  uvbond-server gate --vm web1 query-status\n" +
			"  uvbond-server gate --vm web1 screendump '{\"filename\":\"/tmp/x\"}'",
		Args: between(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error { return a.runGate(cmd.Context(), vm, args) },
	}
	c.Flags().StringVar(&vm, "vm", "", "open a session on this VM first (name or id)")
	return c
}

func (a *app) runGate(ctx context.Context, vm string, args []string) error {
	var arguments map[string]any
	if len(args) == 2 {
		d := json.NewDecoder(strings.NewReader(args[1]))
		d.UseNumber()
		if err := d.Decode(&arguments); err != nil || d.More() {
			return &usageError{fmt.Errorf("ARGUMENTS must be one JSON object, like '{\"offset\":0}'")}
		}
	}
	cfg, st, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer st.Close()
	if vm != "" {
		// The gate may hold a VM that the server has no record of.
		if v, err := findVM(ctx, st, vm); err == nil {
			vm = v.ID
		} else if len(vm) != 32 {
			return err
		}
	}
	answer, err := server.NewGate(cfg, cfg.Log.Logger(a.err)).Raw(ctx, vm, args[0], arguments)
	if err != nil {
		return err
	}
	return a.print(answer)
}
