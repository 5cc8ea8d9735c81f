package e2e

import (
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/uvbond/uvbond/tenant/terminal/ttytest"
	"github.com/uvbond/uvbond/test/guest"
)

const prompt = "guest# "

// TestConsole: the serial console of a real guest, from its firmware's first byte to its end: several
// viewers and one who types, a server, a daemon and a keeper that are killed meanwhile, a guest that floods it,
// and viewers that stop reading. Its steps share the guest and come in this order.
func TestConsole(t *testing.T) {
	t.Parallel() // it waits for the guest most of the time
	w := newWorld(t)
	u := w.user("alice")
	u.disk(image(t, guest.Options{Secret: secret}), "web1.luks")
	u.create("web1", "web1.luks")
	u.says(exitRefused, "uvbond vm start web1", "vm", "console", "web1")
	a := u.console("--start")
	u.fromTheFirstByte(a)
	b := u.twoViewers(a)
	u.serverKilled(a, b)
	u.keeperKilledUnderConsole(a)
	u.flood(a, b)
	u.interrupted(a)
	u.piped()
	a.Expect("--- you type now ---")
	a.Keys("poweroff -f\r")
	a.Expect("--- web1: the VM's instance has ended: the guest shut down ---")
	a.Leaves(exitDone)
	b.Expect("--- web1: the VM's instance has ended: the guest shut down ---")
	b.Leaves(exitDone)
	u.says(exitRefused, "web1", "vm", "console", "web1")
	u.says(exitDone, "poweroff -f", "vm", "log", "web1")
	u.audit("web1", "console opened", "console ended")
}

// console starts uvbond vm console in a terminal of its own.
func (u *user) console(flags ...string) *ttytest.Desk {
	u.Helper()
	return ttytest.Start(u, u.consoleCommand(flags...))
}

func (u *user) consoleCommand(flags ...string) *exec.Cmd {
	return u.tenant.Command(u.Context(), append([]string{"vm", "console", "web1"}, flags...)...)
}

// shell gets a prompt.
func shell(d *ttytest.Desk) {
	d.Expect("UVBOND-TERMINAL ttyS0: press Enter for a shell")
	d.Keys("\r")
	d.Expect(prompt)
}

// fromTheFirstByte: what is shown begins with the firmware's first byte, as the log has it, and who
// comes later sees the same.
func (u *user) fromTheFirstByte(a *ttytest.Desk) {
	u.Helper()
	a.Expect("--- console of web1, instance 1; ~. leaves, ~? helps ---\r\n")
	if before := a.Expect("SeaBIOS"); regexp.MustCompile(`[[:alnum:]]{4}`).MatchString(before) {
		u.Errorf("shown before the firmware spoke: %q", before)
	}
	shell(a)
	a.Keys("echo Typed-$((6*7))\r")
	a.Expect("Typed-42\r\n")
	if whole := u.run(exitDone, "vm", "log", "web1").Stdout; !strings.Contains(whole[:min(200, len(whole))], "SeaBIOS") {
		u.Errorf("the log begins with %q", whole[:min(200, len(whole))])
	}
}

// twoViewers: a second one sees what there was, looks on, and takes the typing.
func (u *user) twoViewers(a *ttytest.Desk) *ttytest.Desk {
	u.Helper()
	b := u.console()
	b.Expect("SeaBIOS")
	b.Expect("Typed-42\r\n")
	a.Expect("is attached ---")
	b.Keys("x")
	b.Expect("types; ~w takes it ---")
	a.Keys("echo First-$((6*8))\r")
	b.Expect("First-48\r\n")
	b.Keys("\r~w")
	b.Expect("--- you type now ---")
	a.Expect("types now; ~w takes it ---")
	b.Resize(100, 30)
	b.Keys("~s")
	b.Expect(prompt)
	b.Keys("stty size </dev/ttyS0\r")
	b.Expect("30 100\r\n")
	b.Resize(0, 0) // a terminal that does not say
	b.Keys("~s")
	b.Expect("--- this terminal does not say its size ---")
	b.Keys("~#")
	if list := b.Expect(" (you) ---"); !strings.Contains(list, ", writing, since ") || strings.Contains(list, "0x0") {
		u.Errorf("attached are %q", list)
	}
	b.Keys("echo Second-$((6*9))\r")
	a.Expect("Second-54\r\n")
	b.Keys("~r")
	a.Expect("--- you type now ---")
	return b
}

