package qmp

// Names of the gate's own commands. Everything else on the gate is a QMP command of QEMU.
const (
	CmdQueryHost   = "uvbond-query-host"
	CmdRegister    = "uvbond-register"
	CmdQueryVMs    = "uvbond-query-vms"
	CmdOpen        = "uvbond-open"
	CmdClose       = "uvbond-close"
	CmdAttach      = "uvbond-attach"
	CmdQueryDisks  = "uvbond-query-disks"
	CmdSetLimits   = "uvbond-set-limits"
	CmdLaunch      = "uvbond-launch"
	CmdReadConsole = "uvbond-read-console"
	CmdReadAudit   = "uvbond-read-audit"
	CmdSetPolicy   = "uvbond-set-policy"
	CmdGrow        = "uvbond-grow"
	CmdBuild       = "uvbond-build"
	CmdDelete      = "uvbond-delete"
	CmdRevoke      = "uvbond-revoke"
	CmdChannel     = "uvbond-channel"
)

// Names of the QMP commands of QEMU that the gate knows in this version.
const (
	CmdCapabilities    = "qmp_capabilities"
	CmdQueryStatus     = "query-status"
	CmdStop            = "stop"
	CmdCont            = "cont"
	CmdSystemReset     = "system_reset"
	CmdSystemPowerdown = "system_powerdown"
	CmdQuit            = "quit"
)

// Values of VMState.State that are the gate's own. QEMU's other run states
// (for example "io-error", "internal-error", "suspended") appear verbatim.
const (
	StateStopped   = "stopped"   // no instance
	StateCrashed   = "crashed"   // no instance; the last one ended by itself and not by a guest power-off
	StatePrelaunch = "prelaunch" // launched, never run
	StateRunning   = "running"
	StatePaused    = "paused"
	StateShutdown  = "shutdown"
)

// QueryHostResult answers uvbond-query-host. All of it is public; the tenant
// believes PublicKey only because it pinned it.
type QueryHostResult struct {
	Versions   []uint16 `json:"versions"`   // protocol versions the host offers
	PublicKey  []byte   `json:"public-key"` // bond.HostPublic.Bytes
	Host       string   `json:"host"`       // bond.HostID, hex
	Hypervisor string   `json:"hypervisor"` // version of uvbond-hypervisor
	Accel      string   `json:"accel"`      // "kvm" or "tcg"
	Time       int64    `json:"time"`       // the host's clock, Unix seconds
}

// RegisterArgs are the arguments of uvbond-register.
type RegisterArgs struct {
	Registration []byte `json:"registration"` // sealed by the tenant, at most 256 KiB
}

// RegisterResult answers uvbond-register. Beside the sealed confirmation it
// carries what the provider must know to store disks and place the VM.
type RegisterResult struct {
	VM           string         `json:"vm"`           // bond.VMID, 32 hex digits
	Confirmation []byte         `json:"confirmation"` // sealed for the tenant
	Disks        []RegisterDisk `json:"disks"`
	Memory       uint64         `json:"memory"` // bytes
	VCPUs        uint32         `json:"vcpus"`
}

// RegisterDisk is what the provider may know of a registered disk.
type RegisterDisk struct {
	Name     string `json:"name"`
	Size     uint64 `json:"size"` // least size of the ciphertext file, bytes
	ReadOnly bool   `json:"read-only"`
}

// QueryVMsResult answers uvbond-query-vms.
type QueryVMsResult struct {
	VMs []VMState `json:"vms"`
}

// VMState is what the provider may know of a bonded VM.
type VMState struct {
	VM         string   `json:"vm"`
	State      string   `json:"state"`
	Instance   uint64   `json:"instance"`              // 0 when it never ran
	NeedsDisks []string `json:"needs-disks,omitempty"` // disks to be offered again with uvbond-attach
	// Builds are the disks that are still to be made from their base images.
	Builds []BuildState `json:"builds,omitempty"`
	// Limits in force, of the disks that have any; only while the VM runs.
	Limits []VMLimits `json:"limits,omitempty"`
}

