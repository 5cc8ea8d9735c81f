package tenant

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant/client"
	"github.com/uvbond/uvbond/tenant/fail"
	"github.com/uvbond/uvbond/tenant/store"
)

// classRedirected and the following are the gate's error classes that the
// client reacts to.
const (
	classRedirected  = "Redirected"
	classExpired     = "Expired"
	classReplayed    = "Replayed"
	classNotRunning  = "NotRunning"
	classRunning     = "Running"
	classStale       = "Stale"
	classBusy        = "Busy"
	classRevoked     = "Revoked"
	classNotBuilt    = "NotBuilt"
	classUnavailable = "Unavailable"
)

// Result is what a command led to. Receipt is nil unless it was verified.
type Result struct {
	VM      string
	Command string
	Receipt *bond.Receipt
	Claim   *client.Outcome // what the server said; unverified
}

// opened is a VM's state with its bond and a checked way to its host.
type opened struct {
	vm    *store.VM
	bond  *bond.Bond
	conn  *Conn
	watch func(client.Hypercall) // nil: nobody watches
}

func (o *Owner) open(ctx context.Context, name string) (*opened, error) {
	vm, err := o.Store.VM(name)
	if err != nil {
		return nil, err
	}
	if vm.Phase != store.PhaseBonded {
		return nil, fail.New(fail.Other, "finish or clean up with: uvbond vm create "+name+" --resume", "the registration of %q was interrupted: no confirmation was opened", name)
	}
	b, err := o.Store.Bond(vm)
	if err != nil {
		return nil, err
	}
	conn, err := o.Connect(ctx, vm.Host)
	if err != nil {
		b.Wipe()
		return nil, err
	}
	if conn.Public.ID() != b.Host() {
		b.Wipe()
		return nil, fail.New(fail.Forged, "the host was removed and added again with another identity; the VM stays bound to the old one", "the VM %q is bonded to another hypervisor than host %q has now", name, vm.Host)
	}
	return &opened{vm: vm, bond: b, conn: conn}, nil
}

// Run executes one of the plain management commands and returns its verified
// result. The result is not nil beside an error when something was learnt.
func (o *Owner) Run(ctx context.Context, name, command string) (*Result, error) {
	return o.RunWatched(ctx, name, command, nil)
}

// RunWatched is Run, and tells watch of each hypercall that the server says it
// sends. That is the server's word, for showing only: the receipt lists what was
// executed. watch is called from the goroutine that calls RunWatched.
func (o *Owner) RunWatched(ctx context.Context, name, command string, watch func(client.Hypercall)) (*Result, error) {
	op, err := o.open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer op.bond.Wipe()
	op.watch = watch
	var descriptor []byte
	if touchesInstance(command) {
		if err := o.recoverDescriptor(ctx, op); err != nil {
			return nil, err
		}
		descriptor = op.vm.Descriptor
		if len(descriptor) == 0 {
			return nil, noDescriptor(op.vm)
		}
	}
	ticket, err := o.sealTicket(op.bond, command, descriptor, nil)
	if err != nil {
		return nil, err
	}
	if command == Start {
		return o.start(ctx, op, ticket)
	}
	_, res, err := o.relay(ctx, op, ticket, nil)
	if err == nil && command == Delete {
		return res, o.forget(op.vm)
	}
	if err == nil {
		err = reached(name, res.Receipt)
	}
	return res, err
}

func noDescriptor(vm *store.VM) error {
	if len(vm.BootNonce) > 0 {
		return fail.New(fail.Unknown, "uvbond vm status "+vm.Name+" shows whether it runs; the server must return the sealed descriptor of that start",
			"the descriptor of the last start of %q never came", vm.Name)
	}
	return fail.New(fail.Refused, "start it first: uvbond vm start "+vm.Name, "%q was never started: there is no instance to command", vm.Name)
}

// relay sends a ticket once, verifies the receipt and keeps it.
func (o *Owner) relay(ctx context.Context, op *opened, t *sealed, p *client.Params) (*client.Outcome, *Result, error) {
	out, res, err := o.exchange(ctx, op, t, p)
	if res.Receipt != nil {
		if lost := o.remember(op.vm, res.Receipt, out.Receipt); lost != nil {
			return out, res, notKept(op.vm.Name, res.Receipt, err, lost)
		}
	}
	return out, res, err
}

// notKept is for a receipt that was verified and could not be stored: what it says is told
// all the same.
func notKept(name string, r *bond.Receipt, verdict, err error) error {
	what := fmt.Sprintf("%s of %q was executed, as its verified receipt says", r.Command, name)
	if verdict != nil {
		what = verdict.Error()
	}
	return fail.Wrap(err, fail.Other, fail.HintOf(err), "%s; this could not be kept here", what)
}

// exchange sends a ticket once and verifies the receipt.
func (o *Owner) exchange(ctx context.Context, op *opened, t *sealed, p *client.Params) (*client.Outcome, *Result, error) {
	res := &Result{VM: op.vm.Name, Command: t.command}
	out, err := op.send(ctx, client.Command{Command: t.command, Ticket: t.blob, Params: p})
	if err != nil {
		return nil, res, notAnswered(ctx, op.vm, t.command, err)
	}
	res.Claim = out
	if len(out.Receipt) == 0 {
		return out, res, o.noReceipt(op, t.command, out)
	}
	r, err := t.verify(op.bond, out.Receipt)
	if err != nil {
		return out, res, err
	}
	if r.AuditSeq < op.vm.Records {
		return out, res, setBack(r.AuditSeq, op.vm.Records)
	}
	res.Receipt = r
	return out, res, o.verdict(op.vm.Name, r)
}

