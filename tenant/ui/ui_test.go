package ui_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/tenant"
	"github.com/uvbond/uvbond/tenant/fakehost"
	"github.com/uvbond/uvbond/tenant/ui"
	"github.com/uvbond/uvbond/tenant/ui/uitest"
)

func termsOf(commands ...string) tenant.Terms { return tenant.Terms{Commands: commands} }

func forms(secret []byte) map[string]string {
	part := secret[:min(len(secret), 16)]
	return map[string]string{
		"plain": string(part), "hex": hex.EncodeToString(part), "base64": base64.StdEncoding.EncodeToString(secret)[:20],
		"base64url": base64.RawURLEncoding.EncodeToString(secret)[:20],
	}
}

// TestLoopbackOnly: the page is served nowhere else.
func TestLoopbackOnly(t *testing.T) {
	for _, a := range []net.Addr{&net.TCPAddr{IP: net.IPv4zero, Port: 1}, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}, &net.UnixAddr{Name: "x"}} {
		if _, err := ui.New(ui.Options{}, a); err == nil {
			t.Errorf("%v is taken", a)
		}
	}
}

type line struct {
	Event     string
	Drawing   string
	Hypercall *struct {
		Command            string
		Answered, Accepted bool
		Drawing            string
	}
	Result *struct {
		Outcome, State, Error, Hint string
		Receipt                     *struct{ Nonce string }
	}
}

func (b *browser) run(command string) []line {
	b.t.Helper()
	r := b.do("POST", "/api/vms/web1/command", `{"command":"`+command+`"}`)
	if r.status != 200 {
		b.t.Fatalf("%d %s", r.status, r.body)
	}
	var out []line
	for dec := json.NewDecoder(strings.NewReader(r.body)); dec.More(); {
		var l line
		if err := dec.Decode(&l); err != nil {
			b.t.Fatal(err)
		}
		out = append(out, l)
	}
	return out
}

// TestCourse: a command is told step by step, and ends with what a receipt says.
func TestCourse(t *testing.T) {
	w := uitest.New(t, nil)
	w.Pin(t)
	w.Create(t, "web1", termsOf("observe"))
	b := login(t, w)
	lines := b.run("start")
	var told []string
	for _, l := range lines {
		switch l.Event {
		case "begin":
			told = append(told, "begin")
			if !strings.HasPrefix(l.Drawing, "<svg") {
				t.Errorf("drawing %.40q", l.Drawing)
			}
		case "hypercall":
			if !l.Hypercall.Answered {
				told = append(told, l.Hypercall.Command)
				if !l.Hypercall.Accepted || !strings.Contains(l.Hypercall.Drawing, "passed") {
					t.Errorf("%s is not followed", l.Hypercall.Command)
				}
			}
		case "end":
			told = append(told, l.Result.Outcome+" "+l.Result.State)
			if l.Result.Receipt == nil || !strings.Contains(l.Drawing, "passed") {
				t.Error("the end has no receipt or no drawing")
			}
		}
	}
	if got, want := strings.Join(told, "|"), "begin|uvbond-launch|cont|query-status|done running"; got != want {
		t.Fatalf("%s, want %s", got, want)
	}
	var state struct{ VMs []map[string]any }
	if err := json.Unmarshal([]byte(b.do("GET", "/api/state", "").body), &state); err != nil {
		t.Fatal(err)
	}
	vm := state.VMs[0]
	if vm["state"] != "running" || vm["receipt"] != lines[len(lines)-1].Result.Receipt.Nonce || vm["command"] != "start" || vm["since"] != vm["at"] {
		t.Fatalf("state %v", vm)
	}
}

