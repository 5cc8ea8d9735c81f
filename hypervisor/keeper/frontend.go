package keeper

import (
	"context"
	"net"

	"github.com/uvbond/uvbond/disk"
	"github.com/uvbond/uvbond/disk/nbd"
	"github.com/uvbond/uvbond/disk/vhostuser"
)

// frontEnd is how QEMU reaches a disk.
type frontEnd interface {
	Serve(ctx context.Context, l net.Listener) error
	announce()        // makes QEMU look at the size again
	count(*DiskStats) // fills in the front end's part
}

func newFrontEnd(c *DiskConfig, dev *disk.Device, k *keeper) frontEnd {
	log := k.log.With("disk", c.Name)
	if c.VhostQueues > 0 {
		return vhostFrontEnd{&vhostuser.Server{
			Device: dev, Serial: c.Name, Queues: c.VhostQueues, Poll: vhostuser.DefaultPoll, CheckPeer: k.peers.check, Log: log,
		}}
	}
	return nbdFrontEnd{&nbd.Server{Exports: []nbd.Export{{Name: c.Name, Device: dev}}, CheckPeer: k.peers.check, Log: log}}
}

type nbdFrontEnd struct{ *nbd.Server }

// announce hangs up: a client asks for the size when it connects.
func (f nbdFrontEnd) announce() { f.Disconnect() }

func (f nbdFrontEnd) count(s *DiskStats) { s.FrontEnd, s.NBD = FrontEndNBD, f.Stats() }

type vhostFrontEnd struct{ *vhostuser.Server }

func (f vhostFrontEnd) announce() { f.Resized() }

func (f vhostFrontEnd) count(s *DiskStats) { s.FrontEnd, s.Vhost = FrontEndVhostUser, f.Stats() }
