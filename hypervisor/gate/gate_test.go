package gate

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/automata"
	"github.com/uvbond/uvbond/bond"
	"github.com/uvbond/uvbond/qmp"
)

// TestMain lets the test binary be the second process of TestOtherProcess.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "write-on-fd-3" {
		_, err := os.NewFile(3, "gate").WriteString(os.Args[2] + "\n")
		if err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func class(t *testing.T, err error) string {
	t.Helper()
	var q *qmp.Error
	if err == nil {
		return ""
	}
	if !errors.As(err, &q) {
		t.Fatalf("not an error of the gate: %v", err)
	}
	return q.Class
}

func sealedReceipt(err error) []byte {
	var q *qmp.Error
	errors.As(err, &q)
	return q.Receipt
}

func open(t *testing.T, c *qmp.Client, v *fakeVM, ticket []byte) error {
	t.Helper()
	return c.Execute(t.Context(), qmp.CmdOpen, qmp.OpenArgs{VM: v.id.String(), Ticket: ticket, Wait: 1}, nil)
}

func run(t *testing.T, c *qmp.Client, command string, args any) error {
	t.Helper()
	return c.Execute(t.Context(), command, args, nil)
}

func closeSession(t *testing.T, c *qmp.Client) qmp.CloseResult {
	t.Helper()
	var r qmp.CloseResult
	if err := c.Execute(t.Context(), qmp.CmdClose, nil, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestTicketedCommand(t *testing.T) {
	f := newFixture(t)
	for command, hypercall := range map[string]string{"pause": "stop", "resume": "cont", "reset": "system_reset", "shutdown": "system_powerdown", "poweroff": "quit"} {
		t.Run(command, func(t *testing.T) {
			c := f.dial()
			sealed, ticket := f.ticket(f.a, command, nil)
			if err := open(t, c, f.a, sealed); err != nil {
				t.Fatal(err)
			}
			if err := run(t, c, hypercall, nil); err != nil {
				t.Fatal(err)
			}
			r := f.receipt(f.a, closeSession(t, c).Receipt, ticket)
			if r.Verdict != "done" || len(r.Calls) != 1 || r.Calls[0].Command != hypercall || r.Calls[0].Verdict != "ok" || r.Instance != 3 {
				t.Errorf("receipt %+v", r)
			}
			if !slices.Contains(f.a.ran(), hypercall) {
				t.Errorf("%s did not reach the VM", hypercall)
			}
		})
	}
}

func TestDefaultDeny(t *testing.T) {
	f := newFixture(t)
	commands := []string{"eject", "x-debug-query-block-graph", "query-block", "blockdev-snapshot-sync", "query-qmp-schema", "no-such-command", "uvbond-nonsense"}
	for name, e := range table {
		if e.verdict == never {
			commands = append(commands, name)
		}
	}
	for _, command := range commands {
		c := f.dial()
		if got := class(t, run(t, c, command, nil)); got != qmp.ClassDenied {
			t.Errorf("%s outside of a session: %q", command, got)
		}
		if err := open(t, c, f.a, nil); err != nil {
			t.Fatal(err)
		}
		if got := class(t, run(t, c, command, nil)); got != qmp.ClassDenied {
			t.Errorf("%s without a ticket: %q", command, got)
		}
		c.Close()
		c = f.dial()
		sealed, ticket := f.ticket(f.a, "pause", func(k *bond.Ticket) { k.Automaton = "automaton pause = " + command + " ;" })
		err := open(t, c, f.a, sealed)
		if _, known := table[command]; !known {
			// Nobody has such a hypercall: the text itself is refused.
			if r := f.receipt(f.a, sealedReceipt(err), ticket); class(t, err) != qmp.ClassInvalid || r.Verdict != "refused" {
				t.Errorf("%s in a ticket: %v, receipt %+v", command, err, r)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := class(t, run(t, c, command, nil)); got != qmp.ClassDenied {
			t.Errorf("%s under a ticket that allows it: %q", command, got)
		}
		if r := f.receipt(f.a, closeSession(t, c).Receipt, ticket); r.Verdict != "refused" {
			t.Errorf("%s: receipt says %s", command, r.Verdict)
		}
	}
	if ran := f.a.ran(); len(ran) != 0 {
		t.Errorf("reached the VM: %v", ran)
	}
	if !f.a.recorded("refused", qmp.ClassDenied) {
		t.Error("the audit has none of it")
	}
}

// TestShippedPass: every hypercall of the shipped automata can pass.
func TestShippedPass(t *testing.T) {
	for _, name := range automata.NativeNames() {
		text, err := automata.Native(name)
		if err != nil {
			t.Fatal(err)
		}
		m, err := compileTicket(&ticket{Ticket: bond.Ticket{Command: name, Automaton: text}})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range m.Commands() {
			if table[c].verdict != byTicket && table[c].verdict != byPolicy {
				t.Errorf("automaton %s: %s can never pass the gate", name, c)
			}
		}
	}
}

func TestOtherCommandUnderTicket(t *testing.T) {
	f := newFixture(t)
	c := f.dial()
	sealed, ticket := f.ticket(f.a, "pause", nil)
	if err := open(t, c, f.a, sealed); err != nil {
		t.Fatal(err)
	}
	err := run(t, c, "system_reset", nil)
	if class(t, err) != qmp.ClassRefused || !strings.Contains(err.Error(), "stop") {
		t.Errorf("refusal %v", err)
	}
	if got := class(t, run(t, c, "stop", nil)); got == "" {
		t.Error("after a refusal the session went on")
	}
	r := f.receipt(f.a, closeSession(t, c).Receipt, ticket)
	if r.Verdict != "refused" || r.Class != qmp.ClassRefused || !strings.Contains(r.Reason, "system_reset") {
		t.Errorf("receipt %+v", r)
	}
	if len(f.a.ran()) != 0 {
		t.Errorf("reached the VM: %v", f.a.ran())
	}
}

func TestArguments(t *testing.T) {
	f := newFixture(t)
	c := f.dial()
	sealed, _ := f.ticket(f.a, "pause", nil)
	if err := open(t, c, f.a, sealed); err != nil {
		t.Fatal(err)
	}
	if got := class(t, run(t, c, "stop", map[string]any{"force": true})); got != qmp.ClassInvalid {
		t.Errorf("unknown argument: %q", got)
	}
}

func TestRedirectedTicket(t *testing.T) {
	f := newFixture(t)
	c := f.dial()
	sealed, _ := f.ticket(f.a, "pause", nil)
	err := open(t, c, f.b, sealed)
	if class(t, err) != qmp.ClassRedirected || sealedReceipt(err) != nil {
		t.Errorf("got %v", err)
	}
	for _, v := range []*fakeVM{f.a, f.b} {
		if !v.recorded("refused", qmp.ClassRedirected) {
			t.Error("the attempt is missing in an audit log")
		}
	}
	if err := open(t, c, f.a, sealed); err != nil {
		t.Errorf("the ticket was not spent by the attempt, but: %v", err)
	}
}

func TestReplayedTicket(t *testing.T) {
	f := newFixture(t)
	sealed, _ := f.ticket(f.a, "status", nil)
	if err := open(t, f.dial(), f.a, sealed); err != nil {
		t.Fatal(err)
	}
	err := open(t, f.dial(), f.a, sealed)
	if class(t, err) != qmp.ClassReplayed || sealedReceipt(err) != nil {
		t.Errorf("got %v with receipt %v", err, sealedReceipt(err) != nil)
	}
	if !f.a.recorded("refused", qmp.ClassReplayed) {
		t.Error("the audit does not have it")
	}
}

func TestRefusedTickets(t *testing.T) {
	now := time.Now().Unix()
	for name, tc := range map[string]struct {
		command string
		bend    func(*bond.Ticket)
		prepare func(*fixture)
		class   string
	}{
		"expired":      {"pause", func(k *bond.Ticket) { k.NotBefore, k.NotAfter = now-7200, now-3600 }, nil, qmp.ClassExpired},
		"not yet":      {"pause", func(k *bond.Ticket) { k.NotBefore, k.NotAfter = now+3600, now+7200 }, nil, qmp.ClassExpired},
		"old instance": {"pause", func(k *bond.Ticket) { k.Descriptor[0] ^= 1 }, nil, qmp.ClassStale},
		"stopped":      {"pause", nil, func(f *fixture) { f.a.setLive(false) }, qmp.ClassNotRunning},
		"bad text":     {"pause", func(k *bond.Ticket) { k.Automaton = "automaton pause = ( ;" }, nil, qmp.ClassInvalid},
		"other name":   {"pause", func(k *bond.Ticket) { k.Command = "status" }, nil, qmp.ClassInvalid},
		"busy":         {"pause", nil, func(f *fixture) { f.a.change <- struct{}{} }, qmp.ClassBusy},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			sealed, ticket := f.ticket(f.a, tc.command, tc.bend)
			if tc.prepare != nil {
				tc.prepare(f)
			}
			err := open(t, f.dial(), f.a, sealed)
			if got := class(t, err); got != tc.class {
				t.Fatalf("got %v", err)
			}
			r := f.receipt(f.a, sealedReceipt(err), ticket)
			if r.Verdict != "refused" || r.Class != tc.class || r.Reason == "" || len(r.Calls) != 0 {
				t.Errorf("receipt %+v", r)
			}
			// A sealed refusal is final: the ticket must not run later.
			if name == "busy" {
				<-f.a.change
			}
			f.a.setLive(true)
			if got := class(t, open(t, f.dial(), f.a, sealed)); got == "" {
				t.Error("a ticket whose refusal was sealed runs later")
			}
		})
	}
}

func TestPolicy(t *testing.T) {
	f := newFixture(t)
	c := f.dial()
	if err := open(t, c, f.a, nil); err != nil {
		t.Fatal(err)
	}
	if got := class(t, run(t, c, "stop", nil)); got != qmp.ClassDenied {
		t.Errorf("stop without ticket or policy: %q", got)
	}
	c = f.dial()
	text, err := automata.Policy("status", "pause")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.a.SetPolicy(text); err != nil {
		t.Fatal(err)
	}
	if err := open(t, c, f.a, nil); err != nil {
		t.Fatal(err)
	}
	if err := run(t, c, "stop", nil); err != nil {
		t.Errorf("the policy allows pause: %v", err)
	}
	if got := class(t, run(t, c, "cont", nil)); got != qmp.ClassDenied {
		t.Errorf("cont: %q", got)
	}
	if r := closeSession(t, c); r.Receipt != nil {
		t.Error("a session without a ticket got a receipt")
	}
	// A changed policy holds for sessions that are open.
	c = f.dial()
	if err := open(t, c, f.a, nil); err != nil {
		t.Fatal(err)
	}
	if err := f.a.SetPolicy(""); err != nil {
		t.Fatal(err)
	}
	if got := class(t, run(t, c, "stop", nil)); got != qmp.ClassDenied {
		t.Errorf("stop after the policy was emptied: %q", got)
	}
}

func TestPolicyWithinTicket(t *testing.T) {
	f := newFixture(t)
	text, err := automata.Policy("reset")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.a.SetPolicy(text); err != nil {
		t.Fatal(err)
	}
	c := f.dial()
	sealed, ticket := f.ticket(f.a, "pause", nil)
	if err := open(t, c, f.a, sealed); err != nil {
		t.Fatal(err)
	}
	for _, h := range []string{"system_reset", "stop"} {
		if err := run(t, c, h, nil); err != nil {
			t.Errorf("%s: %v", h, err)
		}
	}
	if r := f.receipt(f.a, closeSession(t, c).Receipt, ticket); r.Verdict != "done" {
		t.Errorf("receipt %+v", r)
	}
}

func TestPolicyCannotAllow(t *testing.T) {
	for _, c := range []string{"uvbond-launch", "uvbond-read-console", "uvbond-delete", "screendump", "qmp_capabilities", "uvbond-open"} {
		if _, err := CheckPolicy("automaton p = " + c + " ;"); err == nil {
			t.Errorf("a policy may allow %s", c)
		}
	}
}

// TestOtherProcess: a process that inherits the connection is not the opener.
func TestOtherProcess(t *testing.T) {
	f := newFixture(t)
	raw, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: f.path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	c, err := qmp.NewClient(t.Context(), qmp.NewConn(raw))
	if err != nil {
		t.Fatal(err)
	}
	sealed, ticket := f.ticket(f.a, "pause", nil)
	if err := open(t, c, f.a, sealed); err != nil {
		t.Fatal(err)
	}
	file, err := raw.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := exec.Command("/proc/self/exe", "write-on-fd-3", `{"execute":"stop","id":1}`)
	cmd.ExtraFiles = []*os.File{file}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	deadline := time.Now().Add(5 * time.Second)
	for !f.a.recorded("refused", qmp.ClassDenied) && time.Now().Before(deadline) {
		time.Sleep(5 * time.Millisecond)
	}
	r := f.receipt(f.a, closeSession(t, c).Receipt, ticket)
	if r.Verdict != "refused" || !strings.Contains(r.Reason, "process") || len(f.a.ran()) != 0 {
		t.Errorf("receipt %+v, reached the VM: %v", r, f.a.ran())
	}
}

func TestBusyAndPolicyGoesOn(t *testing.T) {
	f := newFixture(t)
	text, err := automata.Policy("status")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.a.SetPolicy(text); err != nil {
		t.Fatal(err)
	}
	first := f.dial()
	sealed, _ := f.ticket(f.a, "pause", nil)
	if err := open(t, first, f.a, sealed); err != nil {
		t.Fatal(err)
	}
	second, _ := f.ticket(f.a, "reset", nil)
	if got := class(t, open(t, f.dial(), f.a, second)); got != qmp.ClassBusy {
		t.Errorf("a second session that changes the VM: %q", got)
	}
	op := f.dial()
	if err := open(t, op, f.a, nil); err != nil {
		t.Fatal(err)
	}
	if err := run(t, op, "query-status", nil); err != nil {
		t.Errorf("policy commands must go on: %v", err)
	}
	third, _ := f.ticket(f.a, "reset", nil)
	done := make(chan error, 1)
	go func() {
		c, err := qmp.Dial(context.Background(), f.path)
		if err == nil {
			defer c.Close()
			err = c.Execute(context.Background(), qmp.CmdOpen, qmp.OpenArgs{VM: f.a.id.String(), Ticket: third, Wait: 10}, nil)
		}
		done <- err
	}()
	time.Sleep(50 * time.Millisecond)
	if err := run(t, first, "stop", nil); err != nil {
		t.Fatal(err)
	}
	closeSession(t, first)
	if err := <-done; err != nil {
		t.Errorf("a session that waits must get its turn: %v", err)
	}
}

func TestDeadline(t *testing.T) {
	f := newFixture(t)
	c := f.dial()
	sealed, ticket := f.ticket(f.a, "pause", func(k *bond.Ticket) { k.DeadlineSeconds = 1 })
	if err := open(t, c, f.a, sealed); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1200 * time.Millisecond)
	if got := class(t, run(t, c, "stop", nil)); got != qmp.ClassRefused {
		t.Errorf("after the deadline: %q", got)
	}
	if err := run(t, c, "query-status", nil); err != nil {
		t.Errorf("an abort step: %v", err)
	}
	if r := f.receipt(f.a, closeSession(t, c).Receipt, ticket); r.Verdict == "done" || r.Class != qmp.ClassExpired {
		t.Errorf("receipt %+v", r)
	}
}

func TestIncompleteAndFailedSteps(t *testing.T) {
	f := newFixture(t)
	c := f.dial()
	sealed, ticket := f.ticket(f.a, "pause", nil)
	if err := open(t, c, f.a, sealed); err != nil {
		t.Fatal(err)
	}
	r := f.receipt(f.a, closeSession(t, c).Receipt, ticket)
	if r.Verdict != "incomplete" || !strings.Contains(r.Reason, "stop") {
		t.Errorf("nothing was sent: %+v", r)
	}
	f.a.mu.Lock()
	f.a.fail["stop"] = &qmp.Error{Class: qmp.ClassGeneric, Desc: "UVBond: QEMU refused stop"}
	f.a.mu.Unlock()
	sealed, ticket = f.ticket(f.a, "pause", nil)
	if err := open(t, c, f.a, sealed); err != nil {
		t.Fatal(err)
	}
	if got := class(t, run(t, c, "stop", nil)); got != qmp.ClassGeneric {
		t.Errorf("got %q", got)
	}
	if err := run(t, c, "query-status", nil); err != nil {
		t.Errorf("an abort step after a failure: %v", err)
	}
	if r := f.receipt(f.a, closeSession(t, c).Receipt, ticket); r.Verdict == "done" || !strings.Contains(r.Reason, "stop failed") {
		t.Errorf("receipt %+v", r)
	}
}

// boot makes a boot ticket.
func (f *fixture) boot(v *fakeVM) ([]byte, *bond.Ticket) {
	f.t.Helper()
	text, err := automata.Native("start")
	if err != nil {
		f.t.Fatal(err)
	}
	now := f.host.now()
	bt := &bond.BootTicket{Command: "start", Automaton: text, NotBefore: now - 60, NotAfter: now + 300, DeadlineSeconds: 60}
	copy(bt.Nonce[:], bond.RandomSecret(32).Bytes())
	sealed, err := bond.Seal(v.bond, bt)
	if err != nil {
		f.t.Fatal(err)
	}
	return sealed, &bond.Ticket{Nonce: bt.Nonce}
}

func launch(t *testing.T, c *qmp.Client) error {
	t.Helper()
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	return c.Execute(t.Context(), qmp.CmdLaunch, qmp.LaunchArgs{Disks: []qmp.DiskFile{{Name: "root"}}}, nil, file)
}

func TestBoot(t *testing.T) {
	f := newFixture(t)
	c := f.dial()
	sealed, _ := f.boot(f.a)
	if got := class(t, open(t, c, f.a, sealed)); got != qmp.ClassRunning {
		t.Errorf("boot ticket while an instance runs: %q", got)
	}
	f.a.setLive(false)
	sealed, ticket := f.boot(f.a)
	if err := open(t, c, f.a, sealed); err != nil {
		t.Fatal(err)
	}
	if err := launch(t, c); err != nil {
		t.Fatal(err)
	}
	if err := run(t, c, "cont", nil); err != nil {
		t.Fatal(err)
	}
	res := closeSession(t, c)
	r := f.receipt(f.a, res.Receipt, ticket)
	var d bond.Descriptor
	if err := bond.Open(f.a.bond, res.Descriptor, &d); err != nil || d.BootNonce != ticket.Nonce || d.Instance != 4 || r.Instance != 4 || r.Verdict != "done" {
		t.Errorf("%v %+v %+v", err, d, r)
	}
}

// TestDescriptorAgain: the answer to a start can be lost; the owner's next status
// brings the descriptor, and nothing else does.
func TestDescriptorAgain(t *testing.T) {
	f := newFixture(t)
	c := f.dial()
	for command, want := range map[string]bool{"status": true, "pause": false} {
		sealed, _ := f.ticket(f.a, command, func(k *bond.Ticket) {
			if command == "status" {
				k.Descriptor = nil
			}
		})
		if err := open(t, c, f.a, sealed); err != nil {
			t.Fatal(err)
		}
		for _, call := range map[string][]string{"status": {"query-status"}, "pause": {"stop", "query-status"}}[command] {
			if err := run(t, c, call, nil); err != nil {
				t.Fatal(err)
			}
		}
		var d bond.Descriptor
		res := closeSession(t, c)
		if got := bond.Open(f.a.bond, res.Descriptor, &d) == nil && d == f.a.Current().Descriptor; got != want {
			t.Errorf("%s: descriptor %t", command, got)
		}
	}
}

func TestBootNotCompleted(t *testing.T) {
	f := newFixture(t)
	f.a.setLive(false)
	c := f.dial()
	sealed, _ := f.boot(f.a)
	if err := open(t, c, f.a, sealed); err != nil {
		t.Fatal(err)
	}
	if err := launch(t, c); err != nil {
		t.Fatal(err)
	}
	c.Close() // the server dies
	deadline := time.Now().Add(5 * time.Second)
	for f.a.Current().Live && time.Now().Before(deadline) {
		time.Sleep(5 * time.Millisecond)
	}
	if f.a.Current().Live {
		t.Error("a half-booted instance stays")
	}
	// An ordinary ticket cannot launch, whatever its automaton says.
	text, err := automata.Native("start")
	if err != nil {
		t.Fatal(err)
	}
	sealed, _ = f.ticket(f.a, "status", func(k *bond.Ticket) { k.Command, k.Automaton = "start", text })
	c = f.dial()
	if err := open(t, c, f.a, sealed); err != nil {
		t.Fatal(err)
	}
	if got := class(t, launch(t, c)); got != qmp.ClassDenied {
		t.Errorf("launch under an ordinary ticket: %q", got)
	}
}

func TestDescriptorNeeded(t *testing.T) {
	f := newFixture(t)
	c := f.dial()
	sealed, _ := f.ticket(f.a, "pause", func(k *bond.Ticket) { k.Descriptor = nil })
	if err := open(t, c, f.a, sealed); err != nil {
		t.Fatal(err)
	}
	if got := class(t, run(t, c, "stop", nil)); got != qmp.ClassDenied {
		t.Errorf("stop under a ticket without descriptor: %q", got)
	}
}

func TestSealedReadsPolicyAndDelete(t *testing.T) {
	f := newFixture(t)
	c := f.dial()
	sealed, ticket := f.ticket(f.a, "log", nil)
	if err := open(t, c, f.a, sealed); err != nil {
		t.Fatal(err)
	}
	var res qmp.ChunkResult
	if err := c.Execute(t.Context(), qmp.CmdReadConsole, qmp.ReadConsoleArgs{Offset: 9}, &res); err != nil {
		t.Fatal(err)
	}
	var chunk bond.ConsoleChunk
	if err := bond.Open(f.a.bond, res.Chunk, &chunk); err != nil || chunk.Nonce != ticket.Nonce || chunk.Offset != 9 {
		t.Errorf("%v %+v", err, chunk)
	}
	closeSession(t, c)

	text, err := automata.Policy("status")
	if err != nil {
		t.Fatal(err)
	}
	sealed, ticket = f.ticket(f.a, "allow", func(k *bond.Ticket) { k.Policy = &text })
	if err := open(t, c, f.a, sealed); err != nil {
		t.Fatal(err)
	}
	if err := run(t, c, qmp.CmdSetPolicy, nil); err != nil {
		t.Fatal(err)
	}
	if r := f.receipt(f.a, closeSession(t, c).Receipt, ticket); r.Verdict != "done" {
		t.Errorf("receipt %+v", r)
	}

	sealed, _ = f.ticket(f.a, "delete", nil)
	if err := open(t, c, f.a, sealed); err != nil {
		t.Fatal(err)
	}
	if got := class(t, run(t, c, qmp.CmdDelete, nil)); got != qmp.ClassRunning {
		t.Errorf("delete of a running VM: %q", got)
	}
	closeSession(t, c)
	f.a.setLive(false)
	sealed, ticket = f.ticket(f.a, "delete", nil)
	if err := open(t, c, f.a, sealed); err != nil {
		t.Fatal(err)
	}
	if err := run(t, c, qmp.CmdDelete, nil); err != nil {
		t.Fatal(err)
	}
	if r := f.receipt(f.a, closeSession(t, c).Receipt, ticket); r.Verdict != "done" || !f.a.isDeleted() {
		t.Errorf("receipt %+v, deleted %v", r, f.a.isDeleted())
	}
}

func TestHostileLines(t *testing.T) {
	f := newFixture(t)
	for name, line := range map[string]string{
		"no JSON":         "hello\n",
		"two values":      `{"execute":"query-status"}{}` + "\n",
		"duplicate keys":  `{"execute":"stop","execute":"query-status"}` + "\n",
		"unknown member":  `{"execute":"stop","exec-oob":"stop"}` + "\n",
		"deep":            `{"execute":"stop","arguments":` + strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100) + "}\n",
		"files not named": `{"execute":"uvbond-attach","arguments":{"vm":"` + strings.Repeat("0", 32) + `","disks":[{"name":"root","fd-index":99}]}}` + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			c, err := net.Dial("unix", f.path)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			d := json.NewDecoder(c)
			var answer map[string]json.RawMessage
			if err := d.Decode(&answer); err != nil || answer["QMP"] == nil {
				t.Fatalf("greeting: %v %v", answer, err)
			}
			if _, err := c.Write([]byte(line)); err != nil {
				t.Fatal(err)
			}
			clear(answer)
			_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
			if err := d.Decode(&answer); err != nil || answer["error"] == nil {
				t.Errorf("answer %v, %v", answer, err)
			}
		})
	}
	if err := run(t, f.dial(), qmp.CmdQueryHost, nil); err != nil {
		t.Errorf("the gate does not answer any more: %v", err)
	}
}

// TestSurplusFiles: a line with more descriptors than it may have is refused
// whole, and not carried out with some of them.
func TestSurplusFiles(t *testing.T) {
	f := newFixture(t)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: f.path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	d := json.NewDecoder(c)
	// The gate listens now: what is sent to the socket before it does has no sender.
	if err := d.Decode(new(qmp.Greeting)); err != nil {
		t.Fatal(err)
	}
	for n, want := range map[int]string{qmp.MaxFiles: "", qmp.MaxFiles + 1: qmp.ClassInvalid} {
		fds := slices.Repeat([]int{int(null.Fd())}, n)
		if _, _, err := c.WriteMsgUnix([]byte(`{"execute":"uvbond-query-host"}`+"\n"), unix.UnixRights(fds...), nil); err != nil {
			t.Fatal(err)
		}
		var answer qmp.Response
		if err := d.Decode(&answer); err != nil {
			t.Fatal(err)
		}
		if answer.Error == nil && want != "" || answer.Error != nil && answer.Error.Class != want {
			t.Errorf("%d descriptors: %v", n, answer.Error)
		}
	}
}
