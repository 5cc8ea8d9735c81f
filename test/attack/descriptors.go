package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/qmp"
)

// tryDescriptors starts VMs with descriptors of the wrong kind, mode, number and
// file, and sends descriptors where none belong. The daemon must keep none.
func tryDescriptors(t *trial) error {
	a, err := t.attacker()
	if err != nil {
		return err
	}
	m, err := t.machine("disk", "")
	if err != nil {
		return err
	}
	other, err := t.machine("other", "")
	if err != nil {
		return err
	}
	before, err := t.daemonFiles(a)
	if err != nil {
		return err
	}
	wrong, err := t.wrongFiles(m, other)
	if err != nil {
		return err
	}
	for _, f := range wrong {
		if err := t.launchWith(a, m, f.name, []file{f.file}, []qmp.DiskFile{{Name: m.name}}, qmp.ClassInvalid); err != nil {
			return err
		}
	}
	if err := t.wrongNumbers(a, m); err != nil {
		return err
	}
	if err := t.strayFiles(a, m); err != nil {
		return err
	}
	after, err := t.daemonFiles(a)
	if err != nil {
		return err
	}
	why := ""
	if after > before {
		why = fmt.Sprintf("it has %d open files, it had %d", after, before)
	}
	t.accepted("the daemon keeps no descriptor", why)
	// After all that the right one is still right.
	err = m.start(a)
	t.accepted("the right disk", orNil(err))
	return nil
}

func orNil(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// daemonFiles counts the daemon's open files once it is at rest.
func (t *trial) daemonFiles(a *process) (int, error) {
	if err := a.ended(4); err != nil {
		return 0, err
	}
	least := 1 << 30
	for range 30 {
		n, err := openFiles(t.lab.HypervisorPID())
		if err != nil {
			return 0, err
		}
		least = min(least, n)
		time.Sleep(10 * time.Millisecond)
	}
	return least, nil
}

type namedFile struct {
	name string
	file file
}

func (t *trial) wrongFiles(m, other *machine) ([]namedFile, error) {
	short := filepath.Join(t.disks(), "short.luks")
	long := filepath.Join(t.disks(), "zeros")
	fifo := filepath.Join(t.disks(), "fifo")
	for path, size := range map[string]int64{short: 16 << 20, long: 64 << 20} {
		b, err := os.ReadFile(m.disk)
		if err != nil {
			return nil, err
		}
		if path == long {
			b = nil
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			return nil, err
		}
		if err := os.Truncate(path, size); err != nil {
			return nil, err
		}
		if err := t.give(path); err != nil {
			return nil, err
		}
	}
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		return nil, err
	}
	if err := t.give(fifo); err != nil {
		return nil, err
	}
	out := []namedFile{
		{"another VM's disk", file{other.disk, readWrite}}, {"a disk cut short", file{short, readWrite}}, {"zeros", file{long, readWrite}},
		{"the disk, to read only", file{m.disk, unix.O_RDONLY}}, {"the disk, to write only", file{m.disk, unix.O_WRONLY}},
		{"the disk, to append", file{m.disk, readWrite | unix.O_APPEND}}, {"the disk's place only", file{m.disk, unix.O_PATH}},
		{"a folder", file{t.disks(), unix.O_RDONLY | unix.O_DIRECTORY}}, {"a fifo", file{fifo, readWrite | unix.O_NONBLOCK}},
		{"nothing at all", file{"/dev/null", readWrite}}, {"zeros without end", file{"/dev/zero", readWrite}}, {"noise", file{"/dev/urandom", unix.O_RDONLY}},
		{"a file of the kernel", file{"/proc/self/environ", unix.O_RDONLY}},
	}
	for _, k := range []string{ofPipe, ofSocket, ofMemory, ofEvent, ofEpoll, ofPidfd, ofTimer, ofProcess} {
		out = append(out, namedFile{k, file{k, 0}})
	}
	return out, nil
}

