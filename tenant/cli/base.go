package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/uvbond/uvbond/tenant"
	"github.com/uvbond/uvbond/tenant/client"
	"github.com/uvbond/uvbond/tenant/fail"
	"github.com/uvbond/uvbond/tenant/store"
)

func (a *app) baseCommand() *cobra.Command {
	c := &cobra.Command{Use: "base", Short: "Look at the public base images of hosts"}
	group(c)
	c.AddCommand(a.baseList())
	return c
}

func (a *app) baseList() *cobra.Command {
	var host string
	c := &cobra.Command{
		Use: "list --host HOST", Short: "List the base images that a host offers", Aliases: []string{"ls"},
		Long: `Lists what the server says that it offers, for "uvbond vm create --base". The SHA-256 is its
word as well: do not copy it from here. Take it from where the image is published, and
compare.`,
		Example:           "  uvbond base list --host lab",
		Args:              exactly(0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			o, err := a.owner()
			if err != nil {
				return err
			}
			list, err := o.Bases(c.Context(), host)
			if err != nil {
				return err
			}
			rows := [][]string{}
			for _, b := range list {
				rows = append(rows, []string{client.Printable(b.Name), bytesText(uint64(max(b.Size, 0))), client.Printable(b.SHA256)})
			}
			if list == nil {
				list = []client.Base{}
			}
			return a.print(map[string]any{"bases": list, "verified": false}, func(w io.Writer) {
				table(w, []string{"NAME", "SIZE", "SHA-256 (unverified: compare with the publisher's)"}, rows)
			})
		},
	}
	a.hostFlag(c, &host)
	return c
}

// baseFlags are those of vm create for a boot disk that is made from a base image.
type baseFlags struct {
	name, sha256, size string
	memory, time       uint32
	lanes              uint8
}

func (a *app) addBaseFlags(c *cobra.Command, f *baseFlags) {
	c.Flags().StringVar(&f.name, "base", "", "public image on the host, from which the hypervisor makes the boot disk")
	c.Flags().StringVar(&f.sha256, "sha256", "", "SHA-256 of that image, from its publisher: hexadecimal, or a file such as SHA256SUMS")
	c.Flags().StringVar(&f.size, "disk-size", "", "size of that disk, for example 10GiB (default: the image's)")
	c.Flags().Uint32Var(&f.memory, "pbkdf-memory", 0, "memory of argon2id for that disk's passphrase in KiB (0: the default)")
	c.Flags().Uint32Var(&f.time, "pbkdf-time", 0, "passes of argon2id (0: the default)")
	c.Flags().Uint8Var(&f.lanes, "pbkdf-parallel", 0, "lanes of argon2id (0: the default)")
	_ = c.RegisterFlagCompletionFunc("base", a.baseNames)
	_ = c.MarkFlagFilename("sha256")
	choice(c, "disk-size", "10GiB", "20GiB", "50GiB")
}

func (f *baseFlags) given() bool { return *f != baseFlags{} }

func (f *baseFlags) disk(ctx context.Context, bus string) (*tenant.DiskSource, error) {
	if f.name == "" {
		return nil, fail.New(fail.Usage, "give the image: --base IMAGE (see: uvbond base list)", "--sha256, --disk-size and the cost of a passphrase go with --base")
	}
	cost := encryptFlags{pbkdf: "argon2id", pbkdfMemory: f.memory, pbkdfTime: f.time, pbkdfLanes: f.lanes}
	b := &tenant.BaseSource{Name: f.name, Cost: cost.cost()}
	var err error
	read := func() ([32]byte, error) { return tenant.ReadSHA256(f.sha256, f.name) }
	if b.SHA256, err = await(ctx, read, nil); err != nil {
		return nil, err
	}
	if f.size != "" {
		if b.Size, err = parseBytes(f.size); err != nil {
			return nil, err
		}
	}
	switch bus {
	case "virtio", "ide", "sata", "nvme":
		return &tenant.DiskSource{Base: b, Bus: bus}, nil
	}
	return nil, fail.New(fail.Usage, "virtio, ide, sata or nvme", "%q is not a disk bus", bus)
}

// originText says where a disk comes from.
func originText(d *store.Disk) string {
	if d.Base == "" {
		return d.File
	}
	text := fmt.Sprintf("the host's image %s (SHA-256 %s)", d.Base, d.SHA256)
	if !d.Built {
		text += ", still to be made"
	}
	return text
}

func (a *app) vmBuild() *cobra.Command {
	return &cobra.Command{
		Use: "build NAME", Short: "Go on with making a VM's disk from its base image",
		Long: `Has the hypervisor make the disks that "vm create --base" began, from where it was
interrupted. What is done stays done, whoever is stopped: this command, the server or the
hypervisor. A VM does not start before its disks are made. The progress is what the server
says; that a disk is made, from the image with your SHA-256 and no other, is in a receipt.`,
		Example:           "  uvbond vm build web1",
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
			if vm.Phase == store.PhaseBonded && !tenant.Unbuilt(vm) {
				return a.nothingToBuild(vm.Name)
			}
			return a.runBuild(c.Context(), o, args[0])
		},
	}
}

func (a *app) nothingToBuild(name string) error {
	return a.print(map[string]any{"vm": name, "built": true}, func(w io.Writer) { fmt.Fprintf(w, "%s has no disk that is to be made\n", name) })
}

func (a *app) runBuild(ctx context.Context, o *tenant.Owner, name string) error {
	rep := a.reporter()
	res, err := o.Build(ctx, name, rep)
	rep.End()
	if err != nil {
		return a.finish(res, err)
	}
	if res == nil { // another command made it meanwhile
		return a.nothingToBuild(name)
	}
	v := resultJSON(res, nil)
	return a.print(v, func(w io.Writer) {
		fmt.Fprintf(w, "the disk of %s is made from its base image (verified: receipt %s)\nboot it with: uvbond vm start %s\n", name, v.Receipt.Nonce[:12], name)
	})
}

// buildCreated ends a creation: with what is still to be made of the VM's disks.
func (a *app) buildCreated(ctx context.Context, o *tenant.Owner, vm *store.VM) error {
	if !tenant.Unbuilt(vm) {
		return a.created(vm)
	}
	if !a.json {
		a.note("%s is registered and confirmed; its disk is being made", vm.Name)
	}
	rep := a.reporter()
	res, err := o.Build(ctx, vm.Name, rep)
	rep.End()
	if err != nil {
		return a.finish(res, err)
	}
	if vm, err = o.Store.VM(vm.Name); err != nil {
		return err
	}
	return a.created(vm)
}

// resumeCreate finishes a registration, and then the VM's disks.
func (a *app) resumeCreate(ctx context.Context, o *tenant.Owner, name string) error {
	vm, err := o.Store.VM(name)
	if err != nil {
		return err
	}
	if vm.Phase != store.PhaseBonded || !tenant.Unbuilt(vm) {
		if vm, err = o.Resume(ctx, name); err != nil {
			return err
		}
	}
	return a.buildCreated(ctx, o, vm)
}
