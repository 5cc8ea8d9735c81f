// Package netns makes network namespaces that hold nothing but a loopback device, and
// starts processes in them. The QEMU and the keepers of one VM share one, so that a
// keeper reaches the ports that QEMU forwards to the guest, and nobody else does.
//
// A namespace is known by an open file; it lives as long as a process is in it or a
// file is open. Only root can make and enter one.
package netns

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// loopback is the name of the device that each namespace has from its beginning, down.
const loopback = "lo"

// own is the namespace of the calling thread.
const own = "/proc/thread-self/ns/net"

// New makes a namespace in which only 127.0.0.1 and ::1 can be reached. The caller
// closes the file.
func New() (*os.File, error) {
	var ns *os.File
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		if err := bringUp(loopback); err != nil {
			return fmt.Errorf("bring up %s in a network namespace: %w", loopback, err)
		}
		f, err := os.Open(own)
		ns = f
		return err
	})
	return ns, err
}

// Of opens the namespace of a process. Whoever cares that the process is still the one
// that was meant looks after this returned.
func Of(pid int) (*os.File, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, fmt.Errorf("network namespace of process %d: %w", pid, err)
	}
	return f, nil
}

// Do calls f on a thread that is in the namespace: processes that f starts are in it,
// sockets that f makes belong to it. f must not leave that to another goroutine.
func Do(ns *os.File, f func() error) error {
	return onThread(func() error {
		if err := enter(ns); err != nil {
			return err
		}
		return f()
	})
}

// enter moves the calling thread into the namespace.
func enter(ns *os.File) error {
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter a network namespace: %w", err)
	}
	return nil
}

// onThread calls f on a thread that no other goroutine uses meanwhile, and then puts the
// thread back into the namespace that it was in. One that cannot be put back ends. None
// ends otherwise: a process that asked for a signal at its parent's end gets it when
// the thread that started it ends, and that could have been this one.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open(own)
		if err != nil {
			done <- err
			return
		}
		defer home.Close()
		err = f()
		if back := enter(home); back == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

func bringUp(device string) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	r, err := unix.NewIfreq(device)
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, r)
}
