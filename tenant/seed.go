package tenant

import (
	"cmp"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant/firstboot"
)

// FirstBoot is what a guest with cloud-init gets, sealed, at its first boot.
type FirstBoot struct {
	Hostname       string   // empty: made of the VM's name
	UserData       []byte   // nil: none; as secret as what its owner put there
	NetworkConfig  []byte   // nil: DHCP on all network cards
	AuthorizedKeys []string // of cloud-init's default user, a line each
	NoHostKeys     bool     // the guest makes its ssh host keys itself, which nobody here knows then
	NoConsoleSize  bool     // nothing tells the guest's bash the size of the serial console
}

func (r *CreateRequest) firstBoot() firstboot.Options {
	f := r.FirstBoot
	return firstboot.Options{
		Hostname: cmp.Or(f.Hostname, firstboot.DefaultHostname(r.Name)), UserData: f.UserData, NetworkConfig: f.NetworkConfig,
		AuthorizedKeys: f.AuthorizedKeys, NoHostKeys: f.NoHostKeys, NoConsoleSize: f.NoConsoleSize,
	}
}

// checkFirstBoot is for before the host is asked anything.
func (r *CreateRequest) checkFirstBoot() error {
	if r.FirstBoot == nil {
		return nil
	}
	return firstboot.Check(r.firstBoot())
}

// seal puts the first boot into the specification and returns the public host keys.
func (r *CreateRequest) seal(id bond.VMID, spec *bond.Spec) (hostKeys []string, err error) {
	if r.FirstBoot == nil {
		return nil, nil
	}
	o := r.firstBoot()
	o.VM, o.NICs, o.Channel = id, spec.NICs, spec.ChannelMAC
	res, err := firstboot.Make(o)
	if err != nil {
		return nil, err
	}
	for _, n := range res.Notes {
		r.Report.Note("note: " + n)
	}
	spec.Seed = res.Seed
	return res.HostKeys, nil
}
