package tenant

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant/client"
	"github.com/uvbond/uvbond/tenant/fail"
	"github.com/uvbond/uvbond/tenant/store"
)

// DelegateRequest is what an owner gives away of one VM.
type DelegateRequest struct {
	VM      string
	To      *bond.DelegatePublic
	Name    string // what the owner calls the delegate
	Allow   Terms  // From and Until bound the delegation itself; Until is needed
	ThisOne bool   // for the instance that runs now only
}

// delegateBefore is how far in the past a delegation begins that says nothing
// else, for clocks that differ.
const delegateBefore = 5 * time.Minute

// Delegate seals a delegation and what its holder needs to use it. The host is not
// asked: it will check what it is shown. The result is for the delegate, who alone
// can open it.
func (o *Owner) Delegate(ctx context.Context, req DelegateRequest) (*store.Delegation, []byte, error) {
	vm, err := o.Store.VM(req.VM)
	if err != nil {
		return nil, nil, err
	}
	d, err := o.delegation(vm, req)
	if err != nil {
		return nil, nil, err
	}
	b, err := o.Store.Bond(vm)
	if err != nil {
		return nil, nil, err
	}
	defer b.Wipe()
	blob, err := bond.SealGrant(b, req.To, d)
	if err != nil {
		return nil, nil, fail.Wrap(err, fail.Usage, "see: uvbond vm delegate --help", "this cannot be delegated")
	}
	kept := store.Delegation{
		ID: hex.EncodeToString(d.ID[:]), Name: d.Name, Delegate: req.To.ID().String(), Policy: d.Policy, Instance: d.Instance,
		Issued: d.IssuedAt, NotBefore: d.NotBefore, NotAfter: d.NotAfter,
	}
	// First here, so that nothing is given away that cannot be named.
	_, err = o.Store.UpdateVM(ctx, vm.Name, vm.ID, func(v *store.VM) { v.Delegations = append(v.Delegations, kept) })
	return &kept, blob, err
}

func (o *Owner) delegation(vm *store.VM, req DelegateRequest) (*bond.Delegation, error) {
	now := o.Now()
	if vm.Phase != store.PhaseBonded {
		return nil, fail.New(fail.Other, "finish or clean up with: uvbond vm create "+vm.Name+" --resume", "the registration of %q was interrupted", vm.Name)
	}
	d := bond.NewDelegation(req.To, req.Name)
	d.IssuedAt, d.NotBefore = now.Unix(), now.Add(-delegateBefore).Unix()
	times, err := Terms{From: req.Allow.From, Until: req.Allow.Until}.common(now)
	if err != nil {
		return nil, err
	}
	if times.From != 0 {
		d.NotBefore = times.From
	}
	if d.NotAfter = times.Until; d.NotAfter == 0 {
		return nil, fail.New(fail.Usage, "for example --until 2027-01-31 or --until 30day", "say how long the delegation is for")
	}
	allow := req.Allow
	allow.From, allow.Until = "", ""
	if d.Policy, err = allow.Text(now); err != nil {
		return nil, err
	}
	if strings.TrimSpace(d.Policy) == "" {
		return nil, fail.New(fail.Usage, "for example --allow status,reset", "nothing is delegated")
	}
	if req.ThisOne {
		if d.Instance = vm.Instance; d.Instance == 0 || Ended(vm.State) {
			return nil, fail.New(fail.Usage, "start it first, or leave --this-instance out", "%q has no instance", vm.Name)
		}
	}
	return d, nil
}

