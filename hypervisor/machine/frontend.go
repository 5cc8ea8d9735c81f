package machine

import (
	"slices"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/hypervisor/vm"
)

// Values of Config.Virtio.
const (
	// VirtioAuto: vhost-user with KVM, NBD without.
	VirtioAuto = "auto"
	// VirtioNBD: NBD, whatever there is.
	VirtioNBD = "nbd"
	// VirtioVhostUser: vhost-user; without KVM for all disks but the one that the
	// VM boots from.
	VirtioVhostUser = "vhost-user"
)

// ByVhostUser tells how virtio disks of new instances are served: the one that a VM
// boots from, and the others. Where the guest is emulated, QEMU translates its code, and
// does not notice when memory that it translated is written by the keeper: code
// that is read from the disk over code that ran before would not be seen. Data is not affected.
func ByVhostUser(virtio, accel string) (boot, data bool) {
	kvm := accel == vm.AccelKVM
	return kvm && virtio != VirtioNBD, kvm && virtio != VirtioNBD || virtio == VirtioVhostUser
}

// vhostUser decides how a disk is served in a new instance.
func (i *instance) vhostUser(d *bond.Disk) bool {
	cfg := &i.machine.manager.cfg
	boot, data := ByVhostUser(cfg.Virtio, cfg.VM.Accel)
	switch {
	case d.Bus != vm.BusVirtio:
		return false
	case !d.Boot:
		return data
	case !boot && data:
		i.machine.log.Warn("the boot disk is served by NBD: the guest is emulated, and would not see new code that vhost-user writes", "disk", d.Name)
	}
	return boot
}

// chooseFrontEnds is for a new instance. The choice stays, as QEMU was started for
// it, whatever the configuration says later.
func (i *instance) chooseFrontEnds(spec *bond.Spec) {
	for n := range spec.Disks {
		if d := &spec.Disks[n]; i.vhostUser(d) {
			i.vhost = append(i.vhost, d.Name)
		}
	}
}

func (i *instance) byVhostUser(disk string) bool { return slices.Contains(i.vhost, disk) }

// queues is how many virtqueues a disk of the VM offers by vhost-user, 0 for NBD.
func (i *instance) queues(spec *bond.Spec, disk string) int {
	if !i.byVhostUser(disk) {
		return 0
	}
	return vm.Queues(spec.VCPUs)
}
