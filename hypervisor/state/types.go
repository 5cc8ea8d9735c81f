package state

import (
	"errors"

	"github.com/uvbond/uvbond/bond"
)

var (
	// ErrLocked says that another daemon has the folder open.
	ErrLocked = errors.New("state: in use by another daemon")
	// ErrCorrupt says that the database or a record in it is damaged or was
	// edited. The store never repairs: the operator restores a backup.
	ErrCorrupt = errors.New("state: damaged")
	// ErrKey says that the state key is missing, malformed or not the one that
	// sealed this database.
	ErrKey = errors.New("state: wrong or missing state key")
	// ErrUsed says that a VM id was registered before, perhaps long ago.
	ErrUsed = errors.New("state: VM id was used before")
	// ErrUnknownVM says that there is no bond for a VM id.
	ErrUnknownVM = errors.New("state: no bond for this VM")
	// ErrReplayed says that a nonce was used before.
	ErrReplayed = errors.New("state: nonce was used before")
	// ErrExpired says that a nonce's validity ended, so that it may have been
	// used and forgotten.
	ErrExpired = errors.New("state: nonce is past its validity")
	// ErrInstance says that an instance number was not the one that had to come.
	ErrInstance = errors.New("state: instance number out of order")
	// ErrRevoked says that the owner took a delegation back.
	ErrRevoked = errors.New("state: delegation was revoked")
	// ErrClosed says that the store was closed.
	ErrClosed = errors.New("state: closed")
)

// HostLog is the audit log of attempts that belong to no bond: it takes the
// place of a VM id in Append, ReadAudit and AuditHead.
var HostLog bond.VMID

// BondRecord is everything the hypervisor keeps about a bond. The registration's
// one-time secret is not in it: K is derived by then and nothing needs it again.
type BondRecord struct {
	Bond       *bond.Bond
	Spec       bond.Spec // volume keys included
	Policy     string    // the policy's automaton text, now in force
	Registered int64     // Unix seconds
}

// Wipe zeroes the record's secrets.
func (r *BondRecord) Wipe() {
	if r.Bond != nil {
		r.Bond.Wipe()
	}
	r.Spec.Wipe()
}

// Process names one process for certain: a pid alone may be another's by now.
type Process struct {
	PID       int    `cbor:"1,keyasint"`
	StartTime uint64 `cbor:"2,keyasint"` // field 22 of /proc/PID/stat, clock ticks since boot
}

// InstanceRecord is what the daemon needs to find a VM instance again after a restart.
type InstanceRecord struct {
	Number     uint64       `cbor:"1,keyasint"` // counts the bond's instances from 1, never reused
	Descriptor [32]byte     `cbor:"2,keyasint"` // secret
	BootNonce  [32]byte     `cbor:"3,keyasint"` // nonce of the boot ticket
	StartedAt  int64        `cbor:"4,keyasint"` // Unix seconds
	Slot       int          `cbor:"5,keyasint"` // names the uids and folders of the instance
	QEMU       Process      `cbor:"6,keyasint"`
	QMPPath    string       `cbor:"7,keyasint"`
	Keeper     Process      `cbor:"8,keyasint"`
	KeeperDir  string       `cbor:"9,keyasint"`
	State      string       `cbor:"10,keyasint"`           // last state the daemon acted on
	Limits     []DiskLimits `cbor:"11,keyasint,omitempty"` // that the provider changed
	VhostUser  []string     `cbor:"13,keyasint,omitempty"` // disks that are served by vhost-user
	Exports    []DiskExport `cbor:"12,keyasint,omitempty"` // disks that are on a storage
}

// DiskExport says where on the provider's storages a disk is.
type DiskExport struct {
	Disk    string `cbor:"1,keyasint"`
	Storage string `cbor:"2,keyasint"`
	Export  string `cbor:"3,keyasint"`
}

// DiskLimits are what the provider lets a disk do in a second; zero is no limit.
type DiskLimits struct {
	Disk  string `cbor:"1,keyasint"`
	IOPS  uint64 `cbor:"2,keyasint"`
	Bytes uint64 `cbor:"3,keyasint"`
	Burst uint64 `cbor:"4,keyasint"` // seconds
}

// EndRecord says how a bond's last instance ended.
type EndRecord struct {
	Number uint64 `cbor:"1,keyasint"`
	At     int64  `cbor:"2,keyasint"` // Unix seconds
	Reason string `cbor:"3,keyasint"`
}

// Tombstone is what stays of a used VM id: for a living bond only the time of
// registration, for a deleted one also the end of its audit log.
type Tombstone struct {
	Registered int64    `cbor:"1,keyasint"` // Unix seconds
	Deleted    int64    `cbor:"2,keyasint"` // Unix seconds, 0 while the bond lives
	AuditSeq   uint64   `cbor:"3,keyasint"` // number of records the audit log had
	AuditHead  [32]byte `cbor:"4,keyasint"` // chain value after them
}

// Entry is one audit record to be; the store adds number, time and chain.
type Entry struct {
	Kind, Who, Text string
	Fields          map[string]string
	// Coalesce marks what others can cause at will, such as refused attempts:
	// see the package comment for how these are counted rather than repeated.
	Coalesce bool
}

// Head is the end of an audit log: what a receipt quotes.
type Head struct {
	Seq  uint64   // number of records so far, thus of the next record
	Hash [32]byte // chain value after them
}

// AuditPage is a part of an audit log.
type AuditPage struct {
	From    uint64   // number of the first record in Records, or where it would be
	Prev    [32]byte // chain value before it
	Records [][]byte // encoded bond.AuditRecord
	Head    [32]byte // chain value after the last of Records
	Next    uint64   // From plus the number of records: where to read on
	More    bool     // there are records from Next on
	First   uint64   // oldest record still kept
	End     Head     // of the whole log
}
