// Package vm runs one QEMU process for each VM instance: it renders the command
// line from a typed description, confines the process, starts it, finds it again
// after a restart of the daemon, talks to its monitor and reports how it ended.
//
// It trusts its caller, the daemon: names, sizes and paths come from an opened
// registration and from the configuration. It does not trust QEMU once the guest
// runs. QEMU gets an own uid, own mount, IPC and UTS namespaces, a network namespace in
// which there is nothing but the VM's keeper, an empty root with only the libraries
// and firmware it needs, no capability, and opens nothing that the daemon has not put
// there. What it says on its monitor is bounded by package qmp, what it writes to its
// standard error is kept in a ring.
//
// # Who owns what below Config.RunDir
//
// When the daemon runs as root ("qemu" is the VM's uid and gid):
//
//	RunDir                      root  0700
//	RunDir/<vm>                 root  0700  nobody but root reaches anything below by path
//	RunDir/<vm>/monitor         root  0700  qmp.sock, root 0600: QEMU inherits the listener
//	RunDir/<vm>/sockets         root:qemu 0710  disk and console sockets; bound into QEMU's root
//	RunDir/<vm>/root            root  0700  empty mount point of QEMU's root
//	RunDir/<vm>/vars.fd         root  0600  this boot's UEFI variables: QEMU inherits the descriptor
//
// Whoever listens in sockets makes the socket itself connectable for the VM's uid.
// Without root everything belongs to the one user there is, with modes 0700 and 0600.
package vm

import (
	"errors"
	"log/slog"
	"os"
	"time"
)

// Default values of Config.
const (
	DefaultBinary       = "/usr/bin/qemu-system-x86_64"
	DefaultFirmwareDir  = "/usr/share/OVMF"
	DefaultStartTimeout = 30 * time.Second
)

// Values of Config.Accel, and of DetectAccel's and Record's accel.
const (
	AccelAuto = "auto"
	AccelKVM  = "kvm"
	AccelTCG  = "tcg"
)

// ErrGone says that the process of a Record does not exist any more.
var ErrGone = errors.New("the QEMU process is gone")

// Config says how this host runs QEMU. The zero value of every field but RunDir
// and, as root, UIDBase has a usable meaning.
type Config struct {
	// BinaryPath is QEMU's path; empty means DefaultBinary.
	BinaryPath string
	// RunDir holds one directory for each VM instance; created when missing. Its path
	// must leave room for the names below it in the 107 bytes of a socket's path.
	RunDir string
	// Accel is AccelKVM or AccelTCG to override DetectAccel; empty or AccelAuto asks it.
	Accel string
	// Self is the path of the program whose subcommand "confine" calls ConfineMain; empty
	// means the running program, even if it was replaced on disk.
	Self string
	// UIDBase: the VM in slot n runs as uid and gid UIDBase+2n. Used by root only,
	// and then it must not be zero.
	UIDBase uint32
	// FirmwareDir holds OVMF_CODE_4M.fd and OVMF_VARS_4M.fd; empty means DefaultFirmwareDir.
	FirmwareDir string
	// StartTimeout bounds the time until the monitor answers; zero means DefaultStartTimeout.
	StartTimeout time.Duration
	// Logger receives what an operator of the host should see; nil means slog.Default().
	Logger *slog.Logger
}

// UID returns the uid, which is also the gid, of the VM in a slot.
func (c Config) UID(slot int) uint32 { return c.UIDBase + 2*uint32(slot) }

// LaunchSpec is everything that differs between two instances.
type LaunchSpec struct {
	// ID is the VM's identifier: 32 lower-case hexadecimal digits.
	ID string
	// Slot chooses the uid; no two running VMs share one.
	Slot int

	MemoryBytes uint64
	VCPUs       uint32
	Firmware    string // FirmwareBIOS or FirmwareUEFI
	Machine     string // MachinePC or MachineQ35
	Disks       []Disk
	NICs        []NIC
	// Screen: the VM has a display, which AddScreen reaches, and a pointer.
	Screen bool
	// ChannelMAC is of the network card whose ports Forward reaches; zero: there is none.
	ChannelMAC [6]byte

	// DiskSockets maps every disk's name to the unix socket on which the keeper serves
	// it; an NBD export has the disk's name.
	DiskSockets map[string]string
	// ConsoleSocket is the unix socket to which QEMU connects the first serial port;
	// empty throws the output away.
	ConsoleSocket string
	// TapFiles holds, by the NIC's index, descriptors of opened tap devices. A NIC
	// without one is not connected to anything. The caller closes its own copies.
	TapFiles []*os.File
	// Network is the network namespace in which QEMU is to run, from package netns; nil:
	// a new one with nothing in it. It must be nil without root. The caller closes it.
	Network *os.File

	// OnStarted is called once with the process id that QEMU will have, before QEMU
	// is executed and so before it connects anywhere. It may be nil.
	OnStarted func(pid int)
}

// Words of LaunchSpec, Disk and NIC; the same as in a registration.
const (
	FirmwareBIOS = "bios"
	FirmwareUEFI = "uefi"

	MachinePC  = "pc"
	MachineQ35 = "q35"

	BusVirtio = "virtio"
	BusIDE    = "ide"
	BusSATA   = "sata"
	BusNVMe   = "nvme"

	ModelVirtio = "virtio"
	ModelE1000  = "e1000"
)

// Disk is one disk as the guest sees it; the data come from its socket.
type Disk struct {
	Name     string
	Bus      string
	Boot     bool
	ReadOnly bool
	Discard  bool
	// VhostUser: the keeper serves it by vhost-user-blk, on guest memory itself,
	// and not by NBD. Bus is virtio then.
	VhostUser bool
}

// maxQueues bounds the virtqueues of a disk that is served by vhost-user.
const maxQueues = 4

// Queues is how many virtqueues each disk of a VM with so many vCPUs has that is
// served by vhost-user.
func Queues(vcpus uint32) int { return int(max(1, min(vcpus, maxQueues))) }

// NIC is one network card.
type NIC struct {
	MAC   [6]byte
	Model string
}

// Record is what the daemon stores to find a VM again after its own restart.
type Record struct {
	ID        string
	Slot      int
	PID       int
	StartTime uint64 // clock ticks after boot, field 22 of /proc/PID/stat
	QMPPath   string
	Accel     string
	Confined  bool // false: QEMU shares the daemon's uid and namespaces
}

// Values of ExitInfo.Reason.
const (
	ExitQuit    = "quit"    // asked by `quit`, or exit status 0
	ExitCrashed = "crashed" // ended by a signal that this package did not send
	ExitKilled  = "killed"  // ended by Kill
	ExitFailed  = "failed"  // other exit status than 0
	ExitUnknown = "unknown" // adopted process: the kernel tells only its parent
)

// ExitInfo says how a QEMU process ended.
type ExitInfo struct {
	Code   int    // exit status, -1 when ended by a signal or unknown
	Signal int    // signal number, 0 when none or unknown
	Reason string // one of the Exit constants
	Detail string // for people; may hold the last of what QEMU wrote to standard error
}

// Finding is one result of Check.
type Finding struct {
	Name   string
	OK     bool
	Detail string
	Fix    string // a command that mends it; empty when OK or when none is known
}
