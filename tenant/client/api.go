// Package client speaks the HTTP API of uvbond-server. The server is
// untrusted: every body is read with a cap, TLS is checked against a pinned key
// and only so that the token and the names of things stay private on the way,
// and nothing that comes back is more than a claim until package tenant has
// opened it under a bond.
package client

import (
	"encoding/json"
	"time"

	"github.com/uvbond/uvbond/qmp"
)

// Host is the answer of GET /v1/host.
type Host struct {
	Name       string   `json:"name"`
	Versions   []uint16 `json:"versions"`
	PublicKey  []byte   `json:"public_key"`
	Host       string   `json:"host"` // bond.HostID, hex
	Hypervisor string   `json:"hypervisor"`
	Accel      string   `json:"accel"`
	Time       int64    `json:"time"` // Unix seconds
}

// Image is the server's record of a stored ciphertext file.
type Image struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Size      int64  `json:"size"`
	SHA256    string `json:"sha256,omitempty"`
	Offset    int64  `json:"offset"`           // bytes stored so far
	State     string `json:"state"`            // ImageUploading ...
	Reason    string `json:"reason,omitempty"` // of ImageFailed
	VM        string `json:"vm,omitempty"`     // id of the VM that uses it
	ChunkSize int64  `json:"chunk_size,omitempty"`
}

// Values of Image.State.
const (
	ImageUploading = "uploading"
	ImageVerifying = "verifying" // all bytes are there and are being hashed
	ImageReady     = "ready"
	ImageFailed    = "failed" // what arrived is not what was announced
)

// ImageDisk says which stored image holds a registered disk.
type ImageDisk struct {
	Name  string `json:"name"`
	Image string `json:"image"`
}

// CreateVM is the body of POST /v1/vms.
type CreateVM struct {
	ID           string      `json:"id"`
	Name         string      `json:"name"`
	Disks        []ImageDisk `json:"disks"`
	Registration []byte      `json:"registration"`
}

// Base is a public base image, as the server describes it.
type Base struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
}

// VM is the server's record of a VM. State and Created are its word only;
// Confirmation and Descriptor are sealed for the owner.
type VM struct {
	ID           string           `json:"id"`
	Name         string           `json:"name"`
	State        string           `json:"state,omitempty"`
	Created      any              `json:"created,omitempty"`
	Disks        []ImageDisk      `json:"disks,omitempty"`
	Confirmation []byte           `json:"confirmation,omitempty"`
	Descriptor   []byte           `json:"descriptor,omitempty"`
	Limits       []qmp.VMLimits   `json:"limits,omitempty"` // the provider's, on disks
	Builds       []qmp.BuildState `json:"builds,omitempty"` // of disks that are made from base images
}

// Params are the unsealed parameters that some management commands need.
type Params struct {
	Offset *uint64 `json:"offset,omitempty"` // log: first byte wanted
	From   *uint64 `json:"from,omitempty"`   // audit: first record wanted
	Disk   string  `json:"disk,omitempty"`   // grow, build: the disk's name
	Size   uint64  `json:"size,omitempty"`   // grow: bytes, as the guest will see it
	Stored uint64  `json:"stored,omitempty"` // grow: bytes that the image needs for it

	Delegation  string `json:"delegation,omitempty"`   // undelegate: id, 64 hex digits, or
	IssuedUntil int64  `json:"issued_until,omitempty"` // all that were issued until then
}

// Command is the body of POST /v1/vms/{id}/commands.
type Command struct {
	Command string  `json:"command"`
	Ticket  []byte  `json:"ticket"`
	Params  *Params `json:"params,omitempty"`
}

// Outcome is the answer to a Command. Only Receipt, Descriptor and Chunks can
// be verified; the rest is the server's word.
type Outcome struct {
	Outcome    string   `json:"outcome"` // "done", "refused" or "error"
	Class      string   `json:"class,omitempty"`
	Reason     string   `json:"reason,omitempty"`
	Receipt    []byte   `json:"receipt,omitempty"`
	Descriptor []byte   `json:"descriptor,omitempty"`
	Chunks     [][]byte `json:"chunks,omitempty"`
}

// Hypercall is what the server says of a step of a command that is watched: once
// when it was sent and once when it was answered. Nothing vouches for it.
type Hypercall struct {
	Command   string          `json:"command"`
	Arguments json.RawMessage `json:"arguments,omitempty"`
	Answered  bool            `json:"answered"`
	Class     string          `json:"class,omitempty"` // of the error it was answered with
}

// maxHypercalls bounds what is told of one command that is watched.
const maxHypercalls = 4096

// Caps on what is read from the server, bytes. The largest honest answer is a
// command that returns chunks of at most 1 MiB each, in base64.
const (
	maxJSON    = 4 << 20
	maxCommand = 32 << 20
	maxProblem = 64 << 10
)

// Time-outs of one request. A command may wait for a guest to shut down.
const (
	requestTimeout = 30 * time.Second
	uploadTimeout  = 5 * time.Minute
	commandTimeout = 4 * time.Minute
)
