package bond

import (
	"errors"
	"fmt"
)

var (
	// ErrOpen says that a sealed message does not open under this bond or
	// host key: another key, another purpose, another VM, or changed bytes.
	// It says no more on purpose: the sender may be an adversary, and the
	// receiver could not trust any finer answer.
	ErrOpen = errors.New("bond: message does not open here (another key, VM or purpose, or changed on the way)")

	// ErrDowngrade says that the versions which the tenant was offered are not
	// the ones that the hypervisor speaks, or that a lower one was chosen
	// than both ends know. Somebody in the middle changed the offer.
	ErrDowngrade = errors.New("bond: protocol versions were tampered with on the way; ask the host for its versions again")

	// ErrMalformed says that bytes are not the deterministic encoding of the
	// expected message.
	ErrMalformed = errors.New("bond: malformed message")

	// ErrTooLarge says that a message is larger than its purpose allows.
	ErrTooLarge = errors.New("bond: message is too large")
)

// InvalidError says which part of a well-formed message has a value that is not
// allowed. What names the part as in docs/protocol.md.
type InvalidError struct {
	What   string
	Reason string
}

func (e *InvalidError) Error() string { return "bond: " + e.What + ": " + e.Reason }

func invalid(what, format string, args ...any) error {
	return &InvalidError{What: what, Reason: fmt.Sprintf(format, args...)}
}

// VersionError says that a message has a protocol version that this program does
// not speak.
type VersionError struct {
	Have      []uint16 // what the message or the other end has
	Supported []uint16 // what this program speaks
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("bond: protocol version %v is not among the supported %v; upgrade the older program", e.Have, e.Supported)
}

// openError reduces what is wrong with an envelope to what Open may say.
func openError(err error) error {
	var version *VersionError
	if errors.Is(err, ErrTooLarge) || errors.As(err, &version) {
		return err
	}
	return ErrOpen
}
