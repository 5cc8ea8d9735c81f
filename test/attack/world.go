package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/test/lab"
)

// world is the three domains with honest tenants: all of a run's attempts
// happen in one, but for those that need a daemon of another kind.
type world struct {
	ctx  context.Context
	lab  *lab.Lab
	host *bond.HostPublic
	seed int64

	bystander *machine // of another tenant; nobody may disturb it
	attackers []*process
	skew      atomic.Int64 // seconds that the daemon's clock is ahead

	mu       sync.Mutex
	hostLog  int // refusals that belong to no bond, so far
	machines []*machine
}

// worldOptions says what is special about a world.
type worldOptions struct {
	bin    string // folder with the three programs
	real   bool   // a real QEMU in the place of the stub that runs no guest
	clock  bool   // a daemon whose clock can be set, see clock.go
	config string // further lines for the daemon's configuration
}

// newWorld starts the domains and one VM of a tenant that has no part in it.
func newWorld(ctx context.Context, o worldOptions, seed int64) (*world, error) {
	own, err := os.Executable()
	if err != nil {
		return nil, err
	}
	w := &world{ctx: ctx, seed: seed}
	if o.clock {
		dir, err := w.clockPrograms(o.bin, own)
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir)
		o.bin = dir
	}
	options := lab.Options{Bin: o.bin, Operator: []string{own, roleOperator}, Config: "accel = \"tcg\"\n" + o.config}
	if !o.real {
		dir, err := os.MkdirTemp("", "uvstub-")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir)
		options.QEMU = filepath.Join(dir, stubName)
		if err := lab.CopyProgram(own, options.QEMU); err != nil {
			return nil, err
		}
	}
	if w.lab, err = lab.New(ctx, options); err != nil {
		return nil, err
	}
	if err := w.begin(); err != nil {
		err = fmt.Errorf("%w\nthe hypervisor's log ends with:\n%s", err, w.lab.Log("hypervisor"))
		_ = w.close(nil)
		return nil, err
	}
	return w, nil
}

// clockPrograms returns a folder of programs in which this one is the daemon.
func (w *world) clockPrograms(bin, own string) (string, error) {
	dir, err := os.MkdirTemp("", "uvclock-")
	if err != nil {
		return "", err
	}
	for name, from := range map[string]string{"uvbond": filepath.Join(bin, "uvbond"), "uvbond-server": filepath.Join(bin, "uvbond-server"), daemonName: own} {
		if err := lab.CopyProgram(from, filepath.Join(dir, name)); err != nil {
			os.RemoveAll(dir)
			return "", err
		}
	}
	return dir, nil
}

func (w *world) begin() error {
	var err error
	if err = os.Mkdir(w.disks(), 0o700); err != nil {
		return err
	}
	if err = w.give(w.disks()); err != nil {
		return err
	}
	a, err := w.attacker()
	if err != nil {
		return err
	}
	o, err := a.one(w.request(qmp.CmdQueryHost, nil))
	if err != nil {
		return err
	}
	var h qmp.QueryHostResult
	if err := json.Unmarshal(o.Return, &h); err != nil {
		return fmt.Errorf("%s: %w", o, err)
	}
	if w.host, err = bond.ParseHostPublic(h.PublicKey); err != nil {
		return err
	}
	if w.bystander, err = w.machine("bystander", ""); err != nil {
		return err
	}
	return w.bystander.start(a)
}

// disks is where the server keeps ciphertext.
func (w *world) disks() string { return filepath.Join(w.lab.Dir, "server", "attack") }

// give makes a file or folder the server's.
func (w *world) give(path string) error {
	if !w.lab.Separated {
		return nil
	}
	return os.Chown(path, lab.ServerUID, lab.ServerUID)
}

// request is a line for the gate.
func (w *world) request(command string, args any) json.RawMessage { return request(command, args) }

func request(command string, args any) json.RawMessage {
	b, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, args})
	if err != nil {
		panic(err) // of this program's own types
	}
	return b
}

// refusedOutside notes a refusal that belongs to no bond: the host's log has it.
func (w *world) refusedOutside(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hostLog += n
}

// terminate is how a daemon is told to end.
const terminate = syscall.SIGTERM

// close ends everything. amiss is told of what is wrong with the host's log.
func (w *world) close(amiss func(string)) error {
	for _, a := range w.attackers {
		a.close()
	}
	w.attackers = nil
	w.mu.Lock()
	machines := w.machines
	w.machines = nil
	w.mu.Unlock()
	if a, err := w.attacker(); err == nil {
		for _, m := range machines {
			if m.live {
				m.powerOff(a)
			}
		}
		a.close()
	}
	w.attackers = nil
	if amiss != nil {
		if err := w.settleHost(); err != nil {
			amiss(err.Error())
		}
	}
	err := w.lab.Close()
	if err != nil && strings.HasPrefix(err.Error(), "processes were left") {
		return nil // the VMs that attacks left running
	}
	return err
}

// process is an attacker.
type process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
	err *lastLines
}

// attacker starts one more process of the management domain.
func (w *world) attacker() (*process, error) {
	p := &process{cmd: w.command(roleAttacker, w.lab.Gate), err: &lastLines{}}
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = json.NewDecoder(bufio.NewReader(out))
	p.cmd.Stderr = p.err
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.attackers = append(w.attackers, p)
	w.mu.Unlock()
	return p, nil
}

// command prepares a program of the management domain: this one, in a role.
func (w *world) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(w.ctx, w.lab.Bin("operator"), args...)
	cmd.Dir = w.disks()
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + w.disks()}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if w.lab.Separated {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: lab.ServerUID, Gid: lab.ServerUID}
	}
	return cmd
}

// run has the attacker follow a script.
func (p *process) run(script ...move) ([]outcome, error) {
	b, err := json.Marshal(script)
	if err != nil {
		return nil, err
	}
	if _, err := p.in.Write(append(b, '\n')); err != nil {
		return nil, fmt.Errorf("attacker: %w: %s", err, p.err)
	}
	var out []outcome
	if err := p.out.Decode(&out); err != nil {
		return nil, fmt.Errorf("attacker: %w: %s", err, p.err)
	}
	if len(out) != len(script) {
		return nil, errors.New("attacker: it did something else than it was told")
	}
	return out, nil
}

// one sends one line on the first connection.
func (p *process) one(line json.RawMessage, files ...file) (outcome, error) {
	out, err := p.run(move{Line: line, Files: files})
	if err != nil {
		return outcome{}, err
	}
	return out[0], nil
}

// ended closes all of the attacker's connections that a script may have used.
func (p *process) ended(connections int) error {
	script := make([]move, connections)
	for i := range script {
		script[i] = move{Conn: i, Do: doClose}
	}
	_, err := p.run(script...)
	return err
}

func (p *process) close() {
	p.in.Close()
	_ = p.cmd.Wait()
}

// lastLines keeps the end of what a process says in its distress.
type lastLines struct {
	mu   sync.Mutex
	text []byte
}

func (l *lastLines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, b...)
	if len(l.text) > 2048 {
		l.text = l.text[len(l.text)-2048:]
	}
	return len(b), nil
}

func (l *lastLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text)
}
