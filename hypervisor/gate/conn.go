package gate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/hypervisor/state"
	"github.com/uvbond/uvbond/qmp"
)

// connection is one peer of the gate with at most one session.
type connection struct {
	gate    *Gate
	conn    *qmp.Conn
	session *session
}

// greeting is what a QMP server says first.
type greeting struct {
	QMP struct {
		Version struct {
			QEMU    struct{ Major, Minor, Micro int } `json:"qemu"`
			Package string                            `json:"package"`
		} `json:"version"`
		Capabilities []string `json:"capabilities"`
	} `json:"QMP"`
}

func (g *Gate) serveConn(ctx context.Context, uc *net.UnixConn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := &connection{gate: g, conn: qmp.NewConn(uc)}
	defer c.conn.Close()
	defer c.lost("the connection ended before uvbond-close")
	if err := c.conn.EnableCredentials(); err != nil {
		g.log.Error("gate: no credentials on the socket", "err", err)
		return
	}
	var hello greeting
	hello.QMP.Version.Package = "uvbond-hypervisor"
	hello.QMP.Capabilities = []string{}
	if err := c.conn.Send(hello); err != nil {
		return
	}
	for {
		line, err := c.receive(ctx)
		if err != nil {
			c.protocolError(err)
			return
		}
		if !c.answer(ctx, line) {
			return
		}
	}
}

// receive waits for a line: until the session must end, or the idle time-out.
func (c *connection) receive(ctx context.Context) (*qmp.Line, error) {
	limit := time.Now().Add(idleTimeout)
	if c.session != nil {
		limit = c.session.deadline.Add(abortGrace)
	}
	ctx, cancel := context.WithDeadline(ctx, limit)
	defer cancel()
	return c.conn.Receive(ctx)
}

// protocolError tells the peer why it is cut off, where that helps.
func (c *connection) protocolError(err error) {
	if errors.Is(err, qmp.ErrTooLong) || errors.Is(err, qmp.ErrMixedSenders) {
		if c.session != nil {
			c.session.abort(qmp.ClassDenied, "UVBond: "+err.Error())
		}
		c.send(qmp.Response{Error: &qmp.Error{Class: qmp.ClassInvalid, Desc: "UVBond: " + err.Error()}})
	}
}

// lost ends the session of a connection that did not end it itself.
func (c *connection) lost(why string) {
	if c.session == nil {
		return
	}
	s := c.session
	c.session = nil
	if !s.deadline.After(time.Now()) {
		why = "the session's deadline passed"
	}
	s.abandon(why)
}

// answer handles one line and tells whether the connection goes on.
func (c *connection) answer(ctx context.Context, line *qmp.Line) bool {
	files := line.Files
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	req, err := qmp.ParseRequest(line.Data)
	if err != nil {
		return c.send(qmp.Response{Error: &qmp.Error{Class: qmp.ClassInvalid, Desc: "UVBond: " + err.Error()}})
	}
	ret, qerr := c.dispatch(ctx, line.Cred, req, &files)
	resp := qmp.Response{Error: qerr, ID: req.ID}
	if qerr == nil {
		if ret == nil {
			ret = struct{}{}
		}
		if resp.Return, err = json.Marshal(ret); err != nil {
			resp.Error = internal()
		}
	}
	return c.send(resp)
}

func (c *connection) send(r qmp.Response) bool { return c.conn.Send(r) == nil }

// dispatch answers a request. A handler that takes over the files sets *files to nil.
func (c *connection) dispatch(ctx context.Context, cred *qmp.Cred, req *qmp.Request, files *[]*os.File) (any, *qmp.Error) {
	if cred == nil || !c.gate.allowed(cred.UID) {
		return nil, &qmp.Error{Class: qmp.ClassDenied, Desc: fmt.Sprintf("UVBond: process %s may not use the gate; add its user to gate_users in the hypervisor's configuration", credName(cred))}
	}
	if c.session != nil {
		if err := c.session.opener.verify(cred); err != nil {
			return nil, c.session.refuse(req.Execute, qmp.ClassDenied, err.Error())
		}
	}
	e, refusal := lookup(req.Execute)
	if refusal != nil {
		if c.session != nil {
			return nil, c.session.refuse(req.Execute, refusal.Class, refusal.Desc)
		}
		return nil, refusal
	}
	args, err := e.args(req.Arguments)
	if err != nil {
		if c.session != nil && e.verdict != outside {
			return nil, c.session.refuse(req.Execute, qmp.ClassInvalid, err.Error())
		}
		return nil, &qmp.Error{Class: qmp.ClassInvalid, Desc: "UVBond: " + req.Execute + ": " + err.Error()}
	}
	if e.verdict == outside {
		return c.outside(ctx, cred, req.Execute, args, files)
	}
	if c.session == nil {
		return nil, &qmp.Error{Class: qmp.ClassDenied, Desc: "UVBond: " + req.Execute + " needs a session: send uvbond-open with the VM and the owner's ticket"}
	}
	return c.session.call(ctx, req, e, args, files)
}

