package gate

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/qmp"
)

// colleague is somebody to whom the owner of f.a delegated something.
type colleague struct {
	f     *fixture
	key   *bond.DelegateKey
	d     *bond.Delegation
	grant *bond.Grant
}

// delegate gives a colleague what a policy of shipped commands allows; change may
// bend it.
func (f *fixture) delegate(rules, names string, change func(*bond.Delegation)) *colleague {
	f.t.Helper()
	key, err := bond.GenerateDelegateKey()
	if err != nil {
		f.t.Fatal(err)
	}
	text, err := automata.Policy(strings.Fields(names)...)
	if err != nil {
		f.t.Fatal(err)
	}
	now := f.host.Now()
	d := bond.NewDelegation(key.Public(), "bob")
	d.Policy, d.IssuedAt, d.NotBefore, d.NotAfter = rules+"\n"+text, now-60, now-60, now+7200
	if change != nil {
		change(d)
	}
	blob, err := bond.SealGrant(f.a.owner, key.Public(), d)
	if err != nil {
		f.t.Fatal(err)
	}
	g, err := bond.OpenGrant(key, blob)
	if err != nil {
		f.t.Fatal(err)
	}
	return &colleague{f: f, key: key, d: d, grant: g}
}

func (b *colleague) ticket(command string, change func(*bond.DelegatedTicket)) ([]byte, *bond.DelegatedTicket) {
	b.f.t.Helper()
	text, err := automata.Native(command)
	if err != nil {
		b.f.t.Fatal(err)
	}
	now := b.f.host.Now()
	k := &bond.DelegatedTicket{Nonce: bond.NewNonce(), Command: command, Automaton: text, NotBefore: now - 60, NotAfter: now + 300}
	if change != nil {
		change(k)
	}
	sealed, err := b.grant.SealTicket(b.key, k)
	if err != nil {
		b.f.t.Fatal(err)
	}
	return sealed, k
}

func (b *colleague) receipt(sealed []byte, k *bond.DelegatedTicket) *bond.DelegatedReceipt {
	b.f.t.Helper()
	r, err := b.grant.OpenReceipt(sealed)
	if err != nil {
		b.f.t.Fatalf("receipt does not open: %v", err)
	}
	if r.Nonce != k.Nonce || r.Delegate != "bob" || r.Delegation != b.d.ID {
		b.f.t.Errorf("receipt of another: %+v", r)
	}
	return r
}

// do runs one command and returns its receipt, or the error without one.
func (b *colleague) do(command string, change func(*bond.DelegatedTicket), calls ...string) (*bond.DelegatedReceipt, error) {
	b.f.t.Helper()
	sealed, k := b.ticket(command, change)
	c := b.f.dial()
	defer c.Close()
	if err := open(b.f.t, c, b.f.a, sealed); err != nil {
		if blob := sealedReceipt(err); blob != nil {
			return b.receipt(blob, k), err
		}
		return nil, err
	}
	var failed error
	for _, h := range calls {
		if err := run(b.f.t, c, h, nil); err != nil {
			failed = err
			break
		}
	}
	return b.receipt(closeSession(b.f.t, c).Receipt, k), failed
}

func TestDelegate(t *testing.T) {
	f := newFixture(t)
	b := f.delegate("", "status reset", nil)
	r, err := b.do("reset", nil, "query-status", "system_reset", "query-status")
	if err != nil || r.Verdict != "done" || r.Instance != 3 || r.State != "running" || len(r.Calls) != 3 {
		t.Fatalf("%+v, %v", r, err)
	}
	if r, err := b.do("status", nil, "query-status"); err != nil || r.Verdict != "done" {
		t.Errorf("%+v, %v", r, err)
	}
	// The owner's audit log names the delegate at every step.
	kinds := map[string]bool{}
	f.a.mu.Lock()
	for _, e := range f.a.entries {
		if e.Fields["delegate"] == "bob" && e.Fields["delegation"] == fmt.Sprintf("%x", b.d.ID) {
			kinds[e.Kind] = true
		}
	}
	f.a.mu.Unlock()
	for _, kind := range []string{"open", "call", "close"} {
		if !kinds[kind] {
			t.Errorf("no record of kind %s names the delegate", kind)
		}
	}
	// A part of what is allowed, under any name, is allowed too.
	narrow := func(k *bond.DelegatedTicket) {
		k.Command, k.Automaton = "nightly", "automaton nightly = system_reset query-status ;"
	}
	if r, err := b.do("reset", narrow, "system_reset", "query-status"); err != nil || r.Verdict != "done" || r.Command != "nightly" {
		t.Errorf("a part: %+v, %v", r, err)
	}
}

