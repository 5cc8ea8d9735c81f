// Package gatetest is a hypervisor's gate for the server's tests: a QMP server
// on a unix socket with a small model of VMs, every part of which a test can
// replace.
//
// Nothing in it is sealed. A registration is {"vm": id}, a ticket is {"vm": id,
// "command": name}; a receipt reads "receipt <command> <verdict>".
package gatetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/uvbond/uvbond/qmp"
)

// Errors by which a Handler misbehaves.
var (
	ErrDrop    = errors.New("close the connection")
	ErrGarbage = errors.New("answer with bytes that are no QMP")
	ErrSilence = errors.New("do not answer at all")
)

// Call is one command that arrived.
type Call struct {
	Command   string
	Arguments map[string]any
	VM        string // of the open session
	Files     []*os.File
}

// Handler answers a call: with a value, a *qmp.Error or one of this package's
// errors.
type Handler func(*Call) (any, error)

// VM is the model's view of a bonded VM.
type VM struct {
	State      string
	Instance   uint64
	NeedsDisks []string
	Allowed    []string // hypercalls that the owner's policy accepts
	Disks      int      // descriptors that came with the launch
	Limits     []qmp.VMLimits
	Builds     []qmp.BuildState
}

// Gate is a running fake.
type Gate struct {
	Path string

	mu       sync.Mutex
	handlers map[string]Handler
	vms      map[string]*VM
	calls    []string
	channel  ChannelEnd
	conns    map[*net.UnixConn]bool
	listener *net.UnixListener
	work     sync.WaitGroup
}

// New makes a gate that listens at path after Listen.
func New(path string) *Gate {
	return &Gate{Path: path, handlers: map[string]Handler{}, vms: map[string]*VM{}, conns: map[*net.UnixConn]bool{}}
}

// Start serves a gate at path until the test ends.
func Start(t testing.TB, path string) *Gate {
	t.Helper()
	g := New(path)
	if err := g.Listen(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Stop)
	return g
}

// Listen opens the socket, again after Stop.
func (g *Gate) Listen() error {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: g.Path, Net: "unix"})
	if err != nil {
		return err
	}
	g.mu.Lock()
	g.listener = l
	g.mu.Unlock()
	g.work.Go(func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			g.work.Go(func() { g.serve(c) })
		}
	})
	return nil
}

// Stop closes the socket and every connection. The model stays.
func (g *Gate) Stop() {
	g.mu.Lock()
	g.listener.Close()
	for c := range g.conns {
		c.Close()
	}
	g.mu.Unlock()
	g.work.Wait()
}

// Handle replaces the answer to a command; nil puts the model's back.
func (g *Gate) Handle(command string, h Handler) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if h == nil {
		delete(g.handlers, command)
	} else {
		g.handlers[command] = h
	}
}

// Edit changes the model's VM, making it when it is new.
func (g *Gate) Edit(id string, f func(*VM)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.vms[id] == nil {
		g.vms[id] = &VM{State: qmp.StateStopped}
	}
	f(g.vms[id])
}

// VM returns a copy of the model's VM, nil when there is none.
func (g *Gate) VM(id string) *VM {
	g.mu.Lock()
	defer g.mu.Unlock()
	if v := g.vms[id]; v != nil {
		c := *v
		return &c
	}
	return nil
}

// Calls lists the commands since the last Calls, without the handshake and
// uvbond-query-vms, which the server sends by itself.
func (g *Gate) Calls() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	calls := g.calls
	g.calls = nil
	return calls
}

// Ticket is a ticket that the model takes.
func Ticket(vm, command string) []byte {
	b, _ := json.Marshal(map[string]string{"vm": vm, "command": command}) //nolint:errchkjson // strings never fail
	return b
}

// Registration is a registration that the model takes.
func Registration(vm string) []byte { return fmt.Appendf(nil, `{"vm":%q}`, vm) }

type session struct {
	open     bool
	vm       string
	command  string // empty: a policy session
	ticket   bool
	launched bool
	verdict  string
}

