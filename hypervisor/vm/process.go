package vm

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// processTime returns the start time of a process, in clock ticks after boot, and
// whether it has not ended yet (a process that waits for its parent has).
// Source: proc(5), fields 3 and 22 of /proc/PID/stat.
func processTime(pid int) (start uint64, running bool, err error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, false, err
	}
	// Field 2 is the program's name in brackets and may itself hold brackets.
	end := bytes.LastIndexByte(text, ')')
	if end < 0 {
		return 0, false, fmt.Errorf("/proc/%d/stat has no program name", pid)
	}
	fields := strings.Fields(string(text[end+1:]))
	if len(fields) < 20 {
		return 0, false, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields)+2)
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return 0, false, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	return start, fields[0] != "Z" && fields[0] != "X", nil
}

// process is a handle that cannot come to mean another process, pidfd_open(2).
type process struct {
	pid   int
	start uint64
	fd    *os.File
}

// openProcess finds the process again; the error is ErrGone when it has ended, even if
// another has its id now.
func openProcess(pid int, start uint64) (*process, error) {
	if pid <= 1 {
		return nil, ErrGone
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil, ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	p, err := newProcess(pid, fd)
	if err != nil {
		return nil, err
	}
	// The handle was opened first: if the time matches now, it is the right process.
	have, running, err := processTime(pid)
	if err != nil || !running || have != start {
		p.close()
		return nil, ErrGone
	}
	p.start = start
	return p, nil
}

// newProcess takes over a pidfd.
func newProcess(pid, fd int) (*process, error) {
	// Non-blocking, so that the runtime's poller waits and not a thread each.
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	return &process{pid: pid, fd: os.NewFile(uintptr(fd), "pidfd")}, nil
}

// wait returns when the process has ended, or with an error when the handle was closed.
func (p *process) wait() error {
	conn, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	return conn.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		return err == nil && n > 0
	})
}

// kill sends SIGKILL; a process that has ended is no error.
func (p *process) kill() error {
	conn, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	if err := conn.Control(func(fd uintptr) {
		sent = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0)
	}); err != nil {
		return err
	}
	if sent != nil && !errors.Is(sent, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", p.pid, sent)
	}
	return nil
}

func (p *process) close() { p.fd.Close() }

// tail keeps the last bytes written to it.
type tail struct {
	mu   sync.Mutex
	max  int
	data []byte
}

// Write never fails and keeps no more than twice the bound.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, b...)
	if len(t.data) > t.max {
		t.data = append(t.data[:0], t.data[len(t.data)-t.max:]...)
	}
	return len(b), nil
}

// String returns the text without control characters that a terminal would obey.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(string(t.data), "?")))
}
