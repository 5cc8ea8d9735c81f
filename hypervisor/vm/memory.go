package vm

// What a QEMU may have of memory that is its own (RLIMIT_DATA: private and writable, used
// or not). A guest can make its QEMU take memory: pieces of IP packets, which the "user"
// network keeps in the hope of the others, took 1.5 GB in 25 seconds. A QEMU that wants
// more than this gets none, and ends; without a bound it would take that of other VMs.
//
// The bound is of addresses, most of which an honest QEMU never touches, so each
// part of it is generous.
const (
	ownBase  = 2 << 30 // devices, screens, libraries, and all that has no line below
	ownTCG   = 1 << 30 // what the emulator keeps of translated code, at most
	ownStack = 8 << 20 // of a thread; each vCPU is one
	// ownRequest is the stack on which QEMU carries out a request of a disk that is
	// served by NBD: 1 MiB, and as much again while one is divided.
	ownRequest = 2 << 20
)

// ownMemory returns the bound in bytes.
func (c *commandLine) ownMemory() uint64 {
	own := ownBase + uint64(c.vcpus)*ownStack
	if c.accel == AccelTCG {
		own += ownTCG
	}
	if !c.shared() {
		own += c.memory
	}
	for i := range c.disks {
		own += c.disks[i].mostRequests(c.vcpus) * ownRequest
	}
	return own
}

// mostRequests is how many requests of a guest QEMU has under way at once, at most: as
// many as all queues have room for that a driver makes, one queue for each vCPU.
func (d *diskLine) mostRequests(vcpus uint32) uint64 {
	switch {
	case d.VhostUser:
		return 0 // they are the keeper's
	case d.Bus == BusIDE:
		return 1
	case d.Bus == BusSATA:
		return 32 // native command queueing
	case d.Bus == BusNVMe:
		return uint64(vcpus) * 1024
	default:
		return uint64(vcpus) * 256
	}
}
