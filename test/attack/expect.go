package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/uvbond/uvbond/bond"
)

// logged says where a refusal must be recorded.
type logged struct {
	machines []*machine // one entry in the log of each
	host     bool       // an entry in the host's own log
}

func nowhere() logged          { return logged{} }
func inHost() logged           { return logged{host: true} }
func in(ms ...*machine) logged { return logged{machines: ms} }

func (l logged) owe(w *world, n int) {
	for _, m := range l.machines {
		m.owe(n)
	}
	if l.host {
		w.refusedOutside(n)
	}
}

// must notes an attempt whose answer has to be this class of error, "" for
// acceptance, and what the logs then have of it.
func (t *trial) must(name string, o outcome, class string, where logged) {
	if class != "" {
		where.owe(t.world, 1)
	}
	t.note(name, differs(o, class), class != "")
}

// differs says how an answer is not what it must be: a class of errors, or one of
// several with "|" between them.
func differs(o outcome, class string) string {
	if o.Lost != "" || o.Class != class && (o.Class == "" || !slices.Contains(strings.Split(class, "|"), o.Class)) {
		return fmt.Sprintf("%s; it must be %s", o, orAccepted(class))
	}
	return ""
}

// present opens a session with a ticket and gives it up at once: what comes of
// a ticket by itself.
func (t *trial) present(a *process, name string, m *machine, ticket []byte, class string, where logged) error {
	out, err := a.run(move{Line: m.open(ticket)}, move{Do: doClose})
	if err != nil {
		return err
	}
	t.must(name, out[0], class, where)
	return nil
}

// presentSealed is present for a ticket whose refusal must be sealed for its owner.
func (t *trial) presentSealed(a *process, name string, m *machine, nonce [32]byte, ticket []byte, class string) error {
	out, err := a.run(move{Line: m.open(ticket)}, move{Do: doClose})
	if err != nil {
		return err
	}
	in(m).owe(t.world, 1)
	why := differs(out[0], class)
	var r bond.Receipt
	switch err := bond.Open(m.bond, out[0].Receipt, &r); {
	case why != "":
	case err != nil:
		why = "the refusal is not sealed: " + err.Error()
	case r.Nonce != nonce || r.Verdict != bond.VerdictRefused || r.Class != class:
		why = fmt.Sprintf("the receipt says %s, %s", r.Verdict, r.Class)
	}
	t.note(name, why, true)
	return nil
}
