package gate

import (
	"context"
	"errors"
	"os"
	"strconv"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/channel"
	"github.com/uvbond/uvbond/qmp"
)

// Channel is a connection that becomes a channel. Its far end is the owner; whoever
// spoke QMP on it until now only carries bytes.
type Channel struct {
	Kind     string // valid, with Port: see channel.CheckKind
	Port     uint16
	Nonce    [32]byte // of the ticket
	Instance uint64   // that the ticket is for
	Session  string   // for the audit: records of the session have the same number
	Conn     *os.File // a unix stream socket
}

// channel carries out uvbond-channel: the connection leaves QMP and goes to the VM's
// keeper, and the session is over. Nothing may come between the answer and the
// stream, in either direction.
func (c *connection) channel(ctx context.Context, req *qmp.Request, e *entry, args qmp.ChannelArgs) (any, *qmp.Error) {
	s := c.session
	p, qerr := s.begin(req, e)
	if qerr != nil {
		return nil, qerr
	}
	if err := channel.CheckKind(args.Kind, args.Port); err != nil {
		return nil, s.refuse(req.Execute, qmp.ClassInvalid, err.Error())
	}
	if !s.run.Done() {
		return nil, s.refuse(req.Execute, qmp.ClassRefused, "it ends the session, and the ticket's automaton is not at an end with it")
	}
	s.silence()
	f, err := c.conn.Detach()
	switch {
	case errors.Is(err, qmp.ErrPipelined):
		return nil, s.refuse(req.Execute, qmp.ClassInvalid, "more bytes came behind it: what follows the answer is the channel, so wait for the answer")
	case err != nil:
		return nil, s.fault(req, s.gate.public(req.Execute, err))
	}
	defer f.Close()
	ctx, cancel := context.WithDeadline(ctx, s.deadline.Add(abortGrace))
	defer cancel()
	err = s.vm.Channel(ctx, Channel{
		Kind: args.Kind, Port: args.Port, Nonce: s.ticket.Nonce, Instance: p.instance,
		Session: strconv.FormatUint(s.number, 10), Conn: f,
	})
	if err != nil {
		// When it may have been handed over all the same, somebody else may read here:
		// the connection is the gate's no more, and no receipt says that nothing was done.
		c.detached = errors.Is(err, context.DeadlineExceeded)
		return nil, s.fault(req, s.gate.public(req.Execute, err))
	}
	s.note(req, bond.CallOK, "", nil)
	c.session, c.detached = nil, true
	closed, qerr := s.close()
	if qerr != nil {
		return nil, qerr
	}
	return c.gate.filtered(req.Execute, e, qmp.ChannelResult{Receipt: closed.(qmp.CloseResult).Receipt})
}
