package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// roleReach tries to reach into the hypervisor domain past the gate.
const roleReach = "reach"

// reachable is what that role is told, and says of it.
type reachable struct {
	Paths []string `json:"paths,omitempty"`
	PIDs  []int    `json:"pids,omitempty"`
}

// tryReach goes past the gate: to every file, socket and process of the hypervisor
// domain, as the server's uid.
func tryReach(t *trial) error {
	a, err := t.attacker()
	if err != nil {
		return err
	}
	m, err := t.machine("reach", "")
	if err != nil {
		return err
	}
	if err := m.start(a); err != nil {
		return err
	}
	var r reachable
	for _, dir := range []string{filepath.Join(t.lab.Run, "hv"), filepath.Join(t.lab.Dir, "hypervisor")} {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			r.Paths = append(r.Paths, path)
			return err
		})
		if err != nil {
			return err
		}
	}
	r.PIDs = append(append(t.lab.QEMUs(), t.lab.Keepers()...), t.lab.HypervisorPID())
	if len(r.Paths) < 15 || len(r.PIDs) < 5 {
		return fmt.Errorf("%d paths and %d processes only: %v", len(r.Paths), len(r.PIDs), r)
	}
	arg, err := json.Marshal(r)
	if err != nil {
		return err
	}
	out, err := t.command(roleReach, string(arg)).Output()
	if err != nil {
		return fmt.Errorf("reach: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		name, got, _ := strings.Cut(strings.TrimSpace(line), "\t")
		t.refused(name, got)
	}
	if t.result.Attempts < 5*len(r.Paths) {
		return fmt.Errorf("%d attempts only", t.result.Attempts)
	}
	_, err = m.status(a)
	t.accepted("the VM afterwards", orNil(err))
	return nil
}

// reachMain prints one line for each attempt: what it was, a tab, and what it
// got hold of, if anything.
func reachMain(arg string) error {
	var r reachable
	if err := json.Unmarshal([]byte(arg), &r); err != nil {
		return err
	}
	say := func(what, path string, err error) {
		got := ""
		if err == nil {
			got = "it worked"
		}
		fmt.Printf("%s %s\t%s\n", what, path, got)
	}
	for _, path := range r.Paths {
		for name, flags := range map[string]int{"read": unix.O_RDONLY, "write": unix.O_WRONLY, "create beside": -1} {
			fd, err := -1, error(nil)
			if flags < 0 {
				fd, err = unix.Open(path+".evil", unix.O_CREAT|unix.O_WRONLY, 0o600)
			} else {
				fd, err = unix.Open(path, flags|unix.O_NONBLOCK, 0)
			}
			if err == nil {
				unix.Close(fd)
			}
			say(name, path, err)
		}
		c, err := net.Dial("unix", path)
		if err == nil {
			c.Close()
		}
		say("connect to", path, err)
		say("rename", path, os.Rename(path, path+".gone"))
		say("remove", path, os.Remove(path))
		say("chmod", path, os.Chmod(path, 0o777))
	}
	for _, pid := range r.PIDs {
		for _, name := range []string{"mem", "environ", "maps", "fd/0", "root/etc/passwd", "cwd/x"} {
			path := fmt.Sprintf("/proc/%d/%s", pid, name)
			f, err := os.OpenFile(path, os.O_RDONLY, 0)
			if err == nil {
				_, err = f.Read(make([]byte, 1))
				f.Close()
			}
			say("read", path, err)
		}
		path := fmt.Sprintf("process %d", pid)
		say("stop", path, syscall.Kill(pid, syscall.SIGSTOP))
		say("kill", path, syscall.Kill(pid, syscall.SIGKILL))
		say("trace", path, syscall.PtraceAttach(pid))
		_, err := unix.ProcessVMReadv(pid, []unix.Iovec{{Base: new(byte), Len: 1}}, []unix.RemoteIovec{{Base: 0x400000, Len: 1}}, 0)
		say("read the memory of", path, err)
		fd, err := unix.PidfdOpen(pid, 0)
		if err == nil {
			var stolen int
			stolen, err = unix.PidfdGetfd(fd, 3, 0)
			if err == nil {
				unix.Close(stolen)
			}
			say("take a descriptor of", path, err)
			say("signal", path, unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0))
			unix.Close(fd)
		}
	}
	return nil
}
