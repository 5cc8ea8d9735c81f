package gate

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/qmp"
)

// sender is the process that opened a session, as the kernel attests it. It
// takes the place of the CR3 value of the original: the page table of the
// process that registered a sequence.
//
// A process number alone is not an identity: numbers are used again, and a
// process can become another program by exec. So a sender also has a pidfd
// (which says whether that very process is alive), its start time, and the
// device and inode of the program that it runs.
type sender struct {
	pid   int32
	uid   uint32
	start uint64
	exe   string
	pidfd int
}

// identify looks up the sender of one line. The caller closes it.
func identify(c *qmp.Cred) (*sender, error) {
	if !c.Known() {
		return nil, fmt.Errorf("the kernel names no sender; the management domain's process must be visible in the hypervisor's pid namespace")
	}
	fd, err := unix.PidfdOpen(int(c.PID), 0)
	if err != nil {
		return nil, fmt.Errorf("process %d is gone or cannot be watched", c.PID)
	}
	s := &sender{pid: c.PID, uid: c.UID, pidfd: fd}
	if s.start, err = startTime(c.PID); err != nil {
		s.close()
		return nil, err
	}
	s.exe = program(c.PID)
	return s, nil
}

// verify says why the line with credentials c was not sent by s.
func (s *sender) verify(c *qmp.Cred) error {
	switch {
	case c == nil || c.PID != s.pid || c.UID != s.uid:
		return fmt.Errorf("sent by process %s, but the session was opened by process %d", credName(c), s.pid)
	case !s.alive():
		return fmt.Errorf("the process that opened the session has ended; number %d is another process now", s.pid)
	}
	if start, err := startTime(s.pid); err != nil || start != s.start {
		return fmt.Errorf("process %d is not the one that opened the session", s.pid)
	}
	if program(s.pid) != s.exe {
		return fmt.Errorf("process %d runs another program than when it opened the session", s.pid)
	}
	return nil
}

// alive tells whether the process itself, not another one of its number, lives.
func (s *sender) alive() bool {
	p := []unix.PollFd{{Fd: int32(s.pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(p, 0)
		if err != unix.EINTR { // a signal of Go's scheduler says nothing of the process
			return err == nil && n == 0
		}
	}
}

func (s *sender) close() { unix.Close(s.pidfd) }

func (s *sender) String() string { return fmt.Sprintf("uid %d, process %d", s.uid, s.pid) }

func credName(c *qmp.Cred) string {
	if !c.Known() {
		return "unknown to the kernel"
	}
	return fmt.Sprintf("%d (uid %d)", c.PID, c.UID)
}

// startTime reads field 22 of /proc/PID/stat: clock ticks from boot to the
// start of the process. The name in field 2 may hold spaces and brackets.
func startTime(pid int32) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("process %d is gone", pid)
	}
	_, rest, ok := bytes.Cut(b[bytes.LastIndexByte(b, ')')+1:], []byte(" "))
	fields := bytes.Fields(rest)
	if !ok || len(fields) < 20 {
		return 0, fmt.Errorf("the kernel's record of process %d is not understood", pid)
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}

// program names the file that a process executes, by device and inode. It is
// empty where the daemon may not look (not root, another uid); then it is
// empty at every message and the check passes on pid, pidfd and start time.
func program(pid int32) string {
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/exe", pid), &st); err != nil {
		return ""
	}
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}
