package cli

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/uvbond/uvbond/channel"
	"github.com/uvbond/uvbond/channel/console"
	"github.com/uvbond/uvbond/channel/console/hub"
	"github.com/uvbond/uvbond/tenant/fakehost"
	"github.com/uvbond/uvbond/tenant/terminal"
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

// desk is a person at a terminal with uvbond.
type desk struct {
	t       *testing.T
	tty     *os.File // the terminal's other side
	cmd     *exec.Cmd
	before  *unix.Termios
	stopped chan struct{} // closed: nobody reads the terminal

	mu     sync.Mutex
	screen []byte
	at     int // what expect has passed
	more   chan struct{}
}

func sitDown(t *testing.T, args ...string) *desk {
	t.Helper()
	d := &desk{t: t, more: make(chan struct{}, 1), cmd: exec.Command("uvbond", append([]string{"vm", "console", "web1"}, args...)...)}
	var slave *os.File
	var err error
	if d.tty, slave, err = pty.Open(); err != nil {
		t.Fatal(err)
	}
	if err := pty.Setsize(d.tty, &pty.Winsize{Rows: 24, Cols: 80}); err != nil {
		t.Fatal(err)
	}
	d.before = d.termios()
	d.cmd.Stdin, d.cmd.Stdout, d.cmd.Stderr = slave, slave, slave
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go d.watch()
	t.Cleanup(func() {
		d.cmd.Process.Kill() //nolint:errcheck // it may have ended
		slave.Close()
		d.tty.Close()
	})
	return d
}

func (d *desk) watch() {
	buf := make([]byte, 4096)
	for {
		d.mu.Lock()
		stopped := d.stopped
		d.mu.Unlock()
		if stopped != nil {
			<-stopped
		}
		n, err := d.tty.Read(buf)
		if err != nil {
			return
		}
		d.mu.Lock()
		d.screen = append(d.screen, buf[:n]...)
		d.mu.Unlock()
		select {
		case d.more <- struct{}{}:
		default:
		}
	}
}

func (d *desk) termios() *unix.Termios {
	d.t.Helper()
	t, err := unix.IoctlGetTermios(int(d.tty.Fd()), unix.TCGETS)
	if err != nil {
		d.t.Fatal(err)
	}
	return t
}

func (d *desk) raw() bool { return d.termios().Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) == 0 }

// expect waits for text behind what was expected before, and returns what stood between.
func (d *desk) expect(text string) string {
	d.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		d.mu.Lock()
		i := bytes.Index(d.screen[d.at:], []byte(text))
		if i >= 0 {
			between := string(d.screen[d.at : d.at+i])
			d.at += i + len(text)
			d.mu.Unlock()
			return between
		}
		d.mu.Unlock()
		select {
		case <-d.more:
		case <-deadline:
			d.mu.Lock()
			defer d.mu.Unlock()
			d.t.Fatalf("%q was not shown; since the last: %q", text, d.screen[d.at:])
		}
	}
}

func (d *desk) keys(text string) {
	d.t.Helper()
	if _, err := d.tty.WriteString(text); err != nil {
		d.t.Fatal(err)
	}
}

// leaves waits for the end with an exit code, and looks whether the terminal is as before.
func (d *desk) leaves(code int) {
	d.t.Helper()
	done := make(chan struct{})
	go func() { d.cmd.Wait(); close(done) }() //nolint:errcheck // the exit code is looked at
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		d.t.Fatal("uvbond does not end")
	}
	if have := d.cmd.ProcessState.ExitCode(); have != code {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.t.Fatalf("exit code %d, want %d; shown: %q", have, code, d.screen[d.at:])
	}
	if now := d.termios(); *now != *d.before {
		d.t.Fatalf("the terminal was left as %+v, it was %+v", now, d.before)
	}
}