func (g *Gate) serve(c *net.UnixConn) {
	g.mu.Lock()
	g.conns[c] = true
	g.mu.Unlock()
	defer func() {
		c.Close()
		g.mu.Lock()
		delete(g.conns, c)
		g.mu.Unlock()
	}()
	conn := qmp.NewConn(c)
	greeting := map[string]any{"QMP": map[string]any{"version": map[string]any{"qemu": map[string]int{"major": 7, "minor": 2, "micro": 0}, "package": "gatetest"}, "capabilities": []string{}}}
	if conn.Send(greeting) != nil {
		return
	}
	s := &session{}
	for {
		line, err := conn.Receive(context.Background())
		if err != nil {
			return
		}
		req, err := qmp.ParseRequest(line.Data)
		if err != nil {
			line.Close()
			return
		}
		ret, err := g.answer(s, &Call{Command: req.Execute, Arguments: req.Arguments, VM: s.vm, Files: line.Files})
		line.Close()
		switch {
		case errors.Is(err, ErrDrop):
			return
		case errors.Is(err, ErrSilence):
		case errors.Is(err, ErrGarbage):
			if _, err := c.Write([]byte("{\"return\": \x00\x01 <html>\n")); err != nil {
				return
			}
		default:
			if conn.Send(response(req.ID, ret, err)) != nil {
				return
			}
			if req.Execute == qmp.CmdChannel && err == nil {
				g.endOfChannel()(c, req.Arguments)
				return
			}
		}
	}
}

func response(id json.RawMessage, ret any, err error) map[string]any {
	r := map[string]any{"id": id}
	var e *qmp.Error
	switch {
	case errors.As(err, &e):
		r["error"] = e
	case err != nil:
		r["error"] = qmp.Errorf(qmp.ClassInternal, "%v", err)
	case ret == nil:
		r["return"] = struct{}{}
	default:
		r["return"] = ret
	}
	return r
}

