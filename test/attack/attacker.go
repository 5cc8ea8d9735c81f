package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The attacker is a process of its own with the server's uid. It does what a
// script says and reports what the gate made of it; it knows nothing of what
// should have happened, and holds no key.

// roleAttacker is the first argument of that process; the second is the gate's path.
const roleAttacker = "attacker"

// patience is how long the attacker waits for one answer.
const patience = 45 * time.Second

// move is one thing that the attacker does.
type move struct {
	Conn int    `json:"conn,omitempty"` // of its connections; a new one is made where it has none
	Do   string `json:"do,omitempty"`   // one of the do… constants; "": send Line, and read the answer

	Line  json.RawMessage `json:"line,omitempty"` // a request, sent with a newline
	Raw   []byte          `json:"raw,omitempty"`  // bytes sent as they are, in the place of Line
	Files []file          `json:"files,omitempty"`
	Times int             `json:"times,omitempty"` // how often; 0: once
	Wait  int             `json:"wait,omitempty"`  // milliseconds, of doWait and doTrickle
	Path  string          `json:"path,omitempty"`  // of doCarry: where the owner's end is
	Bend  bend            `json:"bend,omitzero"`   // of doCarry
}

// What a move does beside sending a request.
const (
	doSend    = "send"     // send, do not read
	doRead    = "read"     // read one answer
	doDial    = "dial"     // connect only
	doClose   = "close"    // close the connection
	doHalf    = "half"     // close it for writing
	doWait    = "wait"     // do nothing for a time
	doTrickle = "trickle"  // send byte by byte, with Wait milliseconds between them, then read
	doChild   = "child"    // a child sends on the connection that it inherits
	doPassed  = "passed"   // another process, to which the connection is passed, sends
	doThread  = "thread"   // another thread of this process sends
	doForged  = "forged"   // send with the credentials of another process
	doSplit   = "split"    // this process begins the line, a child ends it
	doDrain   = "drain"    // read until the gate closes the connection
	doLong    = "long"     // send what the gate will not read to its end, then read until it closes
	doCarry   = "carry"    // the connection is a channel now: carry it to the owner
	doNothing = "ignoring" // send Times lines and read no answer
)

// outcome is what came of a move.
type outcome struct {
	Class  string          `json:"class,omitempty"` // of the gate's error
	Desc   string          `json:"desc,omitempty"`
	Return json.RawMessage `json:"return,omitempty"`
	// Receipt is the sealed refusal that an error carried.
	Receipt []byte `json:"receipt,omitempty"`
	// Lost tells that there was no answer: the connection was closed, or the
	// kernel refused to send.
	Lost string `json:"lost,omitempty"`
}

func (o outcome) ok() bool { return o.Class == "" && o.Lost == "" }

func (o outcome) String() string {
	switch {
	case o.Lost != "":
		return "no answer: " + o.Lost
	case o.Class != "":
		return o.Class + ": " + o.Desc
	}
	return "accepted"
}

// wire is one connection of the attacker.
type wire struct {
	c *net.UnixConn
	r *bufio.Reader
}

type attacker struct {
	gate    string
	wires   map[int]*wire
	carried *carriage // the last channel
}

// attackerMain serves scripts, one JSON list of moves a line, until its input ends.
func attackerMain(gate string) int {
	a := &attacker{gate: gate, wires: map[int]*wire{}}
	in := json.NewDecoder(os.Stdin)
	out := json.NewEncoder(os.Stdout)
	for {
		var script []move
		if err := in.Decode(&script); err != nil {
			if errors.Is(err, io.EOF) {
				return 0
			}
			fmt.Fprintln(os.Stderr, "attacker:", err)
			return 1
		}
		outcomes := make([]outcome, len(script))
		for i, m := range script {
			outcomes[i] = a.do(m)
		}
		if err := out.Encode(outcomes); err != nil {
			return 1
		}
	}
}

func lost(err error) outcome { return outcome{Lost: err.Error()} }

// wire returns a connection, with the greeting read.
func (a *attacker) wire(n int) (*wire, error) {
	if w := a.wires[n]; w != nil {
		return w, nil
	}
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: a.gate, Net: "unix"})
	if err != nil {
		return nil, err
	}
	w := &wire{c: c, r: bufio.NewReader(c)}
	if o := w.read(); o.Lost != "" {
		c.Close()
		return nil, errors.New(o.Lost)
	}
	a.wires[n] = w
	return w, nil
}