func TestConsole(t *testing.T) {
	s, _ := bonded(t)
	g := newSerial(t, s)
	g.print("SeaBIOS\r\n\x1b[6nlogin: ")
	d := sitDown(t)
	d.expect("--- console of web1, instance 1; ~. leaves, ~? helps ---\r\n")
	if before := d.expect("SeaBIOS\r\nlogin: "); before != "" {
		t.Errorf("shown before it: %q", before)
	}
	if !d.raw() {
		t.Error("the terminal is not raw")
	}
	d.keys("root\r")
	d.expect("root\r\nyou said: root\r\n$ ")
	d.keys("\x03\x1a\x13")
	g.waitTyped(t, "root\r\x03\x1a\x13")
	g.print("\r\n$ ")
	d.keys("\r~#")
	d.expect("--- attached:\r\n    ")
	if who := d.expect(", 80x24 (you) ---\r\n"); !strings.Contains(who, whoami()+", writing, since ") {
		t.Errorf("listed: %q", who)
	}
	size := func(cols, rows uint16) {
		t.Helper()
		if err := pty.Setsize(d.tty, &pty.Winsize{Rows: rows, Cols: cols}); err != nil {
			t.Fatal(err)
		}
	}
	size(132, 50)
	for range 100 {
		d.keys("~#")
		if d.expect(" (you) ---"); bytes.Contains(d.screen, []byte("132x50")) {
			break
		}
	}
	d.keys("~s")
	d.expect("you said: stty rows 50 cols 132\r\n")
	size(0, 0)
	d.keys("\r~s")
	d.expect("--- this terminal does not say its size ---")
	d.keys("~?")
	d.expect("~.  leave")
	d.keys("~~")
	d.expect("~")
	d.keys("\r~.")
	d.expect("--- left the console of web1 ---")
	d.leaves(0)
}

// TestConsoleReattaches: the server is gone and comes back; what was printed meanwhile is
// shown, and nothing twice.
func TestConsoleReattaches(t *testing.T) {
	s, _ := bonded(t)
	g := newSerial(t, s)
	g.print("one ")
	d := sitDown(t)
	d.expect("one ")
	s.CutChannels()
	d.expect("--- the connection is lost (")
	g.print("two ")
	d.expect("--- attached again ---\r\n")
	if between := d.expect("two "); between != "" {
		t.Errorf("shown before it: %q", between)
	}
	d.keys("still\r")
	d.expect("you said: still\r\n")
	g.hub.End(t.Context(), console.End{Why: console.InstanceEnded, Text: "the guest shut down"})
	d.expect("--- web1: the VM's instance has ended: the guest shut down ---")
	d.leaves(0)

	once := sitDown(t, "--no-reattach")
	once.expect("you said: still") // the console has ended, and its output can still be read
	once.leaves(0)
	newSerial(t, s)
	once = sitDown(t, "--no-reattach")
	once.expect("console of web1")
	s.CutChannels()
	once.expect("error: the connection to \"web1\" was cut")
	once.leaves(6)
}

func TestConsoleCrash(t *testing.T) {
	s, _ := bonded(t)
	g := newSerial(t, s)
	d := sitDown(t)
	d.expect("console of web1")
	g.print("last words")
	g.hub.End(t.Context(), console.End{Why: console.InstanceCrashed, Text: "QEMU ended by itself: killed"})
	d.expect("last words")
	d.expect("error: web1: the VM's instance has crashed: QEMU ended by itself: killed")
	d.leaves(1)
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
		d.expect("@@@@@@@@\r\n")
		d.expect("REDIRECTED OR FORGED")
		d.expect(says)
		d.leaves(4)
	}
}

