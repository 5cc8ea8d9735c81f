package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/uvbond/uvbond/tenant"
)

func (a *app) diskGrow() *cobra.Command {
	return &cobra.Command{
		Use: "grow VM DISK SIZE", Short: "Make a disk of a VM longer, also while it runs",
		Long: `Makes a disk longer: SIZE is its new size, +SIZE is so much more. The server makes room
first; the hypervisor checks that and takes the new size from your ticket. A running guest
sees it at once on a virtio disk, after a rescan on ide and sata, and at the next start on
nvme. Partitions and file systems are the guest's to grow.

What is added reads as noise until it is written to, as with dm-crypt, and the server sees
which parts of it were written. A disk cannot shrink. The local file does not change.`,
		Example: "  uvbond disk grow web1 disk0 20GiB\n  uvbond disk grow web1 data +5GiB",
		Args:    exactly(3),
		ValidArgsFunction: func(c *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
			switch len(args) {
			case 0:
				return a.vmNames()(c, args, word)
			case 1:
				return a.diskNames(args[0]), cobra.ShellCompDirectiveNoFileComp
			}
			return []cobra.Completion{"+1GiB", "+10GiB"}, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error {
			digits, more := strings.CutPrefix(args[2], "+")
			bytes, err := parseBytes(digits)
			if err != nil {
				return err
			}
			return a.runGrow(c.Context(), args[0], args[1], tenant.Size{Bytes: bytes, More: more})
		},
	}
}

func (a *app) runGrow(ctx context.Context, name, disk string, size tenant.Size) error {
	o, err := a.owner()
	if err != nil {
		return err
	}
	rep := a.reporter()
	rep.Begin(name+": growing "+disk, 0)
	res, err := o.GrowDisk(ctx, name, disk, size)
	rep.End()
	if err != nil {
		return a.finish(res, err)
	}
	v := resultJSON(res, nil)
	return a.print(v, func(w io.Writer) {
		fmt.Fprintf(w, "disk %s of %s grew %s (verified: receipt %s)\n", disk, name, res.Grown(), v.Receipt.Nonce[:12])
	})
}

// diskNames completes the disks of a VM.
func (a *app) diskNames(vm string) []cobra.Completion {
	o, err := a.owner()
	if err != nil {
		return nil
	}
	v, err := o.Store.VM(vm)
	if err != nil {
		return nil
	}
	var names []cobra.Completion
	for _, d := range v.Spec.Disks {
		names = append(names, d.Name)
	}
	return names
}