// TestDelegateExceeds: more than the owner allowed is refused, sealed and recorded.
func TestDelegateExceeds(t *testing.T) {
	for name, tc := range map[string]struct {
		bend   func(*bond.Delegation)
		change func(*bond.DelegatedTicket)
		calls  []string
		class  string
		reason string
	}{
		"another command":                      {change: func(k *bond.DelegatedTicket) { k.Command, k.Automaton = "pause", "automaton pause = stop ;" }, class: qmp.ClassDenied, reason: "refuses the last of: stop"},
		"another under a name that is allowed": {change: func(k *bond.DelegatedTicket) { k.Automaton = "automaton reset = stop ;" }, class: qmp.ClassDenied, reason: "refuses the last of: stop"},
		"more than once":                       {change: func(k *bond.DelegatedTicket) { k.Automaton = "automaton reset = system_reset system_reset ;" }, class: qmp.ClassDenied},
		"a choice of more":                     {change: func(k *bond.DelegatedTicket) { k.Automaton = "automaton reset = system_reset | quit ;" }, class: qmp.ClassDenied},
		"more after an abort":                  {change: func(k *bond.DelegatedTicket) { k.Automaton = "automaton reset = system_reset on abort quit ;" }, class: qmp.ClassDenied, reason: "after an abort"},
		"two commands in turn": {change: func(k *bond.DelegatedTicket) {
			k.Automaton = "automaton reset = system_reset query-status+ system_reset ;"
		}, class: qmp.ClassDenied},
		"the owner's own": {change: func(k *bond.DelegatedTicket) { k.Automaton = "automaton reset = uvbond-set-policy ;" }, class: qmp.ClassDenied},
		"captures, so nobody can tell": {change: func(k *bond.DelegatedTicket) {
			k.Automaton = "automaton reset = uvbond-read-console{ offset: $x } uvbond-read-console{ offset: $x } ;"
		}, class: qmp.ClassDenied},
		"another hypercall than its ticket's":     {calls: []string{"query-status", "stop"}, class: qmp.ClassRefused, reason: "stop"},
		"delegation over":                         {bend: func(d *bond.Delegation) { d.NotAfter = d.NotBefore + 30 }, class: qmp.ClassExpired, reason: "delegation"},
		"delegation not yet":                      {bend: func(d *bond.Delegation) { d.NotBefore += 3600 }, class: qmp.ClassExpired, reason: "delegation"},
		"ticket over":                             {change: func(k *bond.DelegatedTicket) { k.NotBefore, k.NotAfter = k.NotBefore-7200, k.NotAfter-7200 }, class: qmp.ClassExpired, reason: "ticket"},
		"another instance than the owner said":    {bend: func(d *bond.Delegation) { d.Instance = 2 }, class: qmp.ClassStale},
		"another instance than the ticket said":   {change: func(k *bond.DelegatedTicket) { k.Instance = 4 }, class: qmp.ClassStale},
		"nothing is allowed":                      {bend: func(d *bond.Delegation) { d.Policy = "" }, class: qmp.ClassDenied, reason: "nothing is allowed"},
		"a delegation of what no policy may hold": {bend: func(d *bond.Delegation) { d.Policy = "automaton reset = uvbond-delete ;" }, class: qmp.ClassInvalid, reason: "cannot allow"},
		"a delegation of what never passes":       {bend: func(d *bond.Delegation) { d.Policy = "automaton reset = screendump{ filename: string } ;" }, class: qmp.ClassInvalid},
		"a text that is none":                     {change: func(k *bond.DelegatedTicket) { k.Automaton = "automaton reset = (" }, class: qmp.ClassInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.allow("", "pause reset") // operators' rights are not the delegate's
			b := f.delegate("", "status reset", tc.bend)
			r, err := b.do("reset", tc.change, tc.calls...)
			if got := class(t, err); got != tc.class || r == nil {
				t.Fatalf("%v, receipt %+v, want %s", err, r, tc.class)
			}
			if r.Verdict != "refused" || r.Class != tc.class || !strings.Contains(r.Reason, tc.reason) {
				t.Errorf("receipt %+v", r)
			}
			if ran := f.a.ran(); len(ran) != 0 {
				t.Errorf("reached the VM: %v", ran)
			}
			named := func(kind string) bool {
				f.a.mu.Lock()
				defer f.a.mu.Unlock()
				for _, e := range f.a.entries {
					if e.Kind == kind && e.Fields["delegate"] == "bob" {
						return true
					}
				}
				return false
			}
			if !named("refused") {
				t.Error("the audit does not have it with the delegate's name")
			}
		})
	}
}

