package vm

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// MaxForwards is how many ports of one guest are forwarded at the same time; the one
// that was asked for least recently makes room.
const MaxForwards = 32

// The network of the card for channels. It is from a range that no network uses for
// hosts (RFC 2544), so that it is in nobody's way.
const (
	channelNetwork = "198.19.255.0/24"
	channelHost    = "198.19.255.2"
	channelGuest   = "198.19.255.15" // by DHCP
)

// forwardPort is where QEMU listens for a guest's ports; see forwardAddress.
const forwardPort = 20000

// addChannelNIC adds the network card that reaches nobody. QEMU itself is the other
// end (its "user" network): it answers DHCP, with an address and no router and no name
// server, and restrict=on drops every packet that is not of a forwarded port.
//
// The card is of the model of the VM's first one: who gives a VM an e1000 does so
// because its guest has no driver for virtio.
func (c *commandLine) addChannelNIC(a *argList) {
	if c.channel == ([6]byte{}) {
		return
	}
	model := ModelVirtio
	if len(c.nics) > 0 {
		model = c.nics[0].Model
	}
	a.add("-netdev", "user,id=channel,restrict=on,ipv6=off,net="+channelNetwork+",host="+channelHost+",dhcpstart="+channelGuest)
	a.object("-device", nicDevice(model, "channel-nic", "channel", c.channel))
}

// forwards remembers in which order the ports were asked for, the oldest first. That
// they are forwarded is known by QEMU alone, so that nothing has to be found again
// after a restart of the daemon.
type forwards struct {
	mu    sync.Mutex
	order []uint16
}

// Forward makes QEMU forward connections to a TCP port of the guest, on its card for
// channels, and returns the address, "ip:port", to connect to in QEMU's network
// namespace. A connection is taken also when the guest does not listen, and ends then.
//
// The address of a port is always the same and never another's. When MaxForwards
// other ports were asked for since, connections that exist stay, and new ones are
// refused until Forward is called again.
func (i *Instance) Forward(ctx context.Context, port uint16) (address string, err error) {
	if port == 0 {
		return "", fmt.Errorf("port 0 cannot be forwarded")
	}
	f := &i.forwards
	f.mu.Lock()
	defer f.mu.Unlock()
	have, err := i.listForwards(ctx)
	if err != nil {
		return "", err
	}
	if !slices.Contains(have, port) {
		for _, old := range f.toRemove(have) {
			if err := i.monitorText(ctx, "hostfwd_remove channel tcp:"+i.forwardAddress(old), "removed"); err != nil {
				return "", err
			}
		}
		rule := fmt.Sprintf("hostfwd_add channel tcp:%s-%s:%d", i.forwardAddress(port), channelGuest, port)
		if err := i.monitorText(ctx, rule, ""); err != nil {
			return "", err
		}
	}
	f.order = append(slices.DeleteFunc(f.order, func(p uint16) bool { return p == port }), port)
	return i.forwardAddress(port), nil
}

// toRemove returns the forwarded ports that must go before there is room for another:
// first those that nobody has asked this daemon for.
func (f *forwards) toRemove(have []uint16) []uint16 {
	f.order = slices.DeleteFunc(f.order, func(p uint16) bool { return !slices.Contains(have, p) })
	n := len(have) - MaxForwards + 1
	if n <= 0 {
		return nil
	}
	oldest := slices.DeleteFunc(slices.Clone(have), func(p uint16) bool { return slices.Contains(f.order, p) })
	return append(oldest, f.order...)[:n]
}

// forwardAddress is where the guest's port is found: at a loopback address made of the
// port's number, so that a connection can never reach another port than the one that
// was meant. The VM's slot tells VMs apart where QEMU shares the host's loopback.
func (i *Instance) forwardAddress(port uint16) string {
	ip := netip.AddrFrom4([4]byte{127, 1, byte(port >> 8), byte(port)})
	return netip.AddrPortFrom(ip, uint16(forwardPort+i.rec.Slot%40000)).String()
}

// listForwards asks QEMU which ports it forwards.
func (i *Instance) listForwards(ctx context.Context) ([]uint16, error) {
	text, err := i.askMonitor(ctx, "info usernet")
	if err != nil {
		return nil, err
	}
	return parseForwards(text), nil
}

// parseForwards reads QEMU's table of connections (net_slirp's "info usernet"):
// protocol and state, descriptor, address and port here, address and port of the
// guest, two lengths. What is no forwarded port is passed over.
func parseForwards(text string) []uint16 {
	var ports []uint16
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 8 || f[0] != "TCP[HOST_FORWARD]" || f[4] != channelGuest {
			continue
		}
		ip, err := netip.ParseAddr(f[2])
		port, err2 := strconv.ParseUint(f[5], 10, 16)
		if err != nil || err2 != nil || !ip.Is4() || port == 0 {
			continue
		}
		if b := ip.As4(); b == [4]byte{127, 1, byte(port >> 8), byte(port)} {
			ports = append(ports, uint16(port))
		}
	}
	return ports
}

// monitorText runs a command of QEMU's text monitor that says nothing on success, or
// something that ends with a word. Only this package makes such commands, of numbers
// and constants.
func (i *Instance) monitorText(ctx context.Context, line, success string) error {
	said, err := i.askMonitor(ctx, line)
	if err != nil {
		return err
	}
	if said = strings.TrimSpace(said); said != "" && (success == "" || !strings.HasSuffix(said, success)) {
		return fmt.Errorf("QEMU did not %s: it said %.200q", line, said)
	}
	return nil
}

func (i *Instance) askMonitor(ctx context.Context, line string) (string, error) {
	answer, err := i.execute(ctx, "human-monitor-command", map[string]string{"command-line": line})
	if err != nil {
		return "", fmt.Errorf("%s: %w", line, err)
	}
	var text string
	if err := json.Unmarshal(answer, &text); err != nil {
		return "", fmt.Errorf("%s: %w", line, err)
	}
	return text, nil
}
