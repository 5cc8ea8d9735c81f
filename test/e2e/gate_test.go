package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/tenant/store"
	"github.com/uvbond/uvbond/test/lab"
)

// speech is what speakMain says to the gate: a session on a VM and hypercalls
// in it. With Stay the session stays open until standard input ends.
type speech struct {
	Gate, VM string
	Ticket   []byte
	Commands []string
	Stay     bool
}

// heard is what the gate answered: to uvbond-open, then to each command.
type heard struct {
	Class, Reason string // of the first refusal
	Receipt       []byte
	Command       string // that was refused
}

func speakMain(conf string) int {
	var s speech
	if err := json.Unmarshal([]byte(conf), &s); err != nil {
		return 2
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := qmp.Dial(ctx, s.Gate)
	if err != nil {
		_ = json.NewEncoder(os.Stdout).Encode(heard{Class: "connection", Reason: err.Error()})
		return 0
	}
	defer c.Close()
	var h heard
	say := func(command string, args any) bool {
		err := c.Execute(ctx, command, args, nil)
		var q *qmp.Error
		switch {
		case err == nil:
			return true
		case errors.As(err, &q):
			h = heard{Class: q.Class, Reason: q.Desc, Receipt: q.Receipt, Command: command}
		default:
			h = heard{Class: "connection", Reason: err.Error(), Command: command}
		}
		return false
	}
	ok := say(qmp.CmdOpen, qmp.OpenArgs{VM: s.VM, Ticket: s.Ticket})
	for _, command := range s.Commands {
		ok = ok && say(command, nil)
	}
	_ = json.NewEncoder(os.Stdout).Encode(h)
	if s.Stay {
		_, _ = io.Copy(io.Discard, os.Stdin)
	}
	return 0
}

// reachMain tries to get at things of the hypervisor's: it connects to sockets
// and reads files and folders, and prints the paths where it could.
func reachMain(list string) int {
	for _, path := range strings.Split(list, "\n") {
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
			c.Close()
			fmt.Println("connected to", path)
		}
		if f, err := os.Open(path); err == nil {
			f.Close()
			fmt.Println("opened", path)
		}
	}
	return 0
}

// asUID prepares a mode of the test binary to run under a domain's uid.
func (w *world) asUID(uid int, mode, arg string) *exec.Cmd {
	cmd := exec.CommandContext(w.Context(), w.lab.Bin("operator"), mode, arg)
	cmd.Dir, cmd.Env, cmd.Stderr = "/", []string{"PATH=/usr/bin:/bin"}, os.Stderr
	if w.lab.Separated {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	}
	return cmd
}

// speak talks to the gate as the management server's uid could.
func (w *world) speak(s speech) (h heard) {
	w.Helper()
	s.Gate = w.lab.Gate
	conf, err := json.Marshal(s)
	if err != nil {
		w.Fatal(err)
	}
	out, err := w.asUID(lab.ServerUID, "speak", string(conf)).Output()
	if err == nil {
		err = json.Unmarshal(out, &h)
	}
	if err != nil {
		w.Fatalf("speaking to the gate: %v: %s", err, out)
	}
	return h
}

// stay opens a session and leaves it open; the test's end or hangUp ends it.
func (w *world) stay(s speech) (hangUp func()) {
	w.Helper()
	s.Gate, s.Stay = w.lab.Gate, true
	conf, err := json.Marshal(s)
	if err != nil {
		w.Fatal(err)
	}
	cmd := w.asUID(lab.ServerUID, "speak", string(conf))
	in, err := cmd.StdinPipe()
	if err != nil {
		w.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		w.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		w.Fatal(err)
	}
	hung := false
	hangUp = func() {
		if !hung {
			hung = true
			in.Close()
			_ = cmd.Wait()
		}
	}
	w.Cleanup(hangUp)
	var h heard
	if err := json.NewDecoder(out).Decode(&h); err != nil || h.Class != "" {
		w.Fatalf("the session was not opened: %v %+v", err, h)
	}
	return hangUp
}

// store opens a copy of the tenant's state folder: the store refuses the folder
// of another user.
func (u *user) store() *store.Store {
	u.Helper()
	dir := filepath.Join(u.TempDir(), "uvbond")
	if out, err := exec.Command("cp", "-r", u.path(".uvbond"), dir).CombinedOutput(); err != nil {
		u.Fatalf("cp: %v: %s", err, out)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		u.Fatal(err)
	}
	s, err := store.Open(dir)
	if err != nil {
		u.Fatal(err)
	}
	return s
}

// bond loads a VM's record and bond from its owner's state folder.
func (u *user) bond(name string) (*store.VM, *bond.Bond) {
	u.Helper()
	s := u.store()
	vm, err := s.VM(name)
	if err != nil {
		u.Fatal(err)
	}
	b, err := s.Bond(vm)
	if err != nil {
		u.Fatal(err)
	}
	return vm, b
}

// ticket seals a ticket as the owner's client would, with a descriptor of the
// test's choice.
func (u *user) ticket(name, command string, descriptor []byte) []byte {
	u.Helper()
	_, b := u.bond(name)
	defer b.Wipe()
	text, err := automata.Native(command)
	if err != nil {
		u.Fatal(err)
	}
	now := time.Now().Unix()
	sealed, err := bond.Seal(b, &bond.Ticket{
		Nonce: bond.NewNonce(), Command: command, Automaton: text,
		NotBefore: now - 60, NotAfter: now + 300, Descriptor: descriptor,
	})
	if err != nil {
		u.Fatal(err)
	}
	return sealed
}

// opened is the receipt that a sealed answer holds.
func (u *user) opened(name string, sealed []byte) *bond.Receipt {
	u.Helper()
	_, b := u.bond(name)
	defer b.Wipe()
	r := new(bond.Receipt)
	if err := bond.Open(b, sealed, r); err != nil {
		u.Fatalf("receipt: %v", err)
	}
	return r
}