// TestClaims: what the server said before a command is not shown beside its receipt, and
// it is asked again at once.
func TestClaims(t *testing.T) {
	clock := time.Now()
	w := uitest.New(t, func(o *ui.Options) { o.Now = func() time.Time { return clock } }) // no claim grows old
	w.Pin(t)
	w.Create(t, "web1", termsOf("observe"))
	b := login(t, w)
	look := func() (state, claim string) {
		var out struct {
			VMs []struct {
				State string
				Claim *struct{ State string }
			}
		}
		if err := json.Unmarshal([]byte(b.do("GET", "/api/state", "").body), &out); err != nil || len(out.VMs) != 1 {
			t.Fatal(out, err)
		}
		if c := out.VMs[0].Claim; c != nil {
			claim = c.State
		}
		return out.VMs[0].State, claim
	}
	until := func(want string) {
		t.Helper()
		for {
			state, claim := look()
			if claim == want {
				return
			}
			if claim != "" {
				t.Fatalf("beside %q stands the claim %q", state, claim)
			}
			time.Sleep(time.Millisecond)
		}
	}
	until("stopped")
	b.run("start")
	until("running")
	b.run("pause")
	until("paused")
	w.Create(t, "new", termsOf("observe")) // there is nothing to wait for either
	for {
		if r := b.do("GET", "/api/state", ""); strings.Count(r.body, `"claim"`) == 2 {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// TestUnverified: without a receipt that opens nothing is shown as known, whatever the
// server says.
func TestUnverified(t *testing.T) {
	for mode, want := range map[string]string{
		fakehost.NoReceipt: "unknown", fakehost.ForgedReceipt: "forged", fakehost.OtherBond: "forged", fakehost.DropCommands: "unknown", fakehost.Redirect: "forged", fakehost.Garbage: "connection",
	} {
		t.Run(mode, func(t *testing.T) {
			w := uitest.New(t, nil)
			w.Pin(t)
			w.Create(t, "web1", termsOf("observe"))
			b := login(t, w)
			b.run("start")
			w.Create(t, "other", termsOf("observe")) // for tickets to be used on
			w.Host.Evil(mode)
			lines := b.run("pause")
			end := lines[len(lines)-1].Result
			if end.Outcome != want || end.Receipt != nil || end.State != "" || end.Error == "" {
				t.Fatalf("%+v, want %s", end, want)
			}
			w.Host.Evil("")
			if vm, err := w.Owner.Store.VM("web1"); err != nil || vm.State != "running" {
				t.Fatalf("state %q %v", vm.State, err)
			}
		})
	}
}

type timeline struct {
	Entries []struct {
		Kind, By, Title string
		Refused, InLog  bool            `json:",omitempty"`
		Receipt         json.RawMessage `json:"receipt"`
	}
	Chain struct {
		State, Error, Class string
		Records, Receipts   int
		Refused             int
	}
}

func (b *browser) audit() timeline {
	b.t.Helper()
	r := b.do("POST", "/api/vms/web1/audit", "{}")
	var out timeline
	if err := json.Unmarshal([]byte(r.body), &out); err != nil || r.status != 200 {
		b.t.Fatalf("%d %s", r.status, r.body)
	}
	return out
}

// TestTimeline: refused attempts of operators are told from everything else, receipts
// stand at their sessions, and the chain's state is the one that was verified.
func TestTimeline(t *testing.T) {
	w := uitest.New(t, nil)
	w.Pin(t)
	w.Create(t, "web1", termsOf("observe"))
	b := login(t, w)
	b.run("start")
	w.Host.Tried("screendump", "never allowed: the screen belongs to the owner")
	line := b.audit()
	if c := line.Chain; c.State != "whole" || c.Refused != 1 || c.Records < 3 {
		t.Fatalf("chain %+v", c)
	}
	var refused, receipts int
	for _, e := range line.Entries {
		if e.Refused {
			refused++
			if e.By != "operator" || !strings.HasPrefix(e.Title, "screendump refused") {
				t.Errorf("refused: %+v", e)
			}
		}
		if e.Title == "start: done" && e.Receipt != nil && e.By == "owner" {
			receipts++
		}
	}
	if refused != 1 || receipts != 1 {
		t.Fatalf("%d refused, %d starts with a receipt: %+v", refused, receipts, line.Entries)
	}
	w.Host.Evil(fakehost.Trouble)
	if c := b.audit().Chain; c.State != "whole" || c.Class != "connection" || c.Error == "" {
		t.Errorf("the server in trouble: %+v", c)
	}
	w.Host.Evil(fakehost.Rewritten)
	if c := b.audit().Chain; c.State != "broken" || c.Class != "forged" {
		t.Errorf("rewritten: %+v", c)
	}
}

// TestTimelineGoesOn: of a log that was verified, only what came since is fetched, and what
// does not continue it is found out.
func TestTimelineGoesOn(t *testing.T) {
	w := uitest.New(t, nil)
	w.Pin(t)
	w.Create(t, "web1", termsOf("observe"))
	b := login(t, w)
	for range 40 {
		w.Host.Tried("screendump", "never allowed")
	}
	first := b.audit().Chain
	w.Host.Tried("send-key", "never allowed")
	// Each fetch of two records is a command, and a record.
	next := b.audit().Chain
	if next.State != "whole" || next.Refused != 41 || next.Records <= first.Records || next.Records > first.Records+5 {
		t.Fatalf("first %+v, then %+v", first, next)
	}
	for _, evil := range []string{fakehost.CutAudit, fakehost.SetBack, fakehost.Rewritten} {
		w.Host.Evil(evil)
		if c := b.audit().Chain; c.State != "broken" || c.Class != "forged" {
			t.Errorf("%s: %+v", evil, c)
		}
		w.Host.Evil("")
		if c := b.audit().Chain; evil != fakehost.Rewritten && (c.State != "whole" || c.Refused != 41) {
			t.Errorf("after %s: %+v", evil, c)
		}
	}
}

// TestAccess: a policy and delegations are put into words.
func TestAccess(t *testing.T) {
	w := uitest.New(t, nil)
	w.Pin(t)
	w.Create(t, "web1", tenant.Terms{Commands: []string{"status", "pause"}, Limits: []string{"pause=2/12h"}, Until: "30day", Windows: []string{"mon-fri 08:00-18:00"}, MaxPause: "10min"})
	b := login(t, w)
	body := b.do("GET", "/api/vms/web1/access", "").body
	key, err := bond.GenerateDelegateKey()
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = w.Owner.Delegate(t.Context(), tenant.DelegateRequest{VM: "web1", To: key.Public(), Name: "bob", Allow: tenant.Terms{Commands: []string{"reset"}, Limits: []string{"1/h"}, Until: "3day"}})
	if err != nil {
		t.Fatal(err)
	}
	var a struct {
		Delegates []struct {
			ID, Who, Period string
			InForce         bool `json:"in_force"`
			Ended           bool
			Rights          []struct {
				Command string
				Limits  []string
			}
		}
	}
	if err := json.Unmarshal([]byte(b.do("GET", "/api/vms/web1/access", "").body), &a); err != nil || len(a.Delegates) != 1 {
		t.Fatalf("%+v %v", a, err)
	}
	bob := a.Delegates[0]
	if bob.Who != "bob" || !bob.InForce || bob.Ended || !strings.HasPrefix(bob.Period, "until ") || len(bob.Rights) != 1 {
		t.Fatalf("delegation %+v", bob)
	}
	if r := bob.Rights[0]; r.Command != "reset" || strings.Join(r.Limits, ";") != "at most once in any hour" {
		t.Errorf("right %+v", r)
	}
	// The page takes it back: with a receipt, or not at all, and once.
	take := func(id string) response {
		return b.do("POST", "/api/vms/web1/undelegate", `{"delegation":"`+id+`"}`)
	}
	if r := take("bob"); r.status != 404 {
		t.Errorf("a name for an id: %d %s", r.status, r.body)
	}
	w.Host.Evil(fakehost.NoReceipt)
	if r := take(bob.ID); r.status == 200 {
		t.Errorf("taken back without a receipt: %s", r.body)
	}
	w.Host.Evil("")
	if r := take(bob.ID); r.status != 200 || !strings.Contains(r.body, `"verdict":"done"`) {
		t.Errorf("taken back: %d %s", r.status, r.body)
	}
	if r := take(bob.ID); r.status != 404 {
		t.Errorf("taken back twice: %d %s", r.status, r.body)
	}
	if err := json.Unmarshal([]byte(b.do("GET", "/api/vms/web1/access", "").body), &a); err != nil || a.Delegates[0].InForce || !a.Delegates[0].Ended {
		t.Errorf("afterwards %+v, %v", a, err)
	}
	for _, want := range []string{"at most twice in any 12 hours", "not after ", "only mon-fri 08:00-18:00 UTC", "paused for 10 minutes at most, then the hypervisor resumes it", `"delegates":[]`} {
		if !strings.Contains(body, want) {
			t.Errorf("%q is missing in %s", want, body)
		}
	}
}

// TestIdle: a session that nobody uses ends by itself.
func TestIdle(t *testing.T) {
	w := uitest.New(t, func(o *ui.Options) { o.Idle = 50 * time.Millisecond })
	b := login(t, w)
	for b.do("GET", "/api/state", "").status == 200 { // asking for news does not keep it alive
		time.Sleep(5 * time.Millisecond)
	}
}
