package cli

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/uvbond/uvbond/channel"
	"github.com/uvbond/uvbond/channel/console"
	"github.com/uvbond/uvbond/channel/console/hub"
	"github.com/uvbond/uvbond/tenant/fakehost"
	"github.com/uvbond/uvbond/tenant/terminal"
	"github.com/uvbond/uvbond/tenant/terminal/ttytest"
)

// serial is a VM's console on a fake host: a ring, a hub, and a guest that echoes and
// answers lines.
type serial struct {
	mu    sync.Mutex
	keep  int
	all   []byte
	typed []byte
	deaf  chan struct{} // not nil: the guest reads nothing until it is closed
	hub   *hub.Hub
}

func newSerial(t *testing.T, s *fakehost.Server) *serial {
	t.Helper()
	g := &serial{keep: 1 << 20}
	g.hub = hub.New(g)
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(stop)
	go g.hub.Feed(ctx, g)
	s.Keeper(channel.KindConsole, func(ctx context.Context, c net.Conn, _ uint16) {
		g.hub.Serve(ctx, c) //nolint:errcheck // the client sees it
	})
	return g
}

func (g *serial) Copy(p []byte, offset uint64) (n int, at, end uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	end = uint64(len(g.all))
	if at = max(offset, uint64(max(0, len(g.all)-g.keep))); at < end {
		n = copy(p, g.all[at:])
	}
	return n, at, end
}

// Write is what is typed: the guest echoes it, and answers each line.
func (g *serial) Write(p []byte) (int, error) {
	g.mu.Lock()
	deaf := g.deaf
	g.mu.Unlock()
	if deaf != nil {
		<-deaf
	}
	g.mu.Lock()
	g.typed = append(g.typed, p...)
	line := ""
	if i := bytes.LastIndexByte(g.typed[:len(g.typed)-1], '\r'); p[len(p)-1] == '\r' {
		line = string(g.typed[i+1 : len(g.typed)-1])
	}
	g.mu.Unlock()
	g.print(strings.ReplaceAll(string(p), "\r", "\r\n"))
	if line != "" {
		g.print("you said: " + line + "\r\n$ ")
	}
	return len(p), nil
}

func (g *serial) print(s string) {
	g.mu.Lock()
	g.all = append(g.all, s...)
	g.mu.Unlock()
	g.hub.Printed()
}

