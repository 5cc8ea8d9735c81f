package machine

import (
	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/hypervisor/vm"
)

// The disk of a guest's first boot, bond.SeedDisk, is not one of the owner's: it has
// no ciphertext, and the management domain cannot limit, grow or look at it.

// ideDisks is how many disks machine pc takes on its IDE channels.
const ideDisks = 4

// seedBus is the bus of the first boot's disk: that of the boot disk, which the guest
// has a driver for, or virtio if there is no room.
func seedBus(spec *bond.Spec) string {
	bus, taken := spec.BootDisk().Bus, 0
	for n := range spec.Disks {
		if spec.Disks[n].Bus == bus {
			taken++
		}
	}
	if bus == vm.BusIDE && taken >= ideDisks {
		return vm.BusVirtio
	}
	return bus
}

// seedReadOnly tells whether the disk takes no writes on a bus. ATA has no read-only
// disks: there, what the guest writes is kept in memory, and is gone with the keeper.
func seedReadOnly(bus string) bool { return bus != vm.BusIDE && bus != vm.BusSATA }
