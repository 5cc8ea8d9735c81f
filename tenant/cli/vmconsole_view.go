package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/uvbond/uvbond/channel/console"
	"github.com/uvbond/uvbond/tenant/fail"
	"github.com/uvbond/uvbond/tenant/terminal"
)

// errLeft says that the person left.
var errLeft = errors.New("left")

// consoleView is what a person sees of a console: output, and lines about it.
type consoleView struct {
	a       *app
	name    string
	f       consoleFlags
	escapes *terminal.Escapes
	opener  *instanceOpener
	session *terminal.Session
	tty     *rawTerminal // nil: standard input is no terminal, or is not used
	leave   context.CancelCauseFunc

	mu       sync.Mutex
	out      io.Writer
	quiet    *answerFilter // of output that was printed before
	before   uint64        // bytes of it that are still to come
	midLine  bool          // the last output did not end a line
	drawn    bool          // the output had control sequences
	printed  time.Time     // when the last output came
	down     bool          // said that the connection is lost
	viewers  []console.Viewer
	self     uint32
	hinted   bool // said that somebody else writes
	overflow bool // said that the guest does not read
}

func newConsoleView(a *app, name string, e *terminal.Escapes, f consoleFlags) *consoleView {
	v := &consoleView{a: a, name: name, f: f, escapes: e, out: a.out, printed: time.Now()}
	v.quiet = &answerFilter{}
	if f.safe {
		v.out = &plainWriter{w: a.out}
	}
	if a.terminal() {
		v.tty = &rawTerminal{fd: int(a.in.Fd())}
	}
	return v
}

// output takes what the VM printed.
func (v *consoleView) output(p []byte) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.printed = time.Now()
	if v.a.json {
		return v.a.print(struct {
			Data []byte `json:"data"`
		}{p}, nil)
	}
	if n := min(v.before, uint64(len(p))); n > 0 {
		v.before -= n
		if err := v.write(v.quiet.filter(p[:n])); err != nil {
			return err
		}
		p = p[n:]
	}
	return v.write(p)
}

func (v *consoleView) write(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	v.midLine = p[len(p)-1] != '\n'
	v.drawn = v.drawn || !v.f.safe && bytes.IndexByte(p, 0x1b) >= 0
	if _, err := v.out.Write(p); err != nil {
		return fmt.Errorf("cannot write the output: %w", err)
	}
	return nil
}

// calm undoes what a guest may have set in a terminal that goes on being used: colours, a hidden
// cursor, another character set, reports of mouse, focus and pastes, keypad modes.
const calm = "\x1b[0m\x1b[?25h\x1b(B\x0f\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1004l\x1b[?1006l\x1b[?2004l\x1b[?1l\x1b>"

func (v *consoleView) calmDown() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.drawn && v.a.shown && !v.a.json {
		_, _ = io.WriteString(v.a.out, calm)
	}
}

// status writes lines for the person, between what the VM prints.
func (v *consoleView) status(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.say(format, args...)
}

// say is status with the mutex held.
func (v *consoleView) say(format string, args ...any) {
	if v.a.json {
		return
	}
	text := "--- " + fmt.Sprintf(format, args...) + " ---\n"
	if v.midLine {
		text = "\n" + text
	}
	v.midLine = false
	if v.tty.isRaw() {
		text = string(bytes.ReplaceAll([]byte(text), []byte("\n"), []byte("\r\n")))
	}
	fmt.Fprint(v.a.err, text)
}

// event takes what happens to the session.
func (v *consoleView) event(e terminal.Event) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.a.json {
		_ = v.a.print(eventJSON(e), nil)
	}
	switch e := e.(type) {
	case terminal.Attached:
		v.attached(e)
	case terminal.Detached:
		if !v.down {
			v.say("the connection is lost (%s); attaching again", firstLine(e.Err))
		}
		v.down = true
	case terminal.Lost:
		v.before -= min(v.before, e.Bytes)
		v.say("%s of older output are no longer kept", bytesText(e.Bytes))
	case terminal.Untyped:
		v.say("%s were not typed: %s", bytesText(e.Bytes), v.whyUntyped())
		if v.tty == nil {
			v.leave(fail.New(fail.Other, "see who: uvbond vm console "+v.name+" --read-only; take it with --take", "%s of the input were not typed into %q: %s", bytesText(e.Bytes), v.name, v.whyUntyped()))
		}
	case terminal.Viewers:
		v.who(e)
	}
}

