package e2e

import (
	"time"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/qmp"
)

// limits: the hypervisor holds operators to the rules of the owner's policy,
// also across its own restart, and ends their pauses.
func limits(w *world, alice, _ *user) {
	alice.says(exitDone, "at most 1 in 1h, paused for 2s at most", "vm", "allow", "web1", "status,pause", "--limit", "pause=1/h", "--max-pause", "2s")
	w.operator(exitDone, "paused", "vm", "pause", "web1")
	alice.state("web1", qmp.StateRunning) // by itself
	w.operator(exitRefused, "used once within 1h", "vm", "pause", "web1")
	w.lab.KillHypervisor()
	alice.restart()
	w.operator(exitRefused, "used once within 1h", "vm", "pause", "web1")
	w.operator(exitDone, "running", "vm", "status", "web1")
	alice.audit("web1", "one more use of pause", "resumed: it may not stay paused any longer")
	// The owner's own pause is nobody's to end.
	alice.says(exitDone, "paused", "vm", "pause", "web1")
	alice.says(exitDone, "running", "vm", "resume", "web1")
	alice.says(exitDone, "nothing", "vm", "allow", "web1", "none")
	w.operator(exitRefused, "policy", "vm", "status", "web1")
}

// delegates: bob acts on alice's VM as far as she let him, and no further.
func delegates(w *world, alice, bob *user) {
	bob.run(exitDone, "identity", "export", "bob.pub", "--name", "bob")
	alice.take(bob.path("bob.pub"), "bob.pub")
	alice.says(exitDone, "bob may on web1: status; reset", "vm", "delegate", "web1", "--to", "bob.pub", "--allow", "status,reset", "--until", "1day", "--limit", "reset=2/day", "-o", "bob.grant")
	bob.take(alice.path("bob.grant"), "bob.grant")
	bob.says(exitDone, "you may", "delegation", "accept", "bob.grant", "--host", "lab", "--name", "web1")
	bob.says(exitDone, "web1: running", "delegation", "run", "web1", "status")
	bob.says(exitDone, "as bob under delegation", "delegation", "run", "web1", "reset")
	alice.ticksOn("web1") // the guest boots again
	bob.says(exitRefused, "does not include", "delegation", "run", "web1", "poweroff")
	alice.audit("web1", "reset by delegate bob: done", "session for poweroff refused")
	attackDelegate(w, alice, bob)

	// The count survives the daemon, and so does taking it back.
	bob.says(exitDone, "as bob", "delegation", "run", "web1", "reset")
	w.lab.KillHypervisor()
	alice.restart()
	bob.says(exitRefused, "used 2 times within 1day", "delegation", "run", "web1", "reset")
	alice.says(exitDone, "taken back: bob", "vm", "undelegate", "web1", "bob")
	bob.says(exitRefused, "Revoked", "delegation", "run", "web1", "status")
	w.lab.KillHypervisor()
	alice.restart()
	bob.says(exitRefused, "Revoked", "delegation", "run", "web1", "status")
	alice.audit("web1", "a delegation was revoked")

	// One that ends by itself.
	alice.run(exitDone, "vm", "delegate", "web1", "--to", "bob.pub", "--allow", "observe", "--until", "4s", "-o", "short.grant")
	bob.take(alice.path("short.grant"), "short.grant")
	bob.run(exitDone, "delegation", "accept", "short.grant", "--host", "lab", "--name", "short")
	if !eventually(time.Minute, func() bool {
		r, err := bob.tenant.Run(w.Context(), "delegation", "run", "short", "status")
		return err == nil && r.Code == exitRefused && contains(r.Stderr, "Expired")
	}) {
		w.Error("a delegation does not end")
	}
	alice.says(exitDone, "running", "vm", "status", "web1")
}

// delegated loads what bob accepted, to make tickets of the test's choice.
func (u *user) delegated(name string) (*bond.DelegateKey, *bond.Grant) {
	u.Helper()
	s := u.store()
	kept, err := s.Grant(name)
	if err != nil {
		u.Fatal(err)
	}
	k, err := s.DelegateKey(u.Context())
	if err != nil {
		u.Fatal(err)
	}
	g, err := bond.ImportGrant(k, bond.NewSecret(kept.Secret))
	if err != nil {
		u.Fatal(err)
	}
	return k, g
}

