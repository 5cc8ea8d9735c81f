package keeper

import (
	"errors"
	"fmt"
	"runtime/debug"
	"syscall"
	"unsafe"

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
	unix.Umask(0o077)
	// Most memory is I/O buffers, in pools: collecting earlier costs little.
	debug.SetGCPercent(50)
	return nil
}

// confine gives up every path, network and privilege; open descriptors stay usable.
func confine(c *Confinement) {
	if err := allThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		c.Problem = "no_new_privs: " + err.Error()
		return // Landlock needs it
	}
	c.NoNewPrivileges = true
	abi, err := landlock()
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

// landlock handles every right that the kernel's ABI version knows and allows none
// of them anywhere (landlock(7)).
func landlock() (abi int, err error) {
	v, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0, errno
	}
	abi = int(v)
	attr := landlockRights(abi)
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return 0, errno
	}
	defer unix.Close(int(fd))
	return abi, allThreads(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0, 0, 0)
}

func landlockRights(abi int) unix.LandlockRulesetAttr {
	a := unix.LandlockRulesetAttr{Handled_access_fs: 1<<13 - 1} // ABI 1
	if abi >= 2 {
		a.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if abi >= 3 {
		a.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if abi >= 4 {
		a.Handled_access_net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
	}
	if abi >= 5 {
		a.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	if abi >= 6 {
		a.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
	}
	return a
}