func (op *opened) send(ctx context.Context, cmd client.Command) (*client.Outcome, error) {
	if op.watch == nil {
		return op.conn.Command(ctx, op.vm.ID, cmd)
	}
	return op.conn.CommandLive(ctx, op.vm.ID, cmd, op.watch)
}

// Looks tells a command that only looks at a VM, its console's log or its audit log.
func Looks(command string) bool { return command == Audit || command == Log || command == Status }

// remember stores a verified receipt and the VM's state. It finishes even when
// the person presses Ctrl-C now: the command was executed.
func (o *Owner) remember(vm *store.VM, r *bond.Receipt, blob []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := o.Store.AddReceipt(ctx, vm.Name, store.Receipt{Nonce: r.Nonce[:], Received: o.Now().Unix(), Sealed: blob, Look: Looks(r.Command)}); err != nil {
		return err
	}
	_, err := o.Store.UpdateVM(ctx, vm.Name, vm.ID, func(v *store.VM) {
		v.Records = max(v.Records, r.AuditSeq)
		if r.HostTime >= v.StateTime {
			v.State, v.StateTime = r.State, r.HostTime
		}
	})
	return err
}

// notAnswered classes a command that brought no answer.
func notAnswered(ctx context.Context, vm *store.VM, command string, err error) error {
	var sent *client.SentError
	if ctx.Err() != nil {
		return fmt.Errorf("%s of %q may have been executed all the same (see it with `uvbond vm status %s`): %w", command, vm.Name, vm.Name, context.Cause(ctx))
	}
	var api *client.APIError
	if errors.As(err, &api) && api.Class == classRedirected {
		return forged("the hypervisor says, by the server, that the ticket does not open on the VM it was given to")
	}
	if api != nil && api.Status == http.StatusNotFound {
		return fail.Wrap(err, fail.Unknown, "if it was deleted from elsewhere, remove what is left here: uvbond vm delete "+vm.Name+" --forget; else ask the provider",
			"no receipt: %s says, unverified, that it does not have %q", vm.Host, vm.Name)
	}
	// Whoever answered had the ticket: that it was not used is the server's word only.
	if api != nil || errors.As(err, &sent) || errors.Is(err, client.ErrGarbage) || errors.Is(err, client.ErrTooLarge) {
		return fail.Wrap(err, fail.Unknown, "see what was done: uvbond vm status "+vm.Name+", uvbond audit "+vm.Name,
			"no receipt: it is not known whether %s was executed on %q", command, vm.Name)
	}
	return contact(ctx, vm.Host, err)
}

func (o *Owner) noReceipt(op *opened, command string, out *client.Outcome) error {
	name := op.vm.Name
	claim := client.Printable(out.Outcome)
	for _, more := range []string{out.Class, out.Reason} {
		if more != "" {
			claim += ": " + client.Printable(more)
		}
	}
	if out.Class == classRedirected {
		return forged("your ticket was used on another VM, where it does not open (the server says %q)", claim)
	}
	hint := "see what was done: uvbond vm status " + name + ", uvbond audit " + name
	switch off := o.clockOff(op.conn); {
	case out.Class == classBusy:
		hint = "another session is changing the VM, it seems: try again; " + hint
	case out.Class == classExpired && off != "":
		claim += "; " + off
		hint = clockHint
	}
	return fail.New(fail.Unknown, hint, "no receipt: it is not known whether %s was executed on %q (the server says, unverified: %s)", command, name, claim)
}

// verdict turns a verified receipt into nil or the refusal it holds.
func (o *Owner) verdict(name string, r *bond.Receipt) error {
	if r.Verdict == bond.VerdictDone {
		return nil
	}
	what := "was refused by the hypervisor"
	if r.Verdict == bond.VerdictIncomplete {
		what = "was begun and not finished"
	}
	e := &fail.Error{Code: fail.Refused, Class: r.Class, Text: fmt.Sprintf("%s of %q %s: %s", r.Command, name, what, reason(r))}
	switch r.Class {
	case classExpired:
		e.Hint = "run the command again"
		if r.Verdict == bond.VerdictRefused {
			e.Hint = "the server kept the ticket back for too long: run the command again, then tell the provider"
			if off := Behind(time.Unix(r.HostTime, 0), o.Now()); off != "" {
				e.Text += " (" + off + ")"
				e.Hint = clockHint
			}
		}
	case classNotRunning, classStale:
		e.Hint = "it has no instance now, or a newer one: uvbond vm status " + name + ", uvbond vm start " + name
	case classRunning:
		e.Hint = "end the running instance first: uvbond vm shutdown " + name + " (or poweroff)"
	case classBusy:
		e.Hint = "another command is changing the VM: wait and try again"
	case classNotBuilt:
		e.Hint = "make its disks from their base images first: uvbond vm build " + name
	case classRevoked:
		e.Hint = "ask the VM's owner for another delegation"
	case classReplayed:
		e.Hint = "run the command again; the server sent this ticket twice"
	default:
		e.Hint = "what was done: uvbond receipt show " + name + " " + hex.EncodeToString(r.Nonce[:4])
	}
	return e
}

func reason(r *bond.Receipt) string {
	switch {
	case r.Class != "" && r.Reason != "":
		return r.Class + ": " + r.Reason
	case r.Reason != "":
		return r.Reason
	case r.Class != "":
		return r.Class
	}
	return "no reason was given"
}