// Undelegate takes back the delegations with that name or id (its beginning will do),
// or all that were ever given away. They are the ones that a receipt vouches for.
func (o *Owner) Undelegate(ctx context.Context, name, which string, all bool) (*Result, []store.Delegation, error) {
	op, err := o.open(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	defer op.bond.Wipe()
	if all {
		until := o.Now().Unix()
		res, err := o.revoke(ctx, op, "", until)
		if err != nil {
			return res, nil, err
		}
		return o.noteRevoked(op.vm, res, func(d *store.Delegation) bool { return d.Issued <= until })
	}
	ids := map[string]bool{}
	for _, d := range op.vm.Delegations {
		if d.Revoked == 0 && (d.Name == which || len(which) >= 6 && strings.HasPrefix(d.ID, which)) {
			ids[d.ID] = true
		}
	}
	if len(ids) == 0 {
		return nil, nil, fail.New(fail.Usage, "see: uvbond vm show "+name+"; to take back all, also those of another machine: uvbond vm undelegate "+name+" --all", "no delegation of %q in force is %q", name, which)
	}
	var last *Result
	var list []store.Delegation
	for id := range ids {
		res, err := o.revoke(ctx, op, id, 0)
		if err != nil {
			return res, list, err
		}
		one, some, err := o.noteRevoked(op.vm, res, func(d *store.Delegation) bool { return d.ID == id })
		if last, list = one, append(list, some...); err != nil {
			return last, list, err
		}
	}
	return last, list, nil
}

// revoke sends a ticket whose automaton names the one delegation, or the time.
func (o *Owner) revoke(ctx context.Context, op *opened, id string, until int64) (*Result, error) {
	t, err := o.sealText(op.bond, Undelegate, automata.Undelegate(id, until), nil, nil)
	if err != nil {
		return nil, err
	}
	_, res, err := o.relay(ctx, op, t, &client.Params{Delegation: id, IssuedUntil: until})
	return res, err
}

func (o *Owner) noteRevoked(vm *store.VM, res *Result, which func(*store.Delegation) bool) (*Result, []store.Delegation, error) {
	var list []store.Delegation
	_, err := o.update(vm, func(v *store.VM) {
		for i := range v.Delegations {
			d := &v.Delegations[i]
			if d.Revoked == 0 && which(d) {
				d.Revoked = res.Receipt.HostTime
				list = append(list, *d)
			}
		}
	})
	return res, list, err
}

// Accept opens a grant with this client's own key and keeps it.
func (o *Owner) Accept(ctx context.Context, blob []byte, host, name string) (*store.Grant, error) {
	h, err := o.Store.Host(host)
	if err != nil {
		return nil, err
	}
	public, err := bond.ParseHostPublic(h.PublicKey)
	if err != nil {
		return nil, err
	}
	k, err := o.Store.DelegateKey(ctx)
	if err != nil {
		return nil, err
	}
	defer k.Wipe()
	g, err := bond.OpenGrant(k, blob)
	if err != nil {
		return nil, fail.Wrap(err, fail.Forged, "give its owner this machine's key: uvbond identity export FILE", "the delegation is not for this machine's key, or was changed on the way")
	}
	defer g.Wipe()
	if g.Host() != public.ID() {
		return nil, fail.New(fail.Forged, "pin the right host first: uvbond host add (the owner knows its fingerprint)", "the delegation is for another hypervisor than host %q", host)
	}
	secret := g.Export()
	defer secret.Wipe()
	kept := &store.Grant{Name: name, Host: host, VM: g.VM().String(), Accepted: o.Now().Unix(), Secret: append([]byte(nil), secret.Bytes()...)}
	return kept, o.Store.AddGrant(ctx, kept)
}

// GrantTerms opens a stored grant and returns what its owner says that it allows.
func (o *Owner) GrantTerms(ctx context.Context, g *store.Grant) (bond.Delegation, error) {
	k, err := o.Store.DelegateKey(ctx)
	if err != nil {
		return bond.Delegation{}, err
	}
	defer k.Wipe()
	open, err := openGrant(k, g)
	if err != nil {
		return bond.Delegation{}, err
	}
	defer open.Wipe()
	return open.Terms(), nil
}

func openGrant(k *bond.DelegateKey, g *store.Grant) (*bond.Grant, error) {
	secret := bond.NewSecret(g.Secret)
	defer secret.Wipe()
	open, err := bond.ImportGrant(k, secret)
	if err != nil {
		return nil, fail.Wrap(err, fail.Other, "accept it again from the file that its owner made", "the stored delegation %q is damaged, or is for another key", g.Name)
	}
	return open, nil
}

// DelegatedResult is a Result with the right by which it was had. Its receipt has
// no part in the owner's audit log.
type DelegatedResult struct {
	Result
	Delegate, Delegation string
}

// RunDelegated executes a management command on somebody else's VM. instance is
// the only one that it is for; 0: the one that runs.
func (o *Owner) RunDelegated(ctx context.Context, name, command string, instance uint64) (*DelegatedResult, error) {
	kept, err := o.Store.Grant(name)
	if err != nil {
		return nil, err
	}
	text, err := automata.Native(command)
	if err != nil {
		return nil, fail.Wrap(err, fail.Usage, "see: uvbond delegation show "+name, "%q is no command", command)
	}
	k, err := o.Store.DelegateKey(ctx)
	if err != nil {
		return nil, err
	}
	defer k.Wipe()
	g, err := openGrant(k, kept)
	if err != nil {
		return nil, err
	}
	defer g.Wipe()
	conn, err := o.Connect(ctx, kept.Host)
	if err != nil {
		return nil, err
	}
	if conn.Public.ID() != g.Host() {
		return nil, fail.New(fail.Forged, "the host was removed and added again with another identity", "the delegation %q is for another hypervisor than host %q has now", name, kept.Host)
	}
	now := o.Now()
	t := &bond.DelegatedTicket{Nonce: bond.NewNonce(), Command: command, Automaton: text, Instance: instance,
		NotBefore: now.Add(-ticketBefore).Unix(), NotAfter: now.Add(ticketAfter).Unix()}
	blob, err := g.SealTicket(k, t)
	if err != nil {
		return nil, err
	}
	return o.exchangeDelegated(ctx, conn, kept, g, t, blob)
}

// exchangeDelegated sends a ticket once and verifies the receipt.
func (o *Owner) exchangeDelegated(ctx context.Context, conn *Conn, kept *store.Grant, g *bond.Grant, t *bond.DelegatedTicket, blob []byte) (*DelegatedResult, error) {
	res := &DelegatedResult{Result: Result{VM: kept.Name, Command: t.Command}}
	vm := &store.VM{Name: kept.Name, ID: kept.VM, Host: kept.Host} // for messages
	out, err := conn.Delegated(ctx, kept.VM, client.Command{Command: t.Command, Ticket: blob})
	if err != nil {
		return res, delegatedWords(notAnswered(ctx, vm, t.Command, err))
	}
	res.Claim = out
	if len(out.Receipt) == 0 {
		return res, delegatedWords(o.noReceipt(&opened{vm: vm, conn: conn}, t.Command, out))
	}
	r, err := g.OpenReceipt(out.Receipt)
	switch {
	case err != nil:
		return res, forged("the receipt does not open under this delegation")
	case r.Nonce != t.Nonce:
		return res, forged("the receipt is for another ticket (replayed)")
	case r.Command != t.Command:
		return res, forged("the receipt is for %q, not %q", r.Command, t.Command)
	case r.Verdict != bond.VerdictRefused && (r.HostTime < t.NotBefore || r.HostTime > t.NotAfter+int64(receiptSlack/time.Second)):
		return res, forged("the receipt was made at %s, outside of the ticket's validity", time.Unix(r.HostTime, 0).UTC().Format(time.RFC3339))
	}
	res.Delegate, res.Delegation = r.Delegate, hex.EncodeToString(r.Delegation[:])
	res.Receipt = &bond.Receipt{Nonce: r.Nonce, Command: r.Command, Instance: r.Instance, Verdict: r.Verdict, Class: r.Class,
		Reason: r.Reason, Calls: r.Calls, State: r.State, HostTime: r.HostTime}
	keep, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := o.Store.UpdateGrant(keep, kept, func(s *store.Grant) {
		if r.HostTime >= s.StateTime {
			s.State, s.StateTime, s.Instance = r.State, r.HostTime, r.Instance
		}
	}); err != nil {
		return res, err
	}
	if err := o.verdict(kept.Name, res.Receipt); err != nil {
		return res, delegatedWords(err)
	}
	return res, delegatedWords(reached(kept.Name, res.Receipt))
}

// delegatedWords puts what a delegate can do in the place of the owner's hints.
func delegatedWords(err error) error {
	e, ok := err.(*fail.Error)
	if !ok {
		return err
	}
	out := *e
	if strings.Contains(out.Hint, "uvbond ") {
		out.Hint = "look again with: uvbond delegation run NAME status; the VM's owner sees everything in `uvbond audit`"
	}
	return &out
}

// ReadDelegate reads a public key file.
func ReadDelegate(text string) (*bond.DelegatePublic, string, error) {
	p, name, err := bond.ParseDelegateText(text)
	if err != nil {
		return nil, "", fail.Wrap(err, fail.Usage, "the delegate makes the file with: uvbond identity export FILE", "this is no delegate's public key")
	}
	return p, name, nil
}

// Period says until when a delegation is, or was, in force.
func Period(d *store.Delegation, now time.Time) string {
	until := time.Unix(d.NotAfter, 0).UTC().Format("2006-01-02 15:04 UTC")
	switch {
	case d.Revoked != 0:
		return "taken back " + time.Unix(d.Revoked, 0).UTC().Format("2006-01-02 15:04 UTC")
	case now.Unix() > d.NotAfter:
		return "ended " + until
	case now.Unix() < d.NotBefore:
		return fmt.Sprintf("from %s until %s", time.Unix(d.NotBefore, 0).UTC().Format("2006-01-02 15:04 UTC"), until)
	}
	return "until " + until
}