// TestConsoleTwo: one types, the other looks on, and they know of each other.
func TestConsoleTwo(t *testing.T) {
	s, _ := bonded(t)
	g := newSerial(t, s)
	a := sitDown(t)
	a.expect("console of web1")
	g.print("$ ")
	a.expect("$ ")
	b := sitDown(t, "--scrollback", "none")
	b.expect("--- attached:\r\n")
	b.expect("waiting to write")
	a.expect("is attached ---")
	b.keys("x")
	b.expect("types; ~w takes it ---")
	b.keys("\r~w")
	b.expect("--- you type now ---")
	a.expect("types now; ~w takes it ---")
	b.keys("b\r")
	a.expect("you said: b")
	b.expect("you said: b")
	b.keys("~r")
	a.expect("--- you type now ---")
	c := sitDown(t, "--take", "-e", "^]")
	c.expect("^]. leaves")
	a.expect("types now")
	c.keys("~.c\r")
	c.expect("you said: ~.c")
	c.keys("\x1d.")
	c.leaves(0)
	a.expect("has left ---")
	r := sitDown(t, "--read-only")
	r.expect("you said: ~.c")
	r.keys("nothing\r")
	r.expect("--- looking on only; ~w takes it ---")
	for _, d := range []*desk{a, b, r} {
		d.keys("\r~.")
		d.leaves(0)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if bytes.Contains(g.typed, []byte("nothing")) || bytes.Contains(g.typed, []byte("x")) {
		t.Errorf("who only looked on typed: %q", g.typed)
	}
}

// TestConsoleSignals: whatever ends uvbond, the terminal is as it was before.
func TestConsoleSignals(t *testing.T) {
	s, _ := bonded(t)
	newSerial(t, s)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT} {
		d := sitDown(t)
		d.expect("console of web1")
		if err := d.cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		d.leaves(130)
	}
	d := sitDown(t)
	d.expect("console of web1")
	d.cmd.Process.Signal(syscall.SIGSTOP)                                                //nolint:errcheck // what follows notices
	if err := unix.IoctlSetTermios(int(d.tty.Fd()), unix.TCSETS, d.before); err != nil { // as a shell does
		t.Fatal(err)
	}
	d.cmd.Process.Signal(syscall.SIGCONT) //nolint:errcheck // likewise
	for range 500 {
		if d.raw() {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if !d.raw() {
		t.Fatal("the terminal is not raw after the program was stopped")
	}
	d.keys("\r~.")
	d.leaves(0)
}

// TestConsolePanic: also a fault of uvbond's own leaves the terminal as it was.
func TestConsolePanic(t *testing.T) {
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	defer slave.Close()
	d := &desk{t: t, tty: master}
	d.before = d.termios()
	e, _ := terminal.NewEscapes("~")
	v := newConsoleView(&app{in: slave, out: slave, err: slave}, "web1", e, consoleFlags{})
	v.session = terminal.New(terminal.Options{Open: func(context.Context) (net.Conn, error) {
		if !d.raw() {
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
	if now := d.termios(); *now != *d.before {
		t.Errorf("the terminal was left as %+v", now)
	}
}

// TestConsoleStopped: a terminal that takes nothing while the guest floods it is shown the newest
// afterwards, and told what is lost.
func TestConsoleStopped(t *testing.T) {
	s, _ := bonded(t)
	g := newSerial(t, s)
	d := sitDown(t)
	d.expect("console of web1")
	stopped := make(chan struct{})
	d.mu.Lock()
	d.stopped = stopped
	d.mu.Unlock()
	for range 300 {
		g.print(strings.Repeat("y\r\n", 10<<10))
	}
	g.print("the end of it")
	d.keys("still typing")
	g.waitTyped(t, "still typing")
	close(stopped)
	d.expect("of older output are no longer kept ---")
	d.expect("the end of it")
	d.keys("\r~.")
	d.leaves(0)
}

// TestConsoleDeafGuest: keys that the guest does not read are kept, and those beyond the bound are not,
// which is said; leaving works all the same.
func TestConsoleDeafGuest(t *testing.T) {
	s, _ := bonded(t)
	g := newSerial(t, s)
	g.deaf = make(chan struct{})
	defer close(g.deaf)
	d := sitDown(t)
	d.expect("console of web1")
	for range 200 { // a terminal takes no more at once
		d.keys(strings.Repeat("k", 1000))
	}
	d.expect("--- the guest does not read its serial port: ")
	d.keys("\r~.")
	d.leaves(0)
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
	d.expect("you said: more")
	go func() {
		time.Sleep(500 * time.Millisecond)
		d.keys("\r~.")
	}()
	if out, _, code = piped(t, "patience\r", "--scrollback", "none", "--wait", "300ms"); code != 0 || !strings.Contains(out, "you said: patience") {
		t.Fatalf("exit %d, %q", code, out)
	}
	d.leaves(0)
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