// launchWith starts a VM from descriptors; nothing may run afterwards unless
// class is "".
func (t *trial) launchWith(a *process, m *machine, name string, files []file, disks []qmp.DiskFile, class string) error {
	out, err := a.run(move{Line: m.open(m.ticket("start"))},
		move{Line: request(qmp.CmdLaunch, qmp.LaunchArgs{Disks: disks}), Files: files},
		move{Line: request(qmp.CmdClose, nil)}, move{Do: doClose})
	if err != nil {
		return err
	}
	why := differs(out[1], class)
	if class == qmp.ClassRefused && why == "" {
		m.owe(1)
	}
	if r, err := m.receipt(out[2].Return); why == "" && (err != nil || r.Verdict == bond.VerdictDone) {
		why = fmt.Sprintf("its receipt: %+v, %v", r, err)
	}
	state, err := m.seen(a)
	if err != nil {
		return err
	}
	if state != qmp.StateStopped && why == "" {
		why = "the VM is " + state
	}
	t.refused("start from "+name, why)
	return nil
}

func (t *trial) wrongNumbers(a *process, m *machine) error {
	right := file{m.disk, readWrite}
	many := func(n int) (out []file) {
		for range n {
			out = append(out, right)
		}
		return out
	}
	for _, c := range []struct {
		name  string
		files []file
		disks []qmp.DiskFile
		class string
	}{
		{"no descriptor", nil, []qmp.DiskFile{{Name: m.name}}, qmp.ClassInvalid},
		{"no disk", nil, []qmp.DiskFile{}, qmp.ClassInvalid},
		{"a descriptor that is not named", many(2), []qmp.DiskFile{{Name: m.name}}, qmp.ClassInvalid},
		{"an index behind the last", many(1), []qmp.DiskFile{{Name: m.name, FDIndex: 1}}, qmp.ClassInvalid},
		{"an index before the first", many(1), []qmp.DiskFile{{Name: m.name, FDIndex: -1}}, qmp.ClassRefused},
		{"one descriptor twice", many(1), []qmp.DiskFile{{Name: m.name}, {Name: "data"}}, qmp.ClassInvalid},
		{"one name twice", many(2), []qmp.DiskFile{{Name: m.name}, {Name: m.name, FDIndex: 1}}, qmp.ClassInvalid},
		{"a disk that is not registered", many(2), []qmp.DiskFile{{Name: m.name}, {Name: "data", FDIndex: 1}}, qmp.ClassInvalid},
		{"16 descriptors", many(16), []qmp.DiskFile{{Name: m.name}}, qmp.ClassInvalid},
		{"17 descriptors", many(17), []qmp.DiskFile{{Name: m.name}}, qmp.ClassInvalid},
		{"200 descriptors", many(200), []qmp.DiskFile{{Name: m.name}}, qmp.ClassInvalid},
	} {
		if err := t.launchWith(a, m, c.name, c.files, c.disks, c.class); err != nil {
			return err
		}
	}
	return nil
}

// strayFiles sends descriptors with hypercalls that take none.
func (t *trial) strayFiles(a *process, m *machine) error {
	var files []file
	for range 16 {
		files = append(files, file{ofEvent, 0})
	}
	for range 20 {
		out, err := a.run(move{Line: request(qmp.CmdQueryHost, nil), Files: files}, move{Raw: []byte("nonsense\n"), Files: files})
		if err != nil {
			return err
		}
		t.must("16 descriptors with a question", out[0], "", nowhere())
		t.must("16 descriptors with no request", out[1], qmp.ClassInvalid, nowhere())
	}
	o, err := a.one(request(qmp.CmdQueryHost, nil), append(files, file{ofEvent, 0})...)
	if err != nil {
		return err
	}
	t.must("17 descriptors with a question", o, qmp.ClassInvalid, nowhere())
	attach := request(qmp.CmdAttach, qmp.AttachArgs{VM: m.id(), Disks: []qmp.DiskFile{{Name: m.name}}})
	o, err = a.one(attach, file{m.disk, readWrite})
	if err != nil {
		return err
	}
	t.must("disks for a VM that does not run", o, qmp.ClassNotRunning, in(m))
	return nil
}
