package qmp

import "fmt"

// BuildArgs are the arguments of uvbond-build. Two descriptors travel beside the
// request, in this order: of the base image, open for reading, and of the disk's
// image, open for reading and writing. When the image is on a storage, Place says
// where, and only the first one travels.
type BuildArgs struct {
	Disk  string `json:"disk"`
	Place *Place `json:"place,omitempty"`
}

// Place is an export of one of the storages of the hypervisor's configuration.
type Place struct {
	Storage string `json:"storage"`
	Export  string `json:"export"`
}

// BuildState is how far a disk is made from its base image. It answers uvbond-build.
type BuildState struct {
	Disk  string `json:"disk"`
	Phase string `json:"phase"`
	Done  uint64 `json:"done"`  // bytes of the base in this phase
	Total uint64 `json:"total"` // bytes of the base
}

// Values of BuildState.Phase, in order.
const (
	BuildCheck = "check" // the base is held against the owner's SHA-256
	BuildWrite = "write" // it is read again, and encrypted
	BuildDone  = "done"  // the disk is made
)

// Detail is what a receipt says of a step.
func (s BuildState) Detail() string {
	if s.Phase == BuildDone {
		return "made: " + s.Disk + " holds the base image that its owner named"
	}
	return fmt.Sprintf("%s: %d of %d bytes", s.Phase, s.Done, s.Total)
}
