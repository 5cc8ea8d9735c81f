package gate

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"time"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/hypervisor/state"
	"github.com/uvbond/uvbond/policy"
	"github.com/uvbond/uvbond/qmp"
)

// Errors of a VM that the gate tells apart. Any other error is reported to the
// management domain without its text, because the text may speak of the
// hypervisor domain; a *qmp.Error passes as it is.
var (
	ErrReplayed   = errors.New("ticket was used before")
	ErrBusy       = errors.New("another session is changing this VM")
	ErrNotRunning = errors.New("the VM has no running instance")
)

// Current is the newest instance of a VM.
type Current struct {
	Number     uint64 // 0: it never ran
	Descriptor bond.Descriptor
	Live       bool
}

// Launch is what the management domain brings to a launch: ciphertext, and
// nothing that describes the VM.
type Launch struct {
	Disks   map[string]*os.File // by the registered disk's name
	Exports []qmp.DiskExport    // disks on the provider's storages, unchecked
	Taps    []*os.File          // by the registered network card's index
	Expect  *qmp.LaunchExpect   // must equal the sealed specification; may be nil
}

// Use is one use of an automaton whose rule limits how often.
type Use struct {
	Delegation [32]byte // zero: of the policy for operators
	Name       string
	Rule       *policy.Rule
	Until      int64 // Unix seconds: when the delegation ends; 0: never
}

// Pause is how long a VM may stay paused, and the automaton that says so.
type Pause struct {
	Name string
	Most time.Duration
}

// Grow says how long a disk is to be.
type Grow struct {
	Disk string
	Size uint64   // bytes, as the guest sees it
	File *os.File // the ciphertext; nil: none came
}

// Build says which disk is to be made, from what and where.
type Build struct {
	Disk  string
	Base  *os.File   // the base image, which nobody vouches for
	Image *os.File   // the disk's; nil: it is at
	Place *qmp.Place // an export of a storage, unchecked
}

// VM is one bonded VM as the gate sees it. All methods are safe for concurrent use.
type VM interface {
	ID() bond.VMID
	Bond() *bond.Bond
	// Policy is the owner's policy for operators as it stands now. The pointer
	// changes when the policy does.
	Policy() *policy.Policy
	// Count begins a use of an automaton that has limits: it is counted, and e
	// recorded, both durable and in one step when it returns nil. A
	// *policy.UsedUpError when none is left.
	Count(u Use, e state.Entry) error
	// State is one of qmp.State… or a run state of QEMU.
	State() string
	Current() Current

	// AcquireChange waits until no other session may change the VM; ErrBusy
	// when ctx ends first.
	AcquireChange(ctx context.Context) error
	ReleaseChange()

	// UseTicket burns a ticket's nonce and records e, both durable and in one
	// step when it returns. ErrReplayed when it was burnt before.
	UseTicket(nonce [32]byte, expiry int64, e state.Entry) error
	// RefuseTicket does the same for a ticket that will not run, also after its
	// expiry. When it returns nil the ticket never ran and never will.
	// ErrReplayed when it was burnt before, state.ErrExpired when the store has
	// forgotten tickets of that age and cannot tell.
	RefuseTicket(nonce [32]byte, expiry int64, e state.Entry) error
	// Record appends to the bond's audit log, durably, and returns the number
	// and hash of the last record.
	Record(e ...state.Entry) (seq uint64, head [32]byte, err error)

	// Launch creates an instance, stopped, from the registration and the files
	// of l. It takes over the files, also when it fails.
	Launch(ctx context.Context, l Launch, bootNonce [32]byte) error
	// Status answers query-status, also without an instance.
	Status(ctx context.Context) (qmp.StatusResult, error)
	// Execute runs a command of QEMU on instance number n; args are nil or of the
	// command's type. The answer is QEMU's, unfiltered. pause is not nil where a
	// `stop` may not last: the VM resumes then by itself, unless somebody whose
	// pause has no end stops it meanwhile.
	Execute(ctx context.Context, n uint64, command string, args any, pause *Pause) (json.RawMessage, error)
	// Events delivers QEMU's events, unfiltered, until stop is called, which closes
	// the channel. A receiver that is slow loses the oldest.
	Events() (events <-chan qmp.Event, stop func())
	// Kill ends instance number n at once, if it is still there.
	Kill(n uint64, reason string)

	// Channel hands a connection to the keeper of the instance, which speaks first to
	// its far end when that has shown that it is the owner. The file stays the caller's. What
	// becomes of the channel is in the audit log. ErrNotRunning; a *qmp.Error
	// of class Unavailable where the VM has nothing of the kind, and of class Busy
	// when there are too many.
	Channel(ctx context.Context, ch Channel) error
	ReadConsole(offset uint64) (*bond.ConsoleChunk, error)
	ReadAudit(from uint64) (*bond.AuditChunk, error)
	SetPolicy(text string) error
	// Delegated is state.ErrRevoked for a delegation that the owner took back.
	Delegated(id [32]byte, issued int64) error
	// Revoke takes one delegation back, or with a zero id all that were issued
	// until then (Unix seconds). It holds at once, also for sessions that are open.
	Revoke(id [32]byte, until int64) error
	// Grow makes a disk longer, also of a VM that does not run. It takes over
	// the file, also when it fails.
	Grow(ctx context.Context, g Grow) (*qmp.GrowResult, error)
	// Build goes on with making a disk from its base image, for a bounded time, and
	// tells how far it is. It takes over the files, also when it fails.
	Build(ctx context.Context, b Build) (*qmp.BuildState, error)
	// Delete ends the bond, with e as the last record of its audit log, and
	// returns the log's end. The VM must have no instance. Bond stays usable
	// for the receipt; the gate wipes it.
	Delete(e state.Entry) (seq uint64, head [32]byte, err error)
}
