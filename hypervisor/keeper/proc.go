package keeper

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// startTime returns when a process started, in clock ticks since boot: field 22
// of /proc/PID/stat (proc(5)).  With the pid it names one process for ever.
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name, field 2, may hold anything, also brackets and spaces.
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 20 {
		return 0, errors.New("/proc/PID/stat has too few fields")
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}

// openProcess returns a descriptor of the process that has this pid and start
// time, or ErrGone.
func openProcess(pid int, start uint64) (*os.File, error) {
	if pid <= 1 {
		return nil, fmt.Errorf("process id %d", pid)
	}
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		if errors.Is(err, unix.ESRCH) {
			return nil, ErrGone
		}
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	// Read after opening: if it is right now, the descriptor is of this process.
	if got, err := startTime(pid); err != nil || got != start {
		f.Close()
		return nil, ErrGone
	}
	return f, nil
}

// waitProcess returns when the process of f has ended.
func waitProcess(f *os.File) {
	raw, err := f.SyscallConn()
	if err == nil {
		err = raw.Read(func(fd uintptr) bool {
			p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, err := unix.Poll(p, 0)
			return err == nil && n > 0
		})
	}
	for err != nil && alive(f) { // the runtime's poller does not take it
		time.Sleep(200 * time.Millisecond)
	}
}

func alive(f *os.File) bool { return signalProcess(f, 0) == nil }

func signalProcess(f *os.File, s unix.Signal) error {
	fd, err := descriptor(f)
	if err != nil {
		return err
	}
	return unix.PidfdSendSignal(fd, s, nil, 0)
}
