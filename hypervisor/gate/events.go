package gate

import (
	"encoding/json"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/qmp"
)

// notice is an event that reaches the management domain: sessions on the VM
// get it while they are open. data lets the listed fields pass.
type notice struct {
	data answer
	why  string
}

// guestCause is what of RESET and SHUTDOWN passes.
type guestCause struct {
	Guest  bool   `json:"guest"`
	Reason string `json:"reason"`
}

// tidy bounds what a QEMU that the guest took over can say.
func (g *guestCause) tidy() { g.Reason = bond.CleanText(g.Reason, bond.MaxState) }

// notices are the events that pass: changes of the run state, which the
// provider can ask for anyway.
var notices = map[string]notice{
	"STOP":         {nothing, "run state only"},
	"RESUME":       {nothing, "run state only"},
	"RESET":        {gives[guestCause](), "run state only"},
	"SHUTDOWN":     {gives[guestCause](), "run state only"},
	"POWERDOWN":    {nothing, "the power button was pressed"},
	"SUSPEND":      {nothing, "run state only"},
	"SUSPEND_DISK": {nothing, "run state only"},
	"WAKEUP":       {nothing, "run state only"},
}

// kept says of every other event of QEMU why it stays in the hypervisor domain.
var kept = []struct {
	why    string
	events string
}{
	{"the guest's troubles are its owner's; they are in the audit log", `GUEST_PANICKED BLOCK_IO_ERROR`},
	{"the guest's troubles are its owner's", `GUEST_CRASHLOADED WATCHDOG MEMORY_FAILURE BLOCK_IMAGE_CORRUPTED QUORUM_FAILURE QUORUM_REPORT_BAD`},
	{"the screen belongs to the owner", `
		VNC_CONNECTED VNC_INITIALIZED VNC_DISCONNECTED SPICE_CONNECTED SPICE_INITIALIZED SPICE_DISCONNECTED SPICE_MIGRATE_COMPLETED`},
	{"it tells what the guest does with its devices", `
		RTC_CHANGE NIC_RX_FILTER_CHANGED VSERPORT_CHANGE DEVICE_TRAY_MOVED BALLOON_CHANGE MEMORY_DEVICE_SIZE_CHANGE
		ACPI_DEVICE_OST BLOCK_WRITE_THRESHOLD`},
	{"the command that it belongs to never passes", `
		BLOCK_JOB_COMPLETED BLOCK_JOB_CANCELLED BLOCK_JOB_ERROR BLOCK_JOB_READY BLOCK_JOB_PENDING JOB_STATUS_CHANGE
		BLOCK_EXPORT_DELETED DUMP_COMPLETED MIGRATION MIGRATION_PASS UNPLUG_PRIMARY COLO_EXIT FAILOVER_NEGOTIATED
		DEVICE_DELETED DEVICE_UNPLUG_GUEST_ERROR MEM_UNPLUG_ERROR RDMA_GID_STATUS_CHANGED`},
	{"it tells of the hypervisor domain's own connections", `
		NETDEV_STREAM_CONNECTED NETDEV_STREAM_DISCONNECTED PR_MANAGER_STATUS_CHANGED VFU_CLIENT_HANGUP`},
}

// filterEvent returns what of an event may reach the management domain.
func filterEvent(e qmp.Event) (qmp.Event, bool) {
	n, ok := notices[e.Event]
	if !ok {
		return qmp.Event{}, false
	}
	out := qmp.Event{Event: e.Event, Timestamp: e.Timestamp}
	if len(e.Data) == 0 {
		return out, true
	}
	data, err := n.data.filter(e.Data)
	if err != nil {
		return qmp.Event{}, false
	}
	if data != nil {
		if out.Data, err = json.Marshal(data); err != nil {
			return qmp.Event{}, false
		}
	}
	return out, true
}

// notify passes on the VM's events while the session is open.
func (c *connection) notify(s *session) {
	events, stop := s.vm.Events()
	s.quiet, s.still = stop, make(chan struct{})
	go func() {
		defer close(s.still)
		for e := range events {
			if out, ok := filterEvent(e); ok && c.conn.Send(out) != nil {
				return
			}
		}
	}()
}
