package machine

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/hypervisor/vm"
)

// orphanWait is how long the end of a killed orphan is waited for, in milliseconds.
const orphanWait = 5000

// killOrphans ends processes that an earlier daemon started and could not record
// because it was killed between the two: nothing else would ever end them, and a
// keeper holds volume keys. They are told by the sockets that they inherited,
// which lie in this daemon's run folder. It runs after every instance on record
// was found again, and before the gate opens.
func (m *Manager) killOrphans() {
	known := map[int]bool{os.Getpid(): true}
	live := map[string]bool{}
	for _, mc := range m.list() {
		inst := mc.live()
		if inst == nil {
			continue
		}
		live[mc.id.String()] = true
		known[inst.qemu.PID()] = true
		if k := inst.currentKeeper(); k != nil {
			known[k.PID()] = true
		}
	}
	sockets, err := m.ownSockets()
	if err != nil {
		m.log.Error("processes of an earlier daemon cannot be looked for", "err", err)
		return
	}
	if len(sockets) > 0 {
		for _, pid := range processes() {
			if !known[pid] && holds(pid, sockets) {
				m.killOrphan(pid, sockets)
			}
		}
	}
	m.removeLeftovers(live)
}

// ownSockets are the inodes of the sockets bound below the run folder.
func (m *Manager) ownSockets() (map[string]bool, error) {
	b, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return nil, err
	}
	inodes := map[string]bool{}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		// Num RefCount Protocol Flags Type St Inode Path
		line := s.Text()
		cols, path := strings.Fields(line), strings.IndexByte(line, '/')
		if len(cols) < 8 || path < 0 {
			continue
		}
		below, ok := strings.CutPrefix(line[path:], m.cfg.RunDir+"/")
		if ok && (strings.HasPrefix(below, "vm/") || strings.HasPrefix(below, "keeper/")) {
			inodes["socket:["+cols[6]+"]"] = true
		}
	}
	return inodes, nil
}

func processes() []int {
	names, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range names {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// holds tells whether a process has one of the sockets open.
func holds(pid int, sockets map[string]bool) bool {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, err := os.ReadDir(dir)
	if err != nil {
		return false // gone, or not ours to look at
	}
	for _, fd := range fds {
		if target, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil && sockets[target] {
			return true
		}
	}
	return false
}

func (m *Manager) killOrphan(pid int, sockets map[string]bool) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // it has ended
	}
	defer unix.Close(fd)
	if !holds(pid, sockets) {
		return // the number is another process's by now
	}
	m.log.Warn("ending a process that an earlier daemon started and did not record", "pid", pid)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		m.log.Error("process was not ended", "pid", pid, "err", err)
		return
	}
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(p, orphanWait); err != nil || n == 0 {
		m.log.Error("process does not end after SIGKILL", "pid", pid)
	}
}

// removeLeftovers removes run folders of VMs that do not run, and the console
// output of bonds that do not exist any more.
func (m *Manager) removeLeftovers(live map[string]bool) {
	for _, id := range entries(m.cfg.VM.RunDir) {
		if !live[id] && vm.Cleanup(m.cfg.VM, id) != nil {
			m.log.Warn("run folder was not removed", "vm", id)
		}
	}
	for _, id := range entries(m.keeperDir("")) {
		if !live[id] {
			_ = os.RemoveAll(m.keeperDir(id))
		}
	}
	bonds := map[string]bool{}
	for _, mc := range m.list() {
		bonds[mc.id.String()] = true
	}
	for _, id := range entries(m.consoleDir()) {
		if !bonds[id] {
			_ = os.Remove(filepath.Join(m.consoleDir(), id))
		}
	}
}

func entries(dir string) []string {
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}
