package tenant

import (
	"encoding/hex"
	"fmt"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant/fail"
)

// Run states that a receipt names. QEMU has more; they are shown as they come.
const (
	stateStopped  = "stopped"
	stateShutdown = "shutdown"
	stateCrashed  = "crashed"
	stateRunning  = "running"
	// stateSuspended is a guest that sleeps (ACPI S3).
	stateSuspended = "suspended"
)

// Ended tells a state without a running instance.
func Ended(state string) bool {
	return state == stateStopped || state == stateShutdown || state == stateCrashed
}

// reached tells whether a command whose receipt says "done" led to what it is
// for. The receipt vouches for the hypercalls; a guest may still ignore the power
// button, and another session may have moved the VM on. Nil means reached.
func reached(name string, r *bond.Receipt) error {
	ended := Ended(r.State)
	text, hint := "", "what was done: uvbond receipt show "+name+" "+hex.EncodeToString(r.Nonce[:4])
	switch r.Command {
	case Shutdown:
		if ended {
			return nil
		}
		text = fmt.Sprintf("the guest of %q has not reacted to the power button; its state is %s", name, r.State)
		hint = "wait and look again: uvbond vm status " + name + "; or end it at once: uvbond vm poweroff " + name
	case Poweroff:
		if ended {
			return nil
		}
	case Pause:
		if r.State != stateRunning {
			return nil
		}
	case Resume:
		if r.State == stateRunning {
			return nil
		}
	default:
		return nil
	}
	if text == "" {
		text = fmt.Sprintf("%s of %q was executed, but its state is %s", r.Command, name, r.State)
	}
	return &fail.Error{Code: fail.Refused, Text: text, Hint: hint}
}