// waitTyped waits for what the guest got.
func (g *serial) waitTyped(t *testing.T, want string) {
	t.Helper()
	for range 500 {
		g.mu.Lock()
		got := string(g.typed)
		g.mu.Unlock()
		if got == want {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("the guest got %q, want %q", g.typed, want)
}

// sitDown starts uvbond vm console web1 in a terminal of its own.
func sitDown(t *testing.T, args ...string) *ttytest.Desk {
	t.Helper()
	return ttytest.Start(t, exec.Command("uvbond", append([]string{"vm", "console", "web1"}, args...)...))
}

func TestConsole(t *testing.T) {
	s, _ := bonded(t)
	g := newSerial(t, s)
	g.print("SeaBIOS\r\n\x1b[6nlogin: ")
	d := sitDown(t)
	d.Expect("--- console of web1, instance 1; ~. leaves, ~? helps ---\r\n")
	if before := d.Expect("SeaBIOS\r\nlogin: "); before != "" {
		t.Errorf("shown before it: %q", before)
	}
	if !d.Raw() {
		t.Error("the terminal is not raw")
	}
	d.Keys("root\r")
	d.Expect("root\r\nyou said: root\r\n$ ")
	d.Keys("\x03\x1a\x13")
	g.waitTyped(t, "root\r\x03\x1a\x13")
	g.print("\r\n$ ")
	d.Keys("\r~#")
	d.Expect("--- attached:\r\n    ")
	if who := d.Expect(", 80x24 (you) ---\r\n"); !strings.Contains(who, whoami()+", writing, since ") {
		t.Errorf("listed: %q", who)
	}
	d.Resize(132, 50)
	for range 100 {
		d.Keys("~#")
		if strings.Contains(d.Expect(" (you) ---"), "132x50") {
			break
		}
	}
	d.Keys("~s")
	d.Expect("you said: stty rows 50 cols 132\r\n")
	d.Resize(0, 0)
	d.Keys("\r~s")
	d.Expect("--- this terminal does not say its size ---")
	d.Keys("~?")
	d.Expect("~.  leave")
	d.Keys("~~")
	d.Expect("~")
	d.Keys("\r~.")
	d.Expect("--- left the console of web1 ---")
	d.Leaves(0)
}

// TestConsoleReattaches: the server is gone and comes back; what was printed meanwhile is
// shown, and nothing twice.
func TestConsoleReattaches(t *testing.T) {
	s, _ := bonded(t)
	g := newSerial(t, s)
	g.print("one ")
	d := sitDown(t)
	d.Expect("one ")
	s.CutChannels()
	d.Expect("--- the connection is lost (")
	g.print("two ")
	d.Expect("--- attached again ---\r\n")
	if between := d.Expect("two "); between != "" {
		t.Errorf("shown before it: %q", between)
	}
	d.Keys("still\r")
	d.Expect("you said: still\r\n")
	g.hub.End(t.Context(), console.End{Why: console.InstanceEnded, Text: "the guest shut down"})
	d.Expect("--- web1: the VM's instance has ended: the guest shut down ---")
	d.Leaves(0)

	once := sitDown(t, "--no-reattach")
	once.Expect("you said: still") // the console has ended, and its output can still be read
	once.Leaves(0)
	newSerial(t, s)
	once = sitDown(t, "--no-reattach")
	once.Expect("console of web1")
	s.CutChannels()
	once.Expect("error: the connection to \"web1\" was cut")
	once.Leaves(6)
}

func TestConsoleCrash(t *testing.T) {
	s, _ := bonded(t)
	g := newSerial(t, s)
	d := sitDown(t)
	d.Expect("console of web1")
	g.print("last words")
	g.hub.End(t.Context(), console.End{Why: console.InstanceCrashed, Text: "QEMU ended by itself: killed"})
	d.Expect("last words")
	d.Expect("error: web1: the VM's instance has crashed: QEMU ended by itself: killed")
	d.Leaves(1)
}

// TestConsoleTampered: whoever touches the channel is told of loudly, and nothing is tried again.
func TestConsoleTampered(t *testing.T) {
	for evil, says := range map[string]string{
		fakehost.TamperChannel: "tampered", fakehost.ReplayChannel: "replayed", fakehost.OtherKeeper: "redirected",
	} {
		s, _ := bonded(t)
		g := newSerial(t, s)
		s.Evil(evil)
		d := sitDown(t)
		go func() {
			for range 100 {
				g.print("text ")
				time.Sleep(20 * time.Millisecond)
			}
		}()
		d.Expect("@@@@@@@@\r\n")
		d.Expect("REDIRECTED OR FORGED")
		d.Expect(says)
		d.Leaves(4)
	}
}

// TestConsoleTwo: one types, the other looks on, and they know of each other.
func TestConsoleTwo(t *testing.T) {
	s, _ := bonded(t)
	g := newSerial(t, s)
	a := sitDown(t)
	a.Expect("console of web1")
	g.print("$ ")
	a.Expect("$ ")
	b := sitDown(t, "--scrollback", "none")
	b.Expect("--- attached:\r\n")
	b.Expect("waiting to write")
	a.Expect("is attached ---")
	b.Keys("x")
	b.Expect("types; ~w takes it ---")
	b.Keys("\r~w")
	b.Expect("--- you type now ---")
	a.Expect("types now; ~w takes it ---")
	b.Keys("b\r")
	a.Expect("you said: b")
	b.Expect("you said: b")
	b.Keys("~r")
	a.Expect("--- you type now ---")
	c := sitDown(t, "--take", "-e", "^]")
	c.Expect("^]. leaves")
	a.Expect("types now")
	c.Keys("~.c\r")
	c.Expect("you said: ~.c")
	c.Keys("\x1d.")
	c.Leaves(0)
	a.Expect("has left ---")
	r := sitDown(t, "--read-only")
	r.Expect("you said: ~.c")
	r.Keys("nothing\r")
	r.Expect("--- looking on only; ~w takes it ---")
	for _, d := range []*ttytest.Desk{a, b, r} {
		d.Keys("\r~.")
		d.Leaves(0)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if bytes.Contains(g.typed, []byte("nothing")) || bytes.Contains(g.typed, []byte("x")) {
		t.Errorf("who only looked on typed: %q", g.typed)
	}
}

// TestConsoleNobodyTypes: while a typist whose connection broke is waited for, keys are not dropped in silence.
func TestConsoleNobodyTypes(t *testing.T) {
	s, _ := bonded(t)
	g := newSerial(t, s)
	a := sitDown(t)
	a.Expect("console of web1")
	b := sitDown(t)
	b.Expect("waiting to write")
	a.Signal(syscall.SIGKILL)
	b.Expect("has left ---")
	b.Keys("y")
	b.Expect("--- nothing can be typed yet; ~w takes it ---")
	b.Keys("\r~w")
	b.Expect("--- you type now ---")
	b.Keys("b\r")
	b.Expect("you said: b")
	b.Keys("~.")
	b.Leaves(0)
	g.mu.Lock()
	defer g.mu.Unlock()
	if bytes.Contains(g.typed, []byte("y")) {
		t.Errorf("typed: %q", g.typed)
	}
}

// TestConsoleSignals: whatever ends uvbond, the terminal is as it was before.
func TestConsoleSignals(t *testing.T) {
	s, _ := bonded(t)
	newSerial(t, s)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT} {
		d := sitDown(t)
		d.Expect("console of web1")
		d.Signal(sig)
		d.Leaves(130)
	}
	d := sitDown(t)
	d.Expect("console of web1")
	d.Signal(syscall.SIGQUIT)
	d.Leaves(2) // with the stacks of Go's runtime
	d = sitDown(t)
	d.Expect("console of web1")
	d.Signal(syscall.SIGSTOP)
	d.Reset() // as a shell does
	d.Signal(syscall.SIGCONT)
	for range 500 {
		if d.Raw() {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if !d.Raw() {
		t.Fatal("the terminal is not raw after the program was stopped")
	}
	d.Keys("\r~.")
	d.Leaves(0)
}

// TestConsolePanic: also a fault of uvbond's own leaves the terminal as it was.
func TestConsolePanic(t *testing.T) {
	d, slave := ttytest.Open(t)
	e, _ := terminal.NewEscapes("~")
	v := newConsoleView(&app{in: slave, out: slave, err: slave}, "web1", e, consoleFlags{})
	v.session = terminal.New(terminal.Options{Open: func(context.Context) (net.Conn, error) {
		if !d.Raw() {
			t.Error("the terminal was not raw")
		}
		panic("a fault")
	}})
	func() {
		defer func() {
			if v := recover(); v == nil || !strings.HasPrefix(fmt.Sprint(v), "a fault") {
				t.Errorf("recovered %v", v)
			}
		}()
		_ = v.run(t.Context())
	}()
	d.AsBefore()
}

// TestConsoleStopped: a terminal that takes nothing while the guest floods it is shown the newest
// afterwards, and told what is lost.
func TestConsoleStopped(t *testing.T) {
	s, _ := bonded(t)
	g := newSerial(t, s)
	d := sitDown(t)
	d.Expect("console of web1")
	goOn := d.Stop()
	for range 300 {
		g.print(strings.Repeat("y\r\n", 10<<10))
	}
	g.print("the end of it")
	d.Keys("still typing")
	g.waitTyped(t, "still typing")
	goOn()
	d.Expect("of older output are no longer kept ---")
	d.Expect("the end of it")
	d.Keys("\r~.")
	d.Leaves(0)
}

// TestConsoleDeafGuest: keys that the guest does not read are kept, and those beyond the bound are not,
// which is said; leaving works all the same.
func TestConsoleDeafGuest(t *testing.T) {
	s, _ := bonded(t)
	g := newSerial(t, s)
	g.deaf = make(chan struct{})
	defer close(g.deaf)
	d := sitDown(t)
	d.Expect("console of web1")
	for range 200 { // a terminal takes no more at once
		d.Keys(strings.Repeat("k", 1000))
	}
	d.Expect("--- the guest does not read its serial port: ")
	d.Keys("\r~.")
	d.Leaves(0)
}

// piped runs uvbond vm console with an input that is no terminal.
func piped(t *testing.T, input string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return command(t, input, "uvbond", append([]string{"vm", "console", "web1"}, args...)...)
}

func TestConsolePipe(t *testing.T) {
	s, _ := bonded(t)
	g := newSerial(t, s)
	g.print("\x1b[1mold\r\n$ ")
	out, stderr, code := piped(t, "~.\rhello\r", "--wait", "300ms")
	if code != 0 || !strings.HasPrefix(out, "\x1b[1mold\r\n$ ") || !strings.Contains(out, "you said: hello\r\n$ ") || stderr != "" {
		t.Fatalf("exit %d, %q, %q", code, out, stderr)
	}
	g.waitTyped(t, "~.\rhello\r")
	out, _, code = piped(t, "", "--scrollback", "none", "--wait", "0")
	if code != 0 || out != "" {
		t.Fatalf("exit %d, %q", code, out)
	}
	out, _, code = piped(t, "", "--safe", "--wait", "300ms")
	if code != 0 || !strings.HasPrefix(out, "old\r\n$ ") {
		t.Fatalf("exit %d, %q", code, out)
	}
	out, _, code = piped(t, "more\r", "--scrollback", "4KiB", "--json", "--wait", "300ms")
	if code != 0 || !strings.Contains(out, `"event": "attached"`) || !strings.Contains(out, `"data": "`) {
		t.Fatalf("exit %d, %q", code, out)
	}
	d := sitDown(t, "--take")
	d.Expect("you said: more")
	go func() {
		time.Sleep(500 * time.Millisecond)
		d.Keys("\r~.")
	}()
	if out, _, code = piped(t, "patience\r", "--scrollback", "none", "--wait", "300ms"); code != 0 || !strings.Contains(out, "you said: patience") {
		t.Fatalf("exit %d, %q", code, out)
	}
	d.Leaves(0)
	g.hub.End(t.Context(), console.End{Why: console.InstanceEnded, Text: "powered off"})
	if _, stderr, code = piped(t, "", "--read-only"); code != 0 || !strings.Contains(stderr, "powered off") {
		t.Fatalf("exit %d, %q", code, stderr)
	}
	for _, bad := range [][]string{{"--escape", "ab"}, {"--scrollback", "7"}, {"--wait", "-1s"}, {"--take", "--read-only"}} {
		if _, stderr, code := piped(t, "", bad...); code != 2 || !strings.Contains(stderr, "hint: ") {
			t.Errorf("%v: exit %d, %s", bad, code, stderr)
		}
	}
}

// TestGuestAndTerminal: what a guest prints does not depend on whether colours are wanted, or
// on where standard input comes from.
func TestGuestAndTerminal(t *testing.T) {
	s, _ := bonded(t)
	newSerial(t, s).print("\x1b[1mold\x1b[6n$ ")
	d := ttytest.Start(t, exec.Command("sh", "-c", "NO_COLOR=1 uvbond vm console web1 --wait 300ms < /dev/null"))
	d.Expect("\x1b[1mold$ " + calm)
	d.Leaves(0)
	d = ttytest.Start(t, exec.Command("sh", "-c", "NO_COLOR=1 uvbond vm log web1"))
	d.Expect("red text")
	d.Leaves(0)
	if text := d.Shown(); strings.Contains(text, "\x1b") {
		t.Fatalf("the log came with control sequences: %q", text)
	}
}

// TestConsoleAnswers: a shell that asks for the terminal's size is told, and the question is not
// shown; without a terminal, with --safe and with --json nothing is typed.
func TestConsoleAnswers(t *testing.T) {
	s, _ := bonded(t)
	g := newSerial(t, s)
	d := sitDown(t)
	d.Expect("helps ---\r\n")
	d.Resize(137, 53)
	for known := false; !known; known = strings.Contains(d.Expect(" (you) ---"), "137x53") {
		d.Keys("~#")
	}
	g.print("\x1b[18;24;80tat> ")
	g.waitTyped(t, "\x1b[8;53;137t")
	if seen := d.Expect("at> "); strings.Contains(seen, "\x1b[18") {
		t.Errorf("shown: %q", seen)
	}
	d.Keys("\r~.")
	d.Leaves(0)
	g.waitTyped(t, "\x1b[8;53;137t\r")
	for _, flag := range []string{"--safe", "--json"} {
		d := sitDown(t, flag)
		if flag == "--json" {
			d.Expect("viewers")
		} else {
			d.Expect("helps ---\r\n")
		}
		g.print("\x1b[18;24;80t" + flag + "> ")
		if flag == "--safe" {
			d.Expect(flag + "> ")
		}
		d.Keys("\r~.")
		d.Leaves(0)
	}
	if _, _, code := piped(t, "piped\r", "--wait", "0"); code != 0 {
		t.Error(code)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if n := bytes.Count(g.typed, []byte("\x1b")); n != 1 {
		t.Errorf("typed %q", g.typed)
	}
}

// TestTypedBeforeLeaving: what stands before the keys that leave, and came with them, is typed.
func TestTypedBeforeLeaving(t *testing.T) {
	s, _ := bonded(t)
	g := newSerial(t, s)
	want := ""
	for i := range 5 {
		d := sitDown(t)
		d.Expect("helps ---\r\n")
		text := fmt.Sprintf("%d%s\r", i, strings.Repeat("x", 2000))
		d.Keys(text + "~.")
		d.Leaves(0)
		want += text
		g.waitTyped(t, want)
	}
}

// TestConsoleStart: there is no console without an instance, and --start makes one.
func TestConsoleStart(t *testing.T) {
	s, _ := bonded(t)
	newSerial(t, s)
	if out, err := uvbond(t, "vm", "poweroff", "web1"); err != nil {
		t.Fatal(out)
	}
	if _, stderr, code := piped(t, ""); code != 3 || !strings.Contains(stderr, "uvbond vm start web1") {
		t.Fatalf("exit %d, %s", code, stderr)
	}
	if _, stderr, code := piped(t, "", "--start", "--wait", "0"); code != 0 || !strings.Contains(stderr, "web1 started") {
		t.Fatalf("exit %d, %s", code, stderr)
	}
	if _, stderr, code := piped(t, "", "--start", "--wait", "0"); code != 0 || strings.Contains(stderr, "started") {
		t.Fatalf("exit %d, %s", code, stderr)
	}
}

func TestAnswerFilter(t *testing.T) {
	for in, want := range map[string]string{
		"a\x1b[6nb": "ab", "a\x1b[?6nb": "ab", "\x1b[cx": "x", "\x1b[>0c": "", "\x1bZ": "", "\x05": "",
		"\x1b[31mred\x1b[0m": "\x1b[31mred\x1b[0m", "\x1b[2J\x1b[1;1H": "\x1b[2J\x1b[1;1H", "\x1b]0;title\x07": "\x1b]0;title\x07",
		"\x1b]11;?\x07x": "x", "\x1bP$qm\x1b\\x": "x", "\x1b[?2004h": "\x1b[?2004h", "\x1b[?2026$p": "", "\x1b[>q": "", "\x1b[18t": "",
		"\x1b(Bx": "\x1b(Bx", "\x1b]0;" + strings.Repeat("x", 400): "\x1b]0;" + strings.Repeat("x", 400), "ü": "ü",
		"\x1b\x1b[cx": "x", "\x1b[\x1b[cx": "x", "\x1b]0;t\x1b[cx": "x", "\x1b[1\x18\x1b[6nx": "x", "\x1b[\x05m": "\x1b[m", "\x1b]0;t\x1b\x05\\x": "\x1b\\x",
		"\x1b[" + strings.Repeat("0", 400) + "cx": "x", "\x1b]4;" + strings.Repeat("0;red;", 100) + "1;?\x07x": "x",
		"\u009bcx": "cx", "\x1b[1\u009b5nx": "x", "\xc2\x1b[c\x9b": "\x9b", "\u00a0": "\u00a0", "\x1b[?1;1;0Sx": "x", "\x1b[1;1;1;1;1;1*yx": "x",
	} {
		whole, parts := &answerFilter{}, &answerFilter{}
		got := string(whole.filter([]byte(in)))
		cut := ""
		for i := range len(in) {
			cut += string(parts.filter([]byte(in[i : i+1])))
		}
		if got != want || cut != want {
			t.Errorf("%q became %q, byte by byte %q, want %q", in, got, cut, want)
		}
	}
}

// FuzzAnswerFilter: what passes is what came in, with pieces left out.
func FuzzAnswerFilter(f *testing.F) {
	f.Add([]byte("login: \x1b[6n\x1b]11;?\x07\x1b[1mx"))
	f.Fuzz(func(t *testing.T, p []byte) {
		a := &answerFilter{}
		out := a.filter(p)
		rest := p
		for _, b := range out {
			i := bytes.IndexByte(rest, b)
			if i < 0 {
				t.Fatalf("%q became %q", p, out)
			}
			rest = rest[i+1:]
		}
		if len(a.held) > maxHeld {
			t.Fatalf("%d bytes are held", len(a.held))
		}
	})
}
