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
	welcome bool // the user that connected may use the gate
	session *session
	// detached: the connection is a channel now, or may be, and not the gate's after the answer.
	detached bool
}

func (g *Gate) serveConn(ctx context.Context, uc *net.UnixConn, welcome bool) {
	c := &connection{gate: g, conn: qmp.NewConn(uc), welcome: welcome}
	defer c.conn.Close()
	defer c.lost(ctx)
	if err := c.conn.EnableCredentials(); err != nil {
		g.log.Error("gate: no credentials on the socket", "err", err)
		return
	}
	hello := qmp.GreetingBody{Version: qmp.Version{Package: "uvbond-hypervisor"}, Capabilities: []string{}}
	if err := c.conn.Send(qmp.Greeting{QMP: hello}); err != nil {
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
	switch {
	case c.session != nil:
		limit = c.session.deadline.Add(abortGrace)
	case !c.welcome:
		limit = time.Now().Add(strangerTimeout)
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
		c.send(nil, nil, qmp.Errorf(qmp.ClassInvalid, "UVBond: %v", err))
	}
}

// lost ends the session of a connection that did not end it itself.
func (c *connection) lost(ctx context.Context) {
	if c.session == nil {
		return
	}
	s := c.session
	c.session = nil
	why := "the connection ended before uvbond-close"
	switch {
	case ctx.Err() != nil:
		why = "the daemon was stopped during the session"
	case !s.deadline.After(time.Now()):
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
	if qerr := c.sender(line.Cred); qerr != nil {
		return c.send(nil, nil, qerr) && c.welcome
	}
	req, err := qmp.ParseRequest(line.Data)
	if err != nil {
		return c.send(req.ID, nil, qmp.Errorf(qmp.ClassInvalid, "UVBond: %v", err))
	}
	if line.Surplus > 0 {
		return c.send(req.ID, nil, qmp.Errorf(qmp.ClassInvalid, "UVBond: %s: %d descriptors came with the message, at most %d may", printable(req.Execute), len(files)+line.Surplus, qmp.MaxFiles))
	}
	ret, qerr := c.dispatch(ctx, line.Cred, req, &files)
	return c.send(req.ID, ret, qerr) && !c.detached
}

// sender refuses lines of processes that may not use the gate, or that the
// kernel does not name.
func (c *connection) sender(cred *qmp.Cred) *qmp.Error {
	if cred.Known() && c.gate.allowed(cred.UID) {
		return nil
	}
	why := fmt.Sprintf("process %s may not use the gate; add its user to gate_users in the hypervisor's configuration", credName(cred))
	if c.session != nil {
		return c.session.foreign(cred, "unknown", why)
	}
	uid := "unknown"
	if cred.Known() {
		uid = fmt.Sprint(cred.UID)
	}
	c.gate.host.Attempt(attempt("uid "+uid, "a process that may not use the gate spoke to it", map[string]string{"class": qmp.ClassDenied}))
	return qmp.Errorf(qmp.ClassDenied, "UVBond: %s", why)
}

func (c *connection) send(id json.RawMessage, ret any, qerr *qmp.Error) bool {
	r, err := qmp.Respond(id, ret, qerr)
	if err != nil {
		c.gate.log.Error("gate: answer", "err", err)
		r = &qmp.Response{Error: internal(), ID: id}
	}
	return c.conn.Send(r) == nil
}

// dispatch answers a request. A handler that takes over the files sets *files to nil.
func (c *connection) dispatch(ctx context.Context, cred *qmp.Cred, req *qmp.Request, files *[]*os.File) (any, *qmp.Error) {
	if c.session != nil {
		if err := c.session.opener.verify(cred); err != nil {
			return nil, c.session.foreign(cred, req.Execute, err.Error())
		}
	}
	e, refusal := lookup(req.Execute)
	if refusal != nil {
		if c.session != nil {
			return nil, c.session.refuse(req.Execute, refusal.Class, refusal.Desc)
		}
		c.attempted(cred, req.Execute, refusal.Class)
		return nil, refusal
	}
	args, err := e.args.decode(req)
	if err != nil {
		if c.session != nil && e.verdict != outside {
			return nil, c.session.refuse(req.Execute, qmp.ClassInvalid, err.Error())
		}
		return nil, qmp.Errorf(qmp.ClassInvalid, "UVBond: %s: %v", req.Execute, err)
	}
	if e.verdict == outside {
		if e.rewrite != nil {
			if args, refusal = e.rewrite(args, files); refusal != nil {
				return nil, refusal
			}
		}
		ret, qerr := c.outside(ctx, cred, req.Execute, args)
		if qerr != nil {
			return nil, qerr
		}
		return c.gate.filtered(req.Execute, e, ret)
	}
	if c.session == nil {
		c.attempted(cred, req.Execute, qmp.ClassDenied)
		return nil, &qmp.Error{Class: qmp.ClassDenied, Desc: "UVBond: " + req.Execute + " needs a session: send uvbond-open with the VM and the owner's ticket"}
	}
	if req.Execute == qmp.CmdChannel {
		return c.channel(ctx, req, e, args.(qmp.ChannelArgs))
	}
	return c.session.call(ctx, req, e, args, files)
}

// attempted records a hypercall that was refused outside of a session: it
// names no VM, so it belongs to the host's log.
func (c *connection) attempted(cred *qmp.Cred, command, class string) {
	command = printable(command)
	c.gate.host.Attempt(attempt(fmt.Sprintf("uid %d", cred.UID), command+" refused outside of a session", map[string]string{"class": class, "hypercall": command}))
}

// outside runs the commands that need no session.
func (c *connection) outside(ctx context.Context, cred *qmp.Cred, command string, args any) (any, *qmp.Error) {
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
		return nil, c.attach(ctx, cred, args.(attached))
	case qmp.CmdQueryDisks:
		return c.queryDisks(ctx, args.(qmp.QueryDisksArgs))
	case qmp.CmdSetLimits:
		return nil, c.setLimits(ctx, cred, args.(qmp.SetLimitsArgs))
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

func (c *connection) attach(ctx context.Context, cred *qmp.Cred, a attached) *qmp.Error {
	id, err := bond.ParseVMID(a.vm)
	if err != nil {
		for _, f := range a.disks {
			f.Close()
		}
		return &qmp.Error{Class: qmp.ClassInvalid, Desc: "UVBond: " + err.Error()}
	}
	return c.gate.public(qmp.CmdAttach, c.gate.host.Attach(ctx, id, a.disks, credName(cred)))
}

// filtered applies the entry's filter to an answer.
func (g *Gate) filtered(command string, e *entry, ret any) (any, *qmp.Error) {
	out, err := e.answer.filter(ret)
	if err != nil {
		return nil, g.public(command, err)
	}
	return out, nil
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
	case errors.Is(err, ErrBusy):
		return &qmp.Error{Class: qmp.ClassBusy, Desc: "UVBond: " + ErrBusy.Error()}
	case errors.Is(err, ErrNotRunning):
		return &qmp.Error{Class: qmp.ClassNotRunning, Desc: "UVBond: " + ErrNotRunning.Error()}
	case errors.Is(err, state.ErrExpired):
		return &qmp.Error{Class: qmp.ClassExpired, Desc: "UVBond: the ticket is past its validity; make a new one"}
	case errors.Is(err, state.ErrUnknownVM):
		return &qmp.Error{Class: qmp.ClassDeviceNotFound, Desc: "UVBond: the bond of this VM was deleted"}
	case errors.Is(err, context.DeadlineExceeded):
		g.log.Warn("gate: hypercall did not end in time", "command", what, "err", err)
		return &qmp.Error{Class: qmp.ClassUnavailable, Desc: "UVBond: " + what + " did not end before the session's deadline; it may still take effect"}
	}
	g.log.Error("gate: internal error", "command", what, "err", err)
	return internal()
}

func internal() *qmp.Error {
	return &qmp.Error{Class: qmp.ClassInternal, Desc: "UVBond: internal error of the hypervisor; its log has the cause"}
}

// attempt is the audit entry of something that was refused and that anybody in
// the management domain can do again at will.
func attempt(who, text string, fields map[string]string) state.Entry {
	return state.Entry{Kind: "refused", Who: who, Text: text, Fields: fields, Coalesce: true}
}
