package cli

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/tenant/client"
)

func (a *app) vmStats() *cobra.Command {
	return &cobra.Command{
		Use: "stats NAME", Short: "Show what a running VM's disks do, as the server says",
		Long: `Counts of requests, latencies and errors since the keeper of the VM's disks started, and
the provider's limits. They pass through the server, and nothing vouches for them; a
changed limit is also in the audit log. Latencies are upper ends of buckets that double.`,
		Example:           "  uvbond vm stats web1\n  uvbond vm stats web1 --json",
		Args:              exactly(1),
		ValidArgsFunction: a.vmNames(),
		RunE: func(c *cobra.Command, args []string) error {
			o, err := a.owner()
			if err != nil {
				return err
			}
			disks, err := o.Disks(c.Context(), args[0])
			if err != nil {
				return err
			}
			disks = printableDisks(disks)
			view := map[string]any{"vm": args[0], "verified": false, "disks": disks}
			return a.print(view, func(w io.Writer) { writeStats(w, args[0], disks) })
		},
	}
}

// maxShown bounds what a server can make the client print.
const maxShown = 8

// printableDisks takes what a terminal could obey out of a server's words.
func printableDisks(disks []qmp.DiskState) []qmp.DiskState {
	disks = disks[:min(len(disks), maxShown)]
	for i := range disks {
		d := &disks[i]
		d.Name, d.FrontEnd = client.Printable(d.Name), client.Printable(d.FrontEnd)
		if d.Stats == nil {
			continue
		}
		d.Stats.Kinds = d.Stats.Kinds[:min(len(d.Stats.Kinds), maxShown)]
		for n := range d.Stats.Kinds {
			d.Stats.Kinds[n].Kind = client.Printable(d.Stats.Kinds[n].Kind)
		}
	}
	return disks
}

func printableLimits(limits []qmp.VMLimits) []qmp.VMLimits {
	limits = limits[:min(len(limits), maxShown)]
	for i := range limits {
		limits[i].Disk = client.Printable(limits[i].Disk)
	}
	return limits
}

func writeStats(w io.Writer, name string, disks []qmp.DiskState) {
	fmt.Fprintln(w, "unverified: what the server says")
	if len(disks) == 0 {
		fmt.Fprintf(w, "%s does not run\n", name)
		return
	}
	var rows [][]string
	for i := range disks {
		d := &disks[i]
		if d.Stats == nil {
			rows = append(rows, []string{d.Name, "-", "-", "-", "-", "-", "-", "-", "-"})
			continue
		}
		for n := range d.Stats.Kinds {
			k := &d.Stats.Kinds[n]
			rows = append(rows, []string{d.Name, d.FrontEnd, k.Kind, strconv.FormatUint(k.Count, 10), strconv.FormatUint(k.Errors, 10),
				bytesText(k.Bytes), k.Mean().Round(time.Microsecond).String(), k.Quantile(.5).String(), k.Quantile(.99).String()})
		}
	}
	table(w, []string{"DISK", "FRONT END", "REQUEST", "COUNT", "ERRORS", "BYTES", "MEAN", "HALF WITHIN", "99% WITHIN"}, rows)
	for _, d := range disks {
		fmt.Fprintf(w, "limits of disk %s: %s\n", d.Name, d.Limits)
	}
}
