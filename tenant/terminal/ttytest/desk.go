// Package ttytest is a person at a terminal, for tests of programs that use one: it starts the
// program in a pseudo-terminal, reads what is shown, presses keys, and looks whether the
// terminal was left as it was.
package ttytest

import (
	"bytes"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// patience is how long a program may take to show or end.
const patience = 3 * time.Minute

// Desk is a terminal with a program.
type Desk struct {
	t      testing.TB
	tty    *os.File // the terminal's other side
	slave  *os.File
	cmd    *exec.Cmd // nil: no program
	before *unix.Termios
	more   chan struct{}

	mu     sync.Mutex
	hold   chan struct{} // not nil: nobody reads the terminal until it is closed
	screen []byte
	at     int // what Expect has passed
}

// Open makes a terminal of 80 by 24 and returns the side that a program uses. Nobody
// reads it: Expect is for Start.
func Open(t testing.TB) (*Desk, *os.File) {
	t.Helper()
	d := &Desk{t: t, more: make(chan struct{}, 1)}
	var err error
	if d.tty, d.slave, err = pty.Open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.slave.Close()
		d.tty.Close()
	})
	d.Resize(80, 24)
	d.before = d.termios()
	return d, d.slave
}

// Start starts a program in a terminal of its own, and kills it at the end of the test.
func Start(t testing.TB, cmd *exec.Cmd) *Desk {
	t.Helper()
	d, slave := Open(t)
	d.cmd = cmd
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty, cmd.SysProcAttr.Setpgid = true, true, false
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go d.watch()
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // it may have ended
	return d
}

func (d *Desk) watch() {
	buf := make([]byte, 4096)
	for {
		d.mu.Lock()
		hold := d.hold
		d.mu.Unlock()
		if hold != nil {
			<-hold
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

// Stop has nobody read what the program shows, until goOn is called.
func (d *Desk) Stop() (goOn func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	hold := make(chan struct{})
	d.hold = hold
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.hold = nil
		close(hold)
	}
}

func (d *Desk) termios() *unix.Termios {
	d.t.Helper()
	t, err := unix.IoctlGetTermios(int(d.tty.Fd()), unix.TCGETS)
	if err != nil {
		d.t.Fatal(err)
	}
	return t
}

// Raw tells whether the terminal passes every key on.
func (d *Desk) Raw() bool { return d.termios().Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) == 0 }

// Reset sets the terminal as it was before.
func (d *Desk) Reset() {
	d.t.Helper()
	if err := unix.IoctlSetTermios(int(d.tty.Fd()), unix.TCSETS, d.before); err != nil {
		d.t.Fatal(err)
	}
}

// Resize changes the terminal's size, which may be 0; the program gets a signal.
func (d *Desk) Resize(columns, rows uint16) {
	d.t.Helper()
	if err := pty.Setsize(d.tty, &pty.Winsize{Rows: rows, Cols: columns}); err != nil {
		d.t.Fatal(err)
	}
}

// Signal sends the program a signal.
func (d *Desk) Signal(s os.Signal) {
	d.t.Helper()
	if err := d.cmd.Process.Signal(s); err != nil {
		d.t.Fatal(err)
	}
}

// Keys presses keys.
func (d *Desk) Keys(text string) {
	d.t.Helper()
	if _, err := d.tty.WriteString(text); err != nil {
		d.t.Fatal(err)
	}
}

// Expect waits for text behind what was expected before, and returns what stood between.
func (d *Desk) Expect(text string) string {
	d.t.Helper()
	deadline := time.After(patience)
	for {
		d.mu.Lock()
		if i := bytes.Index(d.screen[d.at:], []byte(text)); i >= 0 {
			between := string(d.screen[d.at : d.at+i])
			d.at += i + len(text)
			d.mu.Unlock()
			return between
		}
		d.mu.Unlock()
		select {
		case <-d.more:
		case <-deadline:
			d.t.Fatalf("%q was not shown; the last: %q", text, d.last())
		}
	}
}

// last is the end of what was shown and not expected.
func (d *Desk) last() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	rest := d.screen[d.at:]
	return bytes.Clone(rest[max(0, len(rest)-4096):])
}

// Shown is everything that was shown so far.
func (d *Desk) Shown() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return string(d.screen)
}

// Leaves waits for the program's end, with an exit code, and looks whether the terminal is as
// it was before.
func (d *Desk) Leaves(code int) {
	d.t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = d.cmd.Wait() // the exit code is looked at
	}()
	select {
	case <-done:
	case <-time.After(patience):
		d.t.Fatalf("the program does not end; the last: %q", d.last())
	}
	if have := d.cmd.ProcessState.ExitCode(); have != code {
		d.t.Fatalf("exit code %d, want %d; the last: %q", have, code, d.last())
	}
	d.AsBefore()
}

// AsBefore looks whether the terminal is as it was before.
func (d *Desk) AsBefore() {
	d.t.Helper()
	if now := d.termios(); *now != *d.before {
		d.t.Fatalf("the terminal was left as %+v, it was %+v", now, d.before)
	}
}