func (a *attacker) do(m move) outcome {
	switch m.Do {
	case doWait:
		time.Sleep(time.Duration(m.Wait) * time.Millisecond)
		return outcome{}
	case doClose:
		if w := a.wires[m.Conn]; w != nil {
			w.c.Close()
			delete(a.wires, m.Conn)
		}
		return outcome{}
	}
	w, err := a.wire(m.Conn)
	if err != nil {
		return lost(err)
	}
	if m.Do == doCarry {
		return a.carry(w, m)
	}
	o := w.do(m)
	if o.Lost != "" {
		w.c.Close()
		delete(a.wires, m.Conn)
	}
	return o
}

func (m *move) bytes() []byte {
	if m.Raw != nil {
		return m.Raw
	}
	return append(bytes.Clone(m.Line), '\n')
}

func (w *wire) do(m move) outcome {
	switch m.Do {
	case doDial:
		return outcome{}
	case doHalf:
		if err := w.c.CloseWrite(); err != nil {
			return lost(err)
		}
		return outcome{}
	case doRead:
		return w.read()
	case doDrain:
		return w.drain()
	case doLong:
		_ = w.send(m.bytes(), nil, nil)
		o := w.drain()
		if o.Class != "" {
			o.Lost = "" // it was told why
		}
		return o
	case doTrickle:
		for _, b := range m.bytes() {
			if _, err := w.c.Write([]byte{b}); err != nil {
				return lost(err)
			}
			time.Sleep(time.Duration(m.Wait) * time.Millisecond)
		}
		return w.read()
	case doChild, doPassed, doThread, doForged, doSplit:
		return w.byAnother(m)
	case doNothing:
		return w.ignore(m)
	}
	var o outcome
	for range max(1, m.Times) {
		if o = w.send(m.bytes(), m.Files, nil); o.Lost == "" && m.Do != doSend {
			o = w.read()
		}
		if o.Lost != "" {
			break
		}
	}
	return o
}

// send writes bytes with descriptors beside them.
func (w *wire) send(b []byte, files []file, oob []byte) outcome {
	opened, err := openAll(files)
	defer func() {
		for _, f := range opened {
			f.close()
		}
	}()
	if err != nil {
		return lost(err)
	}
	if len(opened) > 0 {
		fds := make([]int, len(opened))
		for i, f := range opened {
			fds[i] = f.fd
		}
		oob = append(oob, unix.UnixRights(fds...)...)
	}
	_ = w.c.SetWriteDeadline(time.Now().Add(patience))
	n, _, err := w.c.WriteMsgUnix(b, oob, nil)
	if err == nil && n < len(b) {
		_, err = w.c.Write(b[n:])
	}
	if err != nil {
		return lost(err)
	}
	return outcome{}
}

// read returns the next answer; events are passed over.
func (w *wire) read() outcome {
	_ = w.c.SetReadDeadline(time.Now().Add(patience))
	for {
		line, err := w.r.ReadBytes('\n')
		if err != nil {
			return lost(err)
		}
		var m struct {
			QMP    json.RawMessage `json:"QMP"`
			Event  string          `json:"event"`
			Return json.RawMessage `json:"return"`
			Error  *struct {
				Class   string `json:"class"`
				Desc    string `json:"desc"`
				Receipt []byte `json:"receipt"`
			} `json:"error"`
		}
		switch err := json.Unmarshal(line, &m); {
		case err != nil:
			return lost(fmt.Errorf("the answer is not JSON: %w", err))
		case m.Event != "":
			continue
		case m.Error != nil:
			return outcome{Class: m.Error.Class, Desc: m.Error.Desc, Receipt: m.Error.Receipt}
		}
		return outcome{Return: m.Return}
	}
}

// drain reads until the end and reports the last error that came before it.
func (w *wire) drain() outcome {
	var last outcome
	for {
		o := w.read()
		if o.Lost != "" {
			last.Lost = o.Lost
			return last
		}
		last = o
	}
}

// ignore sends many lines and reads nothing, until the gate cuts it off or all
// are sent. A gate that answers into a full socket must not wait for ever.
func (w *wire) ignore(m move) outcome {
	_ = w.c.SetWriteDeadline(time.Now().Add(patience))
	for range max(1, m.Times) {
		if _, err := w.c.Write(m.bytes()); err != nil {
			return lost(err)
		}
	}
	return outcome{}
}
