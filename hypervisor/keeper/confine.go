package keeper

import (
	"errors"
	"fmt"
	"runtime/debug"
	"syscall"

	"golang.org/x/sys/unix"
)

// Confinement says which of the protections that need the kernel's or the build's
// help a keeper has.
type Confinement struct {
	NoNewPrivileges bool   `cbor:"1,keyasint"`
	Landlock        int    `cbor:"2,keyasint"`           // ABI version in force, 0: none
	KeysLocked      bool   `cbor:"3,keyasint"`           // keys are not swapped out
	Problem         string `cbor:"4,keyasint,omitempty"` // why something of it is missing
}

// errThreads: both protections are per thread, and a binary that is linked with C
// has threads that the Go runtime cannot reach.
var errThreads = errors.New("the binary is linked with cgo: build it with CGO_ENABLED=0")

// harden applies what must work on every kernel and needs no descriptors.
func harden() error {
	// Neither a debugger of the same uid nor a core file gets at the keys.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid dumps: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core files: %w", err)
	}
	// What an owner makes a keeper hold is bounded piece by piece, but hundreds of forward
	// channels whose streams nobody reads could still add up to the host's memory.
	// A keeper that comes here ends, and costs its own VM a new one.
	if maxData > 0 {
		if err := unix.Setrlimit(unix.RLIMIT_DATA, &unix.Rlimit{Cur: maxData, Max: maxData}); err != nil {
			return fmt.Errorf("limit memory: %w", err)
		}
		debug.SetMemoryLimit(maxData / 4 * 3)
	}
	unix.Umask(0o077)
	// Most memory is I/O buffers, in pools: collecting earlier costs little.
	debug.SetGCPercent(50)
	return nil
}

// confine gives up every path and privilege, and the network unless it dials TCP; open
// descriptors stay usable.
func confine(c *Confinement, dials bool) {
	if err := allThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		c.Problem = "no_new_privs: " + err.Error()
		return // Landlock needs it
	}
	c.NoNewPrivileges = true
	abi, err := landlock(dials)
	if err != nil {
		c.Problem = "landlock: " + err.Error()
		return
	}
	c.Landlock = abi
}

func allThreads(trap, a1, a2, a3, a4, a5 uintptr) error {
	_, _, errno := syscall.AllThreadsSyscall6(trap, a1, a2, a3, a4, a5, 0)
	switch errno {
	case 0:
		return nil
	case syscall.ENOTSUP:
		return errThreads
	}
	return errno
}