func (v *consoleView) attached(e terminal.Attached) {
	v.down = false
	if e.Uncertain > 0 {
		v.say("%s that you typed may have arrived or not", bytesText(uint64(e.Uncertain)))
	}
	if !e.Again && (v.tty != nil || v.a.shown) {
		v.before = e.Before
	}
	switch {
	case e.Again:
		v.say("attached again")
	case v.tty != nil:
		text := fmt.Sprintf("console of %s, instance %d", v.name, v.opener.instance)
		if !v.escapes.Off() {
			text += fmt.Sprintf("; %s. leaves, %s? helps", v.escapes, v.escapes)
		}
		v.say("%s", text)
	}
}

func (v *consoleView) whyUntyped() string {
	if w := v.writer(); w != nil && w.ID != v.self {
		return w.Name + " types now"
	}
	return "the guest does not read its serial port"
}

// writer is who types, or nil.
func (v *consoleView) writer() *console.Viewer {
	for i := range v.viewers {
		if v.viewers[i].Mode == console.Write {
			return &v.viewers[i]
		}
	}
	return nil
}

// who tells what has changed in the list of viewers; the whole list when it was asked for.
func (v *consoleView) who(e terminal.Viewers) {
	before, first := v.viewers, v.viewers == nil
	wrote, was := v.writer(), v.self
	v.viewers, v.self = e.Viewers, e.Self
	w := v.writer()
	switch {
	case e.Asked:
		v.list()
		return
	case first && len(e.Viewers) > 1:
		v.list()
	case !first:
		v.cameAndWent(before, was)
	}
	switch {
	case w == nil || first && w.ID == v.self || wrote != nil && wrote.ID == w.ID:
	case w.ID == v.self && wrote != nil && wrote.ID == was: // attached again
	case w.ID == v.self:
		v.hinted = false
		v.say("you type now")
	case wrote != nil && !first && !v.f.readOnly && !v.hinted:
		v.say("%s types now%s", w.Name, v.takeHint())
		v.hinted = true
	case !first:
		v.say("%s types now", w.Name)
	}
}

func (v *consoleView) takeHint() string {
	if v.tty == nil || v.escapes.Off() {
		return ""
	}
	return fmt.Sprintf("; %sw takes it", v.escapes)
}

// cameAndWent tells of others; the session itself was another viewer before it attached again.
func (v *consoleView) cameAndWent(before []console.Viewer, was uint32) {
	names := func(list []console.Viewer) map[uint32]string {
		m := map[uint32]string{}
		for _, one := range list {
			m[one.ID] = one.Name
		}
		return m
	}
	had, have := names(before), names(v.viewers)
	for id, name := range have {
		if _, ok := had[id]; !ok && id != v.self {
			v.say("%s is attached", name)
		}
	}
	for id, name := range had {
		if _, ok := have[id]; !ok && id != was {
			v.say("%s has left", name)
		}
	}
}

// list shows who is attached.
func (v *consoleView) list() {
	text := "attached:"
	for _, one := range v.viewers {
		text += fmt.Sprintf("\n    %s, %s, since %s", one.Name, one.Mode, time.UnixMilli(one.Since).Local().Format("2006-01-02 15:04:05"))
		if one.Size != (console.Size{}) {
			text += fmt.Sprintf(", %dx%d", one.Size.Columns, one.Size.Rows)
		}
		if one.ID == v.self {
			text += " (you)"
		}
	}
	v.say("%s", text)
}

// eventJSON is an event for --json.
func eventJSON(e terminal.Event) any {
	type viewer struct {
		Name    string `json:"name"`
		Mode    string `json:"mode"`
		Since   int64  `json:"since"` // Unix milliseconds
		Columns uint16 `json:"columns"`
		Rows    uint16 `json:"rows"`
		You     bool   `json:"you,omitempty"`
	}
	out := struct {
		Event   string   `json:"event"`
		Again   bool     `json:"again,omitempty"`
		Bytes   uint64   `json:"bytes,omitempty"`
		Error   string   `json:"error,omitempty"`
		Viewers []viewer `json:"viewers,omitempty"`
	}{}
	switch e := e.(type) {
	case terminal.Attached:
		out.Event, out.Again, out.Bytes = "attached", e.Again, uint64(e.Uncertain)
	case terminal.Detached:
		out.Event, out.Error = "detached", e.Err.Error()
	case terminal.Lost:
		out.Event, out.Bytes = "lost", e.Bytes
	case terminal.Untyped:
		out.Event, out.Bytes = "untyped", e.Bytes
	case terminal.Viewers:
		out.Event = "viewers"
		for _, v := range e.Viewers {
			out.Viewers = append(out.Viewers, viewer{v.Name, v.Mode.String(), v.Since, v.Size.Columns, v.Size.Rows, v.ID == e.Self})
		}
	}
	return out
}

func firstLine(err error) string {
	text, _, _ := bytes.Cut([]byte(err.Error()), []byte("\n"))
	return string(text)
}
