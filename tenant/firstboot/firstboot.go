package firstboot

import (
	"encoding/json"
	"fmt"
	"net"
	"regexp"
	"strings"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant/fail"
)

// Options say what the guest gets.
type Options struct {
	VM       bond.VMID // cloud-init's instance-id: a first boot is done once for each
	Hostname string    // a host name, with or without a domain

	UserData       []byte   // nil: none
	NetworkConfig  []byte   // nil: DHCP on all NICs
	AuthorizedKeys []string // lines, as ReadKeys returns them; of cloud-init's default user
	NoHostKeys     bool     // the guest makes its ssh host keys itself
	NoConsoleSize  bool     // nothing tells bash in the guest the size of the serial console

	NICs    []bond.NIC
	Channel [6]byte // of the NIC for ssh and forwards; zero: there is none
}

// Result is a seed with what belongs to it and may be known.
type Result struct {
	Seed     *bond.Seed // secret; the caller wipes it
	HostKeys []string   // public halves, lines as in authorized_keys
	Notes    []string   // what the owner should know
}

// Check is what Make does before it makes anything.
func Check(o Options) error {
	_, err := check(&o)
	return err
}

// check returns what is in the user data.
func check(o *Options) (*contents, error) {
	if err := checkHostname(o.Hostname); err != nil {
		return nil, err
	}
	if o.NetworkConfig != nil {
		if err := checkNetworkConfig(o.NetworkConfig); err != nil {
			return nil, err
		}
	}
	return checkUserData(o)
}

// Make checks the owner's files and makes the seed. Errors are *fail.Error.
func Make(o Options) (*Result, error) {
	found, err := check(&o)
	if err != nil {
		return nil, err
	}
	res := new(Result)
	if len(o.AuthorizedKeys) > 0 && found.noDefaultUser() {
		res.Notes = append(res.Notes, "the user data has users of its own, without \"default\": --ssh-key is for cloud-init's default user, so put ssh_authorized_keys into the user data as well")
	}
	network, err := networkConfig(&o)
	if err != nil {
		return nil, err
	}
	meta, err := yamlText("", map[string]string{"instance-id": o.VM.String(), "local-hostname": o.Hostname})
	if err != nil {
		return nil, err
	}
	user := o.UserData
	if user == nil {
		user = []byte(cloudConfig + "\n{}\n")
	}
	if found.keys["vendor_data"] && !o.NoConsoleSize {
		o.NoConsoleSize = true
		res.Notes = append(res.Notes, "the user data change vendor_data, so the guest gets nothing that tells it the console's size")
	}
	rest := len(user) + len(meta) + len(network)
	vendor, err := res.vendorData(&o, bond.MaxSeed-rest)
	if err != nil {
		return nil, err
	}
	defer bond.Wipe(vendor)
	if n := rest + len(vendor); n > bond.MaxSeed {
		return nil, tooLarge("the user data, keys and network configuration together", n)
	}
	res.Seed = &bond.Seed{UserData: bond.NewSecret(user), MetaData: bond.NewSecret(meta), VendorData: bond.NewSecret(vendor), NetworkConfig: bond.NewSecret(network)}
	return res, nil
}

func tooLarge(what string, n int) error {
	return fail.New(fail.Usage, "let the first boot fetch what is long, or put it on the disk before it is encrypted",
		"%s have %d bytes, at most %d fit on the disk of the first boot", what, n, bond.MaxSeed)
}

// vendorData is cloud-config below the owner's, with keys, and what tells the console's
// size, if there is room for it; one of them, or nothing.
func (r *Result) vendorData(o *Options, room int) ([]byte, error) {
	keys, err := r.keys(o)
	if err != nil || o.NoConsoleSize {
		return keys, err
	}
	all := boothook()
	if keys != nil {
		all = archive(part{"cloud-config", keys}, part{"cloud-boothook", all})
	}
	if len(all) > room {
		bond.Wipe(all)
		r.Notes = append(r.Notes, "there is no room left for what tells the guest the console's size")
		return keys, nil
	}
	bond.Wipe(keys)
	return all, nil
}

func (r *Result) keys(o *Options) ([]byte, error) {
	config := map[string]any{}
	if len(o.AuthorizedKeys) > 0 {
		config["ssh_authorized_keys"] = o.AuthorizedKeys
	}
	if !o.NoHostKeys {
		private, public, err := hostKeys()
		if err != nil {
			return nil, err
		}
		config["ssh_keys"], r.HostKeys = private, public
	}
	if len(config) == 0 {
		return nil, nil
	}
	return yamlText(cloudConfig+"\n", config)
}

// networkConfig is the owner's, or version 2 with DHCP on all NICs. The one for ssh
// and forwards leads to the owner alone: no default route, no DNS, and the boot does
// not wait for it.
func networkConfig(o *Options) ([]byte, error) {
	if o.NetworkConfig != nil {
		return o.NetworkConfig, nil
	}
	ethernets := map[string]any{}
	add := func(name string, mac [6]byte, more map[string]any) {
		e := map[string]any{"match": map[string]string{"macaddress": net.HardwareAddr(mac[:]).String()}, "set-name": name, "dhcp4": true}
		for key, value := range more {
			e[key] = value
		}
		ethernets[name] = e
	}
	for i, n := range o.NICs {
		add(fmt.Sprintf("nic%d", i), n.MAC, nil)
	}
	if o.Channel != [6]byte{} {
		add("channel", o.Channel, map[string]any{
			"dhcp4-overrides": map[string]bool{"use-routes": false, "use-dns": false}, "accept-ra": false, "optional": true,
		})
	}
	if len(ethernets) == 0 {
		return nil, nil
	}
	return yamlText("", map[string]any{"version": 2, "ethernets": ethernets})
}

// yamlText returns JSON behind a first line; YAML 1.2 and cloud-init's parser read it.
func yamlText(head string, v any) ([]byte, error) {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("first boot: %w", err)
	}
	defer bond.Wipe(text)
	return append(append([]byte(head), text...), '\n'), nil
}

var label = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)

// checkHostname follows RFC 1123, section 2.1.
func checkHostname(name string) error {
	for l := range strings.SplitSeq(name, ".") {
		if !label.MatchString(l) || len(name) > 253 {
			return fail.New(fail.Usage, "use letters, digits and '-', with '.' between a host's name and its domain; give another with --hostname", "%q is not a host name", name)
		}
	}
	return nil
}

// DefaultHostname makes a host name of a VM's name.
func DefaultHostname(vm string) string {
	return strings.Trim(strings.ReplaceAll(vm, "_", "-"), "-.")
}