func (u *user) delegatedTicket(k *bond.DelegateKey, g *bond.Grant, command, text string) []byte {
	u.Helper()
	now := time.Now().Unix()
	sealed, err := g.SealTicket(k, &bond.DelegatedTicket{Nonce: bond.NewNonce(), Command: command, Automaton: text, NotBefore: now - 60, NotAfter: now + 300})
	if err != nil {
		u.Fatal(err)
	}
	return sealed
}

// attackDelegate: the delegate and the operator together, with all that they
// have, get no further than the delegation goes.
func attackDelegate(w *world, alice, bob *user) {
	web1, bob1 := alice.id("web1"), bob.id("bob1")
	k, g := bob.delegated("web1")
	reset, err := automata.Native("reset")
	if err != nil {
		w.Fatal(err)
	}
	status, err := automata.Native("status")
	if err != nil {
		w.Fatal(err)
	}
	once := bob.delegatedTicket(k, g, "status", status)
	flipped := append([]byte(nil), once...)
	flipped[len(flipped)-40] ^= 1
	thief, err := bond.GenerateDelegateKey()
	if err != nil {
		w.Fatal(err)
	}
	// A delegation that bob made for himself, under the bond of his own VM.
	_, own := bob.bond("bob1")
	defer own.Wipe()
	d := bond.NewDelegation(k.Public(), "bob")
	d.Policy, d.IssuedAt, d.NotBefore, d.NotAfter = reset, time.Now().Unix(), time.Now().Unix()-60, time.Now().Unix()+600
	blob, err := bond.SealGrant(own, k.Public(), d)
	if err != nil {
		w.Fatal(err)
	}
	ownGrant, err := bond.OpenGrant(k, blob)
	if err != nil {
		w.Fatal(err)
	}
	for _, a := range []struct {
		name     string
		vm       string
		ticket   []byte
		commands []string
		class    string // "": done
	}{
		{"used once", web1, once, []string{"query-status"}, ""},
		{"used again", web1, once, []string{"query-status"}, qmp.ClassReplayed},
		{"changed on the way", web1, flipped, []string{"query-status"}, qmp.ClassRedirected},
		{"on the operator's own VM", bob1, bob.delegatedTicket(k, g, "status", status), []string{"query-status"}, qmp.ClassRedirected},
		{"a delegation of another VM", web1, bob.delegatedTicket(k, ownGrant, "reset", reset), []string{"system_reset"}, qmp.ClassRedirected},
		{"signed by another", web1, bob.delegatedTicket(thief, g, "reset", reset), []string{"system_reset"}, qmp.ClassRedirected},
		{"more under a name that is allowed", web1, bob.delegatedTicket(k, g, "reset", "automaton reset = quit ;"), []string{"quit"}, qmp.ClassDenied},
		{"more than once", web1, bob.delegatedTicket(k, g, "reset", "automaton reset = system_reset+ ;"), []string{"system_reset", "system_reset"}, qmp.ClassDenied},
		{"more after an abort", web1, bob.delegatedTicket(k, g, "reset", "automaton reset = system_reset on abort quit ;"), []string{"stop", "quit"}, qmp.ClassDenied},
		{"what only owners may", web1, bob.delegatedTicket(k, g, "status", "automaton status = uvbond-read-console{ offset: 0.. } ;"), nil, qmp.ClassDenied},
		{"another hypercall under it", web1, bob.delegatedTicket(k, g, "reset", reset), []string{"quit"}, qmp.ClassRefused},
	} {
		h := w.speak(speech{VM: a.vm, Ticket: a.ticket, Commands: a.commands})
		if h.Class != a.class {
			w.Errorf("%s: %+v, want %q", a.name, h, a.class)
		}
		if sealed := a.class == qmp.ClassDenied; sealed {
			if r, err := g.OpenReceipt(h.Receipt); err != nil || r.Verdict != bond.VerdictRefused || r.Delegate != "bob" {
				w.Errorf("%s: receipt %+v, %v", a.name, r, err)
			}
		}
	}
	alice.audit("web1", "ticket for status was presented again", "ticket for status was presented for VM "+bob1, "delegate=bob")
	alice.says(exitDone, "running", "vm", "status", "web1")
}