func (g *Gate) answer(s *session, c *Call) (any, error) {
	g.mu.Lock()
	h := g.handlers[c.Command]
	if c.Command != qmp.CmdCapabilities && c.Command != qmp.CmdQueryVMs {
		g.calls = append(g.calls, c.Command)
	}
	g.mu.Unlock()
	if h != nil {
		return h(c)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch c.Command {
	case qmp.CmdCapabilities:
		return nil, nil
	case qmp.CmdQueryHost:
		return qmp.QueryHostResult{Versions: []uint16{1}, PublicKey: []byte("key"), Host: "aa", Hypervisor: "test", Accel: "tcg", Time: time.Now().Unix()}, nil
	case qmp.CmdQueryVMs:
		out := qmp.QueryVMsResult{VMs: []qmp.VMState{}}
		for id, v := range g.vms {
			out.VMs = append(out.VMs, qmp.VMState{VM: id, State: v.State, Instance: v.Instance, NeedsDisks: v.NeedsDisks, Limits: v.Limits, Builds: v.Builds})
		}
		return out, nil
	case qmp.CmdRegister:
		return g.register(c)
	case qmp.CmdAttach:
		v := g.vms[text(c, "vm")]
		if v == nil || len(c.Files) != len(v.NeedsDisks) {
			return nil, qmp.Errorf(qmp.ClassInvalid, "not the disks that are needed")
		}
		v.NeedsDisks = nil
		return nil, nil
	case qmp.CmdQueryDisks:
		return g.disks(c)
	case qmp.CmdSetLimits:
		return g.limit(c)
	case qmp.CmdOpen:
		return g.open(s, c)
	}
	if !s.open {
		return nil, qmp.Errorf(qmp.ClassDenied, "%s needs a session", c.Command)
	}
	if c.Command == qmp.CmdClose {
		return g.close(s), nil
	}
	ret, err := g.hypercall(s, c)
	if err != nil {
		s.verdict = "refused"
	}
	return ret, err
}

func text(c *Call, key string) string {
	v, _ := c.Arguments[key].(string)
	return v
}

func (g *Gate) register(c *Call) (any, error) {
	var r struct{ VM string }
	if decode(text(c, "registration"), &r) != nil {
		return nil, qmp.Errorf(qmp.ClassInvalid, "the registration does not open")
	}
	if g.vms[r.VM] != nil {
		return nil, qmp.Errorf(qmp.ClassReplayed, "VM %s was registered before", r.VM)
	}
	g.vms[r.VM] = &VM{State: qmp.StateStopped}
	return qmp.RegisterResult{VM: r.VM, Confirmation: []byte("confirmation " + r.VM), Memory: 1 << 28, VCPUs: 1}, nil
}

func decode(b64 string, v any) error {
	var raw []byte
	if err := json.Unmarshal(fmt.Appendf(nil, "%q", b64), &raw); err != nil {
		return err
	}
	return json.Unmarshal(raw, v)
}

func (g *Gate) open(s *session, c *Call) (any, error) {
	vm := text(c, "vm")
	if g.vms[vm] == nil {
		return nil, qmp.Errorf(qmp.ClassDeviceNotFound, "no VM %s", vm)
	}
	*s = session{open: true, vm: vm, verdict: "done"}
	if b := text(c, "ticket"); b != "" {
		var t struct{ VM, Command string }
		if decode(b, &t) != nil || t.VM != vm {
			s.open = false
			e := qmp.Errorf(qmp.ClassRedirected, "the ticket does not open for this VM")
			return nil, e
		}
		s.ticket, s.command = true, t.Command
	}
	return qmp.OpenResult{Session: "1", Command: s.command, Deadline: 120}, nil
}

func (g *Gate) close(s *session) any {
	r := qmp.CloseResult{Verdict: s.verdict}
	if s.ticket {
		r.Receipt = fmt.Appendf(nil, "receipt %s %s", s.command, s.verdict)
	}
	if s.launched && s.verdict == "done" {
		r.Descriptor = []byte("descriptor " + s.vm)
	}
	*s = session{}
	return r
}

// moves are the run states that hypercalls lead to.
var moves = map[string]string{
	qmp.CmdStop: qmp.StatePaused, qmp.CmdCont: qmp.StateRunning, qmp.CmdSystemReset: qmp.StateRunning,
	qmp.CmdSystemPowerdown: qmp.StateShutdown, qmp.CmdQuit: qmp.StateStopped, qmp.CmdLaunch: qmp.StatePrelaunch,
}

func (g *Gate) hypercall(s *session, c *Call) (any, error) {
	v := g.vms[s.vm]
	if !s.ticket && !slices.Contains(v.Allowed, c.Command) {
		return nil, qmp.Errorf(qmp.ClassDenied, "the owner's policy does not allow %s", c.Command)
	}
	switch c.Command {
	case qmp.CmdQueryStatus:
		status := v.State
		if status == qmp.StateStopped {
			status = qmp.StateShutdown
		}
		return qmp.StatusResult{Status: status, Running: status == qmp.StateRunning}, nil
	case qmp.CmdChannel:
		return g.openChannel(s, v)
	case qmp.CmdReadConsole, qmp.CmdReadAudit:
		return qmp.ChunkResult{Chunk: fmt.Appendf(nil, "%s %v", c.Command, c.Arguments)}, nil
	case qmp.CmdGrow:
		return qmp.GrowResult{Old: 1, New: 2, Guest: qmp.GuestTold}, nil
	case qmp.CmdBuild:
		if len(c.Files) != 2 {
			return nil, qmp.Errorf(qmp.ClassInvalid, "%d descriptors came", len(c.Files))
		}
		v.Builds = nil
		return qmp.BuildState{Disk: text(c, "disk"), Phase: qmp.BuildDone, Done: 1, Total: 1}, nil
	case qmp.CmdSetPolicy, qmp.CmdRevoke:
		return nil, nil
	case qmp.CmdDelete:
		delete(g.vms, s.vm)
		return nil, nil
	}
	next, ok := moves[c.Command]
	switch {
	case !ok:
		return nil, qmp.Errorf(qmp.ClassDenied, "%s is not allowed", c.Command)
	case c.Command == qmp.CmdLaunch && v.State != qmp.StateStopped:
		return nil, qmp.Errorf(qmp.ClassRunning, "the VM has an instance already")
	case c.Command != qmp.CmdLaunch && v.State == qmp.StateStopped:
		return nil, qmp.Errorf(qmp.ClassNotRunning, "the VM has no instance")
	}
	if c.Command == qmp.CmdLaunch {
		s.launched, v.Disks = true, len(c.Files)
		v.Instance++
	}
	v.State = next
	return nil, nil
}
