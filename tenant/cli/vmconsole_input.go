package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/uvbond/uvbond/channel/console"
)

// leaveTimeout is how long leaving may wait for input that was not sent yet: more than the
// window, for a guest that does not read.
const leaveTimeout = 2 * time.Second

// rawTerminal is standard input as a terminal that passes every key on, or as it was
// before. Its methods are safe for concurrent use, and for nil, which is no terminal.
type rawTerminal struct {
	fd int

	mu     sync.Mutex
	before *term.State // nil: not raw
}

func (t *rawTerminal) enter() error {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.before != nil { // raw mode may have been undone while the program was stopped
		_ = term.Restore(t.fd, t.before)
		t.before = nil
	}
	before, err := term.MakeRaw(t.fd)
	if err != nil {
		return fmt.Errorf("cannot set the terminal: %w", err)
	}
	t.before = before
	return nil
}

func (t *rawTerminal) restore() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.before != nil {
		_ = term.Restore(t.fd, t.before)
		t.before = nil
	}
}

func (t *rawTerminal) isRaw() bool {
	if t == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.before != nil
}

// size is that of the terminal, or nothing.
func (v *consoleView) size() console.Size {
	for _, f := range []any{v.a.out, v.a.in} {
		file, ok := f.(*os.File)
		if !ok {
			continue
		}
		if w, h, err := term.GetSize(int(file.Fd())); err == nil {
			return console.Size{Columns: uint16(min(max(w, 0), 1<<16-1)), Rows: uint16(min(max(h, 0), 1<<16-1))}
		}
	}
	return console.Size{}
}

// run is the console from the first to the last byte. The terminal is as it was before
// when it returns, or panics.
func (v *consoleView) run(ctx context.Context) error {
	ctx, v.leave = context.WithCancelCause(ctx)
	defer v.leave(errLeft)
	if err := v.tty.enter(); err != nil {
		return err
	}
	defer v.tty.restore()
	var watching sync.WaitGroup
	defer watching.Wait()
	stop := make(chan struct{})
	defer close(stop)
	if v.tty != nil {
		signals := make(chan os.Signal, 4)
		signal.Notify(signals, syscall.SIGWINCH, syscall.SIGCONT, syscall.SIGQUIT)
		defer signal.Stop(signals)
		v.session.Resize(v.size()) // it may have changed before anybody listened
		watching.Go(func() { v.watch(signals, stop) })
	}
	if v.tty != nil || !v.f.readOnly {
		go v.read(ctx) // may hang in a read when the console has ended
	}
	err := v.session.Run(ctx)
	v.tty.restore()
	if ctx.Err() == nil || errors.Is(context.Cause(ctx), errLeft) { // else the terminal may hang
		v.calmDown()
	}
	if v.tty != nil && errors.Is(context.Cause(ctx), errLeft) {
		v.status("left the console of %s", v.name)
	}
	return v.result(ctx, err)
}

// watch follows the terminal's size, and sets the terminal again when the program was stopped.
func (v *consoleView) watch(signals <-chan os.Signal, stop <-chan struct{}) {
	for {
		select {
		case s := <-signals:
			switch s {
			case syscall.SIGCONT:
				_ = v.tty.enter()
			case syscall.SIGQUIT: // the runtime ends the program where it stands
				v.tty.restore()
				signal.Reset(syscall.SIGQUIT)
				_ = syscall.Kill(os.Getpid(), syscall.SIGQUIT)
			}
			v.session.Resize(v.size())
		case <-stop:
			return
		}
	}
}

// read types what comes in.
func (v *consoleView) read(ctx context.Context) {
	defer func() {
		if p := recover(); p != nil {
			v.tty.restore()
			panic(p)
		}
	}()
	buf := make([]byte, 4<<10)
	for {
		n, err := v.a.in.Read(buf)
		if v.tty != nil {
			v.keys(buf[:n])
		} else if werr := v.session.TypeAll(ctx, buf[:n]); werr != nil {
			return // the session has ended
		}
		if err == nil {
			continue
		}
		if v.tty == nil && errors.Is(err, io.EOF) {
			v.linger(ctx)
		}
		v.leave(errLeft)
		return
	}
}

// linger waits until everything was typed and the VM has been silent for a while.
func (v *consoleView) linger(ctx context.Context) {
	if err := v.session.Drain(ctx); err != nil {
		return
	}
	begun := time.Now()
	for {
		v.mu.Lock()
		silent := time.Since(v.printed)
		v.mu.Unlock()
		rest := v.f.wait - min(silent, time.Since(begun))
		if rest <= 0 {
			return
		}
		select {
		case <-time.After(rest):
		case <-ctx.Done():
			return
		}
	}
}

// keys takes what a person typed.
func (v *consoleView) keys(typed []byte) {
	for len(typed) > 0 {
		input, command, rest := v.escapes.Next(typed)
		v.typeKeys(input)
		if command != 0 {
			v.command(command)
		}
		typed = rest
	}
}

// flush has what was typed before leaving arrive; a guest that reads nothing holds that
// up for a short while at most.
func (v *consoleView) flush() {
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	_ = v.session.Flush(ctx) // whoever leaves does not wait for more
}

func (v *consoleView) typeKeys(p []byte) {
	if len(p) == 0 {
		return
	}
	n := v.session.Type(p)
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case n == len(p):
		v.overflow = false
	case v.session.Writing() && !v.overflow:
		v.overflow = true
		v.say("the guest does not read its serial port: what is typed from here on is dropped until it does")
	case !v.session.Writing() && !v.hinted:
		v.hinted = true
		switch w := v.writer(); {
		case v.f.readOnly:
			v.say("looking on only%s", v.takeHint())
		case w != nil:
			v.say("%s types%s", w.Name, v.takeHint())
		default: // not attached yet, or the typist's connection broke and is waited for
			v.say("nothing can be typed yet%s", v.takeHint())
		}
	}
}

// command does what an escape asks for.
func (v *consoleView) command(c byte) {
	switch c {
	case '.':
		v.flush()
		v.leave(errLeft)
	case '?':
		e := v.escapes.String()
		v.status("%s", e+".  leave, "+e+"#  who is attached, "+e+"w  type and take that from others, "+e+"r  look on only,\n    "+
			e+"s  tell the guest the terminal's size, "+e+"^Z  suspend, "+e+e+"  type "+e)
	case '#':
		v.session.Who()
	case 'w':
		v.lookOn(false)
		v.session.SetMode(console.Take)
	case 'r':
		v.lookOn(true)
		v.session.SetMode(console.Read)
		v.status("looking on only")
	case 's':
		z := v.size()
		if z.Columns == 0 || z.Rows == 0 {
			v.status("this terminal does not say its size")
			return
		}
		v.typeKeys(fmt.Appendf(nil, "stty rows %d cols %d\r", z.Rows, z.Columns))
	default: // ^Z
		v.tty.restore()
		_ = syscall.Kill(os.Getpid(), syscall.SIGTSTP) // SIGCONT sets the terminal again
	}
}

// lookOn notes that the person does not want to type, or does.
func (v *consoleView) lookOn(only bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.f.readOnly, v.hinted = only, false
}
