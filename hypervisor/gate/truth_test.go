package gate

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/qmp"
)

// TestExpiredAfterItRan: a ticket that ran is presented again after its expiry.
// A sealed refusal would tell the owner that it never ran.
func TestExpiredAfterItRan(t *testing.T) {
	f := newFixture(t)
	sealed, _ := f.ticket(f.a, "pause", nil)
	c := f.dial()
	if err := open(t, c, f.a, sealed); err != nil {
		t.Fatal(err)
	}
	if err := run(t, c, "stop", nil); err != nil {
		t.Fatal(err)
	}
	closeSession(t, c)
	now := f.host.now()
	f.host.setNow(func() int64 { return now + 3600 })
	err := open(t, c, f.a, sealed)
	if got := class(t, err); got != qmp.ClassReplayed || sealedReceipt(err) != nil {
		t.Errorf("%v, with receipt: %v", err, sealedReceipt(err) != nil)
	}
}

// TestNobodyKnows: after a time-out the receipt does not say that nothing happened.
func TestNobodyKnows(t *testing.T) {
	for name, c := range map[string]struct {
		err     error
		verdict string
	}{
		"time-out":         {context.DeadlineExceeded, bond.VerdictIncomplete},
		"lost monitor":     {errors.New("connection reset"), bond.VerdictIncomplete},
		"refused by QEMU":  {&qmp.Error{Class: qmp.ClassGeneric, Desc: "UVBond: QEMU refused stop"}, bond.VerdictRefused},
		"ended before it ": {ErrNotRunning, bond.VerdictIncomplete},
	} {
		f := newFixture(t)
		f.a.fail["stop"] = c.err
		sealed, ticket := f.ticket(f.a, "pause", nil)
		conn := f.dial()
		if err := open(t, conn, f.a, sealed); err != nil {
			t.Fatal(err)
		}
		err := run(t, conn, "stop", nil)
		if err == nil || strings.Contains(err.Error(), "another session") || strings.Contains(err.Error(), "connection reset") {
			t.Errorf("%s: %v", name, err)
		}
		if r := f.receipt(f.a, closeSession(t, conn).Receipt, ticket); r.Verdict != c.verdict || r.Class == "" {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func TestDeletionThatFails(t *testing.T) {
	f := newFixture(t)
	f.a.setLive(false)
	f.a.fail[qmp.CmdDelete] = errors.New("disk full")
	sealed, ticket := f.ticket(f.a, "delete", nil)
	c := f.dial()
	if err := open(t, c, f.a, sealed); err != nil {
		t.Fatal(err)
	}
	if err := run(t, c, qmp.CmdDelete, nil); err != nil {
		t.Fatal(err)
	}
	r := f.receipt(f.a, closeSession(t, c).Receipt, ticket)
	if r.Verdict != bond.VerdictIncomplete || r.Class != qmp.ClassInternal || strings.Contains(r.Reason, "disk full") {
		t.Errorf("receipt %+v", r)
	}
	f.a.mu.Lock()
	defer f.a.mu.Unlock()
	for _, e := range f.a.entries {
		if e.Kind == "close" && e.Fields["verdict"] == bond.VerdictDone {
			t.Error("the audit says that the deletion was done")
		}
	}
}

// TestAbortedSessionHasNoPolicy: after a refusal not even what the owner's policy
// allows passes in this session.
func TestAbortedSessionHasNoPolicy(t *testing.T) {
	f := newFixture(t)
	text, err := automata.Policy("pause")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.a.SetPolicy(text); err != nil {
		t.Fatal(err)
	}
	c := f.dial()
	if err := open(t, c, f.a, nil); err != nil {
		t.Fatal(err)
	}
	if got := class(t, run(t, c, "cont", nil)); got != qmp.ClassDenied {
		t.Errorf("cont: %q", got)
	}
	if err := run(t, c, "stop", nil); err == nil {
		t.Error("the session went on after a refusal")
	}
	if len(f.a.ran()) != 0 {
		t.Errorf("reached the VM: %v", f.a.ran())
	}
}

// TestAttemptsAgainstNothing are in the host's log, and what can be done at will
// is marked to be counted.
func TestAttemptsAgainstNothing(t *testing.T) {
	f := newFixture(t)
	c := f.dial()
	_ = run(t, c, "screendump", nil)
	_ = run(t, c, "stop", nil)
	_ = c.Execute(t.Context(), qmp.CmdOpen, qmp.OpenArgs{VM: strings.Repeat("0", 31) + "1"}, nil)
	f.host.mu.Lock()
	defer f.host.mu.Unlock()
	if len(f.host.attempts) != 3 {
		t.Errorf("host's log: %+v", f.host.attempts)
	}
	for _, e := range f.host.attempts {
		if !e.Coalesce || e.Kind != "refused" {
			t.Errorf("entry %+v", e)
		}
	}
}
