package lab

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// ServerPID is the management server's process number.
func (l *Lab) ServerPID() int { return l.server.cmd.Process.Pid }

// QEMUs are the process numbers of the lab's QEMUs.
func (l *Lab) QEMUs() []int {
	return l.pick(func(name string, _ []byte) bool { return strings.Contains(name, "qemu") })
}

// Keepers are the process numbers of the lab's keepers.
func (l *Lab) Keepers() []int {
	return l.pick(func(_ string, cmdline []byte) bool { return bytes.Contains(cmdline, []byte("\x00keeper\x00")) })
}

func (l *Lab) pick(match func(name string, cmdline []byte) bool) []int {
	var pids []int
	for pid, name := range l.vmProcesses() {
		cmdline, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(pid), "cmdline"))
		if err == nil && match(name, cmdline) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// StopHypervisor ends the daemon with a signal and waits for it; VMs run on.
// It returns the daemon's exit code, -1 when a signal killed it.
func (l *Lab) StopHypervisor(sig syscall.Signal) int {
	l.hypervisor.end(sig)
	return l.hypervisor.cmd.ProcessState.ExitCode()
}

// ServerExit is the exit code of the server that was stopped last.
func (l *Lab) ServerExit() int { return l.server.cmd.ProcessState.ExitCode() }
