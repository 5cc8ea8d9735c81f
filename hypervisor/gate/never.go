package gate

import "strings"

// refusals says of every other command of QEMU why it never passes. Commands
// with the same reason stand together. What QEMU will have one day and nobody
// has judged yet is refused as well, without a reason of its own.
var refusals = []struct {
	why      string
	commands string
}{
	{"the screen belongs to the owner", `
		screendump set_password expire_password change-vnc-password query-vnc query-vnc-servers query-spice
		query-display-options display-reload display-update client_migrate_info add_client`},
	{"the keyboard belongs to the owner", `send-key`},
	{"keyboard and pointer belong to the owner", `input-send-event query-mice`},
	{"memory belongs to the owner", `
		dump-guest-memory memsave pmemsave dumpdtb`},
	{"it tells of a dump of the guest's memory, and there is none", `query-dump query-dump-guest-memory-capability`},
	{"it can do anything that QEMU can", `human-monitor-command`},
	{"the stream is the VM's memory, and its target may be a program", `
		migrate migrate-recover migrate-start-postcopy migrate-continue migrate-pause migrate_cancel`},
	{"migration is not offered", `
		migrate-set-capabilities migrate-set-parameters query-migrate query-migrate-capabilities query-migrate-parameters
		x-colo-lost-heartbeat query-colo-status`},
	{"it watches what the guest writes, and can slow it down", `
		calc-dirty-rate query-dirty-rate set-vcpu-dirty-limit cancel-vcpu-dirty-limit query-vcpu-dirty-limit`},
	{"it is for Xen", `
		xen-save-devices-state xen-set-global-dirty-log xen-load-devices-state xen-set-replication
		query-xen-replication-status xen-colo-do-checkpoint`},
	{"an instance begins from its registration only", `migrate-incoming x-exit-preconfig set-numa-node`},
	{"snapshots of memory leave the guest's secrets on a disk", `snapshot-save snapshot-load snapshot-delete`},
	{"devices come from the registration only", `
		device_add device_del netdev_add netdev_del object-add object-del set_link announce-self query-hotpluggable-cpus`},
	{"it changes how much memory the guest has, which the registration says", `balloon query-balloon`},
	{"it opens files and sockets of the hypervisor domain", `chardev-add chardev-change`},
	{"the consoles are channels of the owner", `
		chardev-remove chardev-send-break query-chardev query-chardev-backends ringbuf-write ringbuf-read`},
	{"it opens files of the hypervisor domain; disks come from the registration only", `
		blockdev-add blockdev-reopen blockdev-create blockdev-change-medium blockdev-snapshot-sync x-blockdev-amend
		blockdev-insert-medium change-backing-file`},
	{"disks come from the registration only", `
		blockdev-del eject blockdev-open-tray blockdev-close-tray blockdev-remove-medium blockdev-snapshot
		x-blockdev-change x-blockdev-set-iothread block_resize transaction
		blockdev-snapshot-internal-sync blockdev-snapshot-delete-internal-sync`},
	{"it copies the disk's plaintext", `
		blockdev-mirror blockdev-backup drive-mirror drive-backup block-stream block-commit`},
	{"there are no jobs on a disk, because nothing may begin one", `
		query-block-jobs block-job-set-speed block-job-cancel block-job-pause block-job-resume block-job-complete
		block-job-dismiss block-job-finalize query-jobs job-pause job-resume job-cancel job-complete job-dismiss job-finalize`},
	{"it tells which parts of the disk the guest writes", `
		block-dirty-bitmap-add block-dirty-bitmap-remove block-dirty-bitmap-clear block-dirty-bitmap-enable
		block-dirty-bitmap-disable block-dirty-bitmap-merge x-debug-block-dirty-bitmap-sha256 block-set-write-threshold`},
	{"it tells when and how much the guest reads and writes", `query-blockstats block-latency-histogram-set query-stats query-stats-schemas`},
	{"it shows the sockets and the layout of the disks in the hypervisor domain", `
		query-block query-named-block-nodes x-debug-query-block-graph query-iothreads query-pr-managers`},
	{"limits on the disks are the host's to set, not the management domain's", `block_set_io_throttle`},
	{"it opens the disk's plaintext to the network", `nbd-server-start nbd-server-add nbd-server-remove nbd-server-stop`},
	{"it opens the disk's plaintext to others", `block-export-add block-export-del query-block-exports`},
	{"it puts files into QEMU", `add-fd getfd`},
	{"no files can be put into QEMU", `remove-fd closefd query-fdsets`},
	{"it reads the devices' inner state", `
		qom-get qom-list qom-list-properties query-pci x-query-virtio x-query-virtio-status x-query-virtio-queue-status
		x-query-virtio-vhost-queue-status x-query-virtio-queue-element x-query-irq x-query-usb x-query-rdma
		query-rx-filter query-rocker query-rocker-ports query-rocker-of-dpa-flows query-rocker-of-dpa-groups query-tpm
		query-acpi-ospm-status query-vm-generation-id`},
	{"it changes devices", `qom-set rtc-reset-reinjection`},
	{"it shows how the host runs the guest", `
		query-cpus-fast x-query-ramblock x-query-numa x-query-jit x-query-opcount x-query-profile x-query-roms
		query-memdev query-memory-devices query-memory-size-summary query-kvm query-name query-uuid`},
	{"QEMU's own abilities are the hypervisor's affair", `
		query-commands query-version query-qmp-schema query-machines query-current-machine query-target
		query-command-line-options query-cpu-definitions query-cpu-model-expansion query-tpm-models query-tpm-types
		qom-list-types device-list-properties`},
	{"it makes the guest crash and dump", `inject-nmi`},
	{"it changes what a guest event means", `watchdog-set-action set-action`},
	{"only the guest's own devices wake it", `system_wakeup`},
	{"it writes files of the hypervisor domain", `trace-event-set-state trace-event-get-state`},
	{"a recorded run is steered from the command line only", `query-replay replay-break replay-delete-break replay-seek`},
	{"it cuts the connections that QEMU's disks depend on", `yank query-yank`},
	{"confidential guests are attested by the owner's own channel, which is not offered", `
		query-sev query-sev-launch-measure query-sev-capabilities query-sev-attestation-report sev-inject-launch-secret
		query-sgx query-sgx-capabilities`},
}

// withRefusals completes the table. A command that is there already stays, so
// that a mistake cannot open it; a test finds such.
func withRefusals(t map[string]entry) map[string]entry {
	for _, r := range refusals {
		for command := range strings.FieldsSeq(r.commands) {
			if _, ok := t[command]; !ok {
				t[command] = entry{verdict: never, why: r.why}
			}
		}
	}
	return t
}
