package vm

import "testing"

// TestOwnMemory: guest memory that the keeper shares is not QEMU's own, and a guest that
// keeps its disks busy has room for it.
func TestOwnMemory(t *testing.T) {
	const gib = 1 << 30
	for _, c := range []struct {
		name  string
		line  commandLine
		least uint64
		most  uint64
	}{
		{"nothing", commandLine{accel: AccelKVM, vcpus: 1, memory: gib}, 3 * gib, 3*gib + gib/4},
		{"emulated", commandLine{accel: AccelTCG, vcpus: 1, memory: gib}, 4 * gib, 4*gib + gib/4},
		{"255 vCPUs", commandLine{accel: AccelKVM, vcpus: 255, memory: gib}, 4 * gib, 6 * gib},
		{"shared", commandLine{accel: AccelKVM, vcpus: 1, memory: 64 * gib, disks: []diskLine{{Disk: Disk{Bus: BusVirtio, VhostUser: true}}}}, 2 * gib, 3 * gib},
		{"IDE", commandLine{accel: AccelKVM, vcpus: 1, memory: gib, disks: []diskLine{{Disk: Disk{Bus: BusIDE}}}}, 3 * gib, 3*gib + gib/4},
		{"NVMe", commandLine{accel: AccelKVM, vcpus: 4, memory: gib, disks: []diskLine{{Disk: Disk{Bus: BusNVMe}}}}, 7 * gib, 12 * gib},
		{"virtio", commandLine{accel: AccelKVM, vcpus: 4, memory: gib, disks: []diskLine{{Disk: Disk{Bus: BusVirtio}}, {Disk: Disk{Bus: BusVirtio}}}}, 5 * gib, 8 * gib},
	} {
		if have := c.line.ownMemory(); have < c.least || have > c.most {
			t.Errorf("%s: %d MiB, want %d to %d", c.name, have>>20, c.least>>20, c.most>>20)
		}
	}
}
