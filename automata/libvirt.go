package automata

// Learned is one automaton of SetLibvirt, with the recorded commands whose
// sessions it is for. An automaton without any is for commands that send nothing.
type Learned struct {
	Name     string
	Commands []string
	Part     bool // only others import it
}

// Libvirt lists the automata of libvirt 9.0 on QEMU 7.2. Each was drafted from
// all runs but the last of its commands, and edited by hand.
var Libvirt = []Learned{
	{"start", []string{"create", "start-agent", "start-balloon", "start-base", "start-cdrom", "start-cpu-max", "start-cpu-model",
		"start-directkernel", "start-fs9p", "start-full", "start-ide", "start-iothread", "start-luks", "start-memhp", "start-migratable",
		"start-minimal", "start-net-bridge", "start-net-user", "start-pvpanic", "start-qcow2", "start-rng", "start-sata-q35", "start-scsi",
		"start-serial-file", "start-sound-usb-watchdog", "start-throttled", "start-tpm", "start-uefi", "start-vcpus",
		"start-virtio-console", "start-vnc-password"}, false},
	{"start-paused", []string{"start-paused"}, false},
	{"suspend", []string{"suspend", "suspend-during-blockcopy"}, false},
	{"resume", []string{"resume", "resume-after-start-paused", "resume-during-blockcopy"}, false},
	{"reset", []string{"reset", "reboot-with-2-disks"}, false},
	{"reboot", []string{"reboot", "reboot-acpi"}, false},
	{"shutdown", []string{"shutdown", "shutdown-acpi"}, false},
	{"destroy", []string{"destroy", "destroy-full", "destroy-graceful", "destroy-running"}, false},
	{"reconnect", []string{"libvirtd-restart", "libvirtd-restart-full", "libvirtd-restart-paused"}, false},
	{"save", []string{"save", "save-bypass-cache", "save-full", "save-paused", "save-while-suspended", "managedsave",
		"interleaved-save-with-queries"}, false},
	{"restore", []string{"restore", "restore-bypass-cache", "restore-full", "restore-running", "start-from-managedsave"}, false},
	{"restore-paused", []string{"restore-paused"}, false},
	{"dump", []string{"dump"}, false},
	{"dump-live", []string{"dump-live"}, false},
	{"dump-memory-only", []string{"dump-memory-only", "dump-memory-only-kdump", "dump-memory-only-live", "dump-memory-only-verbose"}, false},
	{"dump-crash", []string{"dump-crash"}, false},
	{"dump-reset", []string{"dump-reset"}, false},
	{"dominfo", nil, false},
	{"domstats", []string{"q-domstats", "q-domstats-balloon", "q-domstats-block", "q-domstats-cpu-total", "q-domstats-iothread", "q-domstats-vcpu"}, false},
	{"domblkinfo", []string{"q-domblkinfo-all", "q-domblkinfo-vda"}, false},
	{"domblkstat", []string{"q-domblkstat-human", "q-domblkstat-vda", "domblkstat-during-blockcopy"}, false},
	{"domblkerror", []string{"q-domblkerror", "domblkerror-enospc", "q-blkdeviotune-vda", "blkdeviotune-query-after-set"}, false},
	{"dommemstat", []string{"q-dommemstat", "dommemstat-after-period"}, false},
	{"iothreadinfo", []string{"q-iothreadinfo", "iothreadinfo-7"}, false},
	{"setmem", []string{"setmem"}, false},
	{"setvcpus-up", []string{"setvcpus-up"}, false},
	{"setvcpus-down", []string{"setvcpus-down"}, false},
	{"attach-disk", []string{"attach-disk-persistent", "attach-disk-qcow2", "attach-disk-raw", "attach-disk-readonly"}, false},
	{"detach-disk", []string{"detach-disk-persistent", "detach-disk-qcow2", "detach-disk-raw", "detach-disk-readonly"}, false},
	{"attach-interface", []string{"attach-interface-bridge", "attach-device-iface-user"}, false},
	{"detach-interface", []string{"detach-interface-bridge", "detach-device-iface-user"}, false},
	{"domif-setlink", []string{"domif-setlink"}, false},
	{"blkdeviotune", []string{"blkdeviotune-set", "blkdeviotune-set-group", "blkdeviotune-set-zero"}, false},
	{"snapshot-disk-only", []string{"snapshot-external-diskonly", "snapshot-external-diskonly-atomic", "snapshot-external-quiesce"}, false},
	{"snapshot-external", []string{"snapshot-external-memory", "snapshot-external-memory-live"}, false},
	{"snapshot-internal", []string{"snapshot-internal", "snapshot-internal-2"}, false},
	{"snapshot-delete-internal", []string{"snapshot-delete-internal"}, false},
	{"snapshot-delete-external", []string{"snapshot-delete-external"}, false},
	{"snapshot-revert", []string{"snapshot-revert-internal", "snapshot-revert-internal-offline", "snapshot-revert-internal-paused"}, false},
	{"screenshot", []string{"screenshot"}, false},
	{"send-key", []string{"send-key", "send-key-holdtime"}, false},
	{"qemu-monitor-command", []string{"hmp-passthrough", "hmp-passthrough-xp"}, false},
	{"ask", nil, true},
	{"refresh", nil, true},
	{"connect", nil, true},
	{"stream", nil, true},
	{"overlay", nil, true},
}