// TestDelegateElsewhere: on another VM the ticket does not open, and both owners
// know of it; a ticket is used once.
func TestDelegateElsewhere(t *testing.T) {
	f := newFixture(t)
	b := f.delegate("", "status reset", nil)
	sealed, _ := b.ticket("reset", nil)
	err := open(t, f.dial(), f.b, sealed)
	if class(t, err) != qmp.ClassRedirected || sealedReceipt(err) != nil {
		t.Errorf("another VM: %v", err)
	}
	for _, v := range []*fakeVM{f.a, f.b} {
		if !v.recorded("refused", qmp.ClassRedirected) {
			t.Error("the attempt is missing in an audit log")
		}
	}
	c := f.dial()
	if err := open(t, c, f.a, sealed); err != nil {
		t.Fatal(err)
	}
	if err := run(t, c, "system_reset", nil); err != nil {
		t.Fatal(err)
	}
	closeSession(t, c)
	if err := open(t, c, f.a, sealed); class(t, err) != qmp.ClassReplayed || sealedReceipt(err) != nil {
		t.Errorf("replayed: %v", err)
	}
	// Somebody who stole the grant, but not the key.
	thief, err := bond.GenerateDelegateKey()
	if err != nil {
		t.Fatal(err)
	}
	stolen, err := b.grant.SealTicket(thief, &bond.DelegatedTicket{Nonce: bond.NewNonce(), Command: "reset", Automaton: "automaton reset = system_reset ;", NotBefore: f.host.Now() - 1, NotAfter: f.host.Now() + 60})
	if err != nil {
		t.Fatal(err)
	}
	if err := open(t, c, f.a, stolen); class(t, err) != qmp.ClassRedirected {
		t.Errorf("signed by a thief: %v", err)
	}
	for i := range sealed {
		if i%37 != 0 {
			continue
		}
		bad := slices.Clone(sealed)
		bad[i] ^= 4
		if err := open(t, c, f.a, bad); err == nil {
			t.Fatalf("byte %d changed, and it opens", i)
		}
	}
	if n := len(f.a.ran()); n != 1 {
		t.Errorf("%d hypercalls reached the VM", n)
	}
}

// revoke takes a delegation back as its owner.
func (f *fixture) revoke(text string, args qmp.RevokeArgs) error {
	f.t.Helper()
	sealed, _ := f.ticket(f.a, "undelegate", func(k *bond.Ticket) { k.Automaton, k.Descriptor = text, nil })
	c := f.dial()
	defer c.Close()
	if err := open(f.t, c, f.a, sealed); err != nil {
		return err
	}
	if err := run(f.t, c, qmp.CmdRevoke, args); err != nil {
		return err
	}
	closeSession(f.t, c)
	return nil
}

