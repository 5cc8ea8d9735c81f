package toolstack

import (
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/uvbond/uvbond/qmp"
)

// settleLooks is how often a change of run state is looked at before it is
// reported as it stands.
const settleLooks = 20

// sequences are the hypercalls of each management command, between uvbond-open
// and uvbond-close. The automata in automata/native accept exactly these.
var sequences = map[string]func(*session) error{
	"build":    build,
	"start":    start,
	"status":   func(s *session) error { _, err := s.status(); return err },
	"pause":    func(s *session) error { return change(s, qmp.CmdStop, false) },
	"resume":   func(s *session) error { return change(s, qmp.CmdCont, true) },
	"reset":    reset,
	"shutdown": shutdown,
	"poweroff": func(s *session) error { return change(s, qmp.CmdQuit, false) },
	"log":      func(s *session) error { return read(s, qmp.CmdReadConsole, qmp.ReadConsoleArgs{Offset: s.cmd.From}) },
	"audit":    func(s *session) error { return read(s, qmp.CmdReadAudit, qmp.ReadAuditArgs{From: s.cmd.From}) },
	"allow":    func(s *session) error { return s.call(callTimeout, qmp.CmdSetPolicy, nil, nil) },
	"grow":     grow,
	"undelegate": func(s *session) error {
		return s.call(callTimeout, qmp.CmdRevoke, qmp.RevokeArgs{Delegation: s.cmd.Delegation, IssuedUntil: s.cmd.IssuedUntil}, nil)
	},
	"delete": func(s *session) error { return s.call(callTimeout, qmp.CmdDelete, nil, nil) },
}

// operator are the commands that an owner's policy may allow without a ticket.
var operator = []string{"pause", "poweroff", "reset", "resume", "shutdown", "status"}

// Commands lists the management commands.
func Commands() []string {
	names := make([]string, 0, len(sequences))
	for name := range sequences {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// OperatorCommands lists the commands that can work without a ticket.
func OperatorCommands() []string { return slices.Clone(operator) }

// change sends one command that moves the run state and looks until it moved.
func change(s *session, command string, running bool) error {
	if err := s.call(callTimeout, command, nil, nil); err != nil {
		return err
	}
	return settle(s, running)
}

func settle(s *session, running bool) error {
	for range settleLooks {
		st, err := s.status()
		if err != nil || st.Running == running || !s.pause(100*time.Millisecond) {
			return err
		}
	}
	return nil
}

func reset(s *session) error {
	if err := s.call(callTimeout, qmp.CmdSystemReset, nil, nil); err != nil {
		return err
	}
	_, err := s.status()
	return err
}

// shutdown asks the guest to power off and looks until it did, the session's
// deadline is near, or nobody waits any more.
func shutdown(s *session) error {
	if err := s.call(callTimeout, qmp.CmdSystemPowerdown, nil, nil); err != nil {
		return err
	}
	began := time.Now()
	for {
		st, err := s.status()
		if err != nil || st.Status == qmp.StateShutdown {
			return err
		}
		if !s.pause(s.g.Poll) {
			return &failure{fmt.Sprintf("the guest was asked to power off and is still %s after %d s", st.Status, int(time.Since(began).Seconds()))}
		}
	}
}

// start creates the VM from its sealed specification and lets it run. After a
// failure behind the launch nothing half-made stays: the abort steps end it.
func start(s *session) error {
	args := qmp.LaunchArgs{Disks: []qmp.DiskFile{}, Exports: s.cmd.Exports, Expect: s.cmd.Expect}
	var files []*os.File
	for _, d := range s.cmd.Disks {
		args.Disks = append(args.Disks, qmp.DiskFile{Name: d.Name, FDIndex: len(files)})
		files = append(files, d.File)
	}
	for _, f := range s.cmd.Taps {
		args.Taps = append(args.Taps, len(files))
		files = append(files, f)
	}
	if err := s.call(launchTimeout, qmp.CmdLaunch, args, nil, files...); err != nil {
		return err
	}
	if err := s.call(callTimeout, qmp.CmdCont, nil, nil); err != nil {
		if qerr := s.call(callTimeout, qmp.CmdQuit, nil, nil); qerr != nil {
			s.g.Log.Warn("a VM that did not start could not be ended", "vm", s.cmd.VM, "error", qerr)
		}
		return err
	}
	return settle(s, true)
}

// grow tells the hypervisor that a disk's ciphertext has grown; its file has, or
// the export, which the hypervisor looks at itself.
func grow(s *session) error {
	if len(s.cmd.Disks)+len(s.cmd.Exports) != 1 {
		return &failure{"one disk can grow at a time"}
	}
	if len(s.cmd.Exports) == 1 {
		return s.call(callTimeout, qmp.CmdGrow, qmp.GrowArgs{Disk: s.cmd.Exports[0].Name, Size: s.cmd.Size}, nil)
	}
	d := s.cmd.Disks[0]
	return s.call(callTimeout, qmp.CmdGrow, qmp.GrowArgs{Disk: d.Name, Size: s.cmd.Size}, nil, d.File)
}

func read(s *session, command string, args any) error {
	var r qmp.ChunkResult
	if err := s.call(callTimeout, command, args, &r); err != nil {
		return err
	}
	s.result.Chunks = [][]byte{r.Chunk}
	return nil
}
