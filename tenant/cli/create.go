package cli

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant"
	"github.com/uvbond/uvbond/tenant/fail"
	"github.com/uvbond/uvbond/tenant/firstboot"
	"github.com/uvbond/uvbond/tenant/store"
)

type createFlags struct {
	host, memory, firmware, bus, machine string
	policy                               string
	terms                                termFlags
	cpus                                 uint32
	disks, nics                          []string
	key                                  keyFlags
	resume, noScreen, noChannelNIC       bool
	boot                                 bootFlags
	base                                 baseFlags
}

func (a *app) vmCreate() *cobra.Command {
	var f createFlags
	c := &cobra.Command{
		Use:   "create NAME --host HOST --disk FILE | --base IMAGE --sha256 HEX",
		Short: "Register a VM with a hypervisor",
		Long: `Reads the header of each encrypted disk from the local file, unlocks it, stores the
disks on the host where they are missing, seals the registration for the
hypervisor, and checks the confirmation. A confirmation that does not open means that
the key was swapped or that another host answered: the command says so and stops.

With --base nothing is uploaded: the hypervisor makes the boot disk from a public image
that the host offers ("uvbond base list"). It takes no image but the one whose SHA-256
you give, which must come from its publisher and not from the host. The disk is encrypted
with a key that is made here, and opens with your passphrase, which stays here. When that
is interrupted, "uvbond vm build NAME" goes on; see docs/disks.md.

The VM gets a display and, beside the cards of --nic, a network card for "uvbond vm ssh"
and "forward". That card reaches nobody: its other end is the hypervisor, which answers
DHCP, and passes on nothing but your own channels.

A guest with cloud-init gets what --user-data, --network-config, --ssh-key and --hostname
say at its first boot, on a disk that the hypervisor makes in memory: sealed, as nothing of
it may be known to the server. Its ssh host keys are made here, so that "uvbond vm ssh"
knows them beforehand; see docs/first-boot.md. It cannot be changed later.

A disk is FILE[,name=NAME][,bus=BUS][,discard][,ro]; the first one boots. With
"discard" the storage sees which parts of the disk are unused. In FILE, write two
commas for one.`,
		Example: `  uvbond vm create web1 --host lab --disk web1.luks --memory 1GiB --cpus 1
  uvbond vm create db1 --host lab --disk root.luks --disk data.luks,name=data,discard \
      --memory 4GiB --cpus 2 --firmware uefi --nic model=virtio --policy status,pause
  uvbond vm create web1 --host lab --disk web1.luks --user-data cloud.yaml --ssh-key ~/.ssh/id_ed25519.pub
  uvbond vm create web1 --host lab --base debian-12.raw --sha256 SHA256SUMS --disk-size 10GiB
  uvbond vm create web1 --resume`,
		Args:              exactly(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(c *cobra.Command, args []string) error { return a.runCreate(c, args[0], f) },
	}
	a.hostFlag(c, &f.host)
	c.Flag("host").Annotations = nil // not with --resume; checked by hand
	c.Flags().StringArrayVar(&f.disks, "disk", nil, "encrypted disk: FILE[,name=..][,bus=..][,discard][,ro] (repeatable, first boots)")
	c.Flags().StringVar(&f.memory, "memory", "1GiB", "memory, for example 1GiB or 512MiB")
	c.Flags().Uint32Var(&f.cpus, "cpus", 1, "virtual processors")
	c.Flags().StringVar(&f.firmware, "firmware", "bios", "bios or uefi")
	c.Flags().StringVar(&f.bus, "bus", "virtio", "bus of the disks: virtio, ide, sata or nvme")
	c.Flags().StringVar(&f.machine, "machine", "", "pc or q35 (default: what firmware and bus need)")
	c.Flags().StringArrayVar(&f.nics, "nic", nil, "network card: model=virtio|e1000[,mac=52:54:00:..] (repeatable)")
	c.Flags().BoolVar(&f.noScreen, "no-screen", false, "no display: only a serial console")
	c.Flags().BoolVar(&f.noChannelNIC, "no-channel-nic", false, "no network card for uvbond vm ssh and forward")
	c.Flags().StringVar(&f.policy, "policy", automata.Observe, "what operators may do without a ticket: observe, maintain, none, or status,pause,...")
	addTermFlags(c, &f.terms)
	addBootFlags(c, &f.boot)
	a.addBaseFlags(c, &f.base)
	c.Flags().BoolVar(&f.resume, "resume", false, "finish or clean up what was interrupted")
	addKeyFlags(c, &f.key)
	choice(c, "memory", "1GiB", "2GiB", "4GiB", "8GiB")
	choice(c, "nic", "model=virtio", "model=e1000")
	choice(c, "firmware", "bios", "uefi")
	choice(c, "bus", "virtio", "ide", "sata", "nvme")
	choice(c, "machine", "pc", "q35")
	choice(c, "policy", automata.Observe, automata.Maintain, automata.None, "status,pause,resume")
	return c
}

func (a *app) runCreate(c *cobra.Command, name string, f createFlags) error {
	o, err := a.owner()
	if err != nil {
		return err
	}
	if f.resume {
		return a.resumeCreate(c.Context(), o, name)
	}
	if err := noneEmpty(c, "host", "base", "disk-size", "user-data", "network-config", "hostname", "passphrase-file", "key-file"); err != nil {
		return err
	}
	req, err := f.request(c.Context(), name)
	if err != nil {
		return err
	}
	if b := req.FirstBoot; b != nil {
		defer bond.Wipe(b.UserData)
	}
	req.Report = a.reporter()
	req.Passphrase = a.forDisk(&f.key)
	if b := req.Disks[0].Base; b != nil {
		b.Passphrase = func(ctx context.Context) (*bond.Secret, error) { return a.forNew(ctx, &f.key) }
	}
	vm, err := o.Create(c.Context(), *req)
	if err != nil {
		return err
	}
	return a.buildCreated(c.Context(), o, vm)
}

func (a *app) created(vm *store.VM) error {
	return a.print(vmJSON(vm), func(w io.Writer) {
		fmt.Fprintf(w, "%s is bonded to host %s (confirmed): %s memory, %s, %s\n", vm.Name, vm.Host, bytesText(vm.Spec.Memory), counted(int(vm.Spec.CPUs), "cpu"), counted(len(vm.Spec.Disks), "disk"))
		for _, k := range vm.HostKeys {
			fmt.Fprintf(w, "its ssh host key will be %s\n", firstboot.Fingerprint(k))
		}
		fmt.Fprintf(w, "operators may: %s\nboot it with: uvbond vm start %s\n", policyText(vm.Policy), vm.Name)
	})
}

func (f *createFlags) request(ctx context.Context, name string) (*tenant.CreateRequest, error) {
	switch {
	case f.host == "":
		return nil, fail.New(fail.Usage, "see: uvbond host list", "--host is missing")
	case len(f.disks) == 0 && !f.base.given():
		return nil, fail.New(fail.Usage, "give an encrypted disk (to make one: uvbond disk encrypt IN OUT), or an image that the host offers: --base IMAGE --sha256 HEX", "--disk or --base is missing")
	}
	memory, err := parseBytes(f.memory)
	if err != nil {
		return nil, err
	}
	req := &tenant.CreateRequest{Name: name, Host: f.host, Memory: memory, CPUs: f.cpus, Firmware: f.firmware, Machine: f.machine, NoScreen: f.noScreen, NoChannelNIC: f.noChannelNIC}
	if f.base.given() {
		d, err := f.base.disk(ctx, f.bus)
		if err != nil {
			return nil, err
		}
		req.Disks = append(req.Disks, *d)
	}
	for _, text := range f.disks {
		d, err := parseDisk(text, f.bus)
		if err != nil {
			return nil, err
		}
		req.Disks = append(req.Disks, d)
	}
	if req.Machine == "" {
		req.Machine = defaultMachine(f.firmware, req.Disks)
	}
	for _, text := range f.nics {
		n, err := parseNIC(text)
		if err != nil {
			return nil, err
		}
		req.NICs = append(req.NICs, n)
	}
	if req.FirstBoot, err = f.boot.read(ctx); err != nil {
		return nil, err
	}
	if req.Policy = f.terms.terms(words(f.policy)); f.terms.file != "" && f.policy == automata.Observe {
		req.Policy.Commands = nil // the default
	}
	return req, nil
}

// noneEmpty refuses flags that are given without a value, as by a variable of the
// shell that is not set: what they are for would be left out in silence, and cannot be
// changed afterwards.
func noneEmpty(c *cobra.Command, names ...string) error {
	for _, name := range names {
		if fl := c.Flag(name); fl.Changed && fl.Value.String() == "" {
			return fail.New(fail.Usage, "give a value, or leave the flag out; is a variable not set?", "--%s is empty", name)
		}
	}
	return nil
}

// defaultMachine picks what the buses need: IDE is in "pc", SATA in "q35".
func defaultMachine(firmware string, disks []tenant.DiskSource) string {
	for _, d := range disks {
		switch d.Bus {
		case "ide":
			return "pc"
		case "sata", "nvme":
			return "q35"
		}
	}
	if firmware == "uefi" {
		return "q35"
	}
	return "pc"
}

func words(list string) []string {
	var out []string
	for w := range strings.SplitSeq(list, ",") {
		if w = strings.TrimSpace(w); w != "" {
			out = append(out, w)
		}
	}
	return out
}

// parseDisk reads FILE[,name=..][,bus=..][,discard][,ro]; ",," is a comma.
func parseDisk(text, bus string) (tenant.DiskSource, error) {
	const comma = "\x00"
	parts := strings.Split(strings.ReplaceAll(text, ",,", comma), ",")
	d := tenant.DiskSource{Path: strings.ReplaceAll(parts[0], comma, ","), Bus: bus}
	for _, p := range parts[1:] {
		key, value, has := strings.Cut(p, "=")
		switch {
		case p == "discard":
			d.Discard = true
		case p == "ro":
			d.ReadOnly = true
		case key == "name" && has && value != "":
			d.Name = value
		case key == "bus" && has && value != "":
			d.Bus = value
		default:
			return d, fail.New(fail.Usage, "a disk is FILE[,name=NAME][,bus=BUS][,discard][,ro]", "--disk: %q is not understood", p)
		}
	}
	if d.Path == "" {
		return d, fail.New(fail.Usage, "a disk is FILE[,name=NAME][,bus=BUS][,discard][,ro]", "--disk: the file is missing")
	}
	if _, err := os.Stat(d.Path); err != nil {
		return d, fail.Wrap(err, fail.Other, "the header is read from the local file: give the path of the encrypted disk", "--disk")
	}
	switch d.Bus {
	case "virtio", "ide", "sata", "nvme":
		return d, nil
	}
	return d, fail.New(fail.Usage, "virtio, ide, sata or nvme", "%q is not a disk bus", d.Bus)
}

// parseNIC reads model=MODEL[,mac=MAC]; a card without a MAC gets a random one
// with QEMU's prefix.
func parseNIC(text string) (bond.NIC, error) {
	const hint = "a network card is model=virtio|e1000[,mac=52:54:00:12:34:56]"
	n := bond.NIC{Model: "virtio", MAC: [6]byte{0x52, 0x54, 0x00}}
	_, _ = rand.Read(n.MAC[3:])
	for p := range strings.SplitSeq(text, ",") {
		key, value, _ := strings.Cut(p, "=")
		switch {
		case p == "virtio" || p == "e1000":
			n.Model = p
		case key == "model" && (value == "virtio" || value == "e1000"):
			n.Model = value
		case key == "mac":
			mac, err := net.ParseMAC(value)
			if err != nil || len(mac) != 6 {
				return n, fail.New(fail.Usage, hint, "--nic: %q is not a MAC address", value)
			}
			n.MAC = [6]byte(mac)
		default:
			return n, fail.New(fail.Usage, hint, "--nic: %q is not understood", p)
		}
	}
	return n, nil
}
