package gate

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/qmp"
)

// allow sets a policy of shipped commands with rules.
func (f *fixture) allow(rules, names string) {
	f.t.Helper()
	text, err := automata.Policy(strings.Fields(names)...)
	if err == nil {
		err = f.a.SetPolicy(rules + "\n" + text)
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

// operate sends hypercalls in one session without a ticket and returns the last
// error.
func (f *fixture) operate(calls ...string) error {
	f.t.Helper()
	c := f.dial()
	defer c.Close()
	if err := open(f.t, c, f.a, nil); err != nil {
		f.t.Fatal(err)
	}
	for _, h := range calls {
		if err := run(f.t, c, h, nil); err != nil {
			return err
		}
	}
	closeSession(f.t, c)
	return nil
}

func TestPolicyLimits(t *testing.T) {
	f := newFixture(t)
	var now atomic.Int64 // the gate reads it
	now.Store(1_800_000_000)
	f.host.setNow(now.Load)
	f.allow("rule pause, resume = limit 1 per 1h pause 10min ;", "status pause resume reset")
	if err := f.operate("stop", "query-status"); err != nil {
		t.Fatal(err)
	}
	for range 2 { // also in another session
		err := f.operate("query-status", "stop")
		if class(t, err) != qmp.ClassDenied || !strings.Contains(err.Error(), "used once within 1h, its limit; it may be used again at 2027-01-15T09:00:00Z") {
			t.Errorf("a second pause: %v", err)
		}
	}
	if err := f.operate("cont"); err != nil {
		t.Errorf("resume is counted apart: %v", err)
	}
	if err := f.operate("system_reset"); err != nil {
		t.Errorf("reset has no rule: %v", err)
	}
	now.Add(3600)
	if err := f.operate("stop"); err != nil {
		t.Errorf("an hour later: %v", err)
	}
	f.a.mu.Lock()
	defer f.a.mu.Unlock()
	for i, command := range f.a.executed {
		if limited := f.a.pauses[i] != nil; limited != (command != "system_reset") || limited && f.a.pauses[i].Most != 10*time.Minute {
			t.Errorf("%s is executed with %+v", command, f.a.pauses[i])
		}
	}
	counted := 0
	for _, e := range f.a.entries {
		if e.Kind == "call" && e.Fields["policy"] == "pause" && !e.Coalesce && strings.Contains(e.Text, "one more use of pause") {
			counted++
		}
	}
	if counted != 2 {
		t.Errorf("%d records of two uses", counted)
	}
}

func TestPolicyHours(t *testing.T) {
	f := newFixture(t)
	at := func(text string) {
		when, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		f.host.setNow(when.Unix)
	}
	f.allow("rule pause = until 2027-01-01T00:00:00Z window mon-fri 08:00-18:00 ;", "status pause")
	at("2026-12-01T12:00:00Z")
	if err := f.operate("stop", "query-status"); err != nil {
		t.Fatal(err)
	}
	for when, want := range map[string]string{"2026-12-01T19:00:00Z": "mon-fri 08:00-18:00 (UTC)", "2026-12-05T12:00:00Z": "mon-fri", "2027-01-04T12:00:00Z": "only until 2027-01-01"} {
		at(when)
		if err := f.operate("stop"); class(t, err) != qmp.ClassDenied || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", when, err)
		}
		if err := f.operate("query-status"); err != nil {
			t.Errorf("%s: status has no rule: %v", when, err)
		}
	}
	// What was begun in time may be looked at afterwards.
	at("2026-12-01T17:59:59Z")
	c := f.dial()
	if err := open(t, c, f.a, nil); err != nil {
		t.Fatal(err)
	}
	if err := run(t, c, "stop", nil); err != nil {
		t.Fatal(err)
	}
	at("2026-12-01T18:00:01Z")
	if err := run(t, c, "query-status", nil); err != nil {
		t.Errorf("looking at what was begun: %v", err)
	}
	if got := class(t, run(t, c, "stop", nil)); got != qmp.ClassDenied {
		t.Errorf("beginning it again: %q", got)
	}
}

// TestPolicyCountsWhatRuns: a use is not lost on a VM that does not run, and a
// ticket uses nothing up.
func TestPolicyCountsWhatRuns(t *testing.T) {
	f := newFixture(t)
	f.allow("rule pause = limit 1 per 1h ;", "pause")
	f.a.setLive(false)
	if err := f.operate("stop"); class(t, err) != qmp.ClassNotRunning {
		t.Errorf("stopped: %v", err)
	}
	f.a.setLive(true)
	c := f.dial()
	sealed, _ := f.ticket(f.a, "pause", nil)
	if err := open(t, c, f.a, sealed); err != nil {
		t.Fatal(err)
	}
	if err := run(t, c, "stop", nil); err != nil {
		t.Fatal(err)
	}
	closeSession(t, c)
	if err := f.operate("stop"); err != nil {
		t.Errorf("the one use is left, but: %v", err)
	}
	if f.operate("stop") == nil {
		t.Error("a second use")
	}
}

func TestPolicyRules(t *testing.T) {
	for text, want := range map[string]string{
		"rule a = limit 1 per 1h ; automaton a = screendump{ filename: string } ;": "cannot allow",
		"rule b = limit 1 per 1h ; automaton a = stop ;":                           "no such automaton",
		"rule a = limit 1 ; automaton a = stop ;":                                  "per",
	} {
		if _, err := CheckPolicy(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
