package toolstack

import (
	"context"
	"net"
	"time"

	"github.com/uvbond/uvbond/qmp"
)

// Channel opens a channel to a VM under a ticket. On success the connection
// carries the channel's bytes, which mean nothing here, and is the caller's; the
// receipt is sealed for the tenant. A refusal is a Result; an error means that
// nothing was asked of the VM.
func (g *Gate) Channel(ctx context.Context, vm string, ticket []byte, args qmp.ChannelArgs) (conn *net.UnixConn, receipt []byte, refused *Result, err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, nil, err
	}
	c, err := g.dial(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	defer c.Close() // leaves a connection alone that was handed over
	s := &session{g: g, c: c, cmd: &Command{VM: vm, Name: args.Kind, Ticket: ticket}, calls: context.WithoutCancel(ctx), waiting: ctx, result: &Result{}}
	if opened, err := s.open(); err != nil {
		return nil, nil, nil, err
	} else if !opened {
		return nil, nil, s.result, nil
	}
	var r qmp.ChannelResult
	if conn, err = s.handover(args, &r); err != nil {
		s.close(err)
		return nil, nil, s.result, nil
	}
	return conn, r.Receipt, nil, nil
}

func (s *session) handover(args qmp.ChannelArgs, r *qmp.ChannelResult) (*net.UnixConn, error) {
	ctx, cancel := context.WithTimeout(s.calls, callTimeout)
	defer cancel()
	start := time.Now()
	conn, err := s.c.Handover(ctx, qmp.CmdChannel, args, r)
	s.g.observe(qmp.CmdChannel, err, start)
	return conn, err
}