// MaxOpenWait is the largest OpenArgs.Wait, in seconds.
const MaxOpenWait = 30

// OpenArgs are the arguments of uvbond-open.
type OpenArgs struct {
	VM     string `json:"vm"`
	Ticket []byte `json:"ticket,omitempty"` // sealed ticket or boot ticket; none: the owner's policy
	Wait   int    `json:"wait,omitempty"`   // seconds to wait for another session on this VM, 0..MaxOpenWait
}

// OpenResult answers uvbond-open.
type OpenResult struct {
	Session  string `json:"session"`
	Command  string `json:"command"`  // management command the ticket names; empty without a ticket
	Deadline int    `json:"deadline"` // seconds until the gate ends the session
}

// CloseResult answers uvbond-close.
type CloseResult struct {
	Verdict    string `json:"verdict"`              // "done", "refused" or "incomplete"
	Receipt    []byte `json:"receipt,omitempty"`    // sealed; absent in a session without a ticket
	Descriptor []byte `json:"descriptor,omitempty"` // sealed; after a start, and after a status under a ticket
}

// LaunchArgs are the arguments of uvbond-launch. Descriptors of the ciphertext
// disks and taps travel beside the request; the indexes count them from 0.
type LaunchArgs struct {
	Disks   []DiskFile    `json:"disks"`
	Exports []DiskExport  `json:"exports,omitempty"` // disks that are on a storage and have no descriptor
	Taps    []int         `json:"taps,omitempty"`
	Expect  *LaunchExpect `json:"expect,omitempty"`
}

// DiskFile names the descriptor that holds a registered disk's ciphertext.
type DiskFile struct {
	Name    string `json:"name"`
	FDIndex int    `json:"fd-index"`
}

// DiskExport says on which of the storages of the hypervisor's configuration a
// registered disk's ciphertext is, and under which name.
type DiskExport struct {
	Name    string `json:"name"`
	Storage string `json:"storage"`
	Export  string `json:"export"`
}

// LaunchExpect is what the provider thinks the VM is. The gate never builds
// from it: it refuses the launch when a field is given and differs from the
// sealed specification.
type LaunchExpect struct {
	Memory   uint64 `json:"memory,omitempty"` // bytes
	VCPUs    uint32 `json:"vcpus,omitempty"`
	Firmware string `json:"firmware,omitempty"`
	Machine  string `json:"machine,omitempty"`
}

// AttachArgs are the arguments of uvbond-attach; descriptors travel beside it.
type AttachArgs struct {
	VM    string     `json:"vm"`
	Disks []DiskFile `json:"disks"`
}

// ReadConsoleArgs are the arguments of uvbond-read-console.
type ReadConsoleArgs struct {
	Offset uint64 `json:"offset"` // bytes since the instance started
}

// ReadAuditArgs are the arguments of uvbond-read-audit.
type ReadAuditArgs struct {
	From uint64 `json:"from"` // sequence number of the first record wanted
}

// RevokeArgs are the arguments of uvbond-revoke; exactly one is given. The owner's
// ticket says which, in its automaton.
type RevokeArgs struct {
	Delegation  string `json:"delegation,omitempty"`   // id, 64 hex digits
	IssuedUntil int64  `json:"issued-until,omitempty"` // Unix seconds: all that were issued until then
}

// ChannelArgs are the arguments of uvbond-channel. Its success ends QMP on the
// connection: what follows the answer's newline is the channel, end to end
// between tenant and VM.
type ChannelArgs struct {
	Kind string `json:"kind"`           // "console", "screen" or "forward"
	Port uint16 `json:"port,omitempty"` // forward: of the guest
}

// ChannelResult answers uvbond-channel. The session has ended with it.
type ChannelResult struct {
	Receipt []byte `json:"receipt"` // sealed
}

// ChunkResult answers uvbond-read-console and uvbond-read-audit.
type ChunkResult struct {
	Chunk []byte `json:"chunk"` // sealed for the tenant
}

// StatusResult answers query-status.
type StatusResult struct {
	Status  string `json:"status"`
	Running bool   `json:"running"`
}
