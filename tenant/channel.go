package tenant

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/channel"
	"github.com/uvbond/uvbond/tenant/client"
	"github.com/uvbond/uvbond/tenant/fail"
)

// OpenChannel opens a channel of a kind (channel.KindConsole and so on) to the
// running instance of a VM; port is the guest's, for channel.KindForward. The receipt
// is verified and kept, and the handshake has proved the other end to be this VM's
// keeper. ctx bounds the opening only. Errors are of package fail; those that the
// connection returns later become so by ChannelFailure. It is a *channel.Conn.
func (o *Owner) OpenChannel(ctx context.Context, name, kind string, port uint16) (net.Conn, error) {
	op, err := o.open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer op.bond.Wipe()
	if err := o.recoverDescriptor(ctx, op); err != nil {
		return nil, err
	}
	if len(op.vm.Descriptor) == 0 {
		return nil, noDescriptor(op.vm)
	}
	text, err := automata.Channel(kind, port)
	if err != nil {
		return nil, fail.Wrap(err, fail.Usage, "", "cannot open a channel to %q", name)
	}
	t, err := o.sealText(op.bond, kind, text, op.vm.Descriptor, nil)
	if err != nil {
		return nil, err
	}
	raw, receipt, err := op.conn.OpenChannel(ctx, op.vm.ID, client.Channel{Kind: kind, Port: port, Ticket: t.blob})
	if err != nil {
		return nil, o.channelNotOpened(ctx, op, t, err)
	}
	if err := o.channelReceipt(op, t, receipt); err != nil {
		raw.Close()
		return nil, err
	}
	key, err := op.bond.ChannelKey()
	if err != nil {
		raw.Close()
		return nil, err
	}
	defer key.Wipe()
	c, err := channel.Open(ctx, raw, channel.Params{Key: key, VM: op.bond.VM(), Descriptor: op.vm.Descriptor, Kind: kind, Port: port, Nonce: t.nonce})
	if err != nil {
		return nil, ChannelFailure(name, err)
	}
	return c, nil
}

// channelReceipt verifies a receipt and keeps it.
func (o *Owner) channelReceipt(op *opened, t *sealed, blob []byte) error {
	if len(blob) == 0 {
		return fail.New(fail.Unknown, "tell the provider", "the server says that the channel to %q is open, and withholds the receipt", op.vm.Name)
	}
	r, err := t.verify(op.bond, blob)
	if err != nil {
		return err
	}
	if r.AuditSeq < op.vm.Records {
		return setBack(r.AuditSeq, op.vm.Records)
	}
	if err := o.remember(op.vm, r, blob); err != nil {
		return err
	}
	return o.verdict(op.vm.Name, r)
}

// channelNotOpened classes what came instead of a channel.
func (o *Owner) channelNotOpened(ctx context.Context, op *opened, t *sealed, err error) error {
	name := op.vm.Name
	var refused *client.RefusalError
	var api *client.APIError
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &refused) && len(refused.Receipt) > 0:
		if err := o.channelReceipt(op, t, refused.Receipt); err != nil {
			return err
		}
		return forged("the server says that the channel was refused, and the hypervisor's receipt that it was opened")
	case refused != nil:
		return o.channelRefused(op, refused)
	case errors.As(err, &api) && api.Status == http.StatusNotFound && api.Class == "":
		return fail.Wrap(err, fail.Connection, "ask the provider to update it", "the server of host %q has no channels: it is older than this client", op.vm.Host)
	case api != nil && api.Status == http.StatusNotFound:
		return notAnswered(ctx, op.vm, t.command, err)
	case api != nil || !sentAnything(err):
		return contact(ctx, op.vm.Host, err)
	}
	return fail.Wrap(err, fail.Unknown, "try again; what the hypervisor saw of it: uvbond audit "+name,
		"no receipt: it is not known whether the hypervisor opened the %s channel to %q", t.command, name)
}

func sentAnything(err error) bool {
	var sent *client.SentError
	return errors.As(err, &sent)
}

// channelRefused is for a refusal that nothing vouches for.
func (o *Owner) channelRefused(op *opened, r *client.RefusalError) error {
	if r.Class == classRedirected {
		return forged("your ticket was used on another VM, where it does not open (the server says %q)", r.Error())
	}
	code, hint := fail.Unknown, "try again; what the hypervisor saw of it: uvbond audit "+op.vm.Name
	claim := r.Error()
	switch off := o.clockOff(op.conn); {
	case r.Class == classUnavailable:
		code, hint = fail.Connection, "wait and try again, then tell the provider"
	case r.Class == classNotRunning || r.Class == classStale:
		hint = "it has no instance now, or a newer one: uvbond vm status " + op.vm.Name
	case r.Class == classExpired && off != "":
		claim += "; " + off
		hint = clockHint
	}
	return fail.New(code, hint, "the channel to %q was not opened; no receipt says why (the server says, unverified: %s: %s)", op.vm.Name, r.Class, claim)
}

// ChannelFailure classes the error that a channel to the named VM ended with: Forged
// when somebody between the ends touched it, Connection when it broke. Errors that
// are classed already, and io.EOF, which is an end in order, stay as they are.
func ChannelFailure(name string, err error) error {
	var e *channel.Error
	var classed *fail.Error
	switch {
	case errors.As(err, &classed) || !errors.As(err, &e):
		return err
	case e.Why.Suspicious() || e.Why == channel.Ended && channel.Why(e.Reason).Suspicious():
		return &fail.Error{Code: fail.Forged, Err: err, Text: fmt.Sprintf("REDIRECTED OR FORGED: channel to %q", name),
			Hint: "do not type secrets until it is explained; `uvbond audit " + name + " --refused` shows what the hypervisor recorded"}
	case e.Why == channel.Truncated:
		return fail.Wrap(err, fail.Connection, "open it again; how the hypervisor saw it end: uvbond audit "+name, "the connection to %q was cut", name)
	case e.Why == channel.TimedOut:
		return fail.Wrap(err, fail.Connection, "open it again; does the server answer? uvbond vm status "+name, "%q", name)
	}
	return fail.Wrap(err, fail.Other, "see its state: uvbond vm status "+name, "%q", name)
}
