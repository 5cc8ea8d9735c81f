package gate

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/qmp"
	"github.com/uvbond/uvbond/qmp/schema"
	"github.com/uvbond/uvbond/qmp/schema/recorded"
)

// TestTable: every entry is complete, and no command stands in two places.
func TestTable(t *testing.T) {
	for name, e := range table {
		complete := e.why != "" && e.verdict != 0
		if e.verdict != never {
			complete = complete && e.args.decode != nil && e.args.typ != nil && e.answer.filter != nil && e.answer.typ != nil
		}
		if !complete {
			t.Errorf("%s: incomplete entry", name)
		}
	}
	seen := map[string]bool{}
	for _, r := range refusals {
		for _, name := range strings.Fields(r.commands) {
			if seen[name] || table[name].verdict != never {
				t.Errorf("%s is refused twice, or refused and let through", name)
			}
			seen[name] = true
		}
	}
}

// TestTableAgainstSchema holds the table to what QEMU says of itself, both ways.
func TestTableAgainstSchema(t *testing.T) {
	known := map[string]bool{}
	for _, version := range recorded.Versions() {
		q, err := recorded.Schema(version)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range q.Commands() {
			known[name] = true
			e, ok := table[name]
			if !ok {
				t.Errorf("QEMU %s has the command %s: give it an entry, or a reason in never.go", version, name)
			}
			if e.verdict == never || e.verdict == outside { // the gate's own answer
				continue
			}
			c, err := q.Command(name)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Arguments.Fits(e.args.typ); err != nil {
				t.Errorf("QEMU %s, arguments of %s: %v", version, name, err)
			}
			if err := picks(c.Returns, e.answer.typ); err != nil {
				t.Errorf("QEMU %s, answer of %s: %v", version, name, err)
			}
		}
	}
	for name, e := range table {
		if known[name] {
			continue
		}
		if !strings.HasPrefix(name, "uvbond-") {
			t.Errorf("no recorded QEMU has the command %s", name)
			continue
		}
		c, err := recorded.Newest().Command(name)
		if err != nil {
			t.Errorf("qmp/schema does not know the gate's own %s", name)
			continue
		}
		for _, err := range []error{c.Arguments.Fits(e.args.typ), e.args.typ.Fits(c.Arguments), c.Returns.Fits(e.answer.typ), e.answer.typ.Fits(c.Returns)} {
			if err != nil {
				t.Errorf("%s: qmp/schema and the table differ: %v", name, err)
			}
		}
	}
	for _, name := range recorded.Newest().Commands() {
		if _, ok := table[name]; !ok {
			t.Errorf("qmp/schema knows the gate's own %s, and the table does not", name)
		}
	}
}

// picks tells why a filter's type is not made of members that QEMU's answer
// always has, each of which it can hold.
func picks(qemu, filter *schema.Type) error {
	for _, m := range filter.Members {
		n := slices.IndexFunc(qemu.Members, func(q schema.Member) bool { return q.Name == m.Name })
		if n < 0 || qemu.Members[n].Optional {
			return fmt.Errorf("%s is not always there", m.Name)
		}
		if err := m.Type.Fits(qemu.Members[n].Type); err != nil {
			return fmt.Errorf("%s: %w", m.Name, err)
		}
	}
	return nil
}

// TestEventsAgainstSchema: every event of QEMU passes or stays for a reason.
func TestEventsAgainstSchema(t *testing.T) {
	stays := map[string]bool{}
	for _, k := range kept {
		for _, name := range strings.Fields(k.events) {
			if _, passes := notices[name]; stays[name] || passes || k.why == "" {
				t.Errorf("%s is there twice", name)
			}
			stays[name] = true
		}
	}
	known := map[string]bool{}
	for _, version := range recorded.Versions() {
		q, err := recorded.Schema(version)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range q.Events() {
			known[name] = true
			n, passes := notices[name]
			if !passes {
				if !stays[name] {
					t.Errorf("QEMU %s has the event %s: say in events.go whether it passes", version, name)
				}
				continue
			}
			ev, err := q.Event(name)
			if err != nil {
				t.Fatal(err)
			}
			if err := picks(ev.Data, n.data.typ); err != nil || n.why == "" {
				t.Errorf("QEMU %s, %s: %v", version, name, err)
			}
		}
	}
	for name := range notices {
		stays[name] = true
	}
	for name := range stays {
		if !known[name] {
			t.Errorf("no recorded QEMU has the event %s", name)
		}
	}
}