func TestUndelegate(t *testing.T) {
	f := newFixture(t)
	b, other := f.delegate("", "status reset", nil), f.delegate("", "status reset", nil)
	id := fmt.Sprintf("%x", b.d.ID)
	// A session that is open when the owner takes it back.
	sealed, k := b.ticket("reset", nil)
	c := f.dial()
	if err := open(t, c, f.a, sealed); err != nil {
		t.Fatal(err)
	}
	if err := run(t, c, "query-status", nil); err != nil {
		t.Fatal(err)
	}
	// The server cannot exchange the delegation that the owner's ticket names.
	if err := f.revoke(automata.Undelegate(id, 0), qmp.RevokeArgs{Delegation: fmt.Sprintf("%x", other.d.ID)}); class(t, err) != qmp.ClassRefused {
		t.Errorf("another delegation is revoked: %v", err)
	}
	if err := f.revoke(automata.Undelegate(id, 0), qmp.RevokeArgs{IssuedUntil: 1 << 40}); class(t, err) != qmp.ClassRefused {
		t.Errorf("all delegations are revoked: %v", err)
	}
	if err := f.revoke(automata.Undelegate(id, 0), qmp.RevokeArgs{Delegation: id}); err != nil {
		t.Fatal(err)
	}
	if got := class(t, run(t, c, "system_reset", nil)); got != qmp.ClassRevoked {
		t.Errorf("in an open session: %q", got)
	}
	if r := b.receipt(closeSession(t, c).Receipt, k); r.Verdict != "refused" || r.Class != qmp.ClassRevoked {
		t.Errorf("receipt %+v", r)
	}
	if r, err := b.do("status", nil); class(t, err) != qmp.ClassRevoked || r == nil || r.Class != qmp.ClassRevoked {
		t.Errorf("after it was taken back: %+v, %v", r, err)
	}
	if r, err := other.do("status", nil, "query-status"); err != nil || r.Verdict != "done" {
		t.Errorf("the other one: %+v, %v", r, err)
	}
	now := f.host.Now()
	if err := f.revoke(automata.Undelegate("", now), qmp.RevokeArgs{IssuedUntil: now}); err != nil {
		t.Fatal(err)
	}
	if _, err := other.do("status", nil); class(t, err) != qmp.ClassRevoked {
		t.Errorf("after all were taken back: %v", err)
	}
	later := f.delegate("", "status", func(d *bond.Delegation) { d.IssuedAt = now + 1 })
	if _, err := later.do("status", nil, "query-status"); err != nil {
		t.Errorf("a later one: %v", err)
	}
	// Malformed arguments, under a ticket that lets anything through.
	for _, bad := range []qmp.RevokeArgs{{}, {Delegation: "all"}, {Delegation: id[:62]}, {IssuedUntil: -1}, {Delegation: id, IssuedUntil: 5}} {
		if err := f.revoke("automaton undelegate = uvbond-revoke{ ... } ;", bad); class(t, err) != qmp.ClassInvalid {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	// Nobody but the owner takes back, and nobody without a ticket.
	if _, err := later.do("status", func(k *bond.DelegatedTicket) { k.Automaton = "automaton status = uvbond-revoke{ ... } ;" }); class(t, err) != qmp.ClassDenied {
		t.Errorf("a delegate: %v", err)
	}
	if err := f.operate(qmp.CmdRevoke); err == nil {
		t.Error("an operator")
	}
}

// TestDelegateRules: what rules say counts for each delegation by itself.
func TestDelegateRules(t *testing.T) {
	f := newFixture(t)
	var now atomic.Int64 // the gate reads it
	now.Store(time.Now().Unix())
	f.host.setNow(now.Load)
	const rules = "rule pause = limit 1 per 1h pause 5min ;"
	b, other := f.delegate(rules, "status pause", nil), f.delegate(rules, "status pause", nil)
	if _, err := b.do("pause", nil, "stop", "query-status"); err != nil {
		t.Fatal(err)
	}
	if r, err := b.do("pause", nil, "query-status", "stop"); class(t, err) != qmp.ClassDenied || !strings.Contains(r.Reason, "used once within 1h") {
		t.Errorf("a second time: %+v, %v", r, err)
	}
	if _, err := b.do("status", nil, "query-status"); err != nil {
		t.Errorf("looking: %v", err)
	}
	if _, err := other.do("pause", nil, "stop"); err != nil {
		t.Errorf("another delegation: %v", err)
	}
	f.a.mu.Lock()
	for i, command := range f.a.executed {
		if p := f.a.pauses[i]; p == nil || p.Most != 5*time.Minute {
			t.Errorf("%s is executed with %+v", command, p)
		}
	}
	f.a.mu.Unlock()
	now.Add(3600)
	if _, err := b.do("pause", nil, "stop"); err != nil {
		t.Errorf("an hour later: %v", err)
	}
	closed := f.delegate("rule pause = until 2020-01-01T00:00:00Z ;", "pause", nil)
	if r, err := closed.do("pause", nil); class(t, err) != qmp.ClassDenied || !strings.Contains(r.Reason, "only until 2020") {
		t.Errorf("outside of its hours: %+v, %v", r, err)
	}
}

// TestDelegateDeadline: a session of a delegate lasts no longer than the owner's
// automaton says, and not beyond the end of the delegation.
func TestDelegateDeadline(t *testing.T) {
	f := newFixture(t)
	now := f.host.Now()
	f.host.setNow(func() int64 { return now })
	slow := func(k *bond.DelegatedTicket) {
		k.Automaton = "automaton reset = query-status* system_reset deadline 5min ;"
	}
	for name, tc := range map[string]struct {
		bend func(*bond.Delegation)
		most int
	}{
		"the owner's automaton": {nil, 30},
		"the delegation's end":  {func(d *bond.Delegation) { d.NotAfter = now + 9 }, 10},
		"no deadline": {func(d *bond.Delegation) {
			d.Policy = "automaton reset = query-status* system_reset query-status* on abort query-status* ;"
		}, 300},
	} {
		sealed, _ := f.delegate("", "status reset", tc.bend).ticket("reset", slow)
		var res qmp.OpenResult
		c := f.dial()
		if err := c.Execute(t.Context(), qmp.CmdOpen, qmp.OpenArgs{VM: f.a.id.String(), Ticket: sealed, Wait: 10}, &res); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if res.Deadline > tc.most || res.Deadline < tc.most-5 {
			t.Errorf("%s: the session may last %d s, want %d", name, res.Deadline, tc.most)
		}
		closeSession(t, c)
	}
}

// TestDelegateAndInstances: a delegation may outlive an instance, if the owner
// said so, and acts on the one that runs.
func TestDelegateAndInstances(t *testing.T) {
	f := newFixture(t)
	free, this := f.delegate("", "status reset", nil), f.delegate("", "status reset", func(d *bond.Delegation) { d.Instance = 3 })
	for _, b := range []*colleague{free, this} {
		if _, err := b.do("reset", func(k *bond.DelegatedTicket) { k.Instance = 3 }, "system_reset"); err != nil {
			t.Fatal(err)
		}
	}
	f.a.setLive(false)
	if _, err := free.do("reset", nil); class(t, err) != qmp.ClassNotRunning {
		t.Errorf("reset of a VM that does not run: %v", err)
	}
	if r, err := free.do("status", nil, "query-status"); err != nil || r.Verdict != "done" {
		t.Errorf("status of a VM that does not run: %v", err)
	}
	if _, err := this.do("status", nil); class(t, err) != qmp.ClassNotRunning {
		t.Errorf("its one instance has ended: %v", err)
	}
	f.a.mu.Lock()
	f.a.cur = Current{Number: 4, Live: true, Descriptor: bond.Descriptor{Value: [32]byte{4}, Instance: 4}}
	f.a.mu.Unlock()
	if r, err := free.do("reset", nil, "system_reset"); err != nil || r.Instance != 4 {
		t.Errorf("the next instance: %+v, %v", r, err)
	}
	if _, err := free.do("reset", func(k *bond.DelegatedTicket) { k.Instance = 3 }); class(t, err) != qmp.ClassStale {
		t.Errorf("a ticket that was kept back: %v", err)
	}
	if _, err := this.do("status", nil); class(t, err) != qmp.ClassStale {
		t.Errorf("for another instance: %v", err)
	}
	// The descriptor is the owner's: a delegate's status does not bring it out.
	sealed, _ := free.ticket("status", nil)
	c := f.dial()
	if err := open(t, c, f.a, sealed); err != nil {
		t.Fatal(err)
	}
	if err := run(t, c, "query-status", nil); err != nil {
		t.Fatal(err)
	}
	if res := closeSession(t, c); res.Descriptor != nil {
		t.Error("a delegate's session carries the descriptor")
	}
}
