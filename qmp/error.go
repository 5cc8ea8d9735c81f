package qmp

import (
	"errors"
	"fmt"
)

// Classes of Error. The first three are QEMU's; QEMU reports nearly
// everything as ClassGeneric.
const (
	ClassGeneric         = "GenericError"
	ClassCommandNotFound = "CommandNotFound"
	ClassDeviceNotFound  = "DeviceNotFound"

	// The gate's own.
	ClassDenied      = "Denied"      // neither a ticket nor the owner's policy allows it
	ClassRefused     = "Refused"     // the session's automaton does not accept it
	ClassRedirected  = "Redirected"  // the ticket does not open under the bond of the VM named
	ClassExpired     = "Expired"     // outside the ticket's validity, or the session's deadline passed
	ClassReplayed    = "Replayed"    // nonce or VM identity used before
	ClassStale       = "Stale"       // descriptor of another instance
	ClassRevoked     = "Revoked"     // the owner took the delegation back
	ClassBusy        = "Busy"        // another session changes this VM
	ClassNotRunning  = "NotRunning"  // the VM has no instance
	ClassRunning     = "Running"     // the VM has an instance already
	ClassNotBuilt    = "NotBuilt"    // a disk was not made from its base image yet
	ClassInvalid     = "Invalid"     // malformed, or not what the registration says
	ClassDowngrade   = "Downgrade"   // version negotiation was tampered with
	ClassUnavailable = "Unavailable" // the host lacks something just now
	ClassInternal    = "Internal"    // a fault of the hypervisor
)

// Error is a QMP error. Receipt, on the gate only, is a sealed refusal for the
// owner. Desc is shown to people and holds no secret.
type Error struct {
	Class   string `json:"class"`
	Desc    string `json:"desc"`
	Receipt []byte `json:"receipt,omitempty"`
}

// Errorf builds an Error of a class.
func Errorf(class, format string, args ...any) *Error {
	return &Error{Class: class, Desc: fmt.Sprintf(format, args...)}
}

func (e *Error) Error() string {
	if e.Class == "" || e.Class == ClassGeneric {
		return e.Desc
	}
	return e.Class + ": " + e.Desc
}

// ClassOf returns the class of the Error that err wraps, or "" when there is none.
func ClassOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Class
	}
	return ""
}