// TestAnswersAreFiltered: what QEMU adds to an answer, or a QEMU that the guest
// took over makes up, stays in the hypervisor domain.
func TestAnswersAreFiltered(t *testing.T) {
	f := newFixture(t)
	f.a.answers = map[string]json.RawMessage{"stop": json.RawMessage(`{"secret":"from the guest","status":"x"}`)}
	c := f.dial()
	sealed, _ := f.ticket(f.a, "pause", nil)
	if err := open(t, c, f.a, sealed); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := c.Execute(t.Context(), "stop", nil, &got); err != nil || len(got) != 0 {
		t.Errorf("answer %v, %v", got, err)
	}
	e := table[qmp.CmdQueryStatus]
	for text, want := range map[string]string{
		`{"status":"running","running":true,"singlestep":false,"x":"y"}`: `{"status":"running","running":true}`,
	} {
		ret, err := e.answer.filter(json.RawMessage(text))
		out, _ := json.Marshal(ret)
		if err != nil || string(out) != want {
			t.Errorf("%s passes as %s, %v", text, out, err)
		}
	}
	for _, text := range []string{`[]`, `{"status":5}`, `nonsense`} {
		if ret, err := e.answer.filter(json.RawMessage(text)); err == nil {
			t.Errorf("%s passes as %v", text, ret)
		}
	}
	if ret, err := e.answer.filter(map[string]any{"status": "running"}); err == nil {
		t.Errorf("an answer of another type passes as %v", ret)
	}
}

// TestEvents: run states are told while a session is open, and nothing else is.
func TestEvents(t *testing.T) {
	f := newFixture(t)
	c := f.dial()
	if err := open(t, c, f.a, nil); err != nil {
		t.Fatal(err)
	}
	f.a.mu.Lock()
	source := f.a.events[0]
	f.a.mu.Unlock()
	long := strings.Repeat("x", 5000)
	for _, e := range []qmp.Event{
		{Event: "GUEST_PANICKED", Data: json.RawMessage(`{"action":"pause"}`)},
		{Event: "RTC_CHANGE", Data: json.RawMessage(`{"offset":3,"qom-path":"/machine"}`)},
		{Event: "NEW_IN_QEMU_99"},
		{Event: "RESET", Data: json.RawMessage(`[1]`)},
		{Event: "SHUTDOWN", Data: json.RawMessage(`{"guest":true,"reason":"` + long + `","extra":"secret"}`), Timestamp: qmp.Timestamp{Seconds: 7}},
		{Event: "STOP", Data: json.RawMessage(`{"extra":"secret"}`)},
	} {
		source <- e
	}
	for _, want := range []string{"SHUTDOWN", "STOP"} {
		select {
		case e := <-c.Events():
			if e.Event != want || strings.Contains(string(e.Data), "secret") || len(e.Data) > 256 || want == "SHUTDOWN" && (e.Timestamp.Seconds != 7 || !strings.Contains(string(e.Data), `"guest":true`)) {
				t.Errorf("got %s %s, want %s", e.Event, e.Data, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s did not come", want)
		}
	}
	closeSession(t, c)
	if _, open := <-source; open {
		t.Error("after the session events are still delivered")
	}
}

// TestTypedTexts: a text that can never be followed is refused before it is used.
func TestTypedTexts(t *testing.T) {
	f := newFixture(t)
	for text, want := range map[string]string{
		"automaton pause = stopp ;":                                  `"stopp"; did you mean stop?`,
		"automaton pause = stop{ force: true } ;":                    "`stop.force` does not exist",
		"automaton pause = uvbond-read-console{ ofset: 1 } ;":        `did you mean "offset"?`,
		"automaton pause = uvbond-read-console{ offset: \"1\" } ;":   "must be an integer",
		"automaton pause = uvbond-read-audit ;":                      "is demanded",
		"automaton pause = stop on abort qery-status* ;":             "did you mean query-status?",
		"automaton pause = uvbond-launch{ disks: [{ name: 5 }+] } ;": "must be a string",
	} {
		sealed, ticket := f.ticket(f.a, "pause", func(k *bond.Ticket) { k.Automaton = text })
		err := open(t, f.dial(), f.a, sealed)
		if class(t, err) != qmp.ClassInvalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
			continue
		}
		if r := f.receipt(f.a, sealedReceipt(err), ticket); r.Verdict != "refused" || !strings.Contains(r.Reason, want) {
			t.Errorf("%s: receipt %+v", text, r)
		}
	}
	for text, want := range map[string]string{
		"automaton p = stopp ;":               "did you mean stop?",
		"automaton p = stop{ force: true } ;": "does not exist",
	} {
		if _, err := CheckPolicy(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("policy %s: %v", text, err)
		}
	}
	if !slices.Contains(passing, "stop") || slices.Contains(passing, "screendump") {
		t.Errorf("suggestions come from %v", passing)
	}
}