// outside runs the commands that need no session.
func (c *connection) outside(ctx context.Context, cred *qmp.Cred, command string, args any, files *[]*os.File) (any, *qmp.Error) {
	switch command {
	case qmp.CmdCapabilities:
		return nil, nil
	case qmp.CmdQueryHost:
		return c.gate.host.QueryHost(), nil
	case qmp.CmdQueryVMs:
		return c.gate.host.QueryVMs(), nil
	case qmp.CmdRegister:
		r, err := c.gate.host.Register(ctx, args.(qmp.RegisterArgs).Registration, credName(cred))
		return r, c.gate.public(command, err)
	case qmp.CmdAttach:
		return nil, c.attach(ctx, cred, args.(qmp.AttachArgs), files)
	case qmp.CmdOpen:
		return c.open(ctx, cred, args.(qmp.OpenArgs))
	case qmp.CmdClose:
		if c.session == nil {
			return nil, &qmp.Error{Class: qmp.ClassInvalid, Desc: "UVBond: no session is open on this connection"}
		}
		s := c.session
		c.session = nil
		return s.close()
	}
	return nil, internal()
}

func (c *connection) attach(ctx context.Context, cred *qmp.Cred, args qmp.AttachArgs, files *[]*os.File) *qmp.Error {
	id, err := bond.ParseVMID(args.VM)
	if err != nil {
		return &qmp.Error{Class: qmp.ClassInvalid, Desc: "UVBond: " + err.Error()}
	}
	disks, _, qerr := pickFiles(args.Disks, nil, *files)
	if qerr != nil {
		return qerr
	}
	*files = nil
	return c.gate.public(qmp.CmdAttach, c.gate.host.Attach(ctx, id, disks, credName(cred)))
}

// pickFiles gives the descriptors of a line their names. Each must be named
// exactly once, so that none is left over.
func pickFiles(disks []qmp.DiskFile, taps []int, files []*os.File) (map[string]*os.File, []*os.File, *qmp.Error) {
	named := make(map[string]*os.File, len(disks))
	used := make(map[int]bool, len(files))
	take := func(i int) (*os.File, bool) {
		if i < 0 || i >= len(files) || used[i] {
			return nil, false
		}
		used[i] = true
		return files[i], true
	}
	for _, d := range disks {
		f, ok := take(d.FDIndex)
		if !ok || named[d.Name] != nil {
			return nil, nil, &qmp.Error{Class: qmp.ClassInvalid, Desc: fmt.Sprintf("UVBond: disk %s: descriptor %d is missing or named twice (%d came with the message)", printable(d.Name), d.FDIndex, len(files))}
		}
		named[d.Name] = f
	}
	var tapFiles []*os.File
	for n, i := range taps {
		f, ok := take(i)
		if !ok {
			return nil, nil, &qmp.Error{Class: qmp.ClassInvalid, Desc: fmt.Sprintf("UVBond: tap %d: descriptor %d is missing or named twice", n, i)}
		}
		tapFiles = append(tapFiles, f)
	}
	if len(used) != len(files) {
		return nil, nil, &qmp.Error{Class: qmp.ClassInvalid, Desc: fmt.Sprintf("UVBond: %d descriptors came with the message, %d are named", len(files), len(used))}
	}
	return named, tapFiles, nil
}

// public turns an error into its public half: a *qmp.Error passes, a known
// error gets its class, anything else becomes "internal error" and a log line.
func (g *Gate) public(what string, err error) *qmp.Error {
	var q *qmp.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &q):
		return q
	case errors.Is(err, ErrReplayed):
		return &qmp.Error{Class: qmp.ClassReplayed, Desc: "UVBond: " + ErrReplayed.Error()}
	case errors.Is(err, ErrBusy), errors.Is(err, context.DeadlineExceeded):
		return &qmp.Error{Class: qmp.ClassBusy, Desc: "UVBond: " + ErrBusy.Error()}
	case errors.Is(err, ErrNotRunning):
		return &qmp.Error{Class: qmp.ClassNotRunning, Desc: "UVBond: " + ErrNotRunning.Error()}
	}
	g.log.Error("gate: internal error", "command", what, "err", err)
	return internal()
}

func internal() *qmp.Error {
	return &qmp.Error{Class: qmp.ClassInternal, Desc: "UVBond: internal error of the hypervisor; its log has the cause"}
}

// attempt is the audit entry of something that was refused.
func attempt(who, text string, fields map[string]string) state.Entry {
	return state.Entry{Kind: "refused", Who: who, Text: text, Fields: fields}
}