// serverKilled: the server and then the daemon are killed while the guest counts; both viewers attach
// again, and each number was shown once.
func (u *user) serverKilled(a, b *ttytest.Desk) {
	u.Helper()
	a.Keys("i=0; while [ $i -lt 60 ]; do echo count-$i.; i=$((i+1)); sleep 0.2; done; echo Counted-$((6*6))\r")
	a.Expect("count-5.\r\n")
	u.lab.StopServer(syscall.SIGKILL)
	a.Expect("--- the connection is lost (")
	time.Sleep(time.Second)
	if err := u.lab.StartServer(u.Context()); err != nil {
		u.Fatal(err)
	}
	a.Expect("--- attached again ---")
	u.lab.KillHypervisor() // the keeper lives on, and so does the channel
	if err := u.lab.StartHypervisor(u.Context()); err != nil {
		u.Fatal(err)
	}
	for _, d := range []*ttytest.Desk{a, b} {
		d.Expect("Counted-36\r\n")
		counted(u, d.Shown(), 60)
	}
	a.Keys("echo Again-$((6*10))\r") // the typing was kept for who had it
	a.Expect("Again-60\r\n")
}

var (
	statusLine = regexp.MustCompile(`--- .*? ---`)
	countLine  = regexp.MustCompile(`count-(\d+)\.`)
)

// counted looks whether the guest's numbers were shown once each and in order. uvbond's own lines may
// stand in the middle of one of the guest's.
func counted(u *user, shown string, to int) {
	u.Helper()
	found := countLine.FindAllStringSubmatch(statusLine.ReplaceAllString(strings.ReplaceAll(shown, "\r\n", ""), ""), -1)
	if len(found) != to {
		u.Fatalf("%d numbers were shown, %d counted", len(found), to)
	}
	for i, m := range found {
		if m[1] != strconv.Itoa(i) {
			u.Fatalf("number %d was shown as %s", i, m[1])
		}
	}
}

// keeperKilledUnderConsole: the daemon starts another keeper, QEMU finds it, and so does the viewer.
func (u *user) keeperKilledUnderConsole(a *ttytest.Desk) {
	u.Helper()
	if err := syscall.Kill(u.one("keeper", u.lab.Keepers), syscall.SIGKILL); err != nil {
		u.Fatal(err)
	}
	a.Expect("--- the connection is lost (")
	a.Expect("--- attached again ---")
	a.Keys("\recho Keeper-$((6*11))\r") // waits until QEMU has connected again
	a.Expect("Keeper-66\r\n")
}

// flood: a guest that prints without end, to one viewer whose terminal is stopped and one that is itself
// stopped: memory stays bounded, and each gets the newest, and is told what it lost.
func (u *user) flood(a, b *ttytest.Desk) {
	u.Helper()
	goOn := a.Stop()
	b.Signal(syscall.SIGSTOP)
	keeper := u.one("keeper", u.lab.Keepers)
	before := anonymous(u, keeper)
	a.Keys("yes flood-flood-flood-flood-flood-flood-flood-flood | head -c 3000000; echo; echo Flooded-$((6*12))\r")
	u.await("web1", "Flooded-72")
	if after := anonymous(u, keeper); after > before+(8<<10) {
		u.Errorf("the keeper took %d KiB more for a flood", after-before)
	}
	goOn()
	a.Expect("of older output are no longer kept ---")
	a.Expect("Flooded-72\r\n")
	b.Signal(syscall.SIGCONT)
	b.Expect("of older output are no longer kept ---")
	b.Expect("Flooded-72\r\n")
}

// interrupted: Ctrl-C reaches a guest that prints without end, and ends that program, not the shell.
func (u *user) interrupted(a *ttytest.Desk) {
	u.Helper()
	a.Keys("yes\r")
	a.Expect("y\r\ny\r\ny\r\n")
	a.Keys("\x03")
	a.Expect("^C")
	a.Keys("echo Interrupted-$((6*13))\r")
	if since := a.Expect("Interrupted-78\r\n"); strings.Contains(since, "the shell ended") {
		u.Errorf("Ctrl-C ended the shell: %q", since[max(0, len(since)-300):])
	}
}

// anonymous is how much memory of its own a process has, KiB.
func anonymous(u *user, pid int) int {
	u.Helper()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	m := regexp.MustCompile(`RssAnon:\s+(\d+) kB`).FindSubmatch(b)
	if err != nil || m == nil {
		u.Fatalf("no RssAnon of process %d: %v", pid, err)
	}
	n, _ := strconv.Atoi(string(m[1]))
	return n
}

// piped: a script types and reads the answer.
func (u *user) piped() {
	u.Helper()
	cmd := u.consoleCommand("--take", "--scrollback", "none", "--wait", "5s", "--safe")
	cmd.Stdin = strings.NewReader("echo Piped-$((6*13))\r")
	out, err := cmd.Output()
	if err != nil || !strings.Contains(string(out), "Piped-78") {
		u.Fatalf("%v: %q", err, out)
	}
}
