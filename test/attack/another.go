package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Other processes than the one that opened a session. The answer of the gate
// goes to the connection, so the attacker reads it whoever sent the request.

// Roles of the attacker's helpers.
const (
	roleChild   = "child"   // sends its argument on descriptor 3, which it inherited
	rolePassed  = "passed"  // gets the connection over descriptor 3, then does the same
	roleExec    = "exec"    // opens a session, becomes another program, goes on in it
	roleExecded = "execded" // that other program
	roleOnce    = "once"    // opens a session, passes the connection on, ends
)

// self is the program that runs, also when it has been replaced on the disk.
const self = "/proc/self/exe"

func (w *wire) byAnother(m move) outcome {
	switch m.Do {
	case doThread:
		// A thread is the same process: this must be accepted.
		done := make(chan outcome, 1)
		go func() {
			runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
			done <- w.send(m.bytes(), nil, nil)
		}()
		if o := <-done; o.Lost != "" {
			return o
		}
		return w.read()
	case doForged:
		cred := unix.UnixCredentials(&unix.Ucred{Pid: int32(os.Getppid()), Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid())})
		return w.send(m.bytes(), nil, cred)
	}
	conn, err := w.c.File()
	if err != nil {
		return lost(err)
	}
	defer conn.Close()
	line := m.bytes()
	if m.Do == doSplit {
		if o := w.send(line[:len(line)/2], nil, nil); o.Lost != "" {
			return o
		}
		time.Sleep(20 * time.Millisecond) // the gate has the first half
		line = line[len(line)/2:]
	}
	if m.Do == doPassed {
		err = passOn(conn, line)
	} else {
		err = helper(roleChild, string(line), conn)
	}
	if err != nil {
		return lost(err)
	}
	return w.read()
}

// helper runs this program in another role and waits for it.
func helper(role, arg string, fd *os.File) error {
	cmd := exec.Command(self, role, arg)
	cmd.ExtraFiles = []*os.File{fd}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", role, err, out)
	}
	return nil
}

// passOn starts a process that has nothing and hands it the connection.
func passOn(conn *os.File, line []byte) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	defer ours.Close()
	defer theirs.Close()
	if err := unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(int(conn.Fd())), nil, 0); err != nil {
		return err
	}
	return helper(rolePassed, string(line), theirs)
}

func childMain(line string) error {
	_, err := unix.Write(3, []byte(line))
	return err
}

func passedMain(line string) error {
	fd, err := received(3)
	if err != nil {
		return err
	}
	_, err = unix.Write(fd, []byte(line))
	return err
}

// received takes one descriptor from a socket.
func received(socket int) (int, error) {
	buf, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, buf, oob, 0)
	if err != nil {
		return 0, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return 0, fmt.Errorf("%d control messages: %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return 0, fmt.Errorf("%d descriptors: %w", len(fds), err)
	}
	return fds[0], nil
}

// impostor is what the roles exec, execded and once are told.
type impostor struct {
	Gate    string          `json:"gate"`
	Open    json.RawMessage `json:"open"`    // uvbond-open, sent first
	Then    json.RawMessage `json:"then"`    // sent as somebody else
	Program string          `json:"program"` // to become
}

// execMain opens a session and becomes another program that inherits it: the
// process number stays, the program does not.
func execMain(arg string) error {
	var i impostor
	if err := json.Unmarshal([]byte(arg), &i); err != nil {
		return err
	}
	a := &attacker{gate: i.Gate, wires: map[int]*wire{}}
	if o := a.do(move{Line: i.Open}); !o.ok() {
		return errors.New(o.String())
	}
	f, err := a.wires[0].c.File()
	if err != nil {
		return err
	}
	fd, err := unix.Dup(int(f.Fd())) // without FD_CLOEXEC
	if err != nil {
		return err
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		return err
	}
	return unix.Exec(i.Program, []string{i.Program, roleExecded, string(i.Then), strconv.Itoa(fd)}, os.Environ())
}

func execdedMain(line, descriptor string) error {
	fd, err := strconv.Atoi(descriptor)
	if err != nil {
		return err
	}
	return converse(fd, line)
}

// converse sends one line on a connection and prints what came back.
func converse(fd int, line string) error {
	if _, err := unix.Write(fd, append([]byte(line), '\n')); err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "gate")
	c, err := net.FileConn(f)
	if err != nil {
		return err
	}
	w := &wire{c: c.(*net.UnixConn), r: bufio.NewReader(c)}
	return json.NewEncoder(os.Stdout).Encode(w.read())
}

// onceMain opens a session, prints its process number, passes the connection to
// its parent over descriptor 3, and ends.
func onceMain(arg string) error {
	var i impostor
	if err := json.Unmarshal([]byte(arg), &i); err != nil {
		return err
	}
	a := &attacker{gate: i.Gate, wires: map[int]*wire{}}
	if o := a.do(move{Line: i.Open}); !o.ok() {
		return errors.New(o.String())
	}
	f, err := a.wires[0].c.File()
	if err != nil {
		return err
	}
	return unix.Sendmsg(3, []byte{0}, unix.UnixRights(int(f.Fd())), nil, 0)
}
