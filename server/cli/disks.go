package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/server"
	"github.com/uvbond/uvbond/server/config"
	"github.com/uvbond/uvbond/server/store"
	"github.com/uvbond/uvbond/server/toolstack"
)

type limitFlags struct {
	disk, bytes string
	iops, burst uint64
}

func (a *app) vmLimit() *cobra.Command {
	var f limitFlags
	c := &cobra.Command{
		Use: "limit NAME-or-ID", Short: "Show or change what a running VM's disks may do in a second", Args: exactly(1),
		Long: "Without a flag but --disk it shows the limits in force. Flags that are not given leave their limit\n" +
			"as it is; 0 takes it away. A change is in force at once and until the VM stops; each is in the\n" +
			"owner's audit log. At least 100 requests and 4 MiB per second are needed, so that a guest's own\n" +
			"time-outs do not turn waiting into I/O errors. It needs no permission of the owner.",
		Example: "  uvbond-server vm limit web1\n  uvbond-server vm limit web1 --disk root --iops 500 --bytes 50MiB --burst 2\n" +
			"  uvbond-server vm limit web1 --disk root --iops 0 --bytes 0",
		RunE: func(cmd *cobra.Command, args []string) error {
			changes := cmd.Flags().Changed("iops") || cmd.Flags().Changed("bytes") || cmd.Flags().Changed("burst")
			if changes && f.disk == "" {
				return &usageError{errors.New("--disk is missing: say of which disk (uvbond-server vm limit NAME shows them)")}
			}
			gate, v, done, err := a.gateOf(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer done()
			disks, err := a.disksOf(cmd.Context(), gate, v, f.disk)
			if err != nil {
				return err
			}
			if changes {
				l := &disks[0].Limits
				if cmd.Flags().Changed("iops") {
					l.IOPS = f.iops
				}
				if cmd.Flags().Changed("burst") {
					l.Burst = f.burst
				}
				if cmd.Flags().Changed("bytes") {
					n, err := config.ParseSize(f.bytes)
					if err != nil {
						return &usageError{fmt.Errorf("--bytes: %w", err)}
					}
					l.Bytes = uint64(n)
				}
				if err := l.Validate(); err != nil {
					return &usageError{err}
				}
				if err := gate.SetLimits(cmd.Context(), v.ID, disks[0].Name, *l); err != nil {
					return err
				}
			}
			return a.printLimits(v, disks)
		},
	}
	c.Flags().StringVar(&f.disk, "disk", "", "the disk's name; needed for a change")
	c.Flags().Uint64Var(&f.iops, "iops", 0, "requests per second, 0 for no limit")
	c.Flags().StringVar(&f.bytes, "bytes", "", "bytes per second, such as 50MiB, 0 for no limit")
	c.Flags().Uint64Var(&f.burst, "burst", 0, "for how many seconds' worth of unused service is saved up, at most 60")
	return c
}

// gateOf opens what a command on one VM's disks needs.
func (a *app) gateOf(ctx context.Context, name string) (*toolstack.Gate, *store.VM, func(), error) {
	cfg, st, err := a.open(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	v, err := findVM(ctx, st, name)
	if err != nil {
		st.Close()
		return nil, nil, nil, err
	}
	return server.NewGate(cfg, cfg.Log.Logger(a.err)), v, func() { st.Close() }, nil
}

// disksOf asks the gate for a VM's disks, or the one that is named.
func (a *app) disksOf(ctx context.Context, gate *toolstack.Gate, v *store.VM, name string) ([]qmp.DiskState, error) {
	all, err := gate.QueryDisks(ctx, v.ID)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, &codeError{fmt.Errorf("%s does not run: limits and statistics are those of a running VM", v.Name), exitRefused}
	}
	if name == "" {
		return all, nil
	}
	var names []string
	for _, d := range all {
		if d.Name == name {
			return []qmp.DiskState{d}, nil
		}
		names = append(names, d.Name)
	}
	return nil, &usageError{fmt.Errorf("%s has no disk %s; it has %s", v.Name, name, strings.Join(names, ", "))}
}

func (a *app) printLimits(v *store.VM, disks []qmp.DiskState) error {
	if a.json {
		out := []qmp.VMLimits{}
		for _, d := range disks {
			out = append(out, qmp.VMLimits{Disk: d.Name, IOPS: d.Limits.IOPS, Bytes: d.Limits.Bytes, Burst: d.Limits.Burst})
		}
		return a.print(map[string]any{"vm": v.ID, "name": v.Name, "limits": out})
	}
	return table(a.out, "DISK\tREQUESTS/S\tBYTES/S\tBURST", len(disks), func(i int) string {
		l := disks[i].Limits
		return fmt.Sprintf("%s\t%s\t%s\t%d s", disks[i].Name, orNone(l.IOPS, fmt.Sprint(l.IOPS)), orNone(l.Bytes, config.Size(l.Bytes).String()), max(1, l.Burst))
	})
}

func orNone(n uint64, text string) string {
	if n == 0 {
		return "no limit"
	}
	return text
}

func (a *app) vmStats() *cobra.Command {
	return &cobra.Command{
		Use: "stats NAME-or-ID", Short: "Show what a running VM's disks do", Args: exactly(1),
		Long: "Counts since the keeper of the VM's disks started. Latencies are upper ends of buckets that double.\n" +
			"Prometheus gets the same at metrics_listen.",
		Example: "  uvbond-server vm stats web1\n  uvbond-server vm stats web1 --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			gate, v, done, err := a.gateOf(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer done()
			disks, err := a.disksOf(cmd.Context(), gate, v, "")
			if err != nil {
				return err
			}
			if a.json {
				return a.print(map[string]any{"vm": v.ID, "name": v.Name, "disks": disks})
			}
			return a.printStats(disks)
		},
	}
}

func (a *app) printStats(disks []qmp.DiskState) error {
	var lines []string
	for i := range disks {
		d := &disks[i]
		if d.Stats == nil {
			lines = append(lines, d.Name+"\tno keeper just now\t\t\t\t\t\t\t")
			continue
		}
		for n := range d.Stats.Kinds {
			k := &d.Stats.Kinds[n]
			lines = append(lines, fmt.Sprintf("%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\t%s", d.Name, d.FrontEnd, k.Kind, k.Count, k.Errors,
				config.Size(k.Bytes), k.Mean().Round(time.Microsecond), k.Quantile(.5), k.Quantile(.99)))
		}
	}
	err := table(a.out, "DISK\tFRONT END\tREQUEST\tCOUNT\tERRORS\tBYTES\tMEAN\tHALF WITHIN\t99% WITHIN", len(lines), func(i int) string { return lines[i] })
	for i := range disks {
		if d := &disks[i]; err == nil && d.Stats != nil && d.Stats.Storage != nil {
			st := d.Stats.Storage
			_, err = fmt.Fprintf(a.out, "%s: %d connections to its storage, %d lost, %d failed, %d protocol violations, %d stalls, %d requests sent again, writes lost %d times\n",
				d.Name, st.Connections, st.Lost, st.Failures, st.Violations, st.Stalls, st.Resent, st.LostWrites)
		}
	}
	return err
}
