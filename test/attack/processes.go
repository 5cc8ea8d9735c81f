package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/test/lab"
)

// roleReuse is the process that gets the number of one that ended.
const roleReuse = "reuse"

// tryProcesses lets others than the opener of a session speak in it. All of them
// have the server's uid.
func tryProcesses(t *trial) error {
	a, err := t.attacker()
	if err != nil {
		return err
	}
	m, err := t.machine("proc", "")
	if err != nil {
		return err
	}
	if err := m.start(a); err != nil {
		return err
	}
	for _, how := range []string{doChild, doPassed, doThread, doForged, doSplit} {
		for _, ticket := range []bool{true, false} {
			if err := t.byAnother(a, m, how, ticket); err != nil {
				return err
			}
		}
	}
	if err := t.afterExec(m); err != nil {
		return err
	}
	return t.afterReuse(m)
}

// byAnother opens a session, with a ticket for pause or without one, and has
// another process send the stop that the ticket allows. The opener sends it then.
func (t *trial) byAnother(a *process, m *machine, how string, withTicket bool) error {
	if err := m.ready(a); err != nil {
		return err
	}
	var ticket []byte
	name := how + " in a session without a ticket"
	if withTicket {
		ticket, name = m.ticket("pause"), how+" in a session under a ticket"
	}
	stop := request(qmp.CmdStop, nil)
	out, err := a.run(move{Line: m.open(ticket)}, move{Line: stop, Do: how}, move{Line: stop}, move{Do: doClose})
	if err != nil {
		return err
	}
	if !out[0].ok() {
		t.refused(name, out[0].String())
		return nil
	}
	if !withTicket {
		m.owe(1) // the session's own end is an entry then
	}
	got, after := out[1], out[2]
	switch {
	case how == doForged: // the kernel does not let it
		why := ""
		if !strings.Contains(got.Lost, "operation not permitted") {
			why = "the kernel lets it name another process: " + got.String()
		}
		t.note(name, why, true)
		t.must("the opener on a new connection", after, qmp.ClassDenied, inHost())
	case how == doSplit: // a line of two senders ends the connection
		t.note(name, differs(got, qmp.ClassInvalid), true)
		if after.Lost == "" {
			t.amiss(name, "the connection goes on")
		}
	case how == doThread && withTicket: // the same process
		m.running = false
		t.must(name, got, "", nowhere())
		t.must("once more than the ticket allows", after, qmp.ClassRefused, in(m))
	default:
		t.must(name, got, qmp.ClassDenied, in(m))
		t.must("the opener afterwards", after, qmp.ClassDenied+"|"+qmp.ClassRefused, in(m))
	}
	return nil
}

// afterExec has the opener become another program: the process number stays, the
// pidfd, the start time and the connection too.
func (t *trial) afterExec(m *machine) error {
	other := t.disks() + "/other-program"
	if err := lab.CopyProgram(t.lab.Bin("operator"), other); err != nil {
		return err
	}
	if err := t.give(other); err != nil {
		return err
	}
	arg, err := json.Marshal(impostor{Gate: t.lab.Gate, Open: m.open(m.ticket("status")), Then: request(qmp.CmdQueryStatus, nil), Program: other})
	if err != nil {
		return err
	}
	cmd := t.command(roleExec, string(arg))
	var errs bytes.Buffer
	cmd.Stderr = &errs
	b, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("exec: %w: %s", err, &errs)
	}
	var o outcome
	if err := json.Unmarshal(b, &o); err != nil {
		return err
	}
	t.must("another program in the same process", o, qmp.ClassDenied, in(m))
	return nil
}

// afterReuse waits until the opener has ended and another process has its number.
// An attacker forks until the number comes round again; here root tells the kernel
// where to go on, which takes the wait away and nothing else.
func (t *trial) afterReuse(m *machine) error {
	const name = "a process that got the opener's number"
	for range 20 {
		o, ok, err := t.reused(m)
		if errors.Is(err, os.ErrPermission) || errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%s: process numbers cannot be steered on this machine: %w", name, err)
		}
		if err != nil {
			return err
		}
		if ok {
			t.must(name, o, qmp.ClassDenied, in(m))
			return nil
		}
	}
	return fmt.Errorf("%s: 20 times another program was faster; try again on a quieter machine", name)
}

// reused lets one process open a session and end, and starts another with its
// number that has the connection. ok tells that it got the number.
func (t *trial) reused(m *machine) (o outcome, ok bool, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return o, false, err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	defer ours.Close()
	defer theirs.Close()
	arg, err := json.Marshal(impostor{Gate: t.lab.Gate, Open: m.open(m.ticket("status"))})
	if err != nil {
		return o, false, err
	}
	first := t.command(roleOnce, string(arg))
	first.ExtraFiles = []*os.File{theirs}
	if out, err := first.CombinedOutput(); err != nil {
		return o, false, fmt.Errorf("opener: %w: %s", err, out)
	}
	fd, err := received(pair[0])
	if err != nil {
		return o, false, err
	}
	conn := os.NewFile(uintptr(fd), "gate")
	defer conn.Close()
	second := t.command(roleReuse, string(request(qmp.CmdQueryStatus, nil)))
	second.ExtraFiles = []*os.File{conn}
	speak, err := second.StdinPipe() // it waits for a word, so that only the right one speaks
	if err != nil {
		return o, false, err
	}
	defer speak.Close()
	var out, errs bytes.Buffer
	second.Stdout, second.Stderr = &out, &errs
	if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(fmt.Sprint(first.Process.Pid-1)), 0); err != nil {
		return o, false, err
	}
	if err := second.Start(); err != nil {
		return o, false, err
	}
	if second.Process.Pid != first.Process.Pid {
		_ = second.Process.Signal(syscall.SIGKILL)
		_ = second.Wait()
		return o, false, nil
	}
	if _, err := speak.Write([]byte{'\n'}); err != nil {
		return o, false, err
	}
	if err := second.Wait(); err != nil {
		return o, false, fmt.Errorf("second: %w: %s", err, &errs)
	}
	return o, true, json.Unmarshal(out.Bytes(), &o)
}

// reuseMain speaks in the session on descriptor 3, when it is told to.
func reuseMain(line string) error {
	if _, err := os.Stdin.Read(make([]byte, 1)); err != nil {
		return err
	}
	return converse(3, line)
}
